"""Endless, sharded, weighted draws, packed into sequences of a token limit.

A batch of n sequences is n lanes, each with its own part of the data. Sequence ``k`` of a lane is
a function of seed, lane and the data alone, whichever process asks: a resumed run asks for
sequence k and gets what the uninterrupted one would have had. Unlike the published filling (quirk
Q14) no sample is lost: what does not fit waits for the next sequence, the oldest first.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

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
    """

    source: int
    index: int


def shard_order(count: int, lane: int, lanes: int, seed: int = ORDER_SEED) -> list[int]:
    """Rows of one lane: shuffled together, then cut into equal contiguous parts.

    The remainder is dropped, so that all lanes have the same number (reference 9.3).

    Raises:
        BadData: fewer rows than lanes.
    """
    share = count // lanes
    if share == 0:
        raise BadData('fewer samples than sequences in a batch', value=count,
                      limit=f'>= {lanes}')
    order = np.random.default_rng(seed).permutation(count)
    return order[lane * share:(lane + 1) * share].tolist()


class Batches:
    """The sequences of one lane.

    Args:
        sources: the mixture.
        max_tokens: limit of a sequence; longer samples are left out.
        seed: of the mixture.
        lane, lanes: this one among all; published: one per process.
    """

    def __init__(self, sources: Sequence[Source], max_tokens: int, seed: int = 0, lane: int = 0,
                 lanes: int = 1) -> None:
        self.sources, self.max_tokens = list(sources), max_tokens
        self.lane, self._told = lane, set[int]()
        self._orders = [shard_order(source.count, lane, lanes) for source in self.sources]
        self._tokens: dict[tuple[int, int], int] = {}
        self._draws = self._fitting(seed, lane)
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

    def _fitting(self, seed: int, lane: int) -> Iterator[Draw]:
        """All draws but those that are longer than a sequence, of which the first is named."""
        refused = 0
        for draw in self._mixture(seed, lane):
            if self._length(draw) <= self.max_tokens:
                refused = 0
                yield draw
                continue
            self._tell(draw)
            refused += 1
            if refused > 2 * sum(map(len, self._orders)):
                raise BadData('every sample of a part of the data is longer than a sequence',
                              value=f'part {self.lane}, {self._named(draw)}',
                              limit=f'{self.max_tokens} tokens', remedy='raise max_tokens')

    def _tell(self, draw: Draw) -> None:
        """Say once for every set that there are such samples."""
        if draw.source not in self._told:
            self._told.add(draw.source)
            tqdm.write(f'left out, as all that are longer than {self.max_tokens} tokens: '
                       f'{self._named(draw)}', file=sys.stderr)

    def _named(self, draw: Draw) -> str:
        return (f'{self.sources[draw.source].name} sample {draw.index} of '
                f'{self._length(draw)} tokens')

    def _mixture(self, seed: int, lane: int) -> Iterator[Draw]:
        random = np.random.default_rng([seed, lane])
        weights = np.array([source.weight for source in self.sources], float)
        weights /= weights.sum()
        taken = [0] * len(self.sources)
        while True:
            source = int(random.choice(len(weights), p=weights))
            order = self._orders[source]
            yield Draw(source, order[taken[source] % len(order)])
            taken[source] += 1

    def _length(self, draw: Draw) -> int:
        key = (draw.source, draw.index)
        if key not in self._tokens:
            self._tokens[key] = self.sources[draw.source].tokens(draw.index)
        return self._tokens[key]
