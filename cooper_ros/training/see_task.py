"""Stage ``see``: the vision tower of a small checkpoint learns to see before it learns to speak.

The published model starts from a SigLIP tower that has seen billions of pictures; ours starts from
nothing, and words are a thin stream to learn seeing from. So every patch of a frame is asked about
the middles of its sixteen cells, from the scene's truth: which class is there, how far away it is,
and of which object it is a part: its shape, where its centre is, how tall it is, how high its top.
What belongs to a whole object is then known wherever the object shows, and a word has to find one
patch only. Drawn maps go through the same tower, so they are asked for what they show. The head
is thrown away; tower and connector are where the reasoning stages start (``task: {eyes: ...}``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.model.patches import patchify
from cooper_ros.scenes.palette import SCENE_PALETTE, SHAPES
from cooper_ros.training.data import STEPS_PER_METRE, FrameStore, frame_store
from cooper_ros.training.eyes import Eyes
from cooper_ros.training.pictures import PictureCache, picture_cache
from cooper_ros.training.precision import mixed
from cooper_ros.training.processes import mean_over_processes, share_of
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.sizes import RULE, Sizes, check_views, is_rule
from cooper_ros.training.task import batch_indices, require_export
from cooper_ros.training.typed import build, check_ranges
from cooper_ros.training.vae_task import DEPTH, LABELS, RGB

CLASSES, FORMS = len(SCENE_PALETTE), len(SHAPES)
SIDE = 4  # cells of a patch, each way
LENGTHS = 5  # x, y, log z, log height, top of the object
PER_CELL = CLASSES + 1 + FORMS + LENGTHS
INITIAL_FRAMES = 300  # whose patches tell what pictures are made of


@dataclass(frozen=True)
class SeeOptions:
    """Settings of this stage.

    Attributes:
        picture_share: share of camera frames in a batch; drawn maps take the rest.
        depth_weight: weight of the depth error, in natural logarithms of metres.
        object_weight: weight of shape and lengths of objects.
        metres_in_maps_only: ask how far things are in drawn depth maps, not in photographs.
        vae_rule, vit_rule: longest side, shortest side and stride of the resize rules.
    """

    picture_share: float = 0.8
    depth_weight: float = 4.0
    object_weight: float = 1.0
    metres_in_maps_only: bool = False
    vae_rule: tuple[int, int, int] = (128, 128, 16)
    vit_rule: tuple[int, int, int] = (168, 168, 14)

    def __post_init__(self) -> None:
        check_ranges(self, (
            ('picture_share', 0 <= self.picture_share <= 1, '0 .. 1'),
            ('depth_weight', self.depth_weight >= 0, '>= 0'),
            ('object_weight', self.object_weight >= 0, '>= 0'),
            ('vae_rule', is_rule(self.vae_rule), RULE),
            ('vit_rule', is_rule(self.vit_rule), RULE)), 'task')


class SeeTask:
    """See :class:`~cooper_ros.training.task.Task`."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.options = build(SeeOptions, settings.task, 'task')
        config = build(Sizes, settings.model, 'model').config(vocabulary=1)  # it does not speak
        check_views(config, self.options.vae_rule, self.options.vit_rule, coded=False)
        data = settings.data
        torch.manual_seed(settings.seed)
        self.module = Eyes(config, SIDE**2 * PER_CELL)
        self.train, self.valid = (self._open(split, count) for split, count in
                                  (('train', data.train), ('validation', data.valid)))
        self.module.initialise(torch.stack([self.train[1].pixels(frame, RGB) for frame in
                                            range(min(INITIAL_FRAMES, len(self.train[0])))]))

    def samples(self, step: int) -> int:
        """Pictures of a step."""
        return self.settings.batch

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Errors of one batch of pictures, half of them mirrored.

        Kinds and mirrors are drawn for the whole batch, whatever the number of processes.
        """
        (store, cache), batch = self.train, self.settings.batch
        frames = batch_indices(len(store), batch, self.settings.seed, step)
        picture = self.options.picture_share
        chances = torch.tensor([picture, (1 - picture) / 2, (1 - picture) / 2])
        kinds = torch.multinomial(chances, batch, replacement=True, generator=generator)
        mirrored = torch.rand(batch, generator=generator) < 0.5
        mine = slice(share_of(batch).start, share_of(batch).stop)
        return self._errors(store, cache, frames.tolist(), kinds[mine], mirrored[mine])

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Errors on camera frames, and how often a cell's class is named."""
        store, cache = self.valid
        none = torch.zeros(len(store), dtype=torch.int64)
        with mixed(self._device, self.settings.optim.bfloat16):
            found = self._errors(store, cache, list(range(len(store))), none + RGB, none > 0)
        return {f'valid_{name}': float(value) for name, value in found.items()}, {}

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """There is nothing to ship.

        Raises:
            BadOption: always.
        """
        require_export(self.settings)

    @property
    def _device(self) -> torch.device:
        return self.module.vit_pos_embed.pos_embed.device

    def _open(self, split: str, count: int) -> tuple[FrameStore, PictureCache]:
        data, options = self.settings.data, self.options
        store = frame_store(data.folder, split, data.seed, count, data.questions,
                            data.canonical_focal)
        return store, picture_cache(store, None, ImageTransform(*options.vae_rule),
                                    ImageTransform(*options.vit_rule), 0)

    def _errors(self, store: FrameStore, cache: PictureCache, frames: list[int], kinds: Tensor,
                mirrored: Tensor) -> dict[str, Tensor]:
        pixels = torch.stack([cache.pixels(f, kind) for f, kind in zip(frames, kinds.tolist())])
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        truth = cells_of(store, frames, self.module.grid_of(pixels)).mirrored(mirrored)
        truth, kinds = truth.to(self._device), kinds.to(self._device)
        out = self.module(pixels.to(self._device)).float().unflatten(-1, (SIDE**2, PER_CELL))
        scores, far, forms, lengths = out.split((CLASSES, 1, FORMS, LENGTHS), dim=-1)
        named = kinds != DEPTH
        seen = kinds == DEPTH if self.options.metres_in_maps_only else kinds != LABELS
        mine = (truth.shape >= 0) & (kinds == RGB)[:, None, None]  # [B, T, 16]
        terms = {
            'classes': F.cross_entropy(scores[named].flatten(0, 2), truth.label[named].flatten(),
                                       reduction='none'),
            'depth': (far[seen][..., 0] - truth.log_depth[seen]).abs(),
            'shapes': F.cross_entropy(forms[mine], truth.shape[mine], reduction='none'),
            'lengths': (lengths[mine] - truth.lengths[mine]).abs(),
            'accuracy': (scores.argmax(-1) == truth.label)[named].float(),
            'shape_accuracy': (forms.argmax(-1) == truth.shape)[mine].float()}
        counts = mean_over_processes([term.numel() for term in terms.values()])
        losses = {name: term.sum() / count for (name, term), count in zip(terms.items(), counts)}
        options = self.options
        whole = (losses['classes'] + options.depth_weight * losses['depth'] + options.object_weight
                 * (losses['shapes'] + options.depth_weight * losses['lengths']))
        return {'loss': whole, **losses}


@dataclass(frozen=True)
class Cells:
    """What is true in the middle of every cell of every patch.

    Attributes:
        label: class id ``[B, T, 16]``.
        log_depth: natural logarithm of metres ``[B, T, 16]``.
        shape: shape of the object there ``[B, T, 16]``, -1 where there is none.
        lengths: ``[B, T, 16, 5]``: x, y, log z, log height and top of that object in metres.
        grid: rows and columns of patches.
    """

    label: Tensor
    log_depth: Tensor
    shape: Tensor
    lengths: Tensor
    grid: tuple[int, int]

    def to(self, device: torch.device) -> Cells:
        """The same on another device."""
        parts = (self.label, self.log_depth, self.shape, self.lengths)
        return Cells(*(part.to(device) for part in parts), self.grid)

    def mirrored(self, which: Tensor) -> Cells:
        """Left and right exchanged in the samples ``[B]`` that say so."""
        def turned(cells: Tensor) -> Tensor:
            swapped = (cells.unflatten(2, (SIDE, SIDE)).unflatten(1, self.grid).flip(2, 4)
                       .flatten(1, 2).flatten(2, 3))
            return torch.where(which.view(-1, *[1] * (cells.dim() - 1)), swapped, cells)
        sign = torch.where(which, -1.0, 1.0)[:, None, None]
        lengths = turned(self.lengths)
        lengths[..., 0] *= sign
        return Cells(turned(self.label), turned(self.log_depth), turned(self.shape), lengths,
                     self.grid)


def cells_of(store: FrameStore, frames: list[int], grid: tuple[int, int]) -> Cells:
    """Truth of frames at a grid of patches."""
    def cells(name: str) -> Tensor:
        maps = np.stack([getattr(store, name)[frame] for frame in frames])  # [B, H, W]
        rows, columns = (((np.arange(SIDE * n) + 0.5) * side / (SIDE * n)).astype(int)
                         for n, side in zip(grid, maps.shape[1:]))
        middle = torch.from_numpy(maps[:, rows[:, None], columns].astype(np.float32))
        return patchify(middle[:, None], SIDE)  # [B, T, 16]
    owner = cells('instance').long()
    objects = torch.from_numpy(np.stack([store.objects[frame] for frame in frames]))
    batch = torch.arange(len(frames))[:, None, None]
    mine = objects[batch, owner.clamp(min=0)].clone()  # [B, T, 16, fields]
    mine[..., 4:6] = mine[..., 4:6].log()
    known = (owner >= 0) & mine.isfinite().all(-1)
    shape = torch.where(known, mine[..., 1].nan_to_num(), -1.0).long()
    return Cells(cells('labels').long(), (cells('depth') / STEPS_PER_METRE).clamp(0.01).log(),
                 shape, mine[..., 2:].nan_to_num(), grid)
