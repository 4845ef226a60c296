"""What the network reads of every training frame, computed once (reference 15.2, T6).

Latents are stored as means: the autoencoder is frozen, so only its small posterior noise is
missing. Vision inputs are stored as 8-bit pixels, exactly as the resize rule gives them.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cooper_ros.imaging.colours import colourise
from cooper_ros.imaging.depth import picture_from_decoded, relative_from_decoded
from cooper_ros.imaging.resize import ImageTransform, denormalise, encoder_inputs, normalise
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.scenes.palette import paint
from cooper_ros.training.arrays import begun_array, new_array
from cooper_ros.training.data import FrameStore, open_store, over_cores
from cooper_ros.training.once import make_once
from cooper_ros.training.precision import mixed
from cooper_ros.training.vae_task import DEPTH, LABELS, RGB, picture

KINDS = (RGB, DEPTH, LABELS)
FEW_VIEWS = 2000  # frames, 2 ms each
CODED_ON_CPU, CODED_ON_GPU = 8, 128  # frames at once


@dataclass(frozen=True)
class PictureCache:
    """Inputs and targets of frames; the kind index is picture, depth, segmentation.

    Attributes:
        vision: uint8 ``[N, 3, H, W, 3]``: picture, Spectral depth, palette segmentation.
        latents: float16 ``[n, 3, C, h, w]``, shifted and scaled means; None without autoencoder.
        drawn: uint8 ``[n, 2, H, W, 3]``: both maps once through the autoencoder, as blurred as
            the ones the model will be shown; None without autoencoder.
        own: the same, of the first frames, as a network drew them; see :mod:`..own_maps`.
    """

    vision: np.ndarray
    latents: np.ndarray | None = None
    drawn: np.ndarray | None = None
    own: np.ndarray | None = None

    def latent(self, frame: int, kind: int) -> Tensor:
        """Latent ``[C, h, w]`` float32."""
        return torch.from_numpy(self.latents[frame, kind].astype(np.float32))

    def pixels(self, frame: int, kind: int) -> Tensor:
        """Vision input ``[3, H, W]`` in -1..1."""
        return torch.from_numpy(normalise(self._view(frame, kind)))

    def _view(self, frame: int, kind: int) -> np.ndarray:
        if kind != RGB and self.own is not None and frame < len(self.own):
            return self.own[frame, kind - 1]
        if kind != RGB and self.drawn is not None:
            return self.drawn[frame, kind - 1]
        return self.vision[frame, kind]


def picture_cache(store: FrameStore, vae: AutoEncoder | None, vae_rule: ImageTransform,
                  vit_rule: ImageTransform, latent_frames: int, bfloat16: bool = True
                  ) -> PictureCache:
    """Open the cache beside a store, making what is missing.

    Args:
        store: the frames.
        vae: autoencoder of the latents; None when no recipe needs them.
        vae_rule, vit_rule: resize rules of the checkpoint.
        latent_frames: latents are made for this many frames, from the first on.
        bfloat16: make them in bfloat16 where the device has it; else in float32, in a file of
            their own.
    """
    seen = views_name(store, vae_rule, vit_rule)
    vision_path = store.folder / f'vision_{seen}.npy'
    make_once(vision_path, vision_path.exists,
              lambda: _make_vision(vision_path, store, vae_rule, vit_rule))
    vision = np.load(vision_path, mmap_mode='r')
    if vae is None:
        return PictureCache(vision)
    count = min(latent_frames, len(store))
    coded = f'{fingerprint(vae)}_{count}_{seen}' + ('' if bfloat16 else '_float32')
    paths = [store.folder / f'{name}_{coded}.npy' for name in ('latents', 'drawn')]
    make_once(paths[1], paths[1].exists,
              lambda: _make_coded(paths, store, vae, count, vit_rule, bfloat16))
    return PictureCache(vision, *(np.load(path, mmap_mode='r') for path in paths))


def _make_vision(path: Path, store: FrameStore, vae_rule: ImageTransform,
                 vit_rule: ImageTransform) -> None:
    part, array = path.with_suffix('.part.npy'), None
    views = functools.partial(_views, store.folder, store.canonical_focal, (vae_rule, vit_rule))
    with over_cores(views, len(store), FEW_VIEWS) as drawer:
        drawn = drawer(range(len(store)))
        for frame, inputs in enumerate(tqdm(drawn, total=len(store), desc='vision inputs',
                                            mininterval=5)):
            if array is None:
                array = new_array(part, np.uint8, (len(store), *inputs.shape))
            array[frame] = inputs
    part.rename(path)


_opened = functools.lru_cache(maxsize=2)(open_store)  # once in every process


def _views(folder: Path, canonical_focal: float, rules: tuple[ImageTransform, ImageTransform],
           frame: int) -> np.ndarray:
    """Picture, depth and segmentation of a frame as the vision tower reads them."""
    store = _opened(folder, canonical_focal)
    views = (np.asarray(store.rgb[frame]), colourise(store.relative(frame)),
             paint(store.labels[frame]))
    return np.stack([denormalise(encoder_inputs(view, *rules).vit) for view in views])


def _make_coded(paths: Sequence[Path], store: FrameStore, vae: AutoEncoder, count: int,
                vit_rule: ImageTransform, bfloat16: bool) -> None:
    """Latents of all pictures, and the maps decoded from theirs; goes on where it was stopped."""
    batch = CODED_ON_GPU if next(vae.parameters()).is_cuda else CODED_ON_CPU
    parts = [path.with_suffix('.part.npy') for path in paths]
    arrays = [array for part in parts if (array := begun_array(part)) is not None]
    starts = [frames[-1] for frames in _batches(count, batch)] if len(arrays) == 2 else []
    written = sum(bool(arrays[0][last].any() and arrays[1][last].any()) for last in starts)
    written = max(0, written - 1)  # the last may be half written
    for frames in tqdm(_batches(count, batch)[written:], desc='latents', mininterval=5):
        rows = _coded(store, vae, frames, vit_rule, bfloat16)
        if len(arrays) < 2:
            arrays = [new_array(part, row.dtype, (count, *row.shape[1:]))
                      for part, row in zip(parts, rows)]
        for array, row in zip(arrays, rows):
            array[frames.start:frames.stop] = row
    for part, path in zip(parts, paths):
        part.rename(path)


def _batches(count: int, batch: int) -> list[range]:
    return [range(first, min(first + batch, count)) for first in range(0, count, batch)]


@torch.no_grad()
def _coded(store: FrameStore, vae: AutoEncoder, frames: range, vit_rule: ImageTransform,
           bfloat16: bool) -> tuple[np.ndarray, np.ndarray]:
    """Latents ``[B, 3, C, h, w]`` and drawn maps ``[B, 2, H, W, 3]`` of some frames."""
    device = next(vae.parameters()).device
    with ThreadPoolExecutor() as pool:  # beside a GPU, turning pictures round takes longest
        pixels = torch.stack(list(pool.map(lambda job: picture(store, *job),
                                           itertools.product(frames, KINDS))))
        with mixed(device, bfloat16):
            latents = vae.encode(pixels.to(device)).unflatten(0, (-1, len(KINDS)))
            decoded = vae.decode(latents[:, DEPTH:].flatten(0, 1)).float().unflatten(0, (-1, 2))
        shown = list(pool.map(lambda maps: _shown(*maps, vit_rule), decoded.cpu().numpy()))
    return latents.half().cpu().numpy(), np.stack(shown)


def _shown(depth: np.ndarray, labels: np.ndarray, vit_rule: ImageTransform) -> np.ndarray:
    """Decoder outputs ``[3, H, W]`` as the vision tower is shown drawn maps."""
    views = (colourise(relative_from_decoded(depth)), picture_from_decoded(labels))
    return np.stack([vit_rule.pixels(view) for view in views])


def views_name(store: FrameStore, *rules: ImageTransform) -> str:
    """What views depend on beside the frames: both resize rules, and the lens of depth."""
    sizes = [f'{rule.max_size}-{rule.min_size}-{rule.stride}' for rule in rules]
    return '_'.join([*sizes, f'lens{store.canonical_focal:g}'])


def fingerprint(vae: nn.Module) -> str:
    """Of all weights: two autoencoders may differ in what they draw alone."""
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]

