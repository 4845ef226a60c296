"""Training samples to tensors (reference section 9.2).

A sample is a list of items in the order the model reads them: text, vision images, latent images.
There are two ways to put samples together:

* :func:`pack` lays samples of any shape one after the other in one long sequence, ``B = 1``;
  a mask keeps them apart. This is the published training format.
* :func:`pack_batch` stacks samples with the same kinds of items, images of the same size and the
  same losses: ``B`` rows of one layout. Texts may differ in length; shorter ones are padded at
  the end, where no token looks and no loss is taken. Attention then costs ``B * L**2`` instead of
  ``(B * L)**2``, which is what makes training of small models on a CPU possible. The numbers are
  those of the samples on their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Sequence

import torch
from torch import Tensor

from cooper_ros.errors import BadData
from cooper_ros.model.config import ModelConfig, SpecialTokens
from cooper_ros.model.flow import shifted
from cooper_ros.model.layout import (
    DROPPED,
    LATENT,
    MARKERS,
    TEXT,
    VISION,
    Layout,
    Piece,
    build_layout,
    rope_positions,
)
from cooper_ros.model.patches import patchify

IGNORED = -100


@dataclass(frozen=True)
class TextItem:
    """Token ids without markers; with ``loss`` each, and the end marker, is to be predicted."""

    ids: tuple[int, ...]
    loss: bool = False


@dataclass(frozen=True)
class VisionItem:
    """A picture for the vision tower: ``[3, H, W]`` in -1..1, sides multiples of the patch."""

    pixels: Tensor


@dataclass(frozen=True)
class LatentItem:
    """A picture as clean latents ``[C, h, w]``, shifted and scaled.

    Attributes:
        latent: what :meth:`~..vae.AutoEncoder.encode` made of it.
        loss: False for a condition (time 0), True for a picture to be drawn.
        logit: logit of the flow time before the shift; None draws a standard normal.
    """

    latent: Tensor
    loss: bool = False
    logit: float | None = None


@dataclass(frozen=True)
class DroppedImage:
    """An image left out so that the model learns to draw without it; still advances positions."""


Item = TextItem | VisionItem | LatentItem | DroppedImage


@dataclass(frozen=True)
class PackedBatch:
    """B samples (or one packed sequence, B = 1) of a common layout.

    Attributes:
        layout: places and lengths; equal for all rows.
        text_ids: ``[B, Tt]`` ids at ``layout.text_index``, all markers included.
        patches: ``[B, Tv, 3 * patch**2]`` flattened patches at ``layout.vit_index``.
        latents: ``[B, Tz, P]`` clean latent tokens at ``layout.latent_index``.
        times: ``[B, images]`` flow time of every latent image after the shift; 0 is clean.
        noise: ``[B, Tz, P]`` standard normal, used where the time is above 0.
        labels: ``[B, Tc]`` next tokens at ``layout.ce_index``; -100 where padding follows.
        positions: ``[B or 1, L]`` rotary position ids.
        allowed: bool ``[B or 1, L, L]`` attention mask in sequence order; ``[1, 0, 0]`` where
            attention is planned without one.
    """

    layout: Layout
    text_ids: Tensor
    patches: Tensor
    latents: Tensor
    times: Tensor
    noise: Tensor
    labels: Tensor
    positions: Tensor
    allowed: Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same on another device."""
        return replace(self, **{entry.name: getattr(self, entry.name).to(device)
                                for entry in fields(self)})

    def rows(self, places: range) -> PackedBatch:
        """Some of the samples, padded as in the whole batch; tensors that all share are kept."""
        def cut(value: Tensor) -> Tensor:
            return value if len(value) == 1 else value[places.start:places.stop]
        return replace(self, **{entry.name: cut(getattr(self, entry.name))
                                for entry in fields(self) if entry.name != 'layout'})


def piece_of(item: Item, config: ModelConfig) -> Piece:
    """The shape of an item."""
    if isinstance(item, TextItem):
        return Piece(TEXT, len(item.ids) + MARKERS, loss=item.loss)
    if isinstance(item, DroppedImage):
        return Piece(DROPPED, 0)
    maps, patch = ((item.pixels, config.vit.patch_size) if isinstance(item, VisionItem)
                   else (item.latent, config.latent_patch_size))
    rows, columns = maps.shape[-2] // patch, maps.shape[-1] // patch
    kind = VISION if isinstance(item, VisionItem) else LATENT
    return Piece(kind, rows * columns + MARKERS, (rows, columns), getattr(item, 'loss', False))


def pack(samples: Sequence[Sequence[Item]], config: ModelConfig, specials: SpecialTokens, *,
         timestep_shift: float = 1.0, noise: Tensor | None = None,
         generator: torch.Generator | None = None) -> PackedBatch:
    """Lay samples one after the other in one sequence.

    Args:
        samples: items of every sample.
        config: sizes of the network.
        specials: marker ids.
        timestep_shift: shift of drawn flow times (1 in the published training).
        noise: ``[Tz, P]`` to use instead of drawing it.
        generator: source of times and noise; None takes torch's own.

    Returns:
        a batch with B = 1.
    """
    shapes = tuple(tuple(piece_of(item, config) for item in sample) for sample in samples)
    layout = build_layout(shapes, config)
    items = [item for sample in samples for item in sample]
    row = _content(items, [piece for shape in shapes for piece in shape], config, specials,
                   timestep_shift, generator)
    return _batch(layout, [row], noise, generator, layout.positions, layout.allowed)


def pack_batch(samples: Sequence[Sequence[Item]], config: ModelConfig,
               specials: SpecialTokens, *, timestep_shift: float = 1.0,
               noise: Tensor | None = None,
               generator: torch.Generator | None = None) -> PackedBatch:
    """Stack samples of one kind into rows of a common layout; arguments as for :func:`pack`.

    Raises:
        BadData: the samples differ in more than the length of their texts.
    """
    shapes = [tuple(piece_of(item, config) for item in sample) for sample in samples]
    common = _common(shapes)
    layout = build_layout((common,), config)
    rows = [_content(sample, common, config, specials, timestep_shift, generator)
            for sample in samples]
    if all(shape == common for shape in shapes):
        return _batch(layout, rows, noise, generator, layout.positions, layout.allowed)
    lengths = [[piece.tokens for piece in shape] for shape in shapes]
    positions = torch.stack([rope_positions(common, row) for row in lengths])
    real = torch.stack([torch.cat([torch.arange(piece.tokens) < length
                                   for piece, length in zip(common, row)]) for row in lengths])
    itself = torch.eye(real.shape[1], dtype=torch.bool)  # no row may be left without a key
    return _batch(layout, rows, noise, generator, positions,
                  layout.allowed & real[:, None, :] | itself)


def pack_unmasked(items: Sequence[Item], positions: Tensor, config: ModelConfig,
                  specials: SpecialTokens, generator: torch.Generator | None = None
                  ) -> PackedBatch:
    """One sample without a mask, for attention that the caller plans: the mask of 50,000 tokens
    would take 2.5 GB.

    Args:
        items: of the sample.
        positions: rotary position ids ``[L]``.
        config, specials, generator: as for :func:`pack`.

    Returns:
        a batch with B = 1 and an empty ``allowed``.
    """
    pieces = tuple(piece_of(item, config) for item in items)
    row = _content(items, pieces, config, specials, 1.0, generator)
    return _batch(build_layout((pieces,), config), [row], None, generator, positions[None],
                  torch.zeros(1, 0, 0, dtype=torch.bool))


def _common(shapes: Sequence[tuple[Piece, ...]]) -> tuple[Piece, ...]:
    """The layout that all samples fit, with every text as long as the longest."""
    if len({len(shape) for shape in shapes}) != 1:
        raise BadData('samples of one batch differ in their number of items',
                      value=sorted({len(shape) for shape in shapes}), limit='one number')
    merged = []
    for column in zip(*shapes):
        longest = max(column, key=lambda piece: piece.tokens)
        for piece in column:
            if piece != (replace(longest, tokens=piece.tokens) if piece.kind == TEXT
                         else longest):
                raise BadData('samples of one batch differ in an item', value=piece,
                              limit=longest, remedy='group samples by kinds and picture sizes')
        merged.append(longest)
    return tuple(merged)


@dataclass(frozen=True)
class _Content:
    """Tensors of one row, without noise."""

    text_ids: Tensor
    patches: Tensor
    latents: Tensor
    times: Tensor
    labels: Tensor


def _content(items: Sequence[Item], pieces: Sequence[Piece], config: ModelConfig,
             specials: SpecialTokens, timestep_shift: float,
             generator: torch.Generator | None) -> _Content:
    """Fill one row; texts are padded to the length of their piece."""
    ids, labels, patches, latents, times = [], [], [], [], []
    for item, piece in zip(items, pieces):
        if isinstance(item, TextItem):
            words = [specials.bos, *item.ids, specials.eos]
            missing = piece.tokens - len(words)
            ids += words + [specials.eos] * missing
            labels += words[1:] + [IGNORED] * missing if item.loss else []
        elif not isinstance(item, DroppedImage):
            ids += [specials.start_of_image, specials.end_of_image]
        if isinstance(item, VisionItem):
            patches.append(patchify(item.pixels, config.vit.patch_size))
        elif isinstance(item, LatentItem):
            latents.append(patchify(item.latent, config.latent_patch_size))
            times.append(_time(item, timestep_shift, generator))
    return _Content(torch.tensor(ids), _rows(patches, config.vit.patch_features),
                    _rows(latents, config.latent_features), _rows(times),
                    torch.tensor(labels, dtype=torch.int64))


def _time(item: LatentItem, shift: float, generator: torch.Generator | None) -> Tensor:
    """Flow time ``[1]`` of a latent image; a condition is clean."""
    if not item.loss:
        return torch.zeros(1)
    logit = (torch.randn(1, generator=generator) if item.logit is None
             else torch.tensor([float(item.logit)]))
    return shifted(torch.sigmoid(logit), shift)


def _rows(parts: Sequence[Tensor], *width: int) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0, *width)


def _batch(layout: Layout, rows: Sequence[_Content], noise: Tensor | None,
           generator: torch.Generator | None, positions: Tensor, allowed: Tensor) -> PackedBatch:
    stacked = {entry.name: torch.stack([getattr(row, entry.name) for row in rows])
               for entry in fields(_Content)}
    if noise is None:
        noise = torch.randn(stacked['latents'].shape, generator=generator)
    return PackedBatch(layout, noise=noise.reshape(stacked['latents'].shape),
                       positions=positions, allowed=allowed, **stacked)
