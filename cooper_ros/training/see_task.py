"""Stage ``see``: the vision tower of a small checkpoint learns to see before it learns to speak.

The published model starts from a SigLIP tower that has seen billions of pictures; ours starts from
nothing, and words are a thin stream to learn seeing from. So every patch of a frame is asked what
stands in it and how far away it is: class shares and depth of its four quarters, from the scene's
truth. Drawn maps go through the same tower, so they are asked for what they show. The head is
thrown away; tower and connector are where the reasoning stages start (``task: {eyes: ...}``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cooper_ros.errors import BadOption
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.model.config import LlmConfig, ModelConfig, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.patches import patchify, position_ids
from cooper_ros.scenes.palette import SCENE_PALETTE
from cooper_ros.training.data import STEPS_PER_METRE, FrameStore, frame_store
from cooper_ros.training.pictures import PictureCache, picture_cache
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.task import batch_indices
from cooper_ros.training.vae_task import DEPTH, LABELS, RGB

EYES = ('vit_model.', 'connector.')
QUARTER = 8  # frame pixels per side of a quarter; a patch covers 16 x 16 of them
CLASSES = len(SCENE_PALETTE)
PER_QUARTER = CLASSES + 1


@dataclass(frozen=True)
class SeeOptions:
    """Settings of this stage.

    Attributes:
        picture_share: share of camera frames in a batch; drawn maps take the rest.
        depth_weight: weight of the depth error, in natural logarithms of metres.
        vae_rule, vit_rule: longest side, shortest side and stride of the resize rules.
    """

    picture_share: float = 0.7
    depth_weight: float = 2.0
    vae_rule: tuple[int, int, int] = (128, 128, 16)
    vit_rule: tuple[int, int, int] = (112, 112, 14)


class Eyes(nn.Module):
    """Vision tower and connector under their names in a checkpoint, and a head to train them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        whole = Cooper(config).initialise()
        self.vit_model, self.connector = whole.vit_model, whole.connector
        self.vit_pos_embed, self.side = whole.vit_pos_embed, config.vit_max_num_patch_per_side
        self.patch = config.vit.patch_size
        self.head = nn.Sequential(nn.LayerNorm(config.llm.hidden_size),
                                  nn.Linear(config.llm.hidden_size, 4 * PER_QUARTER))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pictures ``[B, 3, H, W]`` to ``[B, T, 4, classes + 1]``: scores and log metres."""
        grid = (pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch)
        ids = position_ids(grid, self.side)
        features = self.vit_model(patchify(pixels, self.patch), ids, [len(ids)])
        tokens = self.connector(features) + self.vit_pos_embed(ids)
        return self.head(tokens).unflatten(-1, (4, PER_QUARTER))


class SeeTask:
    """See :class:`~cooper_ros.training.task.Task`."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.options = SeeOptions(**settings.task)
        data, model = settings.data, settings.model
        torch.manual_seed(settings.seed)
        self.module = Eyes(ModelConfig(
            LlmConfig(**{**model['llm'], 'vocab_size': 64}), VitConfig(**model['vit']),
            VaeConfig(), max_latent_size=model['max_latent_size'],
            vit_max_num_patch_per_side=model['vit_side']))
        self.train, self.valid = (self._open(split, count) for split, count in
                                  (('train', data.train), ('validation', data.valid)))

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Class and depth errors of one batch."""
        store, cache = self.train
        frames = batch_indices(len(store), self.settings.batch, self.settings.seed, step)
        picture = self.options.picture_share
        chances = torch.tensor([picture, (1 - picture) / 2, (1 - picture) / 2])
        kinds = torch.multinomial(chances, len(frames), replacement=True, generator=generator)
        return self._errors(store, cache, frames.tolist(), kinds.tolist())

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Errors on camera frames, and how often the commonest class of a quarter is named."""
        store, cache = self.valid
        frames = list(range(len(store)))
        found = self._errors(store, cache, frames, [RGB] * len(frames))
        return {f'valid_{name}': float(value) for name, value in found.items()}, {}

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """There is nothing to ship.

        Raises:
            BadOption: always.
        """
        raise BadOption('stage see makes no model folder', value=str(folder),
                        remedy='name its run folder as `eyes` in the next stage')

    def _open(self, split: str, count: int) -> tuple[FrameStore, PictureCache]:
        data, options = self.settings.data, self.options
        store = frame_store(data.folder, split, data.seed, count, data.questions)
        folder = Path(data.folder) / f'{split}_{data.seed}_{count}_{data.questions}'
        return store, picture_cache(store, folder, None, ImageTransform(*options.vae_rule),
                                    ImageTransform(*options.vit_rule), 0)

    def _errors(self, store: FrameStore, cache: PictureCache, frames: list[int],
                kinds: list[int]) -> dict[str, Tensor]:
        pixels = torch.stack([cache.pixels(f, kind) for f, kind in zip(frames, kinds)])
        shares, metres = quarters(store, frames)  # [B, T, 4, K], [B, T, 4]
        out = self.module(pixels).float()
        shows_classes, shows_depth = (torch.tensor([kind in (RGB, shown) for kind in kinds])
                                      for shown in (LABELS, DEPTH))
        scores = out[..., :CLASSES].log_softmax(-1)
        named = -(shares * scores).sum(-1)[shows_classes].mean()
        far = F.smooth_l1_loss(out[..., CLASSES][shows_depth], metres.log()[shows_depth])
        right = (scores.argmax(-1) == shares.argmax(-1))[shows_classes].float().mean()
        return {'loss': named + self.options.depth_weight * far, 'classes': named, 'depth': far,
                'accuracy': right}


def quarters(store: FrameStore, frames: list[int]) -> tuple[Tensor, Tensor]:
    """What stands in the quarters of every patch.

    Returns:
        class shares ``[B, T, 4, K]`` and mean depth in metres ``[B, T, 4]``.
    """
    labels = torch.from_numpy(np.stack([store.labels[frame] for frame in frames]).astype(np.int64))
    depth = torch.from_numpy(np.stack([store.depth[frame] for frame in frames]).astype(np.float32))
    shares = F.one_hot(labels, CLASSES).movedim(-1, 1).float()  # [B, K, H, W]
    pooled = F.avg_pool2d(torch.cat([shares, depth[:, None] / STEPS_PER_METRE], 1), QUARTER)
    cells = patchify(pooled, 2).unflatten(-1, (4, PER_QUARTER))  # [B, T, 4, K + 1]
    return cells[..., :CLASSES], cells[..., CLASSES]


def open_eyes(network: Cooper, weights: Mapping[str, Any]) -> None:
    """Put the tower and connector of a ``see`` run into a network."""
    eyes = {name: value for name, value in weights.items() if name.startswith(EYES)}
    missing = network.load_state_dict(eyes, strict=False).unexpected_keys
    if missing or not eyes:
        raise BadOption('these are no eyes for this network', value=missing[:3],
                        limit=' and '.join(EYES))


@torch.no_grad()
def balance_eyes(network: Cooper, pixels: Tensor) -> None:
    """Make what pictures say as loud as where it stands.

    The fixed position table (spread 0.7) is added to the connector's output. In a narrow network
    that output starts twenty times smaller, and a head behind a layer norm does not mind; the
    decoder would see places only. Its spread over pictures and patches is set to the table's.

    Args:
        network: changed in place (last layer of the connector).
        pixels: camera frames ``[B, 3, H, W]`` in -1..1.
    """
    patch = network.config.vit.patch_size
    ids = position_ids((pixels.shape[-2] // patch, pixels.shape[-1] // patch),
                       network.config.vit_max_num_patch_per_side)
    tokens = network.connector(network.vit_model(patchify(pixels, patch), ids, [len(ids)]))
    mean = tokens.mean((0, 1))  # [D]
    factor = network.vit_pos_embed.pos_embed.std() / (tokens - mean).std()
    last = network.connector.fc2
    last.weight.mul_(factor)
    last.bias.sub_(mean).mul_(factor)
