"""Files that only h5py (optional) can read: raw Hypersim depth, the labelled NYU file."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np

from cooper_ros.errors import BadData

HYPERSIM_FIELD_OF_VIEW = math.pi / 3


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise BadData('reading HDF5 needs h5py', value=str(error),
                      remedy='pip install h5py, or use the extracted PNG layout') from error
    return h5py


def _read(path: Path, name: str, sides: int, row: int | None = None) -> np.ndarray:
    """Numbers with so many ``sides``."""
    h5py = _h5py()
    try:
        with h5py.File(path, 'r') as file:
            found = np.asarray(file[name] if row is None else file[name][row])
        if found.ndim != sides or found.dtype.kind not in 'uif' or not found.size:
            raise ValueError(f'{name} is {found.dtype} {found.shape}')
        return found
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise BadData('damaged HDF5 file', value=f'{path}: {error}',
                      remedy='download it again') from error


def hypersim_millimetres(path: Path) -> np.ndarray:
    """Planar depth uint16 ``[H, W]`` in millimetres, 0 where there is no surface.

    The file holds distances along the ray in metres, in spite of its name.

    Raises:
        BadData: h5py is not installed, or the file is damaged.
    """
    return millimetres(planar_depth(_read(path, 'dataset', 2).astype(np.float64)))


def planar_depth(distance: np.ndarray) -> np.ndarray:
    """Distance along each ray to depth along the optical axis, same unit, ``[H, W]``.

    The cameras of Hypersim share one horizontal field of view of 60 degrees.
    """
    height, width = distance.shape
    focal = width / 2 / math.tan(HYPERSIM_FIELD_OF_VIEW / 2)  # pixels
    x = np.arange(width) + 0.5 - width / 2
    y = np.arange(height)[:, None] + 0.5 - height / 2
    return distance * focal / np.sqrt(x ** 2 + y ** 2 + focal ** 2)


def millimetres(metres: np.ndarray) -> np.ndarray:
    """Metres to uint16 millimetres; what is not finite becomes 0, what is too far 65535."""
    known = np.where(np.isfinite(metres), metres, 0.0)
    return np.rint(np.clip(known * 1000, 0, 65535)).astype(np.uint16)


def nyu_count(path: Path) -> int:
    """Pictures in the labelled NYU file.

    Raises:
        BadData: h5py is not installed, or the file is damaged.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, 'r') as file:
            return len(file['images'])
    except (OSError, KeyError, RuntimeError) as error:
        raise BadData('damaged HDF5 file', value=f'{path}: {error}',
                      remedy='download it again') from error


def nyu_picture(path: Path, row: int) -> np.ndarray:
    """Picture uint8 ``[H, W, 3]``; the file is written by MATLAB, column first.

    Raises:
        BadData: h5py is not installed, or the file is damaged.
    """
    return np.ascontiguousarray(_read(path, 'images', 3, row).transpose(2, 1, 0))


def nyu_millimetres(path: Path, row: int) -> np.ndarray:
    """Depth uint16 ``[H, W]`` in millimetres.

    Raises:
        BadData: h5py is not installed, or the file is damaged.
    """
    return millimetres(_read(path, 'depths', 2, row).T.astype(np.float64))
