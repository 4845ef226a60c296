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

ANOTHER_CLOCK_NS = 10**9  # camera info is no second ahead of a picture by the same clock
ASPECT_TOLERANCE = 0.02  # sides are whole pixels, and drivers round
SHORTEST_LENS = 1 / LONGEST_LENS  # as a model's own lens; no fisheye comes near it
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
        """False if the camera info is invalid and no fallback focal length is set."""
        return not self.error or self.focal > 0


class Lenses:
    """What a camera said of its lens, by stamp: a zoom changes it, and drivers begin without.

    What cannot be used is kept too: of that time it says that nothing is known.
    """

    def __init__(self) -> None:
        self._said: dict[int, Any] = {}  # what was heard last stands last

    def hear(self, stamp_ns: int, info: Any, most: int) -> None:
        """Take in a CameraInfo; of more than ``most`` the one heard first is forgotten."""
        self._said.pop(stamp_ns, None)
        self._said[stamp_ns] = info
        while len(self._said) > most:
            del self._said[next(iter(self._said))]

    def at(self, stamp_ns: int) -> Any | None:
        """The CameraInfo of a time: the nearest before it, else the first after, else, where all
        are much later and so of another clock, the one heard last; None if there is none."""
        earlier = [stamp for stamp in self._said if stamp <= stamp_ns]
        if earlier:
            return self._said[max(earlier)]
        first = min(self._said, default=stamp_ns)
        if first - stamp_ns > ANOTHER_CLOCK_NS:
            first = next(reversed(self._said))
        return self._said.get(first)

    def forget(self) -> None:
        """Keep only what was heard last, as after a jump of the clock."""
        self._said = dict(list(self._said.items())[-1:])


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


def projection_of(info: Any) -> np.ndarray:
    """P, float64 ``[12]``; made of K where it names no focal lengths.

    Drivers of raw cameras leave it at zero, and points projected by that fall into one.
    """
    p = matrix_of(info, 'p')
    if p[0] or p[5]:
        return p
    k = matrix_of(info, 'k').reshape(3, 3)
    return np.hstack([k, np.zeros((3, 1))]).ravel()


def scaled_matrices(info: Any, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """K ``[9]`` and P ``[12]`` for a map of shape ``(rows, columns)``, as image_proc's resize
    makes them: a region of interest is cut off first. The picture must have a size."""
    left, top, width, height = region_of(info)
    x, y = shape[1] / width, shape[0] / height
    k = matrix_of(info, 'k').reshape(3, 3).copy()
    p = projection_of(info).reshape(3, 4).copy()
    for matrix in (k, p):
        matrix[0, 2] -= left
        matrix[1, 2] -= top
        matrix[0] *= x
        matrix[1] *= y
    return k.ravel(), p.ravel()


def check_camera_info(info: Any) -> None:
    """Refuse intrinsics that would put points anywhere.

    Raises:
        BadCameraInfo: no size, or focal lengths of K or P that are zero, negative, not finite,
            or outside of ``SHORTEST_LENS`` .. ``LONGEST_LENS``.
    """
    if info.width < 1 or info.height < 1:
        raise BadCameraInfo('camera info without a size', value=f'{info.width}x{info.height}',
                            limit='at least 1x1', remedy='calibrate the camera')
    k, p = matrix_of(info, 'k'), projection_of(info)
    if not np.all(np.isfinite([*k, *p])) or min(k[0], k[4], p[0], p[5]) <= 0:
        raise BadCameraInfo('camera info without usable focal lengths',
                            value=f'K {k[0]:g}, {k[4]:g}, P {p[0]:g}, {p[5]:g}',
                            limit='finite and > 0', remedy='calibrate the camera')
    focals = np.concatenate([_focals(info, k), _focals(info, p)])
    if focals.min() < SHORTEST_LENS or focals.max() > LONGEST_LENS:
        odd = focals.min() if focals.min() < SHORTEST_LENS else focals.max()
        raise BadCameraInfo('camera info with a focal length no lens has',
                            value=f'{odd:g} times the longest side',
                            limit=f'{SHORTEST_LENS:g} .. {LONGEST_LENS:g} times',
                            remedy='calibrate the camera')


def _focals(info: Any, matrix: np.ndarray) -> np.ndarray:
    """Both focal lengths of K or P over the longest side of the picture, which has a size."""
    across, down = matrix.reshape(3, -1)[:2, :2].diagonal()
    binned = across / max(1, info.binning_x), down / max(1, info.binning_y)
    return np.array(binned) / max(binned_size_of(info))


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
    if not max(binned_size_of(info)):
        return 0.0
    matrix = projection_of(info) if is_rectified(topic) else matrix_of(info, 'k')
    return float(_focals(info, matrix)[0])


def is_rectified(topic: str) -> bool:
    """Whether a topic says so: ``image_rect``, ``image_rect_color``, ``left/rect/image``."""
    return bool({'rect', 'rectified'} & set(re.split('[/_]', topic)))
