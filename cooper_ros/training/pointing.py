"""Words that look at what they name, and words that look back at them: supervised attention.

In a network that learns to see and to read at once, a word attends to patches at random until,
very late, some head has learnt to compare the two; until then every answer about one of several
objects is a guess. The scene's truth says which patches show what a word names. So two things are
asked of a few heads:

* where something is named ("blue cup", "red", "balls"), the heads ``LOOKING`` look at the patches
  that show it, and at the start marker of the picture where nothing does;
* from there until something else is named, the heads ``RECALLING`` look at that word, which holds
  what was found.

The network and its inference are unchanged: this is one more loss.

Source: attention supervised by regions, Qiao, Dong and Xu, "Exploring Human-Like Attention
Supervision in Visual Question Answering", AAAI 2018.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cooper_ros.errors import BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.model.mot import Attend
from cooper_ros.model.packing import PackedBatch, TextItem, VisionItem, piece_of
from cooper_ros.scenes.palette import COLOURS, SHAPES
from cooper_ros.training.data import OBJECT_FIELDS, FrameStore
from cooper_ros.training.processes import mean_over_processes
from cooper_ros.training.tree import Tree, padded_pieces

LOOKING = {1: (0, 2)}  # layer -> heads
RECALLING = {2: (0,), 3: (2,)}
LEAST_SHARE = 0.02  # of a patch; less of an object is not seen
MOST_OF_IT = 0.5  # patches that show half as much of it as the best one are wanted too
COLOUR, SHAPE = OBJECT_FIELDS.index('colour'), OBJECT_FIELDS.index('shape')
ANY = -1
Name = tuple[int, int]  # index of colour and shape, ANY where it is not said
Named = tuple[Name, int]  # and the place of the word


@dataclass(frozen=True)
class Words:
    """Token ids of the words that name colours and shapes."""

    colours: dict[int, int]
    shapes: dict[int, int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Words:
        """Those that are one token, as a first word and behind a space, one or many."""
        def ids(names: Sequence[str], endings: Sequence[str]) -> dict[int, int]:
            spelled = [(index, tokenizer.encode(start + name + ending)) for ending in endings
                       for start in ('', ' ') for index, name in enumerate(names)]
            return {encoded[0]: index for index, encoded in spelled if len(encoded) == 1}
        return cls(ids(COLOURS, ('',)), ids(SHAPES, ('', 's', 'es')))

    def named(self, ids: Sequence[int], before: Named | None = None) -> list[Named | None]:
        """What was named last, as known at every token, and where.

        Args:
            ids: a text.
            before: what was named last before it, with a place relative to this text.
        """
        found, fresh = [], False  # fresh: the last word was a colour
        for place, token in enumerate(ids):
            if token in self.shapes:
                colour = before[0][0] if fresh and before else ANY
                before = (colour, self.shapes[token]), place
            elif token in self.colours:
                before = (self.colours[token], ANY), place
            fresh = token in self.colours
            found.append(before)
        return found


@dataclass(frozen=True)
class Pointers:
    """M tokens of a batch and where they should look.

    Attributes:
        rows: sample of the token ``[M]``.
        places: its place in the sequence ``[M]``.
        wanted: bool ``[M, L]`` over the sequence.
    """

    rows: Tensor
    places: Tensor
    wanted: Tensor

    def rows_of(self, part: range) -> Pointers:
        """Those in some of the samples, which are then counted from 0."""
        mine = (self.rows >= part.start) & (self.rows < part.stop)
        return Pointers(self.rows[mine] - part.start, self.places[mine], self.wanted[mine])

    def to(self, device: torch.device) -> Pointers:
        """The same on another device."""
        return Pointers(*(part.to(device) for part in (self.rows, self.places, self.wanted)))


def pointers(trees: Sequence[Tree], frames: Sequence[int], store: FrameStore, words: Words,
             config: ModelConfig) -> tuple[Pointers, Pointers]:
    """Find what is named in trees whose prefix shows the camera picture of ``frames``.

    Returns:
        words that look at the picture, and words that look back at those.
    """
    pieces = padded_pieces(trees, config)
    starts = np.concatenate([[0], np.cumsum([piece.tokens for piece in pieces])]).tolist()
    picture = next(place for place, item in enumerate(trees[0].items)
                   if isinstance(item, VisionItem))
    grid = piece_of(trees[0].items[picture], config).grid
    looking, recalling = [], []  # (row, place, first place that is wanted, bools from there on)
    for row, (tree, frame) in enumerate(zip(trees, frames)):
        shown = functools.lru_cache(None)(functools.partial(_wanted, store, frame, grid))
        for place, (name, named_at) in _tokens(tree, starts, words):
            recalling.append((row, place, named_at, np.ones(1, bool)))
            if place == named_at:
                looking.append((row, place, starts[picture], shown(name)))
    return _pointers(looking, starts[-1]), _pointers(recalling, starts[-1])


def _pointers(found: Sequence[tuple[int, int, int, np.ndarray]], length: int) -> Pointers:
    wanted = torch.zeros(len(found), length, dtype=torch.bool)
    for number, (_, _, first, shown) in enumerate(found):
        wanted[number, first:first + len(shown)] = torch.from_numpy(shown)
    rows, places = (torch.tensor([entry[part] for entry in found], dtype=torch.int64)
                    for part in range(2))
    return Pointers(rows, places, wanted)


def _tokens(tree: Tree, starts: Sequence[int], words: Words) -> Iterator[tuple[int, Named]]:
    """Place of every token of the branches after something was named, what, and where."""
    number = len(tree.prefix)
    for branch in tree.branches:
        known: Named | None = None
        for item in branch:
            first = starts[number] + 1  # behind the begin marker
            if isinstance(item, TextItem):
                before = known and (known[0], known[1] - first)
                for place, named in enumerate([before, *words.named(item.ids, before)], -1):
                    if named is not None:
                        known = named[0], named[1] + first
                        yield first + place, known
            number += 1


def _wanted(store: FrameStore, frame: int, grid: tuple[int, int], name: Name) -> np.ndarray:
    """Bool ``[1 + T]``: start marker, then patches."""
    table = store.objects[frame]
    named = [index for index in range(len(table)) if np.isfinite(table[index, :2]).all()
             and name[0] in (ANY, int(table[index, COLOUR]))
             and name[1] in (ANY, int(table[index, SHAPE]))]
    mask = np.isin(store.instance[frame], named).astype(np.float32)
    shares = cv2.resize(mask, (grid[1], grid[0]), interpolation=cv2.INTER_AREA).ravel()
    if shares.max() < LEAST_SHARE:
        return np.arange(len(shares) + 1) == 0
    return np.concatenate([[False], shares >= max(MOST_OF_IT * shares.max(), LEAST_SHARE)])


@dataclass
class Watch:
    """Notes how much attention goes astray in one pass.

    Attributes:
        looking, recalling: what :func:`pointers` found.
        errors: after the pass, per head the mean of -log(attention on what is wanted), as parts
            that average to it over all processes.
    """

    looking: Pointers
    recalling: Pointers
    errors: list[Tensor] = field(default_factory=list)

    def __call__(self, inner: Attend, batch: PackedBatch) -> Attend:
        """See :func:`~cooper_ros.training.tree.forward_trees`."""
        return _WatchedAttention(inner, batch, self)

    def note(self, layer: int, q: Tensor, k: Tensor, batch: PackedBatch) -> None:
        """Look at queries ``[B, H, L, d]`` and keys ``[B, Hkv, L, d]`` of a layer."""
        group = q.shape[1] // k.shape[1]
        for heads, spots in ((LOOKING, self.looking), (RECALLING, self.recalling)):
            if layer in heads:
                here, count = spots.to(q.device), mean_over_processes([len(spots.rows)])[0]
                self.errors += [astray(q[:, head], k[:, head // group], batch, here) / count
                                for head in heads[layer]]

    def error(self) -> Tensor:
        """Mean over the heads."""
        return torch.stack(self.errors).mean()


@dataclass(frozen=True)
class _WatchedAttention:
    inner: Attend
    batch: PackedBatch
    watch: Watch

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`~cooper_ros.model.mot.Attend`."""
        self.watch.note(layer, q, k, self.batch)
        return self.inner(layer, q, k, v)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Nothing outlives the pass."""


def check_heads(config: ModelConfig) -> None:
    """See whether the network has the heads that are to look.

    Raises:
        BadOption: it has not.
    """
    asked = [*LOOKING.items(), *RECALLING.items()]
    layers, heads = 1 + max(layer for layer, _ in asked), 1 + max(max(at) for _, at in asked)
    if config.llm.num_layers < layers or config.llm.num_heads < heads:
        raise BadOption('the network is too small for words that point',
                        value=f'{config.llm.num_layers} layers, {config.llm.num_heads} heads',
                        limit=f'{layers} layers, {heads} heads', remedy='set task.point to 0')


def astray(q: Tensor, k: Tensor, batch: PackedBatch, spots: Pointers) -> Tensor:
    """Sum over tokens of -log(attention on what is wanted).

    Args:
        q, k: queries and keys ``[B, L, d]`` of one head in compact order.
        batch: where the tokens are and what they may look at.
        spots: the tokens.
    """
    compact = batch.layout.inverse
    places, column = spots.places.unique(return_inverse=True)  # U places in any of the rows
    scores = (q[:, compact[places]] @ k[:, compact].transpose(1, 2)).float()  # [B, U, L]
    allowed = batch.allowed.expand(len(q), -1, -1)[:, places]
    shares = (scores * q.shape[-1]**-0.5).masked_fill(~allowed, float('-inf')).log_softmax(-1)
    looked = shares[spots.rows, column]  # [M, L]
    return -looked.masked_fill(~spots.wanted, float('-inf')).logsumexp(-1).sum()
