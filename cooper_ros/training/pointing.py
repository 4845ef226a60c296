"""What words of a sample should look at, and what they should then know: supervised attention.

In a network that learns to see and to read at once, a word attends to patches at random until,
very late, some head has learnt to compare the two; until then every answer about one of several
objects is a guess. The scene's truth says which patches show what a word names. So four
things are asked of a few heads:

* where something is named ("blue cup", "red", "balls"), the heads ``LOOKING`` look at the patches
  that show it, and at the start marker of the picture where nothing does;
* from there on, the heads ``RECALLING`` look back at that word, and at those of the two things
  named before it, for a comparison needs both; where a thing is named again, ``REPEATING`` looks
  at where it was named before ("(b) blue cup", hence b);
* what they find there begins with how many there are, and where and how large if it is one
  (``MEASURES``, at the head of the value that the head reads);
* where an answer is one of several options, ``CHOOSING`` looks at the words of the right one: from
  the last word of the thoughts, and from the box.

The network and its inference are unchanged: these are more losses.

Source: attention supervised by regions, Qiao, Dong and Xu, "Exploring Human-Like Attention
Supervision in Visual Question Answering", AAAI 2018.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from cooper_ros.model.config import ModelConfig
from cooper_ros.model.packing import TextItem, VisionItem, piece_of
from cooper_ros.training.data import OBJECT_FIELDS, FrameStore
from cooper_ros.training.naming import ANY, REMEMBERED, Name, Named, Words
from cooper_ros.training.tree import Tree, padded_pieces

Heads = dict[int, tuple[int, ...]]  # layer -> heads
LOOKING: Heads = {1: (0, 2)}
RECALLING: tuple[Heads, ...] = ({2: (0,), 3: (2,)}, {3: (4,), 4: (0,)}, {4: (4,)})
REPEATING: Heads = {2: (2,)}
CHOOSING: Heads = {4: (2,), 5: (2,)}
MEASURES = ('count', 'x', 'y', 'z - 2', 'distance - 2', 'tall', 'top', 'across', 'down')
LEAST_SHARE = 0.02  # of a patch; less of an object is not seen
MOST_OF_IT = 0.5  # patches that show half as much of it as the best one are wanted too
MOST = 4  # objects; more are not told apart
USUAL_DISTANCE = 2.0  # metres
COLOUR, SHAPE = OBJECT_FIELDS.index('colour'), OBJECT_FIELDS.index('shape')


@dataclass(frozen=True)
class Spots:
    """M tokens of a batch and what is wanted of them.

    Attributes:
        rows: sample of the token ``[M]``.
        places: its place in the sequence ``[M]``.
        wanted: where it should look, bool ``[M, L]`` over the sequence; or ``MEASURES`` of what
            it names, float ``[M, 9]``, NaN where there is no such number.
    """

    rows: Tensor
    places: Tensor
    wanted: Tensor

    def rows_of(self, part: range) -> Spots:
        """Those in some of the samples, which are then counted from 0."""
        mine = (self.rows >= part.start) & (self.rows < part.stop)
        return Spots(self.rows[mine] - part.start, self.places[mine], self.wanted[mine])

    def to(self, device: torch.device) -> Spots:
        """The same on another device."""
        return Spots(*(part.to(device) for part in (self.rows, self.places, self.wanted)))


@dataclass(frozen=True)
class Lessons:
    """What is to be learnt about the words of a batch.

    Attributes:
        looking: words that look at the picture.
        recalling: words that look back at what was named last, at what before it, ...
        repeating: words that name something again and look at where it was named before.
        choosing: last words and boxes of answers that look at the option they name.
        knowing: words that name something, and its measures.
    """

    looking: Spots
    recalling: tuple[Spots, ...]
    repeating: Spots
    choosing: Spots
    knowing: Spots

    @property
    def any(self) -> bool:
        """Whether anything is named at all."""
        return len(self.knowing.rows) > 0

    def rows_of(self, part: range) -> Lessons:
        """See :meth:`Spots.rows_of`."""
        return Lessons(self.looking.rows_of(part),
                       tuple(spots.rows_of(part) for spots in self.recalling),
                       *(spots.rows_of(part) for spots in
                         (self.repeating, self.choosing, self.knowing)))


Found = tuple[int, int, int, np.ndarray]  # row, place, first column that is set, values from there


def lessons(trees: Sequence[Tree], frames: Sequence[int], store: FrameStore, words: Words,
            config: ModelConfig) -> Lessons:
    """Find what is named in trees whose prefix shows the camera picture of ``frames``."""
    pieces = padded_pieces(trees, config)
    starts = np.concatenate([[0], np.cumsum([piece.tokens for piece in pieces])]).tolist()
    first = next(number for number, item in enumerate(trees[0].items)
                 if isinstance(item, VisionItem))
    picture, grid = starts[first], piece_of(trees[0].items[first], config).grid
    here = np.ones(1, bool)
    looking: list[Found] = []
    repeating: list[Found] = []
    choosing: list[Found] = []
    knowing: list[Found] = []
    recalling: list[list[Found]] = [[] for _ in range(REMEMBERED)]
    for row, (tree, frame) in enumerate(zip(trees, frames)):
        choosing += [(row, place, option.start, np.ones(len(option), bool))
                     for place, option in _choices(tree, starts, words)]
        shown = functools.lru_cache(None)(functools.partial(_shown, store, frame, grid))
        for place, known in _tokens(tree, starts, words):
            for back, named in enumerate(known):
                recalling[back].append((row, place, named.place, here))
            if place == known[0].place:
                wanted, numbers = shown(known[0].name)
                looking.append((row, place, picture, wanted))
                knowing.append((row, place, 0, numbers))
                if known[0].earlier is not None:
                    repeating.append((row, place, known[0].earlier, here))
    length = starts[-1]
    return Lessons(_spots(looking, length), tuple(_spots(found, length) for found in recalling),
                   _spots(repeating, length), _spots(choosing, length),
                   _spots(knowing, len(MEASURES), torch.float32))


def _spots(found: Sequence[Found], length: int, kind: torch.dtype = torch.bool) -> Spots:
    wanted = torch.zeros(len(found), length, dtype=kind)
    for number, (_, _, first, values) in enumerate(found):
        wanted[number, first:first + len(values)] = torch.from_numpy(values)
    rows, places = (torch.tensor([entry[part] for entry in found], dtype=torch.int64)
                    for part in range(2))
    return Spots(rows, places, wanted)


def _tokens(tree: Tree, starts: Sequence[int], words: Words
            ) -> Iterator[tuple[int, tuple[Named, ...]]]:
    """Place of every token of the branches after something was named, and what, and where."""
    number = len(tree.prefix)
    for branch in tree.branches:
        known: tuple[Named, ...] = ()
        for item in branch:
            first = starts[number] + 1  # behind the begin marker
            if isinstance(item, TextItem):
                before = _moved(known, -first)
                for place, named in enumerate([before, *words.named(item.ids, before)], -1):
                    known = _moved(named, first)
                    if known:
                        yield first + place, known
            number += 1


def _choices(tree: Tree, starts: Sequence[int], words: Words) -> Iterator[tuple[int, range]]:
    """Where an answer is known that is one of the question's options, and where that stands."""
    number = len(tree.prefix)
    for branch in tree.branches:
        options: dict[int, range] = {}
        for first, item in zip((start + 1 for start in starts[number:]), branch):
            if isinstance(item, TextItem):
                answer = words.answered(item.ids)
                if answer and answer[1] in options:
                    yield from ((first + place, options[answer[1]]) for place in answer[0])
                options |= {letter: range(first + place.start, first + place.stop)
                            for letter, place in words.options(item.ids).items()}
        number += len(branch)


def _moved(known: tuple[Named, ...], by: int) -> tuple[Named, ...]:
    return tuple(named.moved(by) for named in known)


def _shown(store: FrameStore, frame: int, grid: tuple[int, int], name: Name
           ) -> tuple[np.ndarray, np.ndarray]:
    """Where something is to be seen, bool ``[1 + T]``: start marker, then patches; and its
    measures ``[9]``."""
    table, instance = store.objects[frame], store.instance[frame]
    named = [index for index in range(len(table)) if np.isfinite(table[index, :2]).all()
             and name[0] in (ANY, int(table[index, COLOUR]))
             and name[1] in (ANY, int(table[index, SHAPE])) and (instance == index).any()]
    mask = np.isin(instance, named).astype(np.float32)
    shares = cv2.resize(mask, (grid[1], grid[0]), interpolation=cv2.INTER_AREA).ravel()
    if shares.max() < LEAST_SHARE:
        return np.arange(len(shares) + 1) == 0, _measures(0)
    wanted = np.concatenate([[False], shares >= max(MOST_OF_IT * shares.max(), LEAST_SHARE)])
    return wanted, (measures(table[named[0]], mask) if len(named) == 1
                    else _measures(len(named)))


def measures(row: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``MEASURES`` of one object, in metres and -1..1 over the picture.

    Args:
        row: the object's ``OBJECT_FIELDS``.
        mask: float ``[H, W]``, 1 where it is to be seen.
    """
    position, (tall, top) = row[2:5], row[5:7]
    middle = [2 * (mask.sum(axis) @ (np.arange(side) + 0.5)) / (side * mask.sum()) - 1
              for axis, side in zip((0, 1), mask.shape[::-1])]
    away = [position[2] - USUAL_DISTANCE, np.linalg.norm(position) - USUAL_DISTANCE]
    return _measures(1, [*position[:2], *away, tall, top, *middle])


def _measures(count: int, others: Sequence[float] = ()) -> np.ndarray:
    unknown = [np.nan] * (len(MEASURES) - 1 - len(others))
    return np.array([min(count, MOST), *others, *unknown], np.float32)
