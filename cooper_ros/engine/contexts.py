"""What the network has read, as a list of pieces; cache rows that hold it without deep copies.

Guided drawing needs three readings of the same conversation (reference section 7): everything,
everything but the last text, everything but the picture. Each is a plain list of pieces, and each
has one row of a preallocated cache. :meth:`Reader.read` makes a row hold a list: it keeps the
longest prefix that is already there (or in a sister row), and reads only the rest. System prompt,
frame, earlier turns and follow-up questions on the same frame are therefore read once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Sequence

from torch import Tensor

from cooper_ros.model.layout import MARKERS
from cooper_ros.runtime.base import Cursor, Runtime, Session

FULL, NO_TEXT, NO_IMAGE = 0, 1, 2
ROWS = 3


@dataclass(frozen=True)
class TextPiece:
    """A text segment; the session adds the begin and end tokens."""

    ids: tuple[int, ...]

    def tokens(self) -> int:
        """Cache slots it takes."""
        return len(self.ids) + MARKERS

    def append(self, session: Session, row: int) -> None:
        """Read it into a row."""
        session.append_text(row, self.ids)


@dataclass(frozen=True)
class ImagePiece:
    """One image block; equal keys mean equal content.

    Attributes:
        key: picture, role and noise in one string.
        latent: True for the VAE block (generation experts), False for the ViT block.
        count: image tokens, markers not counted.
        embed: computes the tokens ``[count, D]``; called at most once per key by its maker.
    """

    key: str
    latent: bool
    count: int
    embed: Callable[[], Tensor] = field(compare=False, repr=False)

    def tokens(self) -> int:
        """Cache slots it takes."""
        return self.count + MARKERS

    def append(self, session: Session, row: int) -> None:
        """Read it into a row."""
        add = session.append_latents if self.latent else session.append_vision
        add(row, self.embed())


Piece = TextPiece | ImagePiece
START = Cursor(0, 0)


class Reader:
    """The rows of one session and the pieces each of them holds."""

    def __init__(self, runtime: Runtime, capacity: int) -> None:
        self.session: Session = runtime.session(rows=ROWS, capacity=capacity)
        self.read_tokens = 0
        self.reused_tokens = 0
        self._held: list[list[Piece]] = [[] for _ in range(ROWS)]
        self._ends: list[list[Cursor]] = [[START] for _ in range(ROWS)]

    @property
    def capacity(self) -> int:
        """Tokens one row can hold."""
        return self.session.capacity

    def reset_counters(self) -> None:
        """Start counting read and reused tokens anew."""
        self.read_tokens = self.reused_tokens = 0

    def read(self, row: int, pieces: Sequence[Piece],
             check: Callable[[], None] = lambda: None) -> Cursor:
        """Make ``row`` hold exactly ``pieces`` and return where it ends.

        Args:
            row: FULL, NO_TEXT or NO_IMAGE.
            pieces: what it shall hold.
            check: called before every piece is read; what it raises ends the reading there.
        """
        check()
        own = _common(self._held[row], pieces)
        sister = max(range(ROWS), key=lambda other: _common(self._held[other], pieces))
        theirs = _common(self._held[sister], pieces)
        if theirs > own:
            self._share(sister, row, theirs, keep=own)
        else:
            self._cut(row, own)
        self.reused_tokens += self._ends[row][-1].length
        for piece in pieces[len(self._held[row]):]:
            check()
            self._append(row, piece)
        return self._ends[row][-1]

    def _cut(self, row: int, count: int) -> None:
        """Keep the first ``count`` pieces of a row; rewinding also drops decoded tokens."""
        del self._held[row][count:]
        del self._ends[row][count + 1:]
        self.session.rewind(row, self._ends[row][-1])

    def _share(self, source: int, target: int, count: int, keep: int) -> None:
        """Let ``target`` begin like ``source``; only tokens after the first ``keep`` move."""
        self.session.share(source, target, keep=self._ends[target][keep].length)
        self._held[target] = self._held[source][:]
        self._ends[target] = self._ends[source][:]
        self._cut(target, count)

    def _append(self, row: int, piece: Piece) -> None:
        before = self.session.cursor(row).length
        piece.append(self.session, row)
        end = self.session.cursor(row)
        self._held[row].append(piece)
        self._ends[row].append(end)
        self.read_tokens += end.length - before


def _common(held: Sequence[Piece], wanted: Sequence[Piece]) -> int:
    count = 0
    for ours, theirs in zip(held, wanted):
        if ours != theirs:
            break
        count += 1
    return count
