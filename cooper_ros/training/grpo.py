"""Group relative policy optimisation over interleaved rollouts (reference section 11.4).

The published log-probabilities are meaningless (quirks Q4, Q6, Q16). Here the logits at the begin
token and at every word are scored against the *next* token, under the masks the rollout was
sampled with, over the tokenizer's ids only, at the sampling temperature, in float32; an end token
that was never sampled is not scored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cooper_ros.model.config import SpecialTokens
from cooper_ros.model.layout import Layout
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import PackedBatch
from cooper_ros.model.training_forward import forward_train
from cooper_ros.training.rollouts import Group, Rollout
from cooper_ros.training.tree import Tree, pack_tree, tree_attention

CHUNK = 1024  # rows of logits that exist at the same time


@dataclass(frozen=True)
class Scored:
    """What the policy thinks of the tokens it sampled, rollout after rollout.

    Attributes:
        log_probs: ``[T]``, with gradient.
        entropy: ``[T]`` nats, without.
        owner: ``[T]`` number of the rollout.
    """

    log_probs: Tensor
    entropy: Tensor
    owner: Tensor


def score_group(network: Cooper, group: Group, specials: SpecialTokens, vocabulary: int, *,
                temperature: float = 1.0, recompute: bool = False) -> Scored:
    """Log-probabilities of all sampled tokens of a group, in one pass that shares the prefix.

    Args:
        network: the policy.
        group: what :class:`~cooper_ros.training.actor.Actor` sampled.
        specials: marker ids.
        vocabulary: ids that could be sampled.
        temperature: they were sampled at.
        recompute: trade time for memory.
    """
    tree = Tree(group.prefix, tuple(tuple(rollout.items) for rollout in group.rollouts))
    batch, branch = pack_tree(tree, network.config, specials, torch.Generator().manual_seed(0))
    device = network.vae2llm.weight.device
    rows, labels, owner = _scored_rows(batch, group.rollouts)
    batch = _without_losses(batch).to(device)
    hidden = forward_train(network, batch, attend=tree_attention(batch, branch),
                           recompute=recompute).last_hidden
    parts = [checkpoint(_log_probs, network, part, ids, vocabulary, temperature,
                        use_reentrant=False)
             for part, ids in zip(hidden[0, rows.to(device)].split(CHUNK),
                                  labels.to(device).split(CHUNK))]
    log_probs, entropy = (torch.cat(column) for column in zip(*parts))
    return Scored(log_probs, entropy.detach(), owner.to(device))


def log_prob_gap(scored: Scored, group: Group) -> Tensor:
    """How far log-probabilities are from those at sampling time, in nats, on average.

    Sampler and learner may compute in different number types; that, not learning, makes the gap.
    """
    sampled = [value for rollout in group.rollouts for turn in rollout.turns
               for value in turn.log_probs]
    return (scored.log_probs.detach() - scored.log_probs.new_tensor(sampled)).abs().mean()


def _log_probs(network: Cooper, hidden: Tensor, ids: Tensor, vocabulary: int,
               temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of ids ``[T]`` and entropy ``[T]`` at hidden states ``[T, D]``."""
    logits = network.logits(hidden, vocabulary).float() / temperature  # [T, V]
    log_probs = torch.log_softmax(logits, dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    return log_probs.gather(1, ids[:, None])[:, 0], entropy


def _scored_rows(batch: PackedBatch, rollouts: tuple[Rollout, ...]
                 ) -> tuple[Tensor, Tensor, Tensor]:
    """Sequence places, next ids and rollouts of everything that was sampled, ``[T]`` each."""
    keep, owner = [], []
    for number, rollout in enumerate(rollouts):
        for turn in rollout.turns:
            keep += [True] * len(turn.ids) + [turn.ended]
            owner += [number] * (len(turn.ids) + 1)
    sampled = torch.tensor(keep)
    return (batch.layout.ce_index[sampled], batch.labels[0][sampled],
            torch.tensor(owner)[sampled])


def _without_losses(batch: PackedBatch) -> PackedBatch:
    """The same batch, for its hidden states alone: its own losses would cost a second head."""
    none = torch.zeros(0, dtype=torch.int64)
    layout: Layout = replace(batch.layout, ce_index=none, mse_index=none)
    return replace(batch, layout=layout, labels=batch.labels[:, :0])


def grpo_loss(scored: Scored, advantages: Tensor, epsilon: float = 0.2,
              old: Tensor | None = None, length: int | None = None) -> Tensor:
    """Clipped policy loss, summed over rollouts; divide by the number of rollouts of the step.

    Args:
        scored: of one group.
        advantages: ``[G]``, one per rollout.
        epsilon: how far the ratio counts. Nothing is clipped while ``old`` is None, as in a run,
            which makes one update per batch of rollouts.
        old: log-probabilities ``[T]`` at sampling time; None while the policy is the one that
            sampled, where the ratio is 1 and only its gradient matters.
        length: what the sum over the tokens of a rollout is divided by; None for their number, as
            published (``bnpo`` with one rollout per micro-batch), where a word of a long answer
            counts less than one of a short answer.
    """
    old = scored.log_probs.detach() if old is None else old
    ratio = torch.exp(scored.log_probs - old)
    advantage = advantages.to(ratio)[scored.owner]  # [T]
    loss = -torch.min(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
    if length is not None:
        return loss.sum() / length
    lengths = torch.bincount(scored.owner, minlength=len(advantages)).clamp(min=1)
    return (loss / lengths[scored.owner]).sum()
