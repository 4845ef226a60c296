"""What a camera's calibration says about its pictures, whatever kind of message holds it.

``info`` is a CameraInfo of ROS 2, or of ROS 1, which wrote the names of matrices large.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from cooper_ros.config import LONGEST_LENS
from cooper_ros.errors import BadCameraInfo

ASPECT_TOLERANCE = 0.02  # sides are whole pixels, and drivers round
Region = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True)
class Calibration:
    """What was known of a lens when a picture was taken up; its maps are published with that.

    Attributes:
        info: CameraInfo, None while there is none that can be used.
        error: what is wrong with the one that came, empty while nothing is.
        focal: focal length over the longest side of the picture; 0 while nobody says it.
    """

    info: Any | None = None
    error: str = ''
    focal: float = 0.0

    @property
    def has_scale(self) -> bool:
        """Whether metres mean something: not behind a lens of which only nonsense is known."""
        return not self.error or self.focal > 0


def matrix_of(info: Any, name: str) -> np.ndarray:
    """Field ``k``, ``p``, ``r`` or ``d``, float64, flat."""
    return np.asarray(getattr(info, name if hasattr(info, name) else name.upper()), np.float64)


def region_of(info: Any) -> Region:
    """The part of the sensor that pictures show, in the pixels that K and P count."""
    roi = info.roi
    if not roi.width or not roi.height:
        return 0, 0, int(info.width), int(info.height)
    return int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)


def binned_size_of(info: Any) -> tuple[float, float]:
    """Width and height of that part once the sensor has joined its pixels (``binning``), in the
    pixels of the picture; K and P do not know of that."""
    width, height = region_of(info)[2:]
    return width / max(1, info.binning_x), height / max(1, info.binning_y)


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


def check_camera_info(info: Any) -> None:
    """Refuse intrinsics that would put points anywhere.

    Raises:
        BadCameraInfo: no size, or focal lengths that are zero, negative, not finite or no lens's.
    """
    if info.width < 1 or info.height < 1:
        raise BadCameraInfo('camera info without a size', value=f'{info.width}x{info.height}',
                            limit='at least 1x1', remedy='calibrate the camera')
    k, p = matrix_of(info, 'k'), matrix_of(info, 'p')
    if not np.all(np.isfinite([*k, *p])) or k[0] <= 0 or k[4] <= 0:
        raise BadCameraInfo('camera info without usable focal lengths',
                            value=f'fx {k[0]}, fy {k[4]}', limit='finite and > 0',
                            remedy='calibrate the camera')
    focal = max(focal_of(info, topic) for topic in ('raw', 'rect'))
    if focal > LONGEST_LENS:
        raise BadCameraInfo('camera info with a focal length no lens has',
                            value=f'{focal:g} times the longest side',
                            limit=f'{LONGEST_LENS:g} times', remedy='calibrate the camera')


def calibration_of(info: Any | None, topic: str, size: tuple[int, int], usual: float
                   ) -> Calibration:
    """What a CameraInfo says of a picture of ``(width, height)`` on a topic; ``usual`` is the
    focal length where it says nothing that can be used."""
    if info is None:
        return Calibration(focal=usual)
    try:
        check_camera_info(info)
    except BadCameraInfo as error:
        return Calibration(error=str(error), focal=usual)
    misfit = misfit_of(info, size)
    return (Calibration(error=misfit, focal=usual) if misfit else
            Calibration(info, focal=focal_of(info, topic)))


def misfit_of(info: Any, size: tuple[int, int]) -> str:
    """What in a calibration contradicts a picture of ``(width, height)``; empty where it is one
    of its pictures, resized or not."""
    width, height = binned_size_of(info)
    across, down = width * size[1], height * size[0]
    if abs(across - down) <= ASPECT_TOLERANCE * max(across, down):
        return ''
    return (f'camera_info is about pictures of {width:g}x{height:g}, '
            f'the picture has {size[0]}x{size[1]}')


def focal_of(info: Any, topic: str) -> float:
    """Focal length over the longest side of the picture; 0 for a picture without a size.

    Resizing changes both alike, so this one number says what lens a picture came through. Raw
    pictures are described by K, rectified ones by P; which they are, only their topic tells.

    Args:
        info: CameraInfo.
        topic: of the pictures, such as ``/camera/image_rect_color``.
    """
    longest = max(binned_size_of(info))
    rectified = matrix_of(info, 'p')[0] if is_rectified(topic) else 0.0
    across = float(rectified or matrix_of(info, 'k')[0]) / max(1, info.binning_x)
    return across / longest if longest else 0.0


def is_rectified(topic: str) -> bool:
    """Whether a topic says so: ``image_rect``, ``image_rect_color``, ``left/rect/image``."""
    return bool({'rect', 'rectified'} & set(re.split('[/_]', topic)))
