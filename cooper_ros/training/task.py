"""What the training loop needs to know about a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cooper_ros.errors import BadData, BadOption
from cooper_ros.training.processes import share_of
from cooper_ros.training.settings import TrainSettings


class Task(Protocol):
    """One stage. Everything random must come from the generator of the step, or be a function of
    :func:`step_generator` (a batch made ahead has no other), so that a resumed run repeats what
    the uninterrupted one would have done."""

    module: nn.Module

    def samples(self, step: int) -> int:
        """What a step takes (pictures, sequences, groups, frames), over all processes."""

    def loss(self, step: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Losses of this process's share of one batch; ``loss`` is the one that is minimised.

        A ``loss`` that needs no gradient had it taken already, part by part. The generator is
        the same in all processes, so that they choose alike.
        """

    def validate(self) -> tuple[Mapping[str, float], Mapping[str, np.ndarray]]:
        """Scores and preview pictures (uint8 ``[H, W, 3]``) on validation frames."""

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the averaged weights as part of a model folder."""


def step_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step: a function of seed and step alone."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def sample_generators(batch: int, generator: torch.Generator) -> list[torch.Generator]:
    """Random numbers of every sample of this process's share of a batch.

    They depend on the place of a sample in the whole batch alone, so that a run on any number of
    processes draws the same.
    """
    seeds = torch.randint(2**62, (batch,), generator=generator).tolist()
    return [torch.Generator().manual_seed(seeds[place]) for place in share_of(batch)]


def batch_indices(count: int, batch: int, seed: int, step: int) -> Tensor:
    """This process's share of :func:`whole_batch`."""
    mine = share_of(batch)
    return whole_batch(count, batch, seed, step)[mine.start:mine.stop]


def require_export(settings: TrainSettings) -> None:
    """Check that a stage can export, which costs nothing before it trains and all of it after.

    Raises:
        BadOption: it makes no model folder, or lacks the autoencoder of one.
    """
    if settings.stage == 'see':
        raise BadOption('stage see makes no model folder', value='--export',
                        remedy='name its run folder as `eyes` in the next stage')
    if settings.mixes and not settings.vae:
        raise BadOption('a model folder needs an autoencoder', value='vae: ""',
                        remedy='train stage vae first and name its export in the settings')


def require_samples(count: int) -> None:
    """Refuse to train on nothing.

    Raises:
        BadData: there are no samples.
    """
    if not count:
        raise BadData('there is nothing to train on', value='0 samples', limit='at least 1',
                      remedy='raise data.questions, or name a file with questions')


def whole_batch(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Which samples step ``step`` (from 1) takes: every sample once per pass, shuffled anew.

    Returns:
        int64 ``[batch]``, for all processes together; a batch may reach over the border of two
        passes.

    Raises:
        BadData: there are no samples.
    """
    require_samples(count)
    first = (step - 1) * batch
    passes = range(first // count, (first + batch - 1) // count + 1)
    order = torch.cat([torch.randperm(count, generator=step_generator(seed, -1 - number))
                       for number in passes])
    start = first - passes[0] * count
    return order[start:start + batch]
