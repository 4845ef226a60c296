"""Maps that a trace shows as the network itself draws them.

A network that has only ever reasoned over true maps believes what it reads in its own, which are
never quite true (Ross et al. 2011, arXiv 1011.0686). Shown its own beside the picture while the
trace keeps telling the truth, it learns how far each can be trusted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.imaging.colours import colourise
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.training.arrays import begun_array, new_array
from cooper_ros.training.data import FrameStore
from cooper_ros.training.once import make_once
from cooper_ros.training.pictures import fingerprint, views_name


def own_maps(store: FrameStore, engine: CooperEngine, weights: nn.Module, points: int,
             count: int, vit_rule: ImageTransform) -> np.ndarray:
    """Open the maps drawn of the first frames, drawing them if they are missing.

    Args:
        store: the frames.
        engine: draws.
        weights: all that it draws with; they name the file.
        points: grid points of the flow that it draws with; they name it too.
        count: how many frames; those of a shorter store, all.
        vit_rule: resize rule of the vision tower.

    Returns:
        uint8 ``[n, 2, H, W, 3]``: depth and segmentation as the vision tower reads them.
    """
    count = min(count, len(store))
    name = f'own_{fingerprint(weights)}-{points}_{count}_{views_name(store, vit_rule)}.npy'
    path = store.folder / name
    make_once(path, path.exists, lambda: _draw(path, store, engine, count, vit_rule))
    return np.load(path, mmap_mode='r')


def _draw(path: Path, store: FrameStore, engine: CooperEngine, count: int,
          vit_rule: ImageTransform) -> None:
    """Draw all; goes on where it was stopped."""
    part = path.with_suffix('.part.npy')
    array = begun_array(part)
    done = 0 if array is None else sum(bool(row.any()) for row in array)
    for frame in tqdm(range(max(0, done - 1), count), desc='own maps', mininterval=5):
        drawn = _drawn(engine, np.array(store.rgb[frame]), vit_rule)
        if array is None:
            array = new_array(part, drawn.dtype, (count, *drawn.shape))
        array[frame] = drawn
    part.rename(path)


def _drawn(engine: CooperEngine, rgb: np.ndarray, vit_rule: ImageTransform) -> np.ndarray:
    views = colourise(engine.estimate_depth(rgb).relative), engine.segment(rgb).rgb
    return np.stack([vit_rule.pixels(view) for view in views])
