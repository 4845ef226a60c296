"""A start from which words find pixels.

In a network that learns to see and to read at once, a word attends to patches at random until,
late, some head has learnt to compare them. Two choices of initial weights make comparing the
default:

* the embedding of a colour or shape word is what the eyes make of patches that show it;
* in the first layer, the query heads of one key head start equal to it, so that attention begins
  as likeness between a word and the patches.

Nothing is frozen; training is free to go elsewhere.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cooper_ros.model.network import Cooper
from cooper_ros.model.patches import patchify, position_ids
from cooper_ros.scenes.palette import SCENE_PALETTE, SHAPES
from cooper_ros.training.data import OBJECT_FIELDS, FrameStore
from cooper_ros.training.pictures import PictureCache
from cooper_ros.training.vae_task import RGB

FRAMES = 256
CLEAR_SHARE = 0.6  # of a patch that one class must fill to stand for it
WORD_SPREAD = 0.3
SHARPNESS = 2.0  # of attention at the start
SHAPE = OBJECT_FIELDS.index('shape')


@torch.no_grad()
def ground(network: Cooper, tokenizer: PreTrainedTokenizerBase, store: FrameStore,
           cache: PictureCache) -> None:
    """Change initial weights in place; see the module's description."""
    frames = range(min(FRAMES, len(store)))
    pixels = torch.stack([cache.pixels(frame, RGB) for frame in frames])
    grid = (pixels.shape[-2] // network.config.vit.patch_size,
            pixels.shape[-1] // network.config.vit.patch_size)
    seen = _patch_tokens(network, pixels, grid)  # [F, T, D]
    colours = [entry.name for entry in SCENE_PALETTE]
    for names, maps in ((colours, store.labels), (SHAPES, [_shape_map(store, f) for f in frames])):
        shares = torch.from_numpy(np.stack([_shares(maps[frame], len(names), grid)
                                            for frame in frames]))
        for number, name in enumerate(names):
            clear = shares[..., number] > CLEAR_SHARE  # [F, T]
            if clear.any():
                _name(network, tokenizer, name, seen[clear].mean(0))
    _start_as_likeness(network)


def _name(network: Cooper, tokenizer: PreTrainedTokenizerBase, name: str, centre: Tensor) -> None:
    """Give a word, as a first word and behind a space, the direction ``[D]`` of what it names."""
    vocabulary, words = tokenizer.get_vocab(), network.language_model.model.embed_tokens.weight
    for spelling in (name, f'\u0120{name}'):
        if spelling in vocabulary:
            words[vocabulary[spelling]] = centre / centre.std() * WORD_SPREAD


def _shape_map(store: FrameStore, frame: int) -> np.ndarray:
    """Index of the shape that every pixel ``[H, W]`` shows; -1 for the room and the table."""
    owner = np.asarray(store.instance[frame])
    shapes = np.nan_to_num(store.objects[frame][:, SHAPE], nan=-1)
    return np.where(owner >= 0, shapes[owner.clip(0)], -1)


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


def _patch_tokens(network: Cooper, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """What the connector makes of frames: ``[F, T, D]``, without positions."""
    ids = position_ids(grid, network.config.vit_max_num_patch_per_side)
    patches = patchify(pixels, network.config.vit.patch_size)
    return network.connector(network.vit_model(patches, ids, [len(ids)]))


def _shares(classes: np.ndarray, count: int, grid: tuple[int, int]) -> np.ndarray:
    """Shares ``[T, count]`` of the classes 0 .. count - 1 in the patches of a map ``[H, W]``."""
    found = [cv2.resize((classes == number).astype(np.float32), (grid[1], grid[0]),
                        interpolation=cv2.INTER_AREA).ravel() for number in range(count)]
    return np.stack(found, axis=1)
