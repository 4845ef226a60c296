"""Where every token of a training sequence sits, and what it may look at (reference 2.5, 2.6)."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace
from typing import Any, Sequence

import torch
from torch import Tensor

from cooper_ros.model.config import ModelConfig
from cooper_ros.model.patches import position_ids

CAUSAL, FULL, NOISE = 'causal', 'full', 'noise'
TEXT, VISION, LATENT, DROPPED = 'text', 'vision', 'latent', 'dropped'
MARKERS = 2  # of every segment: before and behind


@dataclass(frozen=True)
class Piece:
    """The shape of one item of a plan, without its content.

    Attributes:
        kind: ``text``, ``vision``, ``latent``, or ``dropped`` for an image left out for
            guidance, which takes no tokens but still advances the position.
        tokens: length in the sequence, markers included.
        grid: rows and columns of an image.
        loss: whether it carries a loss.
    """

    kind: str
    tokens: int
    grid: tuple[int, int] = (0, 0)
    loss: bool = False

    @property
    def mode(self) -> str:
        """How its tokens attend to each other, and whether other splits may attend to them."""
        if self.kind == TEXT:
            return CAUSAL
        return NOISE if self.kind == LATENT and self.loss else FULL

    def advance(self, tokens: int) -> int:
        """Position ids it takes up when ``tokens`` of its tokens are real, not padding."""
        return tokens if self.kind == TEXT else int(self.mode != NOISE)


@dataclass(frozen=True)
class Layout:
    """A sequence of L tokens, shared by all samples of a batch.

    Attributes:
        sample_lens: tokens of every sample packed into the sequence.
        split_lens, attn_modes: its splits and how each attends.
        vit_lengths, latent_lengths: image tokens of every vision and latent image.
        text_index, vit_index, latent_index: places of the three kinds in the sequence; text
            includes all markers.
        vit_position_ids, latent_position_ids: rows of the position tables.
        ce_index, mse_index: places in the sequence that carry a loss.
        positions: rotary position ids ``[1, L]`` when every token is real.
    """

    sample_lens: tuple[int, ...]
    split_lens: tuple[int, ...]
    attn_modes: tuple[str, ...]
    vit_lengths: tuple[int, ...]
    latent_lengths: tuple[int, ...]
    text_index: Tensor
    vit_index: Tensor
    latent_index: Tensor
    vit_position_ids: Tensor
    latent_position_ids: Tensor
    ce_index: Tensor
    mse_index: Tensor
    positions: Tensor

    @functools.cached_property
    def allowed(self) -> Tensor:
        """Bool ``[1, L, L]``, True where the row token may look at the column token; made when
        it is first asked for."""
        return attention_allowed(self.sample_lens, self.split_lens, self.attn_modes)[None]

    @functools.cached_property
    def order(self) -> Tensor:
        """Sequence places in compact order: text, vision, latents ``[L]``."""
        return torch.cat([self.text_index, self.vit_index, self.latent_index])

    @functools.cached_property
    def inverse(self) -> Tensor:
        """Compact places in sequence order ``[L]``."""
        return torch.argsort(self.order)

    def to(self, device: torch.device | str) -> Layout:
        """The same on another device."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items()
                                 if isinstance(value, Tensor)}
        return replace(self, **moved)


def attention_allowed(sample_lens: Sequence[int], split_lens: Sequence[int],
                      modes: Sequence[str]) -> Tensor:
    """What may look at what in a packed sequence.

    Query i sees key j when all three hold:

    * both are of the same sample;
    * j is not later than i, or both are in the same split and that split is full or noise;
    * j is not in a noise split, unless it is i's own.

    Returns:
        bool ``[L, L]``, rows are queries.
    """
    sample, split = (torch.repeat_interleave(torch.arange(len(lens)), torch.tensor(lens))
                     for lens in (sample_lens, split_lens))
    noise = torch.tensor([mode == NOISE for mode in modes])[split]
    both_ways = torch.tensor([mode != CAUSAL for mode in modes])[split]
    same_split = split[:, None] == split
    earlier = torch.ones(len(split), len(split), dtype=torch.bool).tril()
    return ((sample[:, None] == sample) & (earlier | same_split & both_ways)
            & ~(noise & ~same_split))


def rope_positions(pieces: Sequence[Piece], lengths: Sequence[int]) -> Tensor:
    """Rotary position ids of one sample.

    Args:
        pieces: its items as laid out, padding included.
        lengths: real tokens of every item; padding repeats the last real position.

    Returns:
        int64 ``[L]``.
    """
    parts, at = [torch.zeros(0, dtype=torch.int64)], 0
    for piece, length in zip(pieces, lengths):
        steps = torch.arange(piece.tokens).clamp(max=max(length - 1, 0))
        parts.append(at + (steps if piece.kind == TEXT else 0 * steps))
        at += piece.advance(length)
    return torch.cat(parts)


@functools.lru_cache(maxsize=8)
def build_layout(samples: tuple[tuple[Piece, ...], ...], config: ModelConfig) -> Layout:
    """Lay samples one after the other; positions start at 0 in each.

    The last few are cached, so that batch after batch of equal shape shares one layout.
    """
    pieces = [piece for sample in samples for piece in sample]
    present = [piece for piece in pieces if piece.kind != DROPPED]
    starts = torch.tensor([0, *(piece.tokens for piece in present)]).cumsum(0).tolist()
    text, vision, latent, ce, mse = _indexes(present, starts)
    sample_lens = tuple(sum(piece.tokens for piece in sample) for sample in samples)
    split_lens = tuple(piece.tokens for piece in present)
    modes = tuple(piece.mode for piece in present)
    tables = {kind: [position_ids(piece.grid, side) for piece in present if piece.kind == kind]
              for kind, side in ((VISION, config.vit_max_num_patch_per_side),
                                 (LATENT, config.max_latent_size))}
    positions = torch.cat([rope_positions(sample, [piece.tokens for piece in sample])
                           for sample in samples])
    return Layout(sample_lens, split_lens, modes,
                  tuple(len(ids) for ids in tables[VISION]),
                  tuple(len(ids) for ids in tables[LATENT]),
                  text, vision, latent, _joined(tables[VISION]), _joined(tables[LATENT]), ce, mse,
                  positions[None])


def _indexes(pieces: Sequence[Piece], starts: Sequence[int]) -> list[Tensor]:
    """Places of text (with markers), vision, latents, and of the two losses."""
    found: dict[str, list[Tensor]] = {name: [] for name in (TEXT, VISION, LATENT, 'ce', 'mse')}
    for piece, start in zip(pieces, starts):
        places = torch.arange(start, start + piece.tokens)
        if piece.kind == TEXT:
            found[TEXT].append(places)
            found['ce'] += [places[:-1]] if piece.loss else []
        else:
            found[TEXT].append(places[[0, -1]])
            found[piece.kind].append(places[1:-1])
            found['mse'] += [places[1:-1]] if piece.loss else []
    return [_joined(places) for places in found.values()]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.int64), *parts])
