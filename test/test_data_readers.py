"""The readers, on tiny trees in the layouts of the downloads."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cooper_ros.errors import BadData
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.training.data_cli import check as check_command
from cooper_ros.training.datasets import hdf5
from cooper_ros.training.datasets.catalogue import draw_kind
from cooper_ros.training.datasets.check import check
from cooper_ros.training.datasets.cooper_set import RlSet, TalkSet
from cooper_ros.training.datasets.draw import DrawSet, open_set

VAE, VIT = ImageTransform(64, 48, 16), ImageTransform(56, 42, 14)
RNG = np.random.default_rng(7)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def rgb(height: int = 48, width: int = 64) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(near: int, far: int, height: int = 48, width: int = 64) -> np.ndarray:
    """16-bit depth that grows from left to right."""
    return np.tile(np.linspace(near, far, width).astype(np.uint16), (height, 1))


def open_tiny(name: str, place: Path) -> DrawSet:
    return open_set(draw_kind(name), place, VAE, VIT)


def hypersim_tree(root: Path) -> Path:
    scene = root / 'ai_001_001'
    save(scene / 'rgb_cam_00_fr0000.png', rgb())
    save(scene / 'depth_plane_cam_00_fr0000.png', ramp(6500, 65000))
    return root


def test_hypersim_is_metric_millimetres_over_65_m(tmp_path: Path) -> None:
    data = open_tiny('hypersim', hypersim_tree(tmp_path))
    sample = data.sample(0)
    assert sample.kind == 'depth' and sample.data_id == 'ai_001_001/rgb_cam_00_fr0000'
    assert sample.vae.shape == (3, 48, 64) == sample.target.shape
    assert sample.vit.shape == (3, 42, 56)
    # 6.5 m of 65 m is a tenth of the range, 65 m all of it
    assert sample.target[:, 0, 0] == pytest.approx([-0.8] * 3, abs=1e-3)
    assert sample.target[:, 0, -1] == pytest.approx([1.0] * 3, abs=1e-3)


def test_mirroring_turns_picture_and_target_alike(tmp_path: Path) -> None:
    data = open_tiny('hypersim', hypersim_tree(tmp_path))
    plain, mirrored = data.sample(0), data.sample(0, mirrored=True)
    assert np.array_equal(mirrored.vae, plain.vae[:, :, ::-1])
    assert np.array_equal(mirrored.target, plain.target[:, :, ::-1])
    assert not np.array_equal(plain.target, plain.target[:, :, ::-1])


def test_raw_hypersim_distances_become_planar_depth() -> None:
    z = 5.0
    height, width = 768, 1024
    focal = 886.81  # pixels, as the authors give it
    x, y = np.meshgrid(np.arange(width) - 511.5, np.arange(height) - 383.5)
    distance = z * np.sqrt(x ** 2 + y ** 2 + focal ** 2) / focal
    assert np.abs(hdf5.planar_depth(distance) - z).max() < 1e-4
    known = hdf5.millimetres(np.array([[1.2345, np.nan, np.inf, 90.0]]))
    assert known.tolist() == [[1234, 0, 0, 65535]] or known.tolist() == [[1235, 0, 0, 65535]]


def vkitti_frame(pictures: Path, depths: Path, number: int = 0) -> tuple[Path, Path]:
    inside = Path('Scene01', 'clone', 'frames')
    picture = save(pictures / inside / 'rgb' / 'Camera_0' / f'rgb_{number:05d}.jpg',
                   rgb(375, 1242))
    depth = save(depths / inside / 'depth' / 'Camera_0' / f'depth_{number:05d}.png',
                 ramp(0, 65535, 375, 1242))
    return picture, depth


@pytest.mark.parametrize('folders', [('', ''), ('vkitti_2.0.3_rgb', 'vkitti_2.0.3_depth')])
def test_vkitti_merged_or_in_two_folders(tmp_path: Path, folders: tuple[str, str]) -> None:
    vkitti_frame(tmp_path / folders[0], tmp_path / folders[1])
    data = open_set(draw_kind('vkitti'), tmp_path, ImageTransform(1216, 352, 16), VIT)
    assert len(data) == 1 and data.size(0) == (1216, 352)
    sample = data.sample(0)
    assert sample.target.shape == sample.vae.shape == (3, 352, 1216)
    # columns 13 and 1228 of the file: 6.86 m of 80 m, and far beyond 80 m
    assert sample.target[0, 5, 0] == pytest.approx(2 * 6.86 / 80 - 1, abs=1e-4)
    assert sample.target[0, 5, -1] == 1.0


def test_ade20k_colours_are_the_target(tmp_path: Path) -> None:
    folder = tmp_path / 'ADE20K_2021_17_01/images/ADE/training/indoor/kitchen'
    save(folder / 'ADE_train_00000001.jpg', rgb())
    colours = np.full((48, 64, 3), (120, 60, 200), np.uint8)
    save(folder / 'ADE_train_00000001_seg.png', colours)
    sample = open_tiny('ade20k', tmp_path).sample(0)
    assert sample.kind == 'segmentation'
    wanted = np.array([120, 60, 200]) / 127.5 - 1
    assert sample.target[:, 10, 10] == pytest.approx(wanted, abs=1e-5)


def test_ade20k_trains_on_nothing_but_training_pictures(tmp_path: Path) -> None:
    ade = tmp_path / 'ADE20K_2021_17_01' / 'images' / 'ADE'
    for name in ('training/a/ADE_train_00000001', 'training/b/ADE_frame_00000002',
                 'validation/a/ADE_val_00000001', 'validation/a/ADE_frame_00000003',
                 'test/ADE_test_00000001'):
        save(ade / f'{name}.jpg', rgb())
        save(ade / f'{name}_seg.png', rgb())
    found = [pair.rgb.stem for pair in open_tiny('ade20k', tmp_path).pairs]
    assert found == ['ADE_train_00000001', 'ADE_frame_00000002']
    assert check('ade20k', tmp_path).ok  # the other targets miss no picture


SPLIT = 'metadata_images_split_scene_v1.csv'
PARTS = ('ai_001_001,cam_00,0,True,,train', 'ai_001_001,cam_00,1,False,bad,train',
         'ai_001_001,cam_01,0,True,,train', 'ai_001_002,cam_00,0,True,,val',
         'ai_001_003,cam_00,0,True,,test')


HEAD = ('scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,'
        'split_partition_name')


def split_list(folder: Path) -> None:
    (folder / SPLIT).write_text('\n'.join([HEAD, *PARTS]) + '\n')


def hypersim_frames(root: Path, raw: bool) -> None:
    for row in PARTS:
        scene, camera, frame = row.split(',')[:3]
        number = f'{int(frame):04d}'
        pictures, depths = root / scene, root / scene
        names = f'rgb_{camera}_fr{number}.png', f'depth_plane_{camera}_fr{number}.png'
        if raw:
            pictures = root / scene / 'images' / f'scene_{camera}_final_preview'
            depths = root / scene / 'images' / f'scene_{camera}_geometry_hdf5'
            names = f'frame.{number}.tonemap.jpg', f'frame.{number}.depth_meters.hdf5'
        save(pictures / names[0], rgb())
        save(depths / 'x.png', ramp(600, 65000)).rename(depths / names[1])


@pytest.mark.parametrize('raw', [False, True])
@pytest.mark.parametrize('beside', [False, True])
def test_hypersim_trains_on_its_training_scenes(tmp_path: Path, raw: bool, beside: bool) -> None:
    root = tmp_path / 'set'
    hypersim_frames(root, raw)
    assert len(draw_kind('hypersim').search(root).pairs) == 5  # nothing says what is for what
    split_list(tmp_path if beside else root)
    found = draw_kind('hypersim').search(root)
    assert [pair.data_id.split('/')[0] for pair in found.pairs] == ['ai_001_001'] * 2
    assert {name for pair in found.pairs for name in ('cam_00', 'cam_01')
            if name in pair.data_id} == {'cam_00', 'cam_01'}
    assert not found.problems


@pytest.mark.parametrize('text', [
    '404: Not Found\n\n1\n', f'{HEAD}\nai_001_001,cam_00,x,True,,train\n',
    'split_partition_name,scene_name,camera_name,frame_id\ntrain,ai_001_001\n'])
def test_a_broken_split_of_hypersim_is_named(tmp_path: Path, text: str) -> None:
    hypersim_tree(tmp_path)
    (tmp_path / SPLIT).write_text(text)
    with pytest.raises(BadData, match=f'the split cannot be read; got .*{SPLIT}.*; allowed: '
                                      'scene_name.*; remedy: download it again'):
        open_tiny('hypersim', tmp_path)


@pytest.mark.parametrize('known', ['', SPLIT, 'train.jsonl'])
def test_the_check_says_when_test_scenes_would_train(
        tmp_path: Path, known: str, capsys: pytest.CaptureFixture[str]) -> None:
    hypersim_tree(tmp_path)
    if known == SPLIT:
        split_list(tmp_path)
    elif known:
        row = {'rgb_image': 'ai_001_001/rgb_cam_00_fr0000.png',
               'depth_image': 'ai_001_001/depth_plane_cam_00_fr0000.png'}
        (tmp_path / known).write_text(json.dumps(row) + '\n')
    check_command('hypersim', tmp_path, part=True)
    said = [line for line in capsys.readouterr().out.splitlines() if 'test pictures' in line]
    assert said == ([] if known else [
        f'note: without {SPLIT} in the folder or its parent, the official validation and test '
        'pictures train too, and nobody knows which scenes are missing'])


@pytest.mark.parametrize('names', [('rgb_00045.jpg', 'sync_depth_00045.png'),
                                   ('rgb_0045.png', 'depth_0045.png'),
                                   ('00045_colors.png', '00045_depth.png')])
def test_nyu_extractions(tmp_path: Path, names: tuple[str, str]) -> None:
    save(tmp_path / 'test' / 'bathroom' / names[0], rgb())
    save(tmp_path / 'test' / 'bathroom' / names[1], ramp(1000, 9000))
    data = open_tiny('nyu', tmp_path)
    assert len(data) == 1
    assert data.sample(0).target[0, 0, -1] == pytest.approx(2 * 9 / 10 - 1, abs=1e-3)


def test_a_published_list_wins_over_the_layout(tmp_path: Path) -> None:
    save(tmp_path / 'a.png', rgb())
    save(tmp_path / 'b.png', ramp(1, 60000))
    hypersim_tree(tmp_path)
    row = {'rgb_image': 'a.png', 'depth_image': str(tmp_path / 'b.png'), 'data_id': 'x7'}
    (tmp_path / 'filename_list_train_filtered.jsonl').write_text(json.dumps(row) + '\n')
    data = open_tiny('hypersim', tmp_path)
    assert [pair.data_id for pair in data.pairs] == ['x7']
    assert data.sample(0).data_id == 'x7'


def test_check_names_everything_that_is_wrong(tmp_path: Path) -> None:
    picture, depth = vkitti_frame(tmp_path, tmp_path, 0)
    vkitti_frame(tmp_path, tmp_path, 1)[1].unlink()
    vkitti_frame(tmp_path, tmp_path, 2)[0].unlink()
    truncated = vkitti_frame(tmp_path, tmp_path, 3)[1]
    truncated.write_bytes(truncated.read_bytes()[:400])
    save(vkitti_frame(tmp_path, tmp_path, 4)[1], rgb(375, 1242))
    save(vkitti_frame(tmp_path, tmp_path, 5)[0], rgb(100, 100))
    save(vkitti_frame(tmp_path, tmp_path, 6)[1], np.zeros((375, 1242), np.uint16))
    report = check('vkitti', tmp_path, part=True)
    assert report.counts == {'pairs': 5, 'decoded': 1}
    assert {what: len(places) for what, places in report.problems.items()} == {
        'picture without target': 1, 'target without picture': 1, 'the picture cannot be read': 1,
        'not a 16-bit depth picture': 1, 'picture and target differ in size': 1,
        'depth is 0 everywhere': 1}
    text = '\n'.join(report.lines())
    assert 'rgb_00001' in text and 'remedy: Virtual KITTI' in text and '20148' in text


def test_check_of_a_good_folder_is_clean(tmp_path: Path) -> None:
    assert check('hypersim', hypersim_tree(tmp_path)).ok


def test_a_list_reports_missing_files_and_broken_rows(tmp_path: Path) -> None:
    save(tmp_path / 'a.png', rgb())
    (tmp_path / 'train.jsonl').write_text(
        '{"rgb_image": "a.png", "depth_image": "gone.png"}\n{"rgb_image": \n{"x": 1}\n')
    problems = check('hypersim', tmp_path / 'train.jsonl').problems
    assert len(problems['row without rgb_image and depth_image']) == 2
    assert problems['listed file missing'] == ['train.jsonl:1: gone.png']


def png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return base64.b64encode(buffer.getvalue()).decode()


def cooper_tree(root: Path, rows: list[dict], questions: list[dict]) -> Path:
    folder = root / 'COOPER_reasoning_train_set'
    (folder / 'images').mkdir(parents=True)
    for name, lines in (('Interleaved_SFT.jsonl', rows), ('RL_data.jsonl', questions)):
        (folder / name).write_text('\n'.join(json.dumps(line) for line in lines) + '\n')
    return folder


def talk_row(image: np.ndarray) -> dict:
    return {'interleaved_reason': [
        {'type': 'image', 'value': 'data:image/png;base64,' + png(image)},
        {'type': 'text', 'value': 'How far?', 'need_loss': 'false'},
        {'type': 'text', 'value': '<think>look</think>', 'need_loss': 'true'},
        {'type': 'image', 'value': png(image[::-1])}]}


def test_sft_rows_keep_order_images_and_loss(tmp_path: Path) -> None:
    image = rgb()
    folder = cooper_tree(tmp_path, [talk_row(image)], [])
    items = TalkSet(folder).sample(0).items
    assert np.array_equal(items[0].image, image) and np.array_equal(items[3].image, image[::-1])
    assert [item.text for item in items] == [None, 'How far?', '<think>look</think>', None]
    assert [item.need_loss for item in items] == [False, False, True, False]


def test_rl_rows_find_their_picture_and_default_their_flag(tmp_path: Path) -> None:
    questions = [{'question': 'q', 'answer': 3, 'image': 'p.png', 'data_id': 'g1'},
                 {'question': 'q', 'answer': 'b', 'image': 'p.png', 'flag': 'positive'}]
    folder = cooper_tree(tmp_path, [], questions)
    image = rgb()
    save(folder / 'images' / 'p.png', image)
    data = RlSet(tmp_path)
    first, second = data.sample(0), data.sample(1)
    assert (first.data_id, first.answer, first.flag) == ('g1', '3', 'boundary')
    assert second.flag == 'positive' and np.array_equal(second.image, image)


def test_check_of_the_cooper_set(tmp_path: Path) -> None:
    broken = {'interleaved_reason': [{'type': 'image', 'value': 'no base64!'}]}
    lossless = {'interleaved_reason': [{'type': 'text', 'value': 'x', 'need_loss': 'false'}]}
    questions = [{'question': 'q', 'image': 'p.png'},
                 {'question': 'q', 'answer': 'a', 'image': 'gone.png'},
                 {'question': 'q', 'answer': 'a', 'image': 'p.png', 'flag': 'maybe'}]
    folder = cooper_tree(tmp_path, [talk_row(rgb()), broken, lossless], questions)
    save(folder / 'p.png', rgb())
    with open(folder / 'Interleaved_SFT.jsonl', 'a') as file:
        file.write('{"interleaved_reason": [{"type": "te')
    report = check('cooper', tmp_path)
    assert {what: places[0].split(':')[:2] for what, places in report.problems.items()} == {
        'not a base64 picture': ['Interleaved_SFT.jsonl', '2 item 0'],
        'nothing to learn: no text has need_loss': ['Interleaved_SFT.jsonl', '3'],
        'not a JSON line': ['Interleaved_SFT.jsonl', '4'],
        'row without answer': ['RL_data.jsonl', '1'],
        'the picture of a question is missing': ['RL_data.jsonl', '2'],
        'unknown flag': ['RL_data.jsonl', '3']}
    assert report.counts['readable of Interleaved_SFT.jsonl'] == 1


def test_unjoined_parts_are_explained(tmp_path: Path) -> None:
    (tmp_path / 'COOPER_Train_Set.tar.gz.part.00').write_bytes(b'')
    with pytest.raises(BadData, match='tar xz'):
        TalkSet(tmp_path)


def test_one_file_of_the_cooper_set_can_be_checked_alone(tmp_path: Path) -> None:
    folder = cooper_tree(tmp_path, [talk_row(rgb())], [])
    report = check('cooper', folder / 'Interleaved_SFT.jsonl')
    assert report.ok and list(report.counts) == ['rows of Interleaved_SFT.jsonl',
                                                 'readable of Interleaved_SFT.jsonl']
    (folder / 'other.jsonl').write_text('')
    with pytest.raises(BadData, match='not a file of this set'):
        check('cooper', folder / 'other.jsonl')


def test_raw_files_without_h5py_say_what_to_install(tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / 'ai_001_001' / 'images'
    save(images / 'scene_cam_00_final_preview' / 'frame.0000.tonemap.jpg', rgb())
    (images / 'scene_cam_00_geometry_hdf5').mkdir()
    (images / 'scene_cam_00_geometry_hdf5' / 'frame.0000.depth_meters.hdf5').write_bytes(b'x')
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(BadData, match='pip install h5py'):
        open_tiny('hypersim', tmp_path).sample(0)
    (tmp_path / 'nyu_depth_v2_labeled.mat').write_bytes(b'x')
    with pytest.raises(BadData, match='pip install h5py'):
        open_tiny('nyu', tmp_path)


def test_a_missing_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(BadData, match='does not exist.*download'):
        check('nyu', tmp_path / 'nowhere')


def test_the_command_exits_with_1_and_shows_the_first_problems(tmp_path: Path) -> None:
    command = [sys.executable, '-c',
               'from cooper_ros.training.data_cli import app; app()', 'check']
    good = subprocess.run([*command, 'hypersim', hypersim_tree(tmp_path / 'good')],
                          capture_output=True, text=True)
    assert good.returncode == 0 and '1 pairs, 1 decoded' in good.stdout, good.stderr
    save(tmp_path / 'bad' / 'ai_001_001' / 'rgb_cam_00_fr0001.png', rgb())
    bad = subprocess.run([*command, 'hypersim', tmp_path / 'bad'], capture_output=True, text=True)
    assert bad.returncode == 1 and 'picture without target (1)' in bad.stdout, bad.stderr


LAYOUTS = {
    'hypersim': ('ai_001_001/rgb_cam_00_fr0000.png', 'ai_001_001/depth_plane_cam_00_fr0000.png'),
    'vkitti': ('Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg',
               'Scene01/clone/frames/depth/Camera_0/depth_00000.png'),
    'ade20k': ('images/ADE/training/a/ADE_train_00000001.jpg',
               'images/ADE/training/a/ADE_train_00000001_seg.png'),
    'nyu': ('rgb_00045.png', 'depth_00045.png')}
ODD = {'empty': lambda path: path.write_bytes(b''),
       'truncated': lambda path: path.write_bytes(
           path.read_bytes()[:path.stat().st_size // 2]),
       'text': lambda path: path.write_text('404: Not Found'),
       'missing': Path.unlink,
       'eight bits': lambda path: save(
           path, np.full(Image.open(path).size[::-1], 9, np.uint8))}


@pytest.mark.parametrize('odd', list(ODD))
@pytest.mark.parametrize('side', ['picture', 'target'])
@pytest.mark.parametrize('kind', list(LAYOUTS))
def test_odd_files_of_every_set_are_reported(kind: str, side: str, odd: str,
                                             tmp_path: Path) -> None:
    """A report with the place of the fault, never a traceback."""
    picture, target = (tmp_path / name for name in LAYOUTS[kind])
    size = (375, 1242) if kind == 'vkitti' else (48, 64)
    save(picture, rgb(*size))
    save(target, rgb(*size) if kind == 'ade20k' else ramp(600, 65000, *size))
    assert check(kind, tmp_path, workers=1, part=True).ok
    wrong = picture if side == 'picture' else target
    ODD[odd](wrong)
    report = check(kind, tmp_path, workers=1, part=True)
    if odd == 'eight bits' and side == 'picture':  # a grey camera picture is a picture
        assert report.ok
        return
    assert not report.ok
    assert picture.stem[-5:] in '\n'.join(report.lines())
