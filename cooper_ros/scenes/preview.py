"""Contact sheets: many scenes on one picture, for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cooper_ros.scenes.render import HEIGHT, WIDTH, render
from cooper_ros.scenes.sample import sample_scene
from cooper_ros.scenes.scene import MAX_DEPTH_M, MIN_DEPTH_M


def grey_depth(depth_m: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return depth [H, W] in metres as RGB, near black and far white over 0.2 .. 8 m."""
    share = np.clip((depth_m - MIN_DEPTH_M) / (MAX_DEPTH_M - MIN_DEPTH_M), 0.0, 1.0)
    return np.repeat((share * 255).astype(np.uint8)[..., None], 3, 2)


def contact_sheet(seed: int, count: int, *, split: str = 'train', width: int = WIDTH,
                  height: int = HEIGHT, columns: int = 4, maps: bool = True,
                  light_samples: int = 1) -> NDArray[np.uint8]:
    """Return [rows, columns, 3] uint8: per scene the picture and, with maps, depth and classes."""
    tiles = []
    for index in range(seed, seed + count):
        frame = render(sample_scene(index, split), width, height, light_samples=light_samples)
        parts = [frame.rgb] + ([grey_depth(frame.depth_m), frame.segmentation] if maps else [])
        tiles.append(np.pad(np.concatenate(parts, 1), ((2, 2), (2, 2), (0, 0))))
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[at:at + columns], 1) for at in range(0, len(tiles), columns)]
    return np.concatenate(rows, 0)


def preview(seed: int, count: int, path: str | Path, *, split: str = 'train',
            width: int = WIDTH, height: int = HEIGHT, columns: int = 4, maps: bool = True,
            light_samples: int = 1) -> Path:
    """Write a contact sheet of ``count`` scenes starting at ``seed`` and return its path."""
    sheet = contact_sheet(seed, count, split=split, width=width, height=height, columns=columns,
                          maps=maps, light_samples=light_samples)
    Image.fromarray(sheet).save(path)
    return Path(path)
