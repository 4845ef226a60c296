"""Pictures with depth or segmentation truth in anybody's folders: pairing and reading.

Known ways to lie side by side: sister folders (``rgb/17.jpg``, ``depth/17.png``), with the same
folders below both (``images/val/1.jpg``, ``annotations/val/1.png``), prefixes (``rgb_05.png``,
``depth_05.png``), suffixes (``1.png`` or ``1_rgb.png``, ``1_depth.png``), all in capitals or not,
and JSON lines with ``rgb_image`` and ``depth_image`` or ``seg_image``.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadData
from cooper_ros.evaluation.depth_units import units_of
from cooper_ros.imaging.resize import to_rgb
from cooper_ros.runtime.folders import files

DEPTH, SEGMENTATION = 'depth', 'segmentation'
MAX_PIXELS = CooperConfig.max_image_pixels
PICTURES = ('.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.webp', '.bmp', '.tif', '.tiff', '.ppm',
            '.pgm', '.pnm', '.gif', '.tga', '.jp2', '.avif')  # of what Pillow reads
TARGETS = {DEPTH: ('.png', '.npy', '.tif', '.tiff', '.pgm'),  # no GIF: it numbers ids anew
           SEGMENTATION: ('.png', '.npy', '.tif', '.tiff', '.bmp', '.pgm')}
RGB_FOLDERS = ('rgb', 'images', 'image', 'color', 'colors', 'img')
FOLDERS = {DEPTH: ('depth', 'depths', 'depth_map'),
           SEGMENTATION: ('semantic', 'annotations', 'masks', 'labels', 'panoptic', 'seg')}
TARGET_FOLDERS = tuple(name for names in FOLDERS.values() for name in names)
RGB_PREFIX = 'rgb_'
PREFIXES = {DEPTH: ('depth_', 'sync_depth_'), SEGMENTATION: ('label_', 'seg_', 'mask_')}
SUFFIXES = {DEPTH: ('_depth',), SEGMENTATION: ('_label', '_seg', '_mask', '_semantic',
                                               '_panoptic')}
ASPECT = 0.02  # how far the shapes of a picture and of its truth may differ; rounding differs less
MOST_CHANNELS = 4
MOST_ID = 2**53  # a floating point number beyond may be no whole number
_RGB_ENDING = re.compile('_(rgb|colors?)$', re.IGNORECASE)
_TARGET_NAME = re.compile('|'.join(
    [f'^{prefix}' for prefixes in PREFIXES.values() for prefix in prefixes]
    + [f'{suffix}$' for suffixes in SUFFIXES.values() for suffix in suffixes]), re.IGNORECASE)


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
    """All pairs of a folder, links followed, or of a list, in a stable order.

    Raises:
        BadData: there is none.
    """
    if not place.exists():
        raise BadData('the folder does not exist', value=str(place))
    folders = _Folders()
    pairs = _listed(place, kind) if place.is_file() else [
        MapPair(path.relative_to(place).with_suffix('').as_posix(), path, target)
        for path in sorted(files(place)) if _may_have_truth(path, place)
        for target in [_target_of(path, kind, folders)] if target is not None]
    if not pairs:
        example = {DEPTH: 'depth', SEGMENTATION: 'mask'}[kind]
        raise BadData(f'no picture with {kind} truth', value=str(place),
                      limit=f'rgb/N + {example}/N, rgb_N + {example}_N, N + N_{example}, with '
                            f'files of {", ".join(TARGETS[kind])}; a .jsonl list',
                      remedy='rename or convert the files to one of these, or write a list')
    return pairs


def without_truth(place: Path, pairs: Sequence[MapPair]) -> int:
    """How many pictures below a folder are in no pair and do not look like a truth themselves."""
    used = {path for pair in pairs for path in (pair.rgb, pair.target)}
    return sum(_may_have_truth(path, place) and path not in used
               and _nearest_known(path, place) not in TARGET_FOLDERS
               for path in files(place))


def _may_have_truth(path: Path, place: Path) -> bool:
    return (path.suffix.lower() in PICTURES and not _TARGET_NAME.search(path.stem)
            and path.relative_to(place).parent.name.lower() not in TARGET_FOLDERS
            and (path.is_file() or _leads_nowhere(path)))


def _leads_nowhere(path: Path) -> bool:
    """A broken link: to be named as a picture that cannot be read."""
    return path.is_symlink() and not path.exists()


def _nearest_known(path: Path, place: Path) -> str:
    """The folder name nearest to a file that says what lies below it; empty without one."""
    above = [name.lower() for name in path.relative_to(place).parent.parts]
    return next((name for name in reversed(above) if name in RGB_FOLDERS + TARGET_FOLDERS), '')


class _Folders:
    """Finds files and folders by name, in capitals or not; reads every folder once."""

    def __init__(self) -> None:
        self._known: dict[Path, dict[str, Path]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """What is called so in a folder; the same case wins."""
        if folder not in self._known:
            self._known[folder] = _entries(folder)
        return self._known[folder].get(name) or self._known[folder].get(name.lower())


def _entries(folder: Path) -> dict[str, Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError:  # not a folder, or nobody may look
        return {}
    return {path.name.lower(): path for path in found} | {path.name: path for path in found}


def _target_of(picture: Path, kind: str, folders: _Folders) -> Path | None:
    for folder, stem in _places(picture, kind, folders):
        for suffix in TARGETS[kind]:
            target = folders.find(folder, stem + suffix)
            if target is not None and target != picture and target.is_file():
                return target
    return None


def _places(picture: Path, kind: str, folders: _Folders) -> Iterator[tuple[Path, str]]:
    """Folders and names without suffix where the truth of a picture may lie."""
    names = _names(picture.stem, kind)
    yield from ((picture.parent, name) for name in names)
    for folder in _sisters(picture, kind, folders):
        yield from ((folder, name) for name in (picture.stem, *names))


def _names(stem: str, kind: str) -> list[str]:
    names = []
    if stem.lower().startswith(RGB_PREFIX):
        names += [prefix + stem[len(RGB_PREFIX):] for prefix in PREFIXES[kind]]
    for plain in dict.fromkeys((_RGB_ENDING.sub('', stem), stem)):
        names += [plain + suffix for suffix in SUFFIXES[kind]]
    return names


def _sisters(picture: Path, kind: str, folders: _Folders) -> Iterator[Path]:
    """``depth/a`` for pictures in ``rgb/a``."""
    for above in picture.parents:
        if above.name.lower() not in RGB_FOLDERS:
            continue
        for name in FOLDERS[kind]:
            sister = folders.find(above.parent, name)
            for part in picture.parent.relative_to(above).parts:
                sister = sister and folders.find(sister, part)
            if sister is not None:
                yield sister


def _listed(listing: Path, kind: str) -> list[MapPair]:
    key, pairs = 'depth_image' if kind == DEPTH else 'seg_image', []
    try:
        lines = listing.read_text(encoding='utf-8-sig').split('\n')  # nothing else ends a row
    except (OSError, UnicodeDecodeError) as error:
        raise BadData('the list cannot be read', value=f'{listing}: {error}',
                      limit='a folder, or JSON lines') from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue  # most often the last one
        try:
            row = json.loads(line)
            rgb, target = (_beside(listing, row[name]) for name in ('rgb_image', key))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadData(f'a row without rgb_image and {key}',
                          value=f'{listing.name}:{number}') from error
        pairs.append(MapPair(str(row.get('data_id', rgb.stem)), rgb, target))
    return pairs


def _beside(listing: Path, name: str) -> Path:
    """A listed file: from the folder of the list, or the one above, as training finds it."""
    places = [folder / name for folder in (listing.parent, listing.parent.parent)]
    return next((place for place in places if os.path.isfile(place)), places[0])


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture, upright, uint8 ``[H, W, 3]``.

    Raises:
        BadData: unreadable or too large.
        BadImage: grey of an unknown range.
    """
    return np.asarray(to_rgb(_open(path, max_pixels)))


def read_depth(path: Path, units: float = 0.0, max_pixels: int = MAX_PIXELS,
               place: Path | None = None, known: str = ''
               ) -> tuple[np.ndarray, tuple[float, str]]:
    """Depth in metres, float32 ``[H, W]``, 0 where unknown; and file numbers per metre, and why.

    Args:
        path: the file.
        units: numbers per metre; 0 takes floating point numbers as metres, and for integers what
            :func:`units_of` says.
        max_pixels: larger files are refused.
        place, known: the dataset, as for :func:`units_of`.

    Raises:
        BadData: unreadable, too large, or not one channel of depth.
    """
    raw = _one_channel(_array(path, max_pixels))
    floating, fine = raw.dtype.kind == 'f', raw.dtype.kind in 'iu' and raw.dtype.itemsize > 1
    if raw.ndim != 2 or not raw.size or not (floating or fine):
        raise BadData('not a depth map', value=f'{path}: {raw.dtype} {raw.shape}',
                      limit='16-bit or float, [H, W]')
    found = (units, 'given') if units else (
        (1.0, 'floating point') if floating else units_of(path, place, known))
    metres = raw.astype(np.float32) / np.float32(found[0])
    return np.where(np.isfinite(metres), metres, np.float32(0)), found


def read_ids(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Segment ids int64 ``[H, W]``; a colour picture is read as R + 256 G + 65536 B.

    Transparency is left out: grey with alpha holds its ids in the grey.

    Raises:
        BadData: unreadable, too large, or no mask.
    """
    raw = _array(path, max_pixels)
    if raw.dtype.kind not in 'biuf' or not raw.size or raw.ndim not in (2, 3) or (
            raw.ndim == 3 and raw.shape[2] > 4):
        raise BadData('not a mask', value=f'{path}: {raw.dtype} {raw.shape}',
                      limit='ids [H, W], or colours [H, W, 3]')
    if raw.dtype.kind == 'f' and not ((np.abs(raw.astype(np.float64)) < MOST_ID).all()
                                      and (raw == np.floor(raw)).all()):
        raise BadData('not a mask: some ids are no whole numbers', value=str(path),
                      limit='whole numbers everywhere')
    if raw.ndim == 3 and raw.shape[2] > 2:
        return raw[..., :3].astype(np.int64) @ np.array([1, 256, 65536])
    return (raw if raw.ndim == 2 else raw[..., 0]).astype(np.int64)


def check_shapes(rgb: np.ndarray, truth: np.ndarray) -> None:
    """Refuse a truth that would have to be stretched; a smaller or larger one is fine.

    Args:
        rgb: the picture ``[H, W, 3]``.
        truth: ``[h, w]``.

    Raises:
        BadData: width over height differs by more than 2 percent.
    """
    (height, width), (high, wide) = rgb.shape[:2], truth.shape
    ratio = width * high / (height * wide)
    if max(ratio, 1 / ratio) > 1 + ASPECT:
        raise BadData('picture and truth differ in shape',
                      value=f'{width}x{height} and {wide}x{high}',
                      limit=f'the same width over height, within {ASPECT:.0%}',
                      remedy='crop or turn one like the other')


def _one_channel(raw: np.ndarray) -> np.ndarray:
    """``[H, W, 1]``, as DIODE keeps its depth, or ``[1, H, W]`` to ``[H, W]``."""
    while raw.ndim > 2 and 1 in (raw.shape[0], raw.shape[-1]):
        raw = raw[..., 0] if raw.shape[-1] == 1 else raw[0]
    return raw


def _array(path: Path, max_pixels: int) -> np.ndarray:
    if path.suffix.lower() != '.npy':
        return np.asarray(_open(path, max_pixels))
    try:
        array = np.load(path, mmap_mode='r', allow_pickle=False)  # a header may promise anything
    except Exception as error:  # overflows and lack of memory too
        raise BadData('the array cannot be read', value=f'{path}: {error}') from error
    if not isinstance(array, np.ndarray):
        raise BadData('not one array', value=str(path), limit='what numpy.save writes')
    if array.size > max_pixels * MOST_CHANNELS:
        raise BadData('the array is too large', value=f'{path}: {array.shape}',
                      limit=f'{max_pixels} pixels', remedy='make it smaller')
    return np.array(array)


def _open(path: Path, max_pixels: int) -> Image.Image:
    """A whole picture, turned as its EXIF says; the size is checked before it is decoded."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise BadData('the picture is too large', value=f'{path}: {width}x{height}',
                              limit=f'{max_pixels} pixels', remedy='make it smaller')
            return ImageOps.exif_transpose(picture)
    except BadData:
        raise
    except Exception as error:  # decoders fail in many ways, see imaging/compressed.py
        raise BadData('the picture cannot be read', value=f'{path}: {error}') from error
