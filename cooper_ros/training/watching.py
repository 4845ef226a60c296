"""How far attention is from what :mod:`.pointing` wants, noted while a batch passes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from cooper_ros.errors import BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.model.mot import Attend
from cooper_ros.model.packing import PackedBatch
from cooper_ros.training.pointing import (
    CHOOSING,
    LOOKING,
    MEASURES,
    RECALLING,
    REPEATING,
    Heads,
    Lessons,
    Spots,
)
from cooper_ros.training.processes import mean_over_processes

POINTING: tuple[Heads, ...] = (LOOKING, REPEATING, CHOOSING, *RECALLING)
SMALL = 0.1  # metres; larger errors of a measure count linearly


@dataclass
class Watch:
    """Notes how much attention goes astray in one pass.

    Attributes:
        lessons: what words should look at and know.
        errors: after the pass, per head the mean of -log(attention on what is wanted), as parts
            that average to it over all processes.
        unknown: the same of what the values that are recalled say wrongly.
    """

    lessons: Lessons
    errors: list[Tensor] = field(default_factory=list)
    unknown: list[Tensor] = field(default_factory=list)

    def __call__(self, inner: Attend, batch: PackedBatch) -> Attend:
        """See :func:`~cooper_ros.training.tree.forward_trees`."""
        return _WatchedAttention(inner, batch, self)

    def note(self, layer: int, q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch) -> None:
        """Look at queries ``[B, H, L, d]``, keys and values ``[B, Hkv, L, d]`` of a layer."""
        group = q.shape[1] // k.shape[1]
        learn = self.lessons
        wanted = (learn.looking, learn.repeating, learn.choosing, *learn.recalling)
        for heads, spots in zip(POINTING, wanted, strict=True):
            share = _share(spots)
            self.errors += [astray(q[:, head], k[:, head // group], batch, spots.to(q.device))
                            / share for head in heads.get(layer, ())]
        knowing = learn.knowing
        share = _share(knowing)
        self.unknown += [untold(v[:, head // group], batch, knowing.to(v.device)) / share
                         for heads in RECALLING for head in heads.get(layer, ())]

    def error(self) -> Tensor:
        """Mean of the attention errors over the heads."""
        return torch.stack(self.errors).mean()

    def ignorance(self) -> Tensor:
        """Mean of the measure errors over the heads."""
        return torch.stack(self.unknown).mean()


def _share(spots: Spots) -> float:
    """By what to divide a sum over spots, so that all processes average to the mean."""
    return mean_over_processes([len(spots.rows)])[0]


@dataclass(frozen=True)
class _WatchedAttention:
    inner: Attend
    batch: PackedBatch
    watch: Watch

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`~cooper_ros.model.mot.Attend`."""
        self.watch.note(layer, q, k, v, self.batch)
        return self.inner(layer, q, k, v)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Nothing outlives the pass."""


def check_heads(config: ModelConfig) -> None:
    """Check that the network has the heads that are to look.

    Raises:
        BadOption: it lacks one of them.
    """
    asked = [entry for heads in POINTING for entry in heads.items()]
    layers, heads = 1 + max(layer for layer, _ in asked), 1 + max(max(at) for _, at in asked)
    if (config.llm.num_layers < layers or config.llm.num_heads < heads
            or config.llm.head_dim < len(MEASURES)):
        raise BadOption('the network is too small for words that point',
                        value=f'{config.llm.num_layers} layers, {config.llm.num_heads} heads of '
                              f'{config.llm.head_dim}',
                        limit=f'{layers} layers, {heads} heads of {len(MEASURES)}',
                        remedy='set task.point and task.know to 0')


def check_moved(moved: range) -> None:
    """Check that the layers with heads that look keep their numbers when new ones are put in.

    Lessons know layers by number. A new layer is silent at first: supervised in place of the one
    that had learnt to look, it would take the lessons, and the old heads would be left alone.

    Args:
        moved: numbers of the layers that get others.

    Raises:
        BadOption: there are such heads in them.
    """
    taught = sorted({layer for heads in POINTING for layer in heads})
    if lost := [layer for layer in taught if layer in moved]:
        raise BadOption('new layers would move the heads of words that point',
                        value=f'layers {", ".join(map(str, lost))} of the start',
                        limit=f'new layers behind layer {taught[-1]}',
                        remedy='add fewer layers to the language model (of one, the place is the '
                               'end), or do without task.point and task.know from here on')


def astray(q: Tensor, k: Tensor, batch: PackedBatch, spots: Spots) -> Tensor:
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


def untold(v: Tensor, batch: PackedBatch, spots: Spots) -> Tensor:
    """Sum over tokens of the mean error of the measures at the head of a value; where a measure
    does not exist, anything may be said.

    Args:
        v: values ``[B, L, d]`` of one head in compact order.
        batch: where the tokens are.
        spots: the tokens and their measures.
    """
    told = v[spots.rows, batch.layout.inverse[spots.places], :len(MEASURES)].float()
    exists = spots.wanted.isfinite()
    wanted = torch.where(exists, spots.wanted, told.detach())
    errors = F.smooth_l1_loss(told, wanted, reduction='none', beta=SMALL)
    return (errors.sum(-1) / exists.sum(-1)).sum()
