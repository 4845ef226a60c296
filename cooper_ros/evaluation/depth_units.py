"""What the integers of a depth file mean: its notes say it, or the data set that the user names,
or a name in its path, else they are millimetres.

Only the dataset folder and what lies in it count: people keep pictures in all sorts of homes.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from cooper_ros.errors import BadData
from cooper_ros.imaging.depth_sets import depth_set

NOTES = 'annotations.json'
UNIT_HINTS = (('vkitti', 100.0), ('kitti', 256.0), ('tum', 5000.0), ('nyu', 1000.0),
              ('hypersim', 1000.0))  # as a word of a folder or file name
MILLIMETRES = 1000.0
_SCALE = re.compile(r'"depth_scale"\s*:\s*"?(?!null)([^\s",}\]]+)')


def units_of(path: Path, place: Path | None = None, known: str = '') -> tuple[float, str]:
    """Numbers per metre of a depth file with integers, and where that is known from.

    Args:
        path: the file.
        place: the dataset: its folder, or a list in it; None for the folder of the file. Where
            the file lies elsewhere, the nearest folder that holds both is the dataset.
        known: published data set that the file is of, a key of ``DEPTH_SETS``; empty for none.

    Raises:
        BadData: ``annotations.json`` cannot be read, or says no number above 0.
    """
    folder, inside = _dataset(path, place or path.parent)
    for above in list(inside.parents):
        notes = folder / above / NOTES
        found = _noted(notes) if notes.is_file() else None
        if found is not None:
            return found, notes.name
    if known:
        return depth_set(known).units_per_metre, f'--depth-set {known}'
    for word in reversed((folder.name, *inside.parts)):
        for hint, units in UNIT_HINTS:
            if hint in re.split('[^a-z]+', word.lower()):
                return units, f'{word!r} in the path'
    return MILLIMETRES, 'assumed millimetres'


def _dataset(path: Path, place: Path) -> tuple[Path, Path]:
    """The folder of the dataset, and the file as seen from it."""
    path, place = Path(os.path.abspath(path)), Path(os.path.abspath(place))
    home = place.parent if place.is_file() else place
    folder = Path(os.path.commonpath([path.parent, home]))
    return folder, path.relative_to(folder)


def _noted(notes: Path) -> float | None:
    try:
        about = notes.stat()
        scale = _scale_in(notes, (about.st_mtime_ns, about.st_size))
    except (OSError, ValueError) as error:
        raise BadData('the notes about depth cannot be read', value=f'{notes}: {error}',
                      remedy='correct them, or give --units') from error
    if scale is not None and not 0 < scale < float('inf'):
        raise BadData('the notes about depth say no scale', value=f'{notes}: depth_scale {scale}',
                      limit='> 0', remedy='correct them, or give --units')
    return scale


@functools.lru_cache(maxsize=64)
def _scale_in(notes: Path, version: tuple[int, int]) -> float | None:
    """The number in a file; kept, as notes can be large and every picture asks again."""
    match = _SCALE.search(notes.read_text(encoding='utf-8'))
    return float(match[1]) if match else None
