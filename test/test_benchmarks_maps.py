"""The directory suites: pairing, units, metrics with known results, and a real (tiny) engine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny import tiny_engine

from cooper_ros.engine.events import DepthMap
from cooper_ros.engine.settings import offline
from cooper_ros.errors import BadData, BadOption
from cooper_ros.evaluation.depth_units import units_of
from cooper_ros.evaluation.map_pairs import DEPTH, SEGMENTATION, find_pairs, read_ids
from cooper_ros.evaluation.map_suites import (
    Sheets,
    depth_lines,
    depth_row,
    depth_summary,
    drawing_for,
    measure_depth,
    measure_segmentation,
    order_accuracy,
    segment_lines,
    segment_row,
    segment_summary,
)
from cooper_ros.evaluation.suites import SuiteOptions, run_file_suite

RNG = np.random.default_rng(9)


def picture(path: Path, height: int = 48, width: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def depth(path: Path, units: float = 1000, height: int = 48, width: int = 64) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    metres = np.tile(np.linspace(0.5, 6, width), (height, 1))
    metres[:4] = 0
    if path.suffix == '.npy':
        np.save(path, metres.astype(np.float32))
    else:
        Image.fromarray(np.rint(metres * units).astype(np.uint16)).save(path)
    return metres


def all_layouts(root: Path) -> None:
    for rgb, target in (('a/rgb/17.jpg', 'a/depth/17.png'), ('b/rgb_5.png', 'b/depth_5.png'),
                        ('c/rgb_0.jpg', 'c/sync_depth_0.png'), ('d/1.png', 'd/1_depth.png'),
                        ('e/x_colors.png', 'e/x_depth.png'), ('f/rgb/2.png', 'f/depth/2.npy')):
        picture(root / rgb)
        depth(root / target)
    picture(root / 'g' / 'lonely.png')


def test_every_usual_layout_is_paired_once(tmp_path: Path) -> None:
    all_layouts(tmp_path)
    assert [pair.name for pair in find_pairs(tmp_path, DEPTH)] == [
        'a/rgb/17', 'b/rgb_5', 'c/rgb_0', 'd/1', 'e/x_colors', 'f/rgb/2']


def test_segmentation_layouts(tmp_path: Path) -> None:
    for rgb, target in (('x/images/1.jpg', 'x/semantic/1.png'), ('y/A_1.jpg', 'y/A_1_label.png'),
                        ('z/2.jpg', 'z/2_panoptic.png')):
        picture(tmp_path / rgb)
        picture(tmp_path / target)
    assert [pair.name for pair in find_pairs(tmp_path, SEGMENTATION)] == ['x/images/1', 'y/A_1',
                                                                          'z/2']


def test_a_list_names_its_files(tmp_path: Path) -> None:
    picture(tmp_path / 'p.png')
    depth(tmp_path / 'q.png')
    listing = tmp_path / 'test.jsonl'
    listing.write_text('{"rgb_image": "p.png", "depth_image": "q.png", "data_id": "one"}\n')
    assert [pair.name for pair in find_pairs(listing, DEPTH)] == ['one']
    with pytest.raises(BadData, match='seg_image'):
        find_pairs(listing, SEGMENTATION)


def test_a_list_in_a_folder_of_its_own_names_files_from_the_folder_above(tmp_path: Path) -> None:
    """As training finds them: a list that trains can be measured."""
    picture(tmp_path / 'rgb' / '1.png')
    depth(tmp_path / 'depth' / '1.png')
    listing = tmp_path / 'lists' / 'test.jsonl'
    listing.parent.mkdir()
    listing.write_text('{"rgb_image": "rgb/1.png", "depth_image": "depth/1.png", '
                       '"data_id": "one\u2028line"}\r\n')
    pair, = find_pairs(listing, DEPTH)
    assert (pair.rgb, pair.target) == (tmp_path / 'rgb/1.png', tmp_path / 'depth/1.png')


def test_a_folder_without_pairs_says_what_it_wants(tmp_path: Path) -> None:
    picture(tmp_path / 'a.png')
    with pytest.raises(BadData, match='no picture with depth truth.*rgb_N'):
        find_pairs(tmp_path, DEPTH)


def test_units_come_from_notes_then_names_then_millimetres(tmp_path: Path) -> None:
    assert units_of(tmp_path / 'x' / 'd.png') == (1000.0, 'assumed millimetres')
    assert units_of(tmp_path / 'tum_desk' / 'd.png')[0] == 5000.0
    assert units_of(tmp_path / 'vkitti' / 'd.png')[0] == 100.0
    (tmp_path / 'annotations.json').write_text('{"files": [{"depth_scale": 256.0}]}')
    assert units_of(tmp_path / 'd.png') == (256.0, 'annotations.json')


def drawn(relative: np.ndarray, metres: np.ndarray | None = None) -> DepthMap:
    colour = np.zeros((*relative.shape, 3), np.uint8)
    return DepthMap(relative.astype(np.float32), metres, None, colour)


def test_a_perfect_map_is_perfect_only_after_alignment_if_its_scale_is_wrong() -> None:
    truth = np.tile(np.linspace(1, 5, 60), (40, 1)).astype(np.float32)
    truth[0] = 0  # unknown
    relative = np.where(truth > 0, truth, 9.0) / 10
    row = depth_row('x', drawn(relative, (truth * 1.5).astype(np.float32)), truth,
                    (1000.0, 'given'))
    assert row.aligned.abs_relative_difference < 1e-5 and row.aligned.delta1_acc == 1
    assert row.metric.abs_relative_difference == pytest.approx(0.5, abs=1e-5)
    assert row.metric.delta1_acc == 0 and row.metric.silog_rmse < 1e-3
    assert row.order == 1.0 and row.valid == 39 * 60
    cropped = depth_row('x', drawn(relative), truth, (1000.0, 'given'), 'nyu')
    assert cropped.valid == len(range(4, 39)) * len(range(4, 56))  # Eigen crop, in proportion
    without = depth_row('x', drawn(relative), truth, (1000.0, 'given'))
    assert without.metric is None and depth_summary([row, without])['metric'] is None


def test_order_is_half_for_a_flat_map_and_zero_for_an_inverted_one() -> None:
    truth = np.tile(np.linspace(1, 5, 60), (40, 1))
    valid = truth > 0
    assert order_accuracy(np.zeros_like(truth), truth, valid) == 0.5
    assert order_accuracy(-truth, truth, valid) == 0.0
    assert order_accuracy(truth, np.ones_like(truth), valid) is None


def test_regions_are_matched_once_whatever_their_ids() -> None:
    truth = np.zeros((10, 20), np.int64)
    truth[:, 10:] = 7
    everything = np.ones_like(truth, dtype=bool)
    same = np.where(truth == 7, 2, 5)
    assert segment_row('x', same, truth, everything).miou == 1.0
    one = segment_row('x', np.zeros_like(truth), truth, everything)
    assert (one.miou, one.covering, one.segments, one.drawn) == (0.25, 0.5, 2, 1)
    quarters = np.arange(20)[None].repeat(10, 0) // 5
    split = segment_row('x', quarters, truth, everything)
    assert (split.miou, split.covering) == (0.5, 0.5)
    half = segment_row('x', same, truth, truth == 7)
    assert (half.miou, half.segments) == (1.0, 1)


def test_colour_masks_are_panoptic_ids(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = (3, 2, 1)
    Image.fromarray(pixels).save(tmp_path / 'm.png')
    assert read_ids(tmp_path / 'm.png')[0, 0] == 3 + 2 * 256 + 65536


def test_depth_suite_with_an_engine(tmp_path: Path) -> None:
    all_layouts(tmp_path)
    sheets = Sheets(limit=2)
    rows = measure_depth(tiny_engine(), tmp_path, limit=3, sheets=sheets)
    found = depth_summary(rows)
    assert found['pictures'] == 3 and found['metric'] is None
    assert found['aligned']['abs_relative_difference'] > 0
    assert 'the model has no metres' in '\n'.join(depth_lines(found))
    assert len(sheets.panels) == 6 and sheets.draw('t', 'f').shape[1] == 1440
    metric = tiny_engine(depth_range_m=(0.2, 8.0))
    assert depth_summary(measure_depth(metric, tmp_path, limit=1))['metric']['delta1_acc'] >= 0


def test_a_folder_that_does_not_say_how_it_draws_is_measured_as_published(tmp_path: Path) -> None:
    assert drawing_for('depth', tmp_path)['cfg_text'] == 3.0 and not drawing_for('mmvp', tmp_path)
    assert offline(**drawing_for('segmentation', tmp_path)).cfg_renorm == 'global'
    (tmp_path / 'cooper.json').write_text('{}')
    assert not drawing_for('depth', tmp_path)


def test_wrong_units_are_noticed(tmp_path: Path) -> None:
    all_layouts(tmp_path)
    with pytest.raises(BadData, match='--units'):
        measure_depth(tiny_engine(), tmp_path, units=1e9, limit=1)


def test_segmentation_suite_with_an_engine(tmp_path: Path) -> None:
    picture(tmp_path / 'images' / '1.png')
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 20:], mask[:, 40:] = 1, 2
    (tmp_path / 'semantic').mkdir()
    Image.fromarray(mask).save(tmp_path / 'semantic' / '1.png')
    rows, classes = measure_segmentation(tiny_engine(), tmp_path)
    assert rows[0].segments == 2 and 0 < rows[0].miou <= 1 and 0 < rows[0].covering <= 1
    assert classes is None and len(segment_lines(segment_summary(rows, classes))) == 2
    with pytest.raises(BadData, match='no palette'):
        measure_segmentation(tiny_engine(), tmp_path, palette=True)


def test_one_door_to_all_suites_on_files(tmp_path: Path) -> None:
    all_layouts(tmp_path)
    options = SuiteOptions(limit=2, sheet=tmp_path / 'sheet.png')
    found, text = run_file_suite(tiny_engine(), 'depth', tmp_path, options, 'CPU, float32')
    assert json.loads(json.dumps(found))['pictures'] == 2 and text[0].startswith('depth: 2')
    assert Image.open(tmp_path / 'sheet.png').width == 1440
    table = tmp_path / 'm.tsv'
    table.write_text('index\tquestion\tanswer\tA\tB\timage_path\n'
                     f'0\tq\tA\tyes\tno\t{tmp_path}/d/1.png\n')
    found, text = run_file_suite(tiny_engine(), 'mmvp', table, SuiteOptions(mode='direct'))
    assert found['questions'] == 1 and found['rows'][0]['truth'] == 'A. yes'
    with pytest.raises(BadOption, match='segmentation'):
        run_file_suite(tiny_engine(), 'sounds', tmp_path)
