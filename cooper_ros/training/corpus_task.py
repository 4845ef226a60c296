"""Stages ``amg`` and ``sft`` on the published data sets (reference sections 9 and 10).

Samples of any shape are packed into sequences of a token limit, one sequence per batch entry of
the run. Which sets the YAML names decides what is learned: depth and segmentation sets teach to
draw, the interleaved conversations teach to reason.
"""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer
from cooper_ros.engine.settings import offline
from cooper_ros.imaging.resize import denormalise
from cooper_ros.model.packing import IGNORED, Item, PackedBatch, pack
from cooper_ros.model.training_forward import forward_train
from cooper_ros.training.corpus_items import Corpus, ItemMaker, corpus_options
from cooper_ros.training.datasets.cooper_set import TalkSet
from cooper_ros.training.datasets.draw import DEPTH, DrawSet
from cooper_ros.training.datasets.find import scenes_of
from cooper_ros.training.datasets.stream import Batches, Draw, Source
from cooper_ros.training.policy import open_policy
from cooper_ros.training.precision import mixed
from cooper_ros.training.previews import answer_sheet
from cooper_ros.training.processes import mean_over_processes, share_of, training_device
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.sharding import is_sharded
from cooper_ros.training.task import sample_generators


class CorpusTask:
    """See :class:`~cooper_ros.training.task.Task`."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings, self.options = settings, corpus_options(settings.task)
        self.policy = open_policy(settings.start, settings.vae, self.options.freeze,
                                  training_device(settings.device))
        self.module = self.policy.network
        self.parts = self.policy.parts()
        self.maker = ItemMaker(self.policy, self.options)
        self.corpora = [self.maker.corpus(name, entry)
                        for name, entry in self.options.sets.items()]
        self.lanes = [self._lane(number) for number in share_of(settings.batch)]

    def samples(self, step: int) -> int:
        """Sequences of a step."""
        return self.settings.batch

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses per token over all sequences of the step.

        With several sequences per step, gradients are taken one sequence after the other.
        """
        noises = sample_generators(self.settings.batch, generator)
        batches = [self._packed(lane.sequence(step - 1), noise)
                   for lane, noise in zip(self.lanes, noises)]
        totals = mean_over_processes([sum(counted(batch)[term] for batch in batches)
                                      for term in range(2)])
        if len(batches) == 1:
            return self._losses(batches[0], totals)
        sums: dict[str, Tensor] = {}
        for batch in batches:
            losses = self._losses(batch, totals)
            losses['loss'].backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach()
        return sums

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Losses on held-out samples with fixed noise, and drawings of the first of each set."""
        scores: dict[str, float] = {}
        for corpus in self.corpora:
            first = len(corpus.rows) - _held(len(corpus.rows), self.options.valid)
            with mixed(self.parts.runtime.device, self.settings.optim.bfloat16,
                       sharded=is_sharded(self.module)):
                values = [self._valid_losses(corpus, index)
                          for index in range(first, len(corpus.rows))
                          if corpus.tokens(index) <= self.options.max_tokens]
            for name in ('ce', 'mse') if values else ():
                scores[f'valid_{name}_{corpus.name}'] = float(np.mean([v[name] for v in values]))
        return scores, self._previews() if self.options.preview else {}

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a complete model folder."""
        self.policy.export(folder, weights)

    def _lane(self, number: int) -> Batches:
        """Endless sequences of one place of the batch, from its own part of the data."""
        sources = [Source(corpus.name, entry.weight,
                          _trained(corpus.rows, self.options.valid), corpus.tokens)
                   for corpus, entry in zip(self.corpora, self.options.sets.values())]
        return Batches(sources, self.options.max_tokens, self.settings.seed, number,
                       self.settings.batch)

    def _packed(self, draws: Sequence[Draw], generator: torch.Generator) -> PackedBatch:
        samples = []
        for draw in draws:
            mirrored = bool(torch.rand(1, generator=generator) < self.options.mirror)
            samples.append(self.corpora[draw.source].items(draw.index, mirrored, generator))
        return self._pack(samples, generator)

    def _pack(self, samples: list[list[Item]], generator: torch.Generator) -> PackedBatch:
        batch = pack(samples, self.policy.loaded.config, self.policy.loaded.specials,
                     timestep_shift=self.options.timestep_shift, generator=generator)
        return batch.to(self.parts.runtime.device)

    def _losses(self, batch: PackedBatch, totals: Sequence[float]) -> dict[str, Tensor]:
        return self.module(partial(self._pass, batch, totals))

    def _pass(self, batch: PackedBatch, totals: Sequence[float]) -> dict[str, Tensor]:
        """Both losses, also of no tokens: every weight must take part in every backward pass."""
        output = forward_train(self.module, batch, recompute=self.options.recompute)
        ce = output.ce.sum() / totals[0]
        mse = output.mse.mean(-1).sum() / totals[1]
        return {'loss': self.options.ce_weight * ce + self.options.mse_weight * mse, 'ce': ce,
                'mse': mse}

    def _valid_losses(self, corpus: Corpus, index: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(index)
        batch = self._pack([corpus.items(index, False, generator)], generator)
        totals = [max(1.0, float(count)) for count in counted(batch)]
        return {name: float(value) for name, value in self._losses(batch, totals).items()}

    def _previews(self) -> dict[str, np.ndarray]:
        engine = CooperEngine(self.parts, offline(**self.options.drawing))
        pictures = {}
        for corpus in self.corpora:
            made = (_drawn(engine, corpus.rows) if isinstance(corpus.rows, DrawSet) else
                    _answered(engine, corpus.rows))
            pictures |= {} if made is None else {corpus.name: made}
        return pictures


def _drawn(engine: CooperEngine, rows: DrawSet) -> np.ndarray:
    """Picture, drawn map and true one of the last row."""
    sample = rows.sample(len(rows) - 1)
    rgb, target = denormalise(sample.vae), denormalise(sample.target)
    drawn = (np.repeat((engine.estimate_depth(rgb).relative * 255).astype(np.uint8)
                       [..., None], 3, 2) if sample.kind == DEPTH else engine.segment(rgb).rgb)
    return np.concatenate([rgb, drawn, target], axis=1)


def _answered(engine: CooperEngine, rows: TalkSet) -> np.ndarray | None:
    """The question of the last row as it is answered now, on a sheet; None where nothing is."""
    items = rows.sample(len(rows) - 1).items
    asked = list(itertools.takewhile(lambda item: not item.need_loss, items))
    images = [item.image for item in asked if item.image is not None]
    question = '\n'.join(item.text for item in asked if item.text is not None)
    truth = ' '.join(item.text for item in items[-1:] if item.text is not None)
    if not images:
        return None
    *_, end = engine.ask(images, question)
    return answer_sheet(images[-1], question, truth, end) if isinstance(end, Answer) else None


def counted(batch: PackedBatch) -> tuple[int, int]:
    """Predicted tokens and noised latent tokens of a batch."""
    return int((batch.labels != IGNORED).sum()), len(batch.layout.mse_index)


def _trained(rows: DrawSet | TalkSet, wanted: int) -> int:
    """How many rows train: those before the held-out ones, without the scene that these begin in.

    The frames of a scene are nearly the same pictures, and lie in a row (``open_set``). A scene of
    more than a quarter of the rows (Virtual KITTI has five) trains all the same: a set must not
    lose so much.
    """
    first = len(rows) - _held(len(rows), wanted)
    if not isinstance(rows, DrawSet) or rows.kind.kind != DEPTH or first == len(rows):
        return first
    scenes, start = scenes_of(rows.pairs), first
    while start and scenes[start - 1] == scenes[first]:
        start -= 1
    return start if start >= 0.75 * first else first


def _held(count: int, wanted: int) -> int:
    return min(wanted, count // 2)
