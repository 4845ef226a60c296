"""Depth maps: metres, relative values in 0..1, training targets and colours (section 8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cooper_ros.errors import BadData
from cooper_ros.imaging.colours import colourise as colourise
from cooper_ros.imaging.colours import colourise_float as colourise_float
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


def relative_from_metres(metres: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Metres -> float32 0..1, linear, 0 near and 1 far; clipped to the range, NaN stays."""
    clipped = np.clip(metres.astype(np.float32), np.float32(near_m), np.float32(far_m))
    return (clipped - np.float32(near_m)) / np.float32(far_m - near_m)


def metres_from_relative(relative: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Relative depth 0..1 -> float32 metres between ``near_m`` and ``far_m``."""
    return (near_m + relative * (far_m - near_m)).astype(np.float32)


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


def relative_from_decoded(decoded: np.ndarray) -> np.ndarray:
    """Raw decoder output ``[3, H, W]`` (about -1..1) -> relative depth ``[H, W]`` in 0..1."""
    return unit_range(decoded).mean(axis=0, dtype=np.float32)


def picture_from_decoded(decoded: np.ndarray) -> np.ndarray:
    """Raw decoder output ``[3, H, W]`` -> uint8 ``[H, W, 3]``; truncated as published."""
    planes = unit_range(decoded) * np.float32(255)
    return np.ascontiguousarray(planes.transpose(1, 2, 0)).astype(np.uint8)


def unit_range(decoded: np.ndarray) -> np.ndarray:
    """Map -1..1 to 0..1 and cut off what lies beyond."""
    return np.clip(decoded * np.float32(0.5) + np.float32(0.5), 0, 1)


@dataclass(frozen=True)
class Alignment:
    """Least squares fit ``truth = scale * prediction + shift`` over valid pixels."""

    scale: float
    shift: float

    def apply(self, prediction: np.ndarray) -> np.ndarray:
        """Return the prediction in the units of the truth, float32."""
        return prediction.astype(np.float32) * np.float32(self.scale) + np.float32(self.shift)


def align_least_squares(prediction: np.ndarray, truth: np.ndarray,
                        valid: np.ndarray) -> Alignment:
    """Fit scale and shift of one map to its truth (section 8.4), in double precision.

    Args:
        prediction: relative depth ``[H, W]``.
        truth: metres ``[H, W]``.
        valid: bool ``[H, W]``, the pixels to use.

    Raises:
        BadData: fewer than two valid pixels.
    """
    valid = valid.astype(bool)
    if valid.sum() < 2:
        raise BadData('too few valid pixels to align', value=int(valid.sum()), limit='at least 2')
    x = prediction[valid].astype(np.float64)
    system = np.stack([x, np.ones_like(x)], axis=1)  # [n, 2]
    scale, shift = np.linalg.lstsq(system, truth[valid].astype(np.float64), rcond=None)[0]
    return Alignment(float(scale), float(shift))
