"""A start from which words find pixels.

In a network that learns to see and to read at once, a word attends to patches at random until,
late, some head has learnt to compare them. Two choices of initial weights make comparing the
default:

* the embedding of a colour word is what the eyes make of patches of that colour;
* in the first layer, the query heads of one key head start equal to it, so that attention begins
  as likeness between a word and the patches.

Nothing is frozen; training is free to go elsewhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cooper_ros.model.network import Cooper
from cooper_ros.model.patches import patchify, position_ids
from cooper_ros.scenes.palette import SCENE_PALETTE
from cooper_ros.training.data import FrameStore
from cooper_ros.training.pictures import PictureCache
from cooper_ros.training.probe import PATCH

FRAMES = 256
CLEAR_SHARE = 0.6  # of a patch that one class must fill to stand for it
WORD_SPREAD = 0.3
SHARPNESS = 2.0  # of attention at the start


@torch.no_grad()
def ground(network: Cooper, tokenizer: PreTrainedTokenizerBase, store: FrameStore,
           cache: PictureCache) -> None:
    """Change initial weights in place; see the module's description."""
    frames = range(min(FRAMES, len(store)))
    seen = _patch_tokens(network, torch.stack([cache.pixels(frame, 0) for frame in frames]))
    shares = torch.from_numpy(np.stack([_shares(store.labels[frame]) for frame in frames]))
    vocabulary = tokenizer.get_vocab()
    words = network.language_model.model.embed_tokens.weight
    for entry in SCENE_PALETTE:
        clear = shares[..., entry.id] > CLEAR_SHARE  # [F, T]
        if not clear.any():
            continue
        centre = seen[clear].mean(0)  # [D]
        for spelling in (entry.name, f'\u0120{entry.name}'):  # as a first word, and behind a space
            if spelling in vocabulary:
                words[vocabulary[spelling]] = centre / centre.std() * WORD_SPREAD
    _start_as_likeness(network)


@torch.no_grad()
def _start_as_likeness(network: Cooper) -> None:
    """First layer, last key head: a word looks for patches like itself, and not at other words.

    Every patch carries the mean of the position table and no word does: the query bias asks for
    it.
    """
    attention, config = network.language_model.model.layers[0].self_attn, network.config.llm
    keys = attention.k_proj.weight[-config.head_dim:]  # [d, D]
    common = network.vit_pos_embed.pos_embed.mean(0)
    looked_for = keys @ (common / common.square().mean().sqrt())  # [d]
    group = config.num_heads // config.num_kv_heads
    attention.q_proj.weight[-config.head_dim * group:] = keys.repeat(group, 1)
    attention.q_proj.bias[-config.head_dim * group:] = looked_for.repeat(group)
    attention.q_norm.weight.fill_(SHARPNESS)


def _patch_tokens(network: Cooper, pixels: Tensor) -> Tensor:
    """What the connector makes of frames: ``[F, T, D]``, without positions."""
    patch = network.config.vit.patch_size
    grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    ids = position_ids(grid, network.config.vit_max_num_patch_per_side)
    return network.connector(network.vit_model(patchify(pixels, patch), ids, [len(ids)]))


def _shares(labels: np.ndarray) -> np.ndarray:
    """Class shares ``[T, K]`` of the patches of a label map."""
    rows, columns = labels.shape[0] // PATCH, labels.shape[1] // PATCH
    cells = np.asarray(labels).reshape(rows, PATCH, columns, PATCH).swapaxes(1, 2)
    cells = cells.reshape(rows * columns, PATCH * PATCH)
    return np.stack([(cells == entry.id).mean(1) for entry in SCENE_PALETTE], axis=1)
