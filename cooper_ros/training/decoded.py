"""What drawn maps are worth to those who read them: their errors after decoding.

The flow loss weighs every latent number alike. Depth is read in metres, where a decimetre is much
at half a metre and little at seven, and a segmentation as one class per pixel. A map drawn in one
flow step can be decoded in training too, and learns from what comes out (end-to-end fine-tuning,
Martin Garcia et al., arXiv 2409.11355).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cooper_ros.model.config import ModelConfig
from cooper_ros.model.patches import unpatchify
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.scenes.scene import MAX_DEPTH_M, MIN_DEPTH_M
from cooper_ros.training.data import FrameStore
from cooper_ros.training.processes import mean_over_processes
from cooper_ros.training.recipes import DrawnItem
from cooper_ros.training.tree import Tree
from cooper_ros.training.vae_task import DEPTH, class_logits, metres_of


@dataclass(frozen=True)
class DrawnTruth:
    """What the noised maps of a batch should look like once they are drawn.

    Attributes:
        kinds: int64 ``[B, M]``, depth or segmentation, for the M drawn maps of a sample in order.
        relative: float32 ``[B, H, W]``, depth of each sample's picture in 0..1.
        classes: int64 ``[B, H, W]``, its palette ids.
    """

    kinds: Tensor
    relative: Tensor
    classes: Tensor

    def rows_of(self, part: range) -> DrawnTruth:
        """Those of some samples."""
        rows = slice(part.start, part.stop)
        return replace(self, kinds=self.kinds[rows], relative=self.relative[rows],
                       classes=self.classes[rows])


def drawn_truth(trees: Sequence[Tree], frames: Sequence[int], store: FrameStore
                ) -> DrawnTruth | None:
    """The truth of what trees of the pictures ``frames`` draw; None if they draw nothing."""
    kinds = [[item.kind for item in tree.items if isinstance(item, DrawnItem)] for tree in trees]
    if not kinds[0]:
        return None
    return DrawnTruth(torch.tensor(kinds, dtype=torch.int64),
                      torch.from_numpy(np.stack([store.relative(frame) for frame in frames])),
                      torch.from_numpy(np.stack([store.labels[frame] for frame in frames])).long())


def decoded_loss(ends: Tensor, truth: DrawnTruth, kind: int, vae: AutoEncoder,
                 config: ModelConfig) -> Tensor:
    """Relative error of decoded depth, or cross-entropy of decoded classes: the mean over maps of
    this kind in all processes, 0 without any.

    Args:
        ends: latent tokens ``[B, M * N, P]`` of drawn maps.
        truth: of the same samples.
        kind: depth or segmentation.
        vae: the frozen autoencoder.
        config: sizes of the network.
    """
    rows, places = (truth.kinds == kind).nonzero(as_tuple=True)  # [D] each
    height, width = truth.relative.shape[-2:]
    grid = height // config.pixels_per_latent_token, width // config.pixels_per_latent_token
    tokens = ends.unflatten(1, (truth.kinds.shape[1], -1))[rows, places]  # [D, N, P]
    decoded = vae.decode(unpatchify(tokens, grid, config.latent_patch_size)).float()
    error = (relative_error(decoded, truth.relative[rows]) if kind == DEPTH
             else class_error(decoded, truth.classes[rows]))  # [D]
    return error.sum() / mean_over_processes([len(rows)])[0]


def relative_error(decoded: Tensor, relative: Tensor) -> Tensor:
    """Mean relative error ``[D]`` of decoded depth ``[D, 3, H, W]`` in -1..1, given the truth
    ``[D, H, W]`` in 0..1."""
    truth = MIN_DEPTH_M + relative.to(decoded.device) * (MAX_DEPTH_M - MIN_DEPTH_M)
    return ((metres_of(decoded) - truth).abs() / truth).flatten(1).mean(1)


def class_error(decoded: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy ``[D]`` of decoded colours ``[D, 3, H, W]`` and true classes ``[D, H, W]``."""
    unsure = F.cross_entropy(class_logits(decoded), classes.to(decoded.device), reduction='none')
    return unsure.flatten(1).mean(1)
