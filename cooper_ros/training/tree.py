"""Several conversations about one picture in one sequence: the picture is read once.

A sample is a prefix (system text, picture) and branches that continue it independently. Branches
see the prefix and themselves, never each other, and each starts at the position where the prefix
ends; so every token sees exactly what it would see in a sequence of its own, and the losses are
the same. A picture with twelve questions costs little more than a picture with one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cooper_ros.model.config import ModelConfig, SpecialTokens
from cooper_ros.model.layout import CAUSAL, NOISE, Layout, Piece, rope_positions
from cooper_ros.model.mot import Attend
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import Item, PackedBatch, pack_batch, pack_unmasked, piece_of
from cooper_ros.model.training_forward import TrainOutput, forward_train

LARGE = 2**24  # scores of a head; beyond, they do not exist at the same time
SCORES = 2**22  # of a head that exist at the same time then


@dataclass(frozen=True)
class Tree:
    """One sample.

    Attributes:
        prefix: items all branches share.
        branches: items of every branch; all trees of a batch must have the same kinds of items.
    """

    prefix: tuple[Item, ...]
    branches: tuple[tuple[Item, ...], ...]

    @property
    def items(self) -> list[Item]:
        """All items, one after the other."""
        return [*self.prefix, *(item for branch in self.branches for item in branch)]


def pack_trees(trees: Sequence[Tree], config: ModelConfig, specials: SpecialTokens, *,
               timestep_shift: float = 1.0,
               generator: torch.Generator | None = None) -> tuple[PackedBatch, Tensor]:
    """Stack trees of one shape; see :func:`~cooper_ros.model.packing.pack_batch`.

    Returns:
        the batch, and the branch of every token ``[L]`` (0 is the prefix).

    Raises:
        BadData: the trees differ in more than the length of their texts.
    """
    batch = pack_batch([tree.items for tree in trees], config, specials,
                       timestep_shift=timestep_shift, generator=generator)
    padded = padded_pieces(trees, config)
    branch = _branch_ids(trees[0], padded)  # [L]
    allowed = (branch[None, :] == 0) | (branch[:, None] == branch[None, :])
    positions = torch.stack([_positions(tree, padded, config) for tree in trees])
    return replace(batch, positions=positions, allowed=batch.allowed & allowed), branch


def pack_tree(tree: Tree, config: ModelConfig, specials: SpecialTokens,
              generator: torch.Generator | None = None) -> tuple[PackedBatch, Tensor]:
    """One tree, as :func:`pack_trees`, but without a mask if it is large."""
    pieces = [piece_of(item, config) for item in tree.items]
    branch = _branch_ids(tree, pieces)
    prefix, *lengths = torch.bincount(branch).tolist()
    if len(lengths) * max(lengths) * (prefix + max(lengths)) <= LARGE:
        return pack_trees([tree], config, specials, generator=generator)
    positions = _positions(tree, pieces, config)
    return pack_unmasked(tree.items, positions, config, specials, generator), branch


def padded_pieces(trees: Sequence[Tree], config: ModelConfig) -> list[Piece]:
    """The items of a batch of trees, every text as long as its longest."""
    columns = zip(*([piece_of(item, config) for item in tree.items] for tree in trees))
    return [max(column, key=lambda piece: piece.tokens) for column in columns]


def _counts(tree: Tree) -> list[int]:
    return [len(tree.prefix), *(len(branch) for branch in tree.branches)]


def _branch_ids(tree: Tree, padded: Sequence[Piece]) -> Tensor:
    """Branch of every token ``[L]``; 0 is the prefix."""
    owners = [number for number, count in enumerate(_counts(tree)) for _ in range(count)]
    return torch.repeat_interleave(torch.tensor(owners),
                                   torch.tensor([piece.tokens for piece in padded]))


def _positions(tree: Tree, padded: Sequence[Piece], config: ModelConfig) -> Tensor:
    """Rotary positions ``[L]``, padding repeated, every branch starting at the prefix's end."""
    real = [piece_of(item, config).tokens for item in tree.items]
    ends, parts, at = 0, [], 0
    for number, count in enumerate(_counts(tree)):
        pieces, lengths = padded[at:at + count], real[at:at + count]
        parts.append(rope_positions(pieces, lengths) + (ends if number else 0))
        if number == 0:
            ends = sum(piece.advance(length) for piece, length in zip(pieces, lengths))
        at += count
    return torch.cat(parts)


@dataclass(frozen=True)
class TreeAttention:
    """Attention of packed trees that never looks at what the mask hides anyway.

    Branches are stacked like a batch, each with the keys of the prefix and its own. The result
    is that of the dense mask; the work is ``K * b * (p + b)`` instead of ``(p + K * b)**2`` for a
    prefix of p and K branches of b tokens.

    Attributes:
        prefix: places ``[p]`` in compact order.
        branches: places ``[K, b]``, padded with the branch's first place.
        inverse: where the rows ``[p + K * b]`` of the stacked result go: ``[L]``.
        prefix_allowed: bool ``[B or 1, 1, p, p]``.
        branch_allowed: bool ``[B * K, 1, b, p + b]``.
    """

    prefix: Tensor
    branches: Tensor
    inverse: Tensor
    prefix_allowed: Tensor
    branch_allowed: Tensor

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`~cooper_ros.model.mot.Attend`."""
        first = _attention(*(part[:, :, self.prefix] for part in (q, k, v)), self.prefix_allowed)
        count, length = self.branches.shape
        queries = self._stacked(q)  # [B * K, H, b, d]
        keys, values = (torch.cat([self._repeated(part), self._stacked(part)], dim=2)
                        for part in (k, v))  # [B * K, H, p + b, d]
        rest = _attention(queries, keys, values, self.branch_allowed)
        rest = rest.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)  # [B, H, K * b, d]
        return torch.cat([first, rest], dim=2)[:, :, self.inverse]

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Nothing outlives the pass."""

    def to(self, device: torch.device) -> TreeAttention:
        """The same on another device."""
        return TreeAttention(*(getattr(self, entry.name).to(device) for entry in fields(self)))

    def _stacked(self, part: Tensor) -> Tensor:
        return part[:, :, self.branches].transpose(1, 2).flatten(0, 1)

    def _repeated(self, part: Tensor) -> Tensor:
        shared = part[:, None, :, self.prefix]  # [B, 1, H, p, d]
        return shared.expand(-1, len(self.branches), -1, -1, -1).flatten(0, 1)


def _attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Plain matrix products. On a CPU the fused kernel's backward pass is several times slower
    for so many short sequences; on a GPU it read memory that is not there with 514 keys, and gave
    NaN with padded ones (torch 2.11, H100, memory-efficient kernel with a mask)."""
    groups = q.shape[1] // k.shape[1]
    rows = q.unflatten(1, (-1, groups)).flatten(2, 3)  # [B, Hkv, G * T, d]
    scores = rows @ k.transpose(2, 3) * q.shape[-1]**-0.5
    shape = (groups, q.shape[2])
    hidden = ~allowed[:, :, None]  # [B, 1, 1, T, S]
    scores = scores.unflatten(2, shape).masked_fill(hidden, float('-inf'))
    shares = scores.softmax(-1).to(v.dtype)
    return (shares.flatten(2, 3) @ v).unflatten(2, shape).flatten(1, 2)


@dataclass(frozen=True)
class LongAttention:
    """Attention of one tree that is too large for :class:`TreeAttention`.

    Every branch is as long as it is, and some rows are mixed at a time: their mask is made of the
    places of rows and keys, and their scores are made again in the backward pass. The result is
    that of the dense mask. Plain products, for the reasons :func:`_attention` gives.

    Attributes:
        parts: rows and the keys they may look at, places ``[R]`` and ``[S]`` in sequence order.
        reach: last place ``[L]`` that a token may look at in its own split.
        split: number of the split of every token ``[L]``.
        noise: bool ``[L]``, tokens that other splits do not look at.
        compact: where a sequence place lies in compact order ``[L]``.
        order: sequence places in compact order ``[L]``.
    """

    parts: tuple[tuple[Tensor, Tensor], ...]
    reach: Tensor
    split: Tensor
    noise: Tensor
    compact: Tensor
    order: Tensor

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`~cooper_ros.model.mot.Attend`."""
        mixed = [checkpoint(self._mixed, q, k, v, rows, keys, use_reentrant=False,
                            preserve_rng_state=False) for rows, keys in self.parts]
        return torch.cat(mixed, dim=2)[:, :, self.order]

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Nothing outlives the pass."""

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
        own = self.split[rows][:, None] == self.split[keys]
        allowed = (keys <= self.reach[rows][:, None]) & (own | ~self.noise[keys])  # [R, S]
        seen = self.compact[keys]
        return _attention(q[:, :, self.compact[rows]], k[:, :, seen], v[:, :, seen],
                          allowed[None, None])


def _long_attention(layout: Layout, branch: Tensor) -> LongAttention:
    """Plan :class:`LongAttention`; branches lie one after the other, so rows stay in order."""
    lengths = torch.tensor(layout.split_lens)
    split = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    both_ways = torch.tensor([mode != CAUSAL for mode in layout.attn_modes])[split]
    reach = torch.where(both_ways, lengths.cumsum(0)[split] - 1, torch.arange(len(split)))
    noise = torch.tensor([mode == NOISE for mode in layout.attn_modes])[split]
    device, parts = layout.order.device, []
    for number in range(int(branch.max()) + 1):
        rows = (branch == number).nonzero()[:, 0]
        keys = ((branch == number) | (branch == 0)).nonzero()[:, 0]
        parts += [(some.to(device), keys[keys <= reach[some].max()].to(device))
                  for some in rows.split(max(1, SCORES // len(keys)))]
    return LongAttention(tuple(parts), *(one.to(device) for one in (reach, split, noise)),
                         layout.inverse, layout.order)


def tree_attention(batch: PackedBatch, branch: Tensor) -> TreeAttention | LongAttention:
    """Plan the attention of a batch of trees, on the device of the batch.

    Args:
        batch: what :func:`pack_trees` or :func:`pack_tree` made.
        branch: branch of every token ``[L]`` in sequence order, 0 the prefix, 1 to K in order.
    """
    if not batch.allowed.numel():
        return _long_attention(batch.layout, branch)
    compact = batch.layout.inverse  # where a sequence place lies in compact order
    prefix = (branch == 0).nonzero()[:, 0]
    places = [(branch == number).nonzero()[:, 0] for number in range(1, int(branch.max()) + 1)]
    longest = max(map(len, places))
    real = torch.stack([torch.arange(longest) < len(place) for place in places])  # [K, b]
    padded = torch.stack([F.pad(place, (0, longest - len(place)), value=int(place[0]))
                          for place in places])
    return TreeAttention(compact[prefix], compact[padded],
                         _inverse(compact, prefix, padded, real),
                         *_masks(batch, prefix, padded, real)).to(batch.allowed.device)


def _masks(batch: PackedBatch, prefix: Tensor, padded: Tensor, real: Tensor
           ) -> tuple[Tensor, Tensor]:
    """The two masks of :class:`TreeAttention`, cut where the batch is: they are most of its work,
    and one of all rows is cut once."""
    count, device, rows = len(padded), batch.allowed.device, len(batch.text_ids)
    seen = torch.cat([torch.ones(count, len(prefix), dtype=torch.bool), real], dim=1).to(device)
    shown = torch.cat([prefix.expand(count, -1), padded], dim=1).to(device)  # [K, p + b]
    prefix, padded = prefix.to(device), padded.to(device)
    branch = batch.allowed[:, padded[:, :, None], shown[:, None]] & seen[:, None]
    branch = branch.expand(rows, -1, -1, -1).flatten(0, 1)[:, None]  # [B * K, 1, b, p + b]
    return batch.allowed[:, prefix[:, None], prefix][:, None], branch


def _inverse(compact: Tensor, prefix: Tensor, padded: Tensor, real: Tensor) -> Tensor:
    """For every compact place, its row in the stacked result."""
    rows = torch.arange(padded.numel()).view(padded.shape)[real] + len(prefix)
    inverse = torch.empty(len(compact), dtype=torch.int64)
    inverse[compact[prefix]] = torch.arange(len(prefix))
    inverse[compact[padded[real]]] = rows
    return inverse


def forward_trees(network: Cooper, batch: PackedBatch, branch: Tensor,
                  watch: Callable[[Attend, PackedBatch], Attend] | None = None) -> TrainOutput:
    """:func:`~cooper_ros.model.training_forward.forward_train` with :class:`TreeAttention`.

    Args:
        network: the network.
        batch, branch: what :func:`pack_trees` made.
        watch: what to put around the attention, given the batch on the network's device.
    """
    batch = batch.to(network.vae2llm.weight.device)
    attend: Attend = tree_attention(batch, branch)
    return forward_train(network, batch, attend=watch(attend, batch) if watch else attend)
