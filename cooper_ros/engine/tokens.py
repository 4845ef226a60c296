"""Text to token ids and back, with streaming (reference sections 3 and 6.3)."""

from __future__ import annotations

from typing import Callable, Sequence

END_TEXT = '<|im_end|>'
_UNFINISHED = '\ufffd'  # what a byte tokenizer shows for half a character


class TextStream:
    """Turns ids into text piece by piece, holding back half characters."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        """Add one id and return the text that is now certain."""
        self._ids.append(token)
        text = self._text()
        return '' if text.endswith(_UNFINISHED) else self._take(text)

    def finish(self) -> str:
        """Return what was held back."""
        return self._take(self._text())

    def ended(self) -> bool:
        """Whether the end marker was spelt out: what follows it is no part of the text."""
        return END_TEXT in self._decode(self._ids)

    def _text(self) -> str:
        # The published decoder cuts at the first textual end marker.
        return self._decode(self._ids).split(END_TEXT)[0]

    def _take(self, text: str) -> str:
        fresh = text[self._given:]
        self._given = max(self._given, len(text))
        return fresh


class TextCodec:
    """The tokenizer as the engine needs it.

    Attributes:
        begin: id of ``<|im_start|>``.
        end: id of ``<|im_end|>``.
    """

    def __init__(self, encode: Callable[[str], Sequence[int]],
                 decode: Callable[[Sequence[int]], str], begin: int, end: int) -> None:
        self.encode, self._decode = encode, decode
        self.begin, self.end = begin, end

    def stream(self) -> TextStream:
        """A fresh stream for one turn."""
        return TextStream(self._decode)
