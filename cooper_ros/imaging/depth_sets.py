"""Depth files of the published data sets, and the pictures a network learns to draw for them
(reference section 8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cooper_ros.errors import BadData
from cooper_ros.imaging.depth import relative_from_metres
from cooper_ros.imaging.resize import ImageTransform


@dataclass(frozen=True)
class DepthSet:
    """How one data set stores depth (reference section 8.1).

    Attributes:
        units_per_metre: numbers in the 16-bit file per metre.
        near_m: metres at relative 0.
        far_m: metres at relative 1.
        kitti_crop: True when pictures and depth are cut to the KITTI benchmark window first.
    """

    units_per_metre: float
    near_m: float
    far_m: float
    kitti_crop: bool = False


DEPTH_SETS = {
    'vkitti': DepthSet(100.0, 1e-5, 80.0, kitti_crop=True),
    'kitti': DepthSet(256.0, 1e-5, 80.0, kitti_crop=True),
    'hypersim': DepthSet(1000.0, 1e-5, 65.0),
    'nyu': DepthSet(1000.0, 1e-3, 10.0),
}
KITTI_WINDOW = (1216, 352)  # width, height


def depth_set(name: str) -> DepthSet:
    """Look up a data set.

    Raises:
        BadData: no such data set.
    """
    if name not in DEPTH_SETS:
        raise BadData('unknown depth data set', value=name, limit=', '.join(DEPTH_SETS))
    return DEPTH_SETS[name]


def kitti_crop_box(width: int, height: int, name: object = '') -> tuple[int, int, int, int]:
    """The KITTI window of a picture: (left, top, right, bottom), centred, bottom aligned.

    Args:
        width, height: of the picture.
        name: of the picture, for the message.

    Raises:
        BadData: the picture is smaller than the window.
    """
    wide, high = KITTI_WINDOW
    if width < wide or height < high:
        raise BadData('too small for the KITTI window', limit=f'at least {wide}x{high}',
                      value=f'{name}: {width}x{height}' if name else f'{width}x{height}')
    left, top = (width - wide) // 2, height - high
    return left, top, left + wide, top + high


def metres_from_raw(raw: np.ndarray, name: str) -> np.ndarray:
    """Raw 16-bit depth ``[H, W]`` of a data set -> float32 metres, 0 where unknown."""
    return raw.astype(np.float32) / np.float32(depth_set(name).units_per_metre)


def depth_target(raw: Image.Image | np.ndarray, name: str,
                 transform: ImageTransform | None = None) -> np.ndarray:
    """The picture the network learns to draw for a depth file.

    Resizing is done on the raw 16-bit numbers, bicubically, as published: it overshoots at
    depth edges and mixes in invalid zeros. Nothing is masked; unknown depth becomes black.

    Args:
        raw: 16-bit depth ``[H, W]`` in the units of the file, already cropped.
        name: data set, a key of ``DEPTH_SETS``.
        transform: resize rule, or None to keep the size.

    Returns:
        float32 ``[3, h, w]`` in -1..1, three equal channels.

    Raises:
        BadData: unknown data set, or not a 16-bit integer depth.
    """
    raw = raw if transform is None else transform.resize(_as_16_bit(raw))
    kind = depth_set(name)
    metres = metres_from_raw(np.asarray(raw), name)
    relative = relative_from_metres(metres, kind.near_m, kind.far_m)  # [h, w]
    target = (relative - np.float32(0.5)) / np.float32(0.5)
    return np.repeat(target[None], 3, axis=0)


def _as_16_bit(raw: Image.Image | np.ndarray) -> Image.Image:
    array = np.asarray(raw)
    if array.ndim != 2 or array.dtype.kind not in 'iu' or array.min() < 0 or array.max() > 65535:
        raise BadData('not a 16-bit depth picture', value=f'{array.dtype} {array.shape}',
                      limit='integers 0..65535, [height, width]')
    return Image.fromarray(array.astype(np.uint16))
