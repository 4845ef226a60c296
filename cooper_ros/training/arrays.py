"""Arrays on disk that are filled bit by bit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from cooper_ros.runtime.files import room

REMEDY = 'free disk space, or name another data folder, and start the same command again'


def new_array(path: Path, kind: DTypeLike, shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped file of zeros whose room on the disk is reserved: where a disk fills up
    under a sparse file, the kernel kills the process without a message.

    Raises:
        OutOfDisk: there is no room; no file is left.
    """
    needed = int(np.prod(shape)) * np.dtype(kind).itemsize
    try:
        with room(path.parent, needed, path.name, REMEDY):
            array = np.lib.format.open_memmap(path, 'w+', kind, shape)
            with path.open('r+b') as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except Exception:
        path.unlink(missing_ok=True)
        raise
    return array


def begun_array(path: Path) -> np.ndarray | None:
    """What an earlier attempt left, to go on with; None where nothing can be read."""
    try:
        np.load(path, mmap_mode='r')  # refuses a file that is cut off; r+ would lengthen it
        return np.load(path, mmap_mode='r+')
    except (OSError, ValueError, EOFError):
        return None
