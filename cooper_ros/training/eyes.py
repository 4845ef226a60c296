"""Vision tower and connector alone: their start, the head that trains them, their later use.

A tower that starts from nothing learns much sooner if its first layer shows it the picture in
full: patches of camera frames are nearly all brightness, and random directions see little else. So
the patch embedding starts as a whitening of real patches, in which edges and textures are as loud
as brightness.
"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn

from cooper_ros.errors import BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.patches import patchify, position_ids

EYES = ('vit_model.', 'connector.')
BRANCH = 0.5  # of the fan-in spread, for what is written into the residual stream
PLACE_SPREAD = 0.5  # of learned positions at the start
PATCH_SPREAD = 0.7  # of embedded patches at the start
FAINT = 1e-5  # variance below which a direction of patches is noise


class Eyes(nn.Module):
    """Vision tower and connector under their names in a checkpoint, and a head to train them."""

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        whole = Cooper(config).initialise()
        self.vit_model, self.connector = whole.vit_model, whole.connector
        self.vit_pos_embed, self.side = whole.vit_pos_embed, config.vit_max_num_patch_per_side
        self.patch = config.vit.patch_size
        self.head = nn.Sequential(nn.LayerNorm(config.llm.hidden_size),
                                  nn.Linear(config.llm.hidden_size, outputs))

    def grid_of(self, pixels: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        return pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch

    def forward(self, pixels: Tensor) -> Tensor:
        """Pictures ``[B, 3, H, W]`` to the head's numbers ``[B, T, outputs]``."""
        ids = position_ids(self.grid_of(pixels), self.side)
        features = self.vit_model(patchify(pixels, self.patch), ids, [len(ids)])
        tokens = self.connector(features) + self.vit_pos_embed(ids)
        return self.head(tokens)

    @torch.no_grad()
    def initialise(self, pixels: Tensor) -> None:
        """Draw fresh weights for frames like ``[B, 3, H, W]``; see the module's description."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        vision = self.vit_model.vision_model
        for layer in vision.encoder.layers:
            layer.self_attn.out_proj.weight.mul_(BRANCH)
            layer.mlp.fc2.weight.mul_(BRANCH)
        nn.init.normal_(vision.embeddings.position_embedding.weight, std=PLACE_SPREAD)
        whiten(vision.embeddings.patch_embedding, patchify(pixels, self.patch).flatten(0, 1))


@torch.no_grad()
def whiten(embedding: nn.Linear, patches: Tensor) -> None:
    """Make a patch embedding return unrelated numbers of equal spread for patches ``[N, P]``."""
    mean = patches.mean(0)
    variances, directions = torch.linalg.eigh((patches - mean).T.cov())
    kept = min(embedding.weight.shape)
    whitening = directions[:, -kept:] / (variances[-kept:] + FAINT).sqrt()  # [P, kept]
    mixed = torch.linalg.qr(torch.randn(len(embedding.weight), kept)).Q  # [D, kept]
    embedding.weight.copy_(PATCH_SPREAD * mixed @ whitening.T)
    embedding.bias.copy_(-embedding.weight @ mean)


def open_eyes(network: Cooper, weights: Mapping[str, Any]) -> None:
    """Put the tower and connector of a ``see`` run into a network.

    Raises:
        BadOption: there are none, or they do not belong to this network.
    """
    eyes = {name: value for name, value in weights.items() if name.startswith(EYES)}
    missing = network.load_state_dict(eyes, strict=False).unexpected_keys
    if missing or not eyes:
        raise BadOption('these are no eyes for this network', value=missing[:3],
                        limit=' and '.join(EYES))


@torch.no_grad()
def balance_eyes(network: Cooper, pixels: Tensor) -> None:
    """Give what pictures show the same scale as where it is.

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
