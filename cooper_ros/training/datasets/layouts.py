"""The folder layouts of the published depth and segmentation sets.

Each function takes a folder and says which pairs it holds. Besides the layout of the download,
the common extracted layouts are known (Marigold's preprocessing, BTS' NYU splits).
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Callable

from cooper_ros.errors import BadData
from cooper_ros.training.datasets import hdf5
from cooper_ros.training.datasets.find import PICTURES, Found, pair_up
from cooper_ros.training.datasets.samples import Pair

_FRAME = re.compile(r'frame\.(\d+)\.tonemap\.jpg')
_RAW_DEPTH = re.compile(r'frame\.\d+\.depth_meters\.hdf5')
_PLANE = re.compile(r'rgb_(cam_\d+_fr\d+)\.png')
_HYPERSIM_NAME = re.compile(r'(?:rgb|depth_plane)_(cam_\d+)_fr(\d+)\.png')
_HYPERSIM_RAW = re.compile(r'scene_(cam_\d+)_\w+/frame\.(\d+)\..*')
HYPERSIM_SPLIT = 'metadata_images_split_scene_v1.csv'
_NYU = (re.compile(r'rgb_(.*)\.(?:png|jpg)'), re.compile(r'(.*)_colors\.png'))
_NYU_TARGETS = ('sync_depth_{}.png', 'depth_{}.png', '{}_depth.png')
NYU_MAT = 'nyu_depth_v2_labeled.mat'


def hypersim(root: Path) -> Found:
    """Hypersim.

    As downloaded: ``ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg`` with
    ``ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5``. Preprocessed:
    ``ai_001_001/rgb_cam_00_fr0000.png`` with ``depth_plane_cam_00_fr0000.png`` (millimetres).
    Where the official split lies in the folder or its parent, only pictures to train on.

    Raises:
        BadData: the split cannot be read.
    """
    trained = _hypersim_trained(root)
    return pair_up(root, lambda path: bool(_FRAME.fullmatch(path.name)
                                           or _PLANE.fullmatch(path.name)) and trained(path),
                   _hypersim_target,
                   lambda path: bool(_RAW_DEPTH.fullmatch(path.name)
                                     or path.name.startswith('depth_plane_cam_'))
                   and trained(path))


def hypersim_split(root: Path) -> Path | None:
    """The official list of which picture is for what, or None."""
    places = (folder / HYPERSIM_SPLIT for folder in (root, root.resolve().parent))
    return next((place for place in places if place.is_file()), None)


def _hypersim_trained(root: Path) -> Callable[[Path], bool]:
    """Whether a file is of a picture to train on; all are where there is no split."""
    split = hypersim_split(root)
    if split is None:
        return lambda path: True
    try:
        with open(split, newline='', encoding='utf-8-sig') as file:
            known = {(row['scene_name'], row['camera_name'], int(row['frame_id']))
                     for row in csv.DictReader(file) if row['split_partition_name'] == 'train'
                     and row.get('included_in_public_release') != 'False'}
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise BadData('the split cannot be read', value=f'{split}: {error!r}',
                      limit='scene_name, camera_name, frame_id, split_partition_name',
                      remedy='download it again from github.com/apple/ml-hypersim') from error
    return lambda path: _hypersim_key(path) in known


def _hypersim_key(path: Path) -> tuple[str, str, int] | None:
    """Scene, camera and frame of a picture or its depth."""
    plane = _HYPERSIM_NAME.fullmatch(path.name)
    if plane:
        return path.parent.name, plane[1], int(plane[2])
    raw = _HYPERSIM_RAW.fullmatch('/'.join(path.parts[-2:]))
    return (path.parts[-4], raw[1], int(raw[2])) if raw and len(path.parts) > 3 else None


def _hypersim_target(picture: Path) -> Path:
    plane = _PLANE.fullmatch(picture.name)
    if plane:
        return picture.with_name(f'depth_plane_{plane[1]}.png')
    folder = picture.parent.name.replace('_final_preview', '_geometry_hdf5')
    name = picture.name.replace('.tonemap.jpg', '.depth_meters.hdf5')
    return picture.parent.parent / folder / name


def vkitti(root: Path) -> Found:
    """Virtual KITTI 2: ``Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg`` and
    ``.../depth/Camera_0/depth_00000.png`` (centimetres).

    The archives for pictures and depth may be unpacked over each other, or into folders of
    their own (``vkitti_2.0.3_rgb``, ``vkitti_2.0.3_depth``) under ``root``.
    """
    return pair_up(root, lambda path: _vkitti_role(path) == 'rgb', _vkitti_target,
                   lambda path: _vkitti_role(path) == 'depth')


def _vkitti_role(path: Path) -> str:
    """``rgb`` or ``depth`` for a file of the set, else empty."""
    parts = path.parts
    inside = len(parts) > 3 and parts[-4] == 'frames' and parts[-2].startswith('Camera_')
    for role, suffix in (('rgb', '.jpg'), ('depth', '.png')):
        if inside and parts[-3] == role and path.name.startswith(role) and path.suffix == suffix:
            return role
    return ''


def _vkitti_target(picture: Path) -> Path | None:
    # frames/rgb/Camera_0/rgb_00000.jpg -> frames/depth/Camera_0/depth_00000.png
    name = picture.name.replace('rgb_', 'depth_').replace('.jpg', '.png')
    inside = Path('depth', picture.parent.name, name)
    merged = picture.parents[2] / inside
    if merged.is_file():
        return merged
    for parent in picture.parents:
        if parent.name.endswith('_rgb'):
            away = picture.parents[2].relative_to(parent)
            return parent.with_name(parent.name[:-len('rgb')] + 'depth') / away / inside
    return merged


def ade20k(root: Path) -> Found:
    """ADE20K full (2021_17_01): ``images/ADE/training/.../ADE_train_00000001.jpg`` with
    ``ADE_train_00000001_seg.png`` (class in red and green, instance in blue) beside it. What is
    for validation or test is left out."""
    return pair_up(root, lambda path: path.suffix == '.jpg' and _ade20k_trained(path),
                   lambda path: path.with_name(f'{path.stem}_seg.png'),
                   lambda path: path.name.endswith('_seg.png') and _ade20k_trained(path))


def _ade20k_trained(path: Path) -> bool:
    """Whether a file is of a training picture; frames of films are told by their folder."""
    return path.name.startswith('ADE_train_') or (
        path.name.startswith('ADE_frame_') and 'training' in path.parts
        and 'validation' not in path.parts)


def nyu(root: Path) -> Found:
    """NYU Depth v2.

    Extracted, millimetres: ``rgb_00045.png`` or ``.jpg`` with ``sync_depth_00045.png`` or
    ``depth_00045.png``, or ``00045_colors.png`` with ``00045_depth.png``; anywhere below
    ``root``. As downloaded: ``nyu_depth_v2_labeled.mat`` (needs h5py).
    """
    mats = sorted(root.rglob(NYU_MAT))
    if mats:
        count = hdf5.nyu_count(mats[0])
        return Found([Pair(mats[0], mats[0], f'labeled_{row:04d}', row, root)
                      for row in range(count)])
    return pair_up(root, lambda path: path.suffix in PICTURES and bool(_nyu_number(path)),
                   _nyu_target, lambda path: path.suffix == '.png' and 'depth' in path.name)


def _nyu_number(path: Path) -> str:
    return next((match[1] for rule in _NYU if (match := rule.fullmatch(path.name))), '')


def _nyu_target(picture: Path) -> Path | None:
    number = _nyu_number(picture)
    places = (picture.with_name(name.format(number)) for name in _NYU_TARGETS)
    return next((place for place in places if place.is_file()), None)


def require_folder(root: Path) -> Path:
    """Check that a folder is there at all.

    Raises:
        BadData: it is not.
    """
    if not root.exists():
        raise BadData('the data folder does not exist', value=str(root),
                      remedy='download the set and give the folder it was unpacked into')
    return root
