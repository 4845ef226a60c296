"""Endless, sharded, weighted draws, packed into sequences of a token limit.

Step ``n`` of rank ``r`` is a function of seed, rank and the data alone: a resumed run asks for
step n and gets what the uninterrupted one would have had. Unlike the published filling (quirk
Q14) no sample is lost: what does not fit waits for the next sequence, the oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

import numpy as np

from cooper_ros.errors import BadData

ORDER_SEED = 42  # of the shuffled rows, as published
WINDOW = 24  # draws that wait to be packed together


@dataclass(frozen=True)
class Source:
    """One data set of a mixture.

    Attributes:
        name: of the set.
        weight: share of the draws, relative to the other sources.
        count: samples.
        tokens: tokens of a sample in a sequence, markers included; called once per sample.
    """

    name: str
    weight: float
    count: int
    tokens: Callable[[int], int]


@dataclass(frozen=True)
class Draw:
    """One sample of a step.

    Attributes:
        source: which source.
        index: which of its samples.
        number: how many draws came before; a seed for everything random about it.
    """

    source: int
    index: int
    number: int


def shard_order(count: int, rank: int, world: int, seed: int = ORDER_SEED) -> list[int]:
    """Rows of one process: shuffled together, then cut into equal contiguous parts.

    The remainder is dropped, so that all processes have the same number (reference 9.3).

    Raises:
        BadData: fewer rows than processes.
    """
    share = count // world
    if share == 0:
        raise BadData('fewer samples than processes', value=count, limit=f'>= {world}')
    order = np.random.default_rng(seed).permutation(count)
    return order[rank * share:(rank + 1) * share].tolist()


class Batches:
    """The sequences of one process.

    Args:
        sources: the mixture.
        max_tokens: limit of a sequence; longer samples are left out.
        seed: of the mixture.
        rank, world: this process among all.
    """

    def __init__(self, sources: Sequence[Source], max_tokens: int, seed: int = 0, rank: int = 0,
                 world: int = 1) -> None:
        self.sources, self.max_tokens = list(sources), max_tokens
        self.skipped = 0
        self._orders = [shard_order(source.count, rank, world) for source in self.sources]
        self._tokens: dict[tuple[int, int], int] = {}
        self._draws = self._fitting(seed, rank)
        self._waiting: list[Draw] = []
        self._made: list[list[Draw]] = []

    def sequence(self, number: int) -> list[Draw]:
        """Draws of sequence ``number`` (from 0), oldest first; those before are planned on the
        way, from token counts alone."""
        while len(self._made) <= number:
            self._made.append(self._pack())
        return self._made[number]

    def _pack(self) -> list[Draw]:
        """The oldest waiting draw, then whatever fits best behind it."""
        while len(self._waiting) < WINDOW:
            self._waiting.append(next(self._draws))
        taken = [self._waiting.pop(0)]
        room = self.max_tokens - self._length(taken[0])
        while fitting := [draw for draw in self._waiting if self._length(draw) <= room]:
            best = max(fitting, key=self._length)
            self._waiting.remove(best)
            taken.append(best)
            room -= self._length(best)
        return taken

    def _fitting(self, seed: int, rank: int) -> Iterator[Draw]:
        """All draws but those that are longer than a sequence."""
        refused = 0
        for draw in self._mixture(seed, rank):
            if self._length(draw) <= self.max_tokens:
                refused = 0
                yield draw
                continue
            self.skipped += 1
            refused += 1
            if refused > 2 * sum(map(len, self._orders)):
                raise BadData('every sample is longer than a sequence', value=self._length(draw),
                              limit=f'{self.max_tokens} tokens', remedy='raise max_tokens')

    def _mixture(self, seed: int, rank: int) -> Iterator[Draw]:
        random = np.random.default_rng([seed, rank])
        weights = np.array([source.weight for source in self.sources], float)
        weights /= weights.sum()
        taken, number = [0] * len(self.sources), 0
        while True:
            source = int(random.choice(len(weights), p=weights))
            order = self._orders[source]
            yield Draw(source, order[taken[source] % len(order)], number)
            taken[source] += 1
            number += 1

    def _length(self, draw: Draw) -> int:
        key = (draw.source, draw.index)
        if key not in self._tokens:
            self._tokens[key] = self.sources[draw.source].tokens(draw.index)
        return self._tokens[key]
