"""The folder layouts of the published depth and segmentation sets.

Each function takes a folder and says which pairs it holds. Besides the layout of the download,
the common extracted layouts are known (Marigold's preprocessing, BTS' NYU splits).
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from cooper_ros.errors import BadData
from cooper_ros.runtime.folders import files_named
from cooper_ros.training.datasets import hdf5
from cooper_ros.training.datasets.find import PICTURES, Found, pair_up
from cooper_ros.training.datasets.samples import Pair

_FRAME = re.compile(r'frame\.(\d+)\.tonemap\.jpg')
_RAW_DEPTH = re.compile(r'frame\.\d+\.depth_meters\.hdf5')
_PLANE = re.compile(r'rgb_(cam_\d+_fr\d+)\.png')
_HYPERSIM_NAME = re.compile(r'(?:rgb|depth_plane)_(cam_\d+)_fr(\d+)\.png')
_HYPERSIM_RAW = re.compile(r'scene_(cam_\d+)_\w+/frame\.(\d+)\..*')
HYPERSIM_SPLIT = 'metadata_images_split_scene_v1.csv'
VKITTI_SCENES = ('Scene01', 'Scene02', 'Scene06', 'Scene18', 'Scene20')
VKITTI_VARIANTS = ('15-deg-left', '15-deg-right', '30-deg-left', '30-deg-right', 'clone', 'fog',
                   'morning', 'overcast', 'rain', 'sunset')
SCENE_MISSING = 'scene missing'
_NYU = (re.compile(r'rgb_(.*)\.(?:png|jpg)'), re.compile(r'(.*)_colors\.png'))
_NYU_TARGETS = ('sync_depth_{}.png', 'depth_{}.png', '{}_depth.png')
NYU_MAT = 'nyu_depth_v2_labeled.mat'
HypersimKey = tuple[str, str, int]  # scene, camera, frame


def hypersim(root: Path) -> Found:
    """Hypersim.

    As downloaded: ``ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg`` with
    ``ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5``. Preprocessed:
    ``ai_001_001/rgb_cam_00_fr0000.png`` with ``depth_plane_cam_00_fr0000.png`` (millimetres).
    Where the official split lies in the folder or its parent, only pictures to train on, and
    those of them that the folder lacks are known.

    Raises:
        BadData: the split cannot be read.
    """
    known = _hypersim_trained(root)

    def trained(path: Path) -> bool:
        return known is None or _hypersim_key(path) in known

    found = pair_up(root, lambda path: bool(_FRAME.fullmatch(path.name)
                                            or _PLANE.fullmatch(path.name)) and trained(path),
                    _hypersim_target,
                    lambda path: bool(_RAW_DEPTH.fullmatch(path.name)
                                      or path.name.startswith('depth_plane_cam_'))
                    and trained(path))
    if known is not None:
        found.absent = _hypersim_absent(known, {_hypersim_key(path) for path in found.files(root)})
    return found


def _hypersim_absent(known: set[HypersimKey], here: set[HypersimKey | None]
                     ) -> dict[str, list[str]]:
    """Scenes of which there is nothing, and how many pictures the cameras of the others lack."""
    scenes = {key[0] for key in known} - {key[0] for key in here if key}
    lost = sorted(key for key in known - here if key[0] not in scenes)
    total, count = (Counter(key[:2] for key in keys) for keys in (known, lost))
    first = {key[:2]: key[2] for key in reversed(lost)}
    pictures = [f'{scene} {camera}: {count[scene, camera]} of {total[scene, camera]}, the first '
                f'is frame {first[scene, camera]}' for scene, camera in count]
    return _not_empty({SCENE_MISSING: sorted(scenes), 'pictures of a scene missing': pictures})


def _not_empty(absent: dict[str, list[str]]) -> dict[str, list[str]]:
    return {what: places for what, places in absent.items() if places}


def hypersim_split(root: Path) -> Path | None:
    """The official list of which picture is for what, or None."""
    places = (folder / HYPERSIM_SPLIT for folder in (root, root.resolve().parent))
    return next((place for place in places if place.is_file()), None)


def _hypersim_trained(root: Path) -> set[HypersimKey] | None:
    """The pictures to train on; None where there is no split: all of them."""
    split = hypersim_split(root)
    if split is None:
        return None
    try:
        with open(split, newline='', encoding='utf-8-sig') as file:
            return {(row['scene_name'], row['camera_name'], int(row['frame_id']))
                    for row in csv.DictReader(file) if row['split_partition_name'] == 'train'
                    and row.get('included_in_public_release') != 'False'}
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise BadData('the split cannot be read', value=f'{split}: {error!r}',
                      limit='scene_name, camera_name, frame_id, split_partition_name',
                      remedy='download it again from github.com/apple/ml-hypersim') from error


def _hypersim_key(path: Path) -> HypersimKey | None:
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
    found = pair_up(root, lambda path: _vkitti_role(path) == 'rgb', _vkitti_target,
                    lambda path: _vkitti_role(path) == 'depth')
    found.absent = _vkitti_absent({path.absolute().parts[-6:-4] for path in found.files(root)})
    return found


def _vkitti_absent(here: set[tuple[str, ...]]) -> dict[str, list[str]]:
    """What of the 5 scenes in 10 variants is in none of these pairs of names."""
    lost = [(scene, variant) for scene in VKITTI_SCENES for variant in VKITTI_VARIANTS
            if (scene, variant) not in here]
    many = Counter(scene for scene, _ in lost)
    scenes = [scene for scene, count in many.items() if count == len(VKITTI_VARIANTS)]
    return _not_empty({SCENE_MISSING: scenes, 'variant of a scene missing': [
        f'{scene}/{variant}' for scene, variant in lost if scene not in scenes]})


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
    mats = files_named(root, NYU_MAT)
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
