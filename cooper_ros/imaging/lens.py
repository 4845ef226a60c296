"""What a camera's calibration says about its pictures, whatever kind of message holds it.

``info`` is a CameraInfo of ROS 2, or of ROS 1, which wrote the names of matrices large.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

ASPECT_TOLERANCE = 0.02  # sides are whole pixels, and drivers round
Region = tuple[int, int, int, int]  # left, top, width, height


def matrix_of(info: Any, name: str) -> np.ndarray:
    """Field ``k``, ``p``, ``r`` or ``d``, float64, flat."""
    return np.asarray(getattr(info, name if hasattr(info, name) else name.upper()), np.float64)


def region_of(info: Any) -> Region:
    """The part of the sensor that pictures show, in the pixels that K and P count."""
    roi = info.roi
    if not roi.width or not roi.height:
        return 0, 0, int(info.width), int(info.height)
    return int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)


def scaled_matrices(info: Any, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """K ``[9]`` and P ``[12]`` for a map of shape ``(rows, columns)``, as image_proc's resize
    makes them: a region of interest is cut off first. The picture must have a size."""
    left, top, width, height = region_of(info)
    x, y = shape[1] / width, shape[0] / height
    k, p = matrix_of(info, 'k').reshape(3, 3).copy(), matrix_of(info, 'p').reshape(3, 4).copy()
    for matrix in (k, p):
        matrix[0, 2] -= left
        matrix[1, 2] -= top
        matrix[0] *= x
        matrix[1] *= y
    return k.ravel(), p.ravel()


def misfit_of(info: Any, size: tuple[int, int]) -> str:
    """What in a calibration contradicts a picture of ``(width, height)``; empty where it is one
    of its pictures, resized or not."""
    width, height = region_of(info)[2:]
    across, down = width * size[1], height * size[0]
    if abs(across - down) <= ASPECT_TOLERANCE * max(across, down):
        return ''
    return (f'camera_info is about pictures of {width}x{height}, '
            f'the picture has {size[0]}x{size[1]}')


def focal_of(info: Any, topic: str) -> float:
    """Focal length over the longest side of the picture; 0 for a picture without a size.

    Resizing changes both alike, so this one number says what lens a picture came through. Raw
    pictures are described by K, rectified ones by P; which they are, only their topic tells.

    Args:
        info: CameraInfo.
        topic: of the pictures, such as ``/camera/image_rect_color``.
    """
    longest = max(region_of(info)[2:])
    rectified = matrix_of(info, 'p')[0] if 'rect' in topic else 0.0
    return float(rectified or matrix_of(info, 'k')[0]) / longest if longest else 0.0
