"""Which words of a question or a trace name something of the scene, and what was named last; and
which words of a multiple-choice question are the option that was answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Sequence

from transformers import PreTrainedTokenizerBase

from cooper_ros.scenes.palette import COLOURS, SHAPES

ANY = -1
REMEMBERED = 3  # the most a question needs: "you stand at A and face B, where is C?"
Name = tuple[int, int]  # index of colour and shape, ANY where it is not said


class Named(NamedTuple):
    """Something that was named.

    Attributes:
        name: what.
        place: token of its last word.
        earlier: the same where it was named before; None the first time.
    """

    name: Name
    place: int
    earlier: int | None = None

    def moved(self, by: int) -> Named:
        """The same with other places."""
        return Named(self.name, self.place + by,
                     None if self.earlier is None else self.earlier + by)


@dataclass(frozen=True)
class Words:
    """Token ids of the words that name colours and shapes, and of what stands around options.

    Attributes:
        brackets: what opens and what closes the letter of an option.
        ending: what stands between the last word of a trace and the answer.
    """

    colours: dict[int, int]
    shapes: dict[int, int]
    brackets: tuple[int, int]
    ending: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Words:
        """Those that are one token, as a first word and behind a space, one or many."""
        def ids(names: Sequence[str], endings: Sequence[str]) -> dict[int, int]:
            spelled = [(index, tokenizer.encode(start + name + ending)) for ending in endings
                       for start in ('', ' ') for index, name in enumerate(names)]
            return {encoded[0]: index for index, encoded in spelled if len(encoded) == 1}
        brackets = tokenizer.encode(' (')[-1], tokenizer.encode(')')[0]
        return cls(ids(COLOURS, ('',)), ids(SHAPES, ('', 's', 'es')), brackets,
                   tuple(tokenizer.encode('.</think><answer>\\boxed{')))

    @property
    def box(self) -> int:
        """What the answer follows."""
        return self.ending[-1]

    def named(self, ids: Sequence[int], known: tuple[Named, ...] = ()
              ) -> list[tuple[Named, ...]]:
        """What was named so far, as known at every token: different things, the last one first.

        Args:
            ids: a text.
            known: what was named before it, with places relative to this text.
        """
        found, before = [], known  # before: what was known when the name began
        fresh = False  # the last word was a colour
        for place, token in enumerate(ids):
            if token in self.shapes:
                colour = known[0].name[0] if fresh else ANY
                known = _with(before if fresh else known, (colour, self.shapes[token]), place)
            elif token in self.colours:
                before, known = known, _with(known, (self.colours[token], ANY), place)
            fresh = token in self.colours
            found.append(known)
        return found

    def options(self, ids: Sequence[int]) -> dict[int, range]:
        """Letter token of every option of a question, and where the words of that option are."""
        opening, closing = self.brackets
        starts = [place for place in range(len(ids) - 2)
                  if ids[place] == opening and ids[place + 2] == closing]
        return {ids[start + 1]: range(start + 3, end)
                for start, end in zip(starts, [*starts[1:], len(ids)])}

    def answered(self, ids: Sequence[int]) -> tuple[tuple[int, ...], int] | None:
        """Where the answer is known, and the first token in its box; None without an answer.

        It is known where the box opens, and at the last word of the thoughts before it.
        """
        boxes = [place for place in range(len(ids) - 1) if ids[place] == self.box]
        if not boxes:
            return None
        box, word = boxes[-1], boxes[-1] - len(self.ending)
        thought = word >= 0 and tuple(ids[word + 1:box + 1]) == self.ending
        return ((word, box) if thought else (box,)), ids[box + 1]


def _with(known: tuple[Named, ...], name: Name, place: int) -> tuple[Named, ...]:
    """Put a name first; what was named before it stays remembered."""
    earlier = next((entry.place for entry in known if entry.name == name), None)
    others = tuple(entry for entry in known if entry.name != name)
    return (Named(name, place, earlier), *others)[:REMEMBERED]
