"""`cooper data check` names the scenes and pictures that a folder has nothing of."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_data_readers import HEAD, SPLIT, hypersim_frames, split_list, vkitti_frame
from typer.testing import CliRunner

from cooper_ros.training.data_cli import app
from cooper_ros.training.datasets.check import check
from cooper_ros.training.datasets.layouts import VKITTI_SCENES, VKITTI_VARIANTS, hypersim, vkitti


@pytest.mark.parametrize('raw', [False, True])
def test_what_the_split_of_hypersim_names_must_be_there(tmp_path: Path, raw: bool) -> None:
    hypersim_frames(tmp_path, raw)
    split_list(tmp_path)
    found = hypersim(tmp_path)
    assert len(found.pairs) == 2 and found.absent == found.problems == {}
    next(tmp_path.rglob('*cam_01*fr0000.png' if not raw else '*cam_01*/*.jpg')).unlink()
    assert hypersim(tmp_path).absent == {}  # the other half is there, and named by itself
    next(tmp_path.rglob('depth*cam_01*' if not raw else '*cam_01*/*.hdf5')).unlink()
    assert list(hypersim(tmp_path).absent) == ['pictures of a scene missing']


def test_absent_scenes_and_pictures_of_hypersim_are_named(tmp_path: Path) -> None:
    hypersim_frames(tmp_path, raw=False)
    rows = [f'{scene},cam_0{camera},{frame},{public},,{split}'
            for scene, camera, frame, public, split in (
                ('ai_001_001', 0, 0, True, 'train'), ('ai_001_001', 1, 0, True, 'train'),
                ('ai_001_001', 1, 7, True, 'train'), ('ai_001_001', 1, 9, True, 'train'),
                ('ai_001_001', 1, 8, False, 'train'), ('ai_007_001', 0, 0, True, 'train'),
                ('ai_007_001', 0, 1, True, 'train'), ('ai_008_001', 0, 0, True, 'test'))]
    (tmp_path / SPLIT).write_text('\n'.join([HEAD, *rows]))
    report = check('hypersim', tmp_path)
    assert report.problems == {
        'scene missing': ['ai_007_001'],
        'pictures of a scene missing': ['ai_001_001 cam_01: 2 of 3, the first is frame 7']}
    assert report.lines()[-1].endswith('; or say --part, if a part of the set is meant')
    part = check('hypersim', tmp_path, part=True)
    assert part.ok and 'scene missing: 1, as a part is meant' in part.notes
    (tmp_path / 'ai_001_001' / 'depth_plane_cam_00_fr0000.png').unlink()  # half of it is there
    assert check('hypersim', tmp_path).problems.keys() == {*report.problems,
                                                           'picture without target'}


def test_absent_scenes_and_variants_of_vkitti_are_named(tmp_path: Path) -> None:
    picture, depth = vkitti_frame(tmp_path, tmp_path)
    for scene in VKITTI_SCENES[:3]:
        for variant in VKITTI_VARIANTS[1 if scene == 'Scene02' else 0:]:
            for file in (picture, depth):
                copy = tmp_path / scene / variant / file.relative_to(tmp_path / 'Scene01/clone')
                copy.parent.mkdir(parents=True, exist_ok=True)
                if not copy.exists():
                    copy.hardlink_to(file)
    report = check('vkitti', tmp_path, limit=1)
    assert report.problems == {'scene missing': ['Scene18', 'Scene20'],
                               'variant of a scene missing': ['Scene02/15-deg-left']}
    for words, status in ((['--part'], 0), ([], 1)):
        done = CliRunner().invoke(app, ['check', 'vkitti', str(tmp_path), '--limit', '1', *words])
        assert done.exit_code == status and 'scene missing' in done.stdout


def test_the_whole_of_vkitti_misses_nothing(tmp_path: Path) -> None:
    for scene in VKITTI_SCENES:
        for variant in VKITTI_VARIANTS:
            for role, suffix in (('rgb', 'jpg'), ('depth', 'png')):
                file = tmp_path / scene / variant / f'frames/{role}/Camera_0/{role}_00000.{suffix}'
                file.parent.mkdir(parents=True)
                file.touch()
    found = vkitti(tmp_path)
    assert len(found.pairs) == 50 and found.absent == found.problems == {}
