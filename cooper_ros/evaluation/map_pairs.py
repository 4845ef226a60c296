"""Pictures with depth or segmentation truth in anybody's folders: pairing and reading.

Known ways to lie side by side: sister folders (``rgb/17.jpg``, ``depth/17.png``), prefixes
(``rgb_05.png``, ``depth_05.png``), suffixes (``1.png``, ``1_depth.png``), and JSON lines with
``rgb_image`` and ``depth_image`` or ``seg_image``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import numpy as np
from PIL import Image

from cooper_ros.errors import BadData
from cooper_ros.imaging.resize import to_rgb

DEPTH, SEGMENTATION = 'depth', 'segmentation'
PICTURES = ('.png', '.jpg', '.jpeg')
TARGETS = {DEPTH: ('.png', '.npy', '.tif', '.tiff'), SEGMENTATION: ('.png', '.npy')}
RGB_FOLDERS = ('rgb', 'images', 'image', 'color', 'colors', 'img')
FOLDERS = {DEPTH: ('depth', 'depths', 'depth_map'),
           SEGMENTATION: ('semantic', 'annotations', 'masks', 'labels', 'panoptic', 'seg')}
PREFIXES = {DEPTH: ('depth_', 'sync_depth_'), SEGMENTATION: ('label_', 'seg_', 'mask_')}
SUFFIXES = {DEPTH: ('_depth',), SEGMENTATION: ('_label', '_seg', '_mask', '_semantic',
                                               '_panoptic')}
UNIT_HINTS = (('vkitti', 100.0), ('kitti', 256.0), ('tum', 5000.0), ('nyu', 1000.0),
              ('hypersim', 1000.0))  # as a word of a folder or file name
MILLIMETRES = 1000.0
_TARGET_NAME = re.compile('|'.join(
    [f'^{prefix}' for prefixes in PREFIXES.values() for prefix in prefixes]
    + [f'{suffix}$' for suffixes in SUFFIXES.values() for suffix in suffixes]))


@dataclass(frozen=True)
class MapPair:
    """A picture and its truth.

    Attributes:
        name: for tables.
        rgb, target: the files.
    """

    name: str
    rgb: Path
    target: Path


def find_pairs(place: Path, kind: str) -> list[MapPair]:
    """All pairs of a folder or list, in a stable order.

    Raises:
        BadData: there is none.
    """
    if not place.exists():
        raise BadData('the folder does not exist', value=str(place))
    pairs = _listed(place, kind) if place.is_file() else [
        MapPair(path.relative_to(place).with_suffix('').as_posix(), path, target)
        for path in sorted(place.rglob('*')) if _is_picture(path)
        for target in [_target_of(path, kind)] if target is not None]
    if not pairs:
        raise BadData(f'no picture with {kind} truth', value=str(place),
                      limit='rgb/N + depth/N, rgb_N + depth_N, N + N_depth; a .jsonl list',
                      remedy='rename the files to one of these patterns, or write a list')
    return pairs


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not _TARGET_NAME.search(path.stem) and (
        path.parent.name not in {name for names in FOLDERS.values() for name in names})


def _target_of(picture: Path, kind: str) -> Path | None:
    for place in _places(picture, kind):
        for suffix in TARGETS[kind]:
            target = place.with_name(place.name + suffix)
            if target.is_file() and target != picture:
                return target
    return None


def _places(picture: Path, kind: str) -> Iterator[Path]:
    """Where the truth of a picture may lie, without suffix."""
    folder, stem = picture.parent, picture.stem
    for prefix in PREFIXES[kind]:
        if stem.startswith('rgb_'):
            yield folder / (prefix + stem.removeprefix('rgb_'))
    for suffix in SUFFIXES[kind]:
        yield folder / (stem.removesuffix('_colors') + suffix)
    if folder.name in RGB_FOLDERS:
        for sister in FOLDERS[kind]:
            yield folder.parent / sister / stem


def _listed(listing: Path, kind: str) -> list[MapPair]:
    key, pairs = 'depth_image' if kind == DEPTH else 'seg_image', []
    for number, line in enumerate(listing.read_text(encoding='utf-8').splitlines(), start=1):
        try:
            row = json.loads(line)
            rgb, target = (listing.parent / row[name] for name in ('rgb_image', key))
        except (ValueError, KeyError, TypeError) as error:
            raise BadData(f'a row without rgb_image and {key}',
                          value=f'{listing.name}:{number}') from error
        pairs.append(MapPair(str(row.get('data_id', rgb.stem)), rgb, target))
    return pairs


def read_rgb(path: Path) -> np.ndarray:
    """A picture, uint8 ``[H, W, 3]``.

    Raises:
        BadData: unreadable.
    """
    return np.asarray(to_rgb(_open(path)))


def read_depth(path: Path, units_per_metre: float) -> np.ndarray:
    """Depth in metres, float32 ``[H, W]``, 0 where unknown. ``.npy`` holds metres already.

    Raises:
        BadData: unreadable, or not one channel of depth.
    """
    raw = _array(path)
    if raw.ndim != 2 or raw.dtype == np.uint8:
        raise BadData('not a depth map', value=f'{path}: {raw.dtype} {raw.shape}',
                      limit='16-bit or float, [H, W]')
    metres = raw.astype(np.float32)
    if path.suffix != '.npy':
        metres = metres / np.float32(units_per_metre)
    return np.where(np.isfinite(metres), metres, np.float32(0))


def read_ids(path: Path) -> np.ndarray:
    """Segment ids int64 ``[H, W]``; a colour picture is read as R + 256 G + 65536 B.

    Raises:
        BadData: unreadable.
    """
    raw = _array(path)
    if raw.ndim == 3:
        return raw[..., :3].astype(np.int64) @ np.array([1, 256, 65536])
    return raw.astype(np.int64)


def units_of(path: Path) -> tuple[float, str]:
    """File numbers per metre of a depth file, and where that is known from."""
    notes = path.parent / 'annotations.json'
    if notes.is_file():
        match = re.search(r'"depth_scale":\s*([0-9.]+)', notes.read_text(encoding='utf-8'))
        if match:
            return float(match[1]), notes.name
    for word in reversed(path.parts):
        for hint, units in UNIT_HINTS:
            if hint in re.split('[^a-z]+', word.lower()):
                return units, f'{word!r} in the path'
    return MILLIMETRES, 'assumed millimetres'


def _array(path: Path) -> np.ndarray:
    if path.suffix == '.npy':
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadData('the array cannot be read', value=f'{path}: {error}') from error
    return np.asarray(_open(path))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError) as error:
        raise BadData('the picture cannot be read', value=f'{path}: {error}') from error
