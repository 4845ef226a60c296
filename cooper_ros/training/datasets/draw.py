"""Stage-1 samples: pictures and the maps to be drawn of them (reference sections 8.1, 8.2)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np
from PIL import Image
from tqdm import tqdm

from cooper_ros.errors import BadData
from cooper_ros.imaging.depth_sets import depth_set, depth_target, kitti_crop_box
from cooper_ros.imaging.resize import VAE_TRANSFORM, VIT_TRANSFORM, ImageTransform, to_rgb
from cooper_ros.training.datasets import hdf5
from cooper_ros.training.datasets.damage import decoding, listed_at
from cooper_ros.training.datasets.find import Found, pairs_of_list, scene_by_scene
from cooper_ros.training.datasets.layouts import require_folder
from cooper_ros.training.datasets.samples import DrawSample, Pair

DEPTH, SEGMENTATION = 'depth', 'segmentation'


@dataclass(frozen=True)
class DrawKind:
    """How one published set is read.

    Attributes:
        name: key in the catalogue; for depth also the key of ``DEPTH_SETS``.
        kind: ``depth`` or ``segmentation``.
        find: finds the pairs in a folder of its layout.
        lists: names of published lists; one that lies in the folder wins over the layout.
        published: pictures in the published training (or evaluation) list.
        remedy: where the data come from.
    """

    name: str
    kind: str
    find: Callable[[Path], Found]
    lists: tuple[str, ...]
    published: int
    remedy: str

    @property
    def target_key(self) -> str:
        """Key of the target in a list."""
        return 'depth_image' if self.kind == DEPTH else 'seg_image'

    def search(self, place: Path) -> Found:
        """All pairs of a folder or of a ``.jsonl`` list.

        Raises:
            BadData: nothing is there.
        """
        require_folder(place)
        if place.is_file():
            return pairs_of_list(place, self.target_key)
        listing = next((place / name for name in self.lists if (place / name).is_file()), None)
        return self.find(place) if listing is None else pairs_of_list(listing, self.target_key,
                                                                      place)


@dataclass(frozen=True)
class DrawSet:
    """A set opened for training; sample ``i`` is the same every time.

    Attributes:
        kind: which set.
        pairs: what was found.
        vae, vit: resize rules of the model that is trained.
    """

    kind: DrawKind
    pairs: list[Pair] = field(repr=False)
    vae: ImageTransform = VAE_TRANSFORM
    vit: ImageTransform = VIT_TRANSFORM

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, mirrored: bool = False) -> DrawSample:
        """Read, crop, perhaps mirror and resize one pair.

        Raises:
            BadData: a file is unreadable or not what the set says it is.
        """
        pair = self.pairs[index]
        picture, target = read_pair(self.kind, pair)
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            target = target.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        drawn = (depth_target(np.asarray(target), self.kind.name, self.vae)
                 if self.kind.kind == DEPTH else self.vae(target))
        return DrawSample(self.kind.kind, pair.data_id, self.vae(picture), self.vit(picture),
                          drawn)

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) a sample is cut to, read from the header alone.

        Raises:
            BadData: the picture has no legible header.
        """
        pair = self.pairs[index]
        if pair.row >= 0:
            return 640, 480
        with listed_at(pair.listed):
            with decoding(pair.rgb), Image.open(pair.rgb) as picture:
                size = picture.size
            if self.kind.kind == DEPTH and depth_set(self.kind.name).kitti_crop:
                left, top, right, bottom = kitti_crop_box(*size, pair.inside(pair.rgb))
                return right - left, bottom - top
            return size


def open_set(kind: DrawKind, place: Path, vae: ImageTransform = VAE_TRANSFORM,
             vit: ImageTransform = VIT_TRANSFORM) -> DrawSet:
    """Open a set for training; frames of one scene of a depth set are in a row.

    Says how much of a folder is left out, as half a pair.

    Raises:
        BadData: the folder holds no pair, or a list has a row that cannot be used.
    """
    found, command = kind.search(place), f'cooper data check {kind.name} {place}'
    if not found.pairs:
        raise BadData(f'no {kind.name} pictures with targets', value=str(place), remedy=command)
    if found.problems and found.pairs[0].listed:  # a list says itself what is meant
        _refuse(found, command)
    elif found.problems:
        _tell(f'{kind.name}: {len(found.pairs)} pairs of {place} are used; left out: '
              + ', '.join(f'{what} ({len(places)})' for what, places in found.problems.items())
              + f'; to see which: {command}')
    pairs = scene_by_scene(found.pairs) if kind.kind == DEPTH else found.pairs
    return DrawSet(kind, pairs, vae, vit)


def _refuse(found: Found, command: str) -> None:
    what, places = next(iter(found.problems.items()))
    others = sum(map(len, found.problems.values())) - 1
    raise BadData(what, value=places[0] + (f', and {others} more' if others else ''),
                  remedy=f'fetch the files, or take the rows out; to see which: {command}')


def _tell(text: str) -> None:
    from cooper_ros.training.processes import is_first  # needs torch, and checks do not
    if is_first():
        tqdm.write(text, file=sys.stderr)


def read_pair(kind: DrawKind, pair: Pair) -> tuple[Image.Image, Image.Image]:
    """Picture and target as they enter the resize rule, at the size of the files.

    Raises:
        BadData: unreadable, of different sizes, or the target is no depth or no RGB picture.
    """
    with listed_at(pair.listed):
        picture, target = _read_files(kind, pair)
        if picture.size != target.size:
            raise BadData('picture and target differ in size', limit=target.size,
                          value=f'{pair.inside(pair.rgb)}: {picture.size}')
        if kind.kind == SEGMENTATION:
            return picture, _colours(pair, target)
        if depth_set(kind.name).kitti_crop:
            box = kitti_crop_box(*picture.size, pair.inside(pair.rgb))
            picture, target = picture.crop(box), target.crop(box)
        return picture, target


def _colours(pair: Pair, target: Image.Image) -> Image.Image:
    if target.mode not in ('RGB', 'P'):
        raise BadData('the segmentation has no colours', limit='RGB',
                      value=f'{pair.inside(pair.target)}: {target.mode}')
    return target.convert('RGB')


def _read_files(kind: DrawKind, pair: Pair) -> tuple[Image.Image, Image.Image]:
    if pair.row >= 0:
        return (Image.fromarray(hdf5.nyu_picture(pair.rgb, pair.row)),
                Image.fromarray(hdf5.nyu_millimetres(pair.target, pair.row)))
    picture = open_rgb(pair.rgb)
    if pair.target.suffix == '.hdf5':
        return picture, Image.fromarray(hdf5.hypersim_millimetres(pair.target))
    target = open_picture(pair.target)
    if kind.kind == DEPTH and not _is_16_bit(target):
        raise BadData('not a 16-bit depth picture', limit='16-bit PNG',
                      value=f'{pair.inside(pair.target)}: {target.mode}')
    return picture, target


def _is_16_bit(depth: Image.Image) -> bool:
    if depth.mode != 'I':
        return depth.mode.startswith('I')
    least, most = depth.getextrema()  # 32-bit numbers, which PNG files of 16 bits become too
    return 0 <= least and most <= 65535


def open_picture(path: Path) -> Image.Image:
    """Decode a whole file.

    Raises:
        BadData: missing, truncated or no picture.
    """
    with decoding(path), Image.open(path) as picture:
        picture.load()
        return picture


def open_rgb(path: Path) -> Image.Image:
    """Decode a whole file to RGB.

    Raises:
        BadData: missing, truncated, no picture, or one without a white.
    """
    with decoding(path):
        return to_rgb(open_picture(path))
