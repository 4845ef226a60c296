"""Depth and segmentation: targets, colours, labels, views and the sheet."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from cooper_ros.errors import BadCheckpoint, BadData
from cooper_ros.evaluation.alignment import align_least_squares
from cooper_ros.imaging import depth, depth_sets, segmentation, views
from cooper_ros.imaging.colours import SPECTRAL_U8, colourise
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.imaging.segmentation import UNLABELED, Label
from cooper_ros.imaging.sheet import Panel, Passage, sheet, wrapped


def test_spectral_ends_middle_and_unknown() -> None:
    got = colourise(np.array([[0.0, 0.5, 1.0, -3.0, 7.0, np.nan]], np.float32))[0]
    assert got.tolist() == [[158, 1, 66], [254, 254, 190], [94, 79, 162], [158, 1, 66],
                            [94, 79, 162], [0, 0, 0]]
    assert SPECTRAL_U8.shape == (256, 3)
    masked = colourise(np.full((1, 2), 0.3), valid=np.array([[1, 0]]))
    assert masked[0, 0].any() and not masked[0, 1].any()


@given(st.floats(0, 1), st.sampled_from(sorted(depth_sets.DEPTH_SETS)))
def test_metres_and_relative_are_inverse_within_the_range(relative: float, name: str) -> None:
    kind = depth_sets.DEPTH_SETS[name]
    metres = depth.metres_from_relative(np.array([relative]), kind.near_m, kind.far_m)
    assert kind.near_m * 0.999 <= metres[0] <= kind.far_m * 1.001
    back = depth.relative_from_metres(metres, kind.near_m, kind.far_m)
    assert abs(back[0] - relative) < 1e-6


def test_target_is_linear_clipped_and_grey() -> None:
    raw = np.array([[0, 5000, 10000, 65535]], np.uint16)
    target = depth_sets.depth_target(raw, 'nyu')
    assert target.shape == (3, 1, 4) and target.dtype == np.float32
    np.testing.assert_allclose(target[0, 0], [-1, 0, 1, 1], atol=2e-4)
    assert (target == target[:1]).all()
    picture = Image.fromarray(np.full((30, 40), 2000, np.uint16))
    resized = depth_sets.depth_target(picture, 'nyu', ImageTransform(64, 32, 16))
    assert resized.shape == (3, 32, 48)
    np.testing.assert_allclose(resized, (2 - 1e-3) / (10 - 1e-3) * 2 - 1, atol=1e-6)


def test_drawn_targets_decode_to_the_depth_they_stand_for() -> None:
    raw = np.linspace(1000, 9000, 24, dtype=np.uint16).reshape(4, 6)
    relative = depth.relative_from_decoded(depth_sets.depth_target(raw, 'nyu'))
    metres = depth.metres_from_relative(relative, 1e-3, 10.0)
    np.testing.assert_allclose(metres, raw / 1000, atol=1e-5)


def test_pictures_are_truncated_not_rounded() -> None:
    decoded = np.array([-2, -1, 0, 0.999, 5], np.float32).reshape(1, 1, 5).repeat(3, 0)
    assert depth.picture_from_decoded(decoded)[0, :, 0].tolist() == [0, 0, 127, 254, 255]


def test_unknown_sets_and_wrong_files_are_refused() -> None:
    with pytest.raises(BadData, match='unknown depth data set.*nyu'):
        depth_sets.depth_target(np.zeros((2, 2), np.uint16), 'mars')
    for wrong in (np.zeros((2, 2), np.float32), np.zeros((2, 2, 3), np.uint8),
                  np.full((2, 2), 70000)):
        with pytest.raises(BadData, match='not a 16-bit depth'):
            depth_sets.depth_target(wrong, 'nyu', ImageTransform(32, 16, 16))


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.5, 50), shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_alignment_recovers_scale_and_shift(scale: float, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction = rng.uniform(0, 1, (6, 7))
    truth = prediction * scale + shift
    valid = rng.uniform(size=truth.shape) < 0.7
    valid.flat[:2] = True
    truth[~valid] = 1e9
    fit = align_least_squares(prediction, truth, valid)
    assert abs(fit.scale - scale) < 1e-6 and abs(fit.shift - shift) < 1e-6
    np.testing.assert_allclose(fit.apply(prediction)[valid], truth[valid], rtol=1e-4, atol=1e-4)


def test_alignment_needs_two_pixels() -> None:
    with pytest.raises(BadData, match='too few valid pixels'):
        align_least_squares(np.ones((2, 2)), np.ones((2, 2)), np.eye(2) > 1)


def test_kitti_window() -> None:
    assert depth_sets.kitti_crop_box(1242, 375) == (13, 23, 1229, 375)
    with pytest.raises(BadData, match='too small.*640x480'):
        depth_sets.kitti_crop_box(640, 480)


def room(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, list[Label]]:
    """A drawn segmentation, its true ids and palette."""
    palette = [Label(0, 'wall', (120, 90, 60)), Label(4, 'ball', (230, 40, 40)),
               Label(9, 'floor', (30, 140, 220))]
    ids = np.zeros((96, 128), np.uint8)
    ids[70:] = 9
    cv2.circle(ids, (40, 40), 18, 4, -1)
    rgb = views.label_picture(ids, palette).astype(np.float64)
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape)
    return np.clip(rgb, 0, 255).astype(np.uint8), ids, palette


@pytest.mark.parametrize('noise', [0, 12])
def test_palette_labels_and_legend(noise: float) -> None:
    rgb, ids, palette = room(noise)
    labels, legend = segmentation.labels_from_palette(rgb, palette)
    assert labels.dtype == np.uint8 and (labels == ids).mean() > 0.999
    assert [entry.name for entry in legend] == ['wall', 'floor', 'ball']
    assert all(entry.pixels == (labels == entry.id).sum() for entry in legend)


def test_far_colours_get_no_label() -> None:
    rgb, _, palette = room()
    rgb[:5] = (0, 255, 0)
    labels, legend = segmentation.labels_from_palette(rgb, palette)
    assert (labels[:5] == UNLABELED).all() and (labels[5:] != UNLABELED).all()
    assert UNLABELED not in {entry.id for entry in legend}
    near, _ = segmentation.labels_from_palette(np.array([[[64, 0, 0], [65, 0, 0]]], np.uint8),
                                               [Label(1, 'black', (0, 0, 0))])
    assert near.tolist() == [[1, UNLABELED]]


def test_an_edge_of_mixtures_is_shared_out_between_its_two_sides() -> None:
    palette = [Label(0, 'wall', (255, 255, 255)), Label(1, 'floor', (0, 0, 0))]
    rgb = np.zeros((8, 12, 3), np.uint8)
    rgb[:, :4], rgb[:, 4], rgb[:, 5] = 255, 160, 90  # two pixels between white and black
    labels, legend = segmentation.labels_from_palette(rgb, palette)
    assert labels[0].tolist() == [0] * 5 + [1] * 7
    assert [entry.pixels for entry in legend] == [56, 40]
    rgb[3, 5] = (90, 90, 255)  # another colour, not on the way from white to black
    rgb[6, 9] = 128  # between them, but beside black alone
    labels, _ = segmentation.labels_from_palette(rgb, palette)
    assert labels[3, 5] == labels[6, 9] == UNLABELED
    assert (labels == UNLABELED).sum() == 2


@pytest.mark.parametrize('noise', [0, 10])
def test_regions_follow_the_colours(noise: float) -> None:
    rgb, ids, _ = room(noise)
    rgb[10:13, 100:103] = (255, 255, 255)  # a speck joins its surroundings
    labels, legend = segmentation.labels_from_regions(rgb)
    assert len(legend) == 3
    assert [entry.id for entry in legend] == [0, 1, 2]
    assert [entry.name for entry in legend] == ['region 1', 'region 2', 'region 3']
    assert sorted((entry.pixels for entry in legend), reverse=True) == [e.pixels for e in legend]
    for number, true_id in enumerate((0, 9, 4)):
        assert (labels[ids == true_id] == number).mean() > 0.95
    assert np.abs(np.array(legend[2].rgb) - (230, 40, 40)).max() < 12


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 999),
       levels=st.sampled_from([2, 4, 256]))
def test_regions_of_anything_are_complete(height: int, width: int, seed: int,
                                          levels: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = (rng.integers(0, levels, (height, width, 3)) * (255 // (levels - 1))).astype(np.uint8)
    labels, legend = segmentation.labels_from_regions(rgb)
    assert labels.shape == (height, width) and labels.dtype == np.uint8
    assert 1 <= len(legend) <= segmentation.MAX_LABELS
    assert sum(entry.pixels for entry in legend) == labels.size
    assert set(np.unique(labels)) == {entry.id for entry in legend}


def test_more_regions_than_ids_are_cut_off() -> None:
    tiles = np.indices((20, 20)).sum(axis=0) % 2 * 255
    rgb = np.kron(tiles, np.ones((6, 6), int)).astype(np.uint8)[..., None].repeat(3, axis=2)
    labels, legend = segmentation.labels_from_regions(rgb)
    assert len(legend) == segmentation.MAX_LABELS and labels.max() == segmentation.MAX_LABELS - 1


def test_palette_rows_are_checked() -> None:
    good = {'id': 3, 'name': 'floor', 'rgb': [1, 2, 3]}
    assert segmentation.palette_from_rows([good]) == (Label(3, 'floor', (1, 2, 3)),)
    for wrong in ({'id': 3, 'name': 'x'}, {**good, 'rgb': [1, 2]}, {**good, 'rgb': 'red'},
                  {**good, 'id': None}):
        with pytest.raises(BadCheckpoint, match='incomplete'):
            segmentation.palette_from_rows([wrong])
    for wrong in ({**good, 'id': 255}, {**good, 'id': -1}, {**good, 'rgb': [1, 2, 256]}):
        with pytest.raises(BadCheckpoint, match='out of range'):
            segmentation.palette_from_rows([wrong])
    with pytest.raises(BadCheckpoint, match='one id twice'):
        segmentation.palette_from_rows([good, {**good, 'rgb': [9, 9, 9]}])
    with pytest.raises(BadCheckpoint, match='one rgb twice'):
        segmentation.palette_from_rows([good, {**good, 'id': 4}])


def test_overlay_tints_labels_and_spares_the_unlabelled() -> None:
    rgb, ids, palette = room()
    grey, holed = np.full_like(rgb, 100), ids.copy()
    holed[:10] = UNLABELED
    got = views.overlay(grey, holed, palette, opacity=0.5)
    assert (got[:9] == 100).all()
    assert got[40, 40].tolist() == [165, 70, 70]
    assert (got[69, 5] == 255).all()  # outline between wall and floor
    small = views.overlay(grey, holed[::2, ::2], palette)
    assert small.shape == grey.shape


def test_what_has_no_label_is_not_taken_for_black() -> None:
    labels = np.array([[10, UNLABELED]], np.uint8).repeat(32, axis=0).repeat(32, axis=1)
    picture = views.label_picture(labels, [Label(10, 'black', (0, 0, 0))])
    assert not picture[:, :32].any()
    greys, counts = np.unique(picture[:, 32:], return_counts=True)
    assert greys.tolist() == sorted(views.CHEQUERS) and len(set(counts)) == 1
    assert picture[0, 32, 0] != picture[4, 32, 0] != picture[4, 36, 0]
    none, = views.unlabelled(labels)
    assert (none.name, none.pixels) == ('no label', 32 * 32)
    assert views.unlabelled(labels[:, :32]) == []


def test_the_key_of_a_sheet_shows_the_pattern_of_no_label() -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    entry = Label(UNLABELED, 'no label', (136, 136, 136), 1)
    pages = [sheet([Panel(white, 'x', legend=key)], width=300) for key in ([], [entry])]
    bare, marked = ([int((page == grey).all(axis=2).sum()) for grey in views.CHEQUERS]
                    for page in pages)
    assert marked[0] - bare[0] >= 5 * 25 and marked[1] - bare[1] >= 4 * 25


def test_depth_view_finds_its_range() -> None:
    metres = np.linspace(1, 5, 100, dtype=np.float32).reshape(10, 10)
    metres[0, 0] = np.nan
    picture, near, far = views.depth_view(metres)
    assert 1 < near < 1.2 and 4.8 < far < 5
    assert not picture[0, 0].any() and picture[9, 9].tolist() == [94, 79, 162]
    assert views.depth_view(np.full((2, 2), np.nan, np.float32))[0].max() == 0
    assert views.depth_view(metres, 0.0, 10.0)[1:] == (0.0, 10.0)


def test_sheet_shows_panels_and_text() -> None:
    rgb, ids, palette = room()
    panels = [Panel(rgb, 'camera'), Panel(rgb, 'depth', bar=('near', 'far')),
              Panel(rgb, 'labels', legend=palette), Panel(rgb[:20], 'wide')]
    plain = sheet(panels[:1], width=600)
    full = sheet(panels, [Passage('Question', 'How far? ' * 60), Passage('Answer', 'B', True)],
                 title='title', footer='where it ran', width=900)
    assert plain.shape[1] == 600 and full.shape[1] == 900 and full.dtype == np.uint8
    assert full.shape[0] > plain.shape[0]
    for colour in [(120, 90, 60), (230, 40, 40), tuple(SPECTRAL_U8[0].tolist())]:
        assert (full == colour).all(axis=2).any()
    empty = sheet(panels, title='', width=900)
    assert full.shape[0] > empty.shape[0] + 100


@given(st.text(max_size=200).filter(lambda text: '\n' not in text), st.integers(30, 400))
@settings(max_examples=50, deadline=None)
def test_wrapping_keeps_every_letter(text: str, width: int) -> None:
    lines = wrapped(text, 15, width)
    assert ''.join(lines).replace(' ', '') == text.replace(' ', '')


@pytest.mark.parametrize('text', ['a' * 20000, '看' * 4000, 'word ' * 4000])
def test_lines_break_quickly_whatever_is_written(text: str) -> None:
    """A stuck model writes one long word; every letter stays, and no line is too wide."""
    lines = wrapped(text, 17, 400)
    assert ''.join(lines).replace(' ', '') == text.replace(' ', '')
    font = ImageFont.load_default(17)
    assert max(font.getlength(line) for line in lines) <= 400


def test_tall_and_wide_pictures_do_not_make_endless_sheets() -> None:
    panels = [Panel(np.zeros((1000, 1, 3), np.uint8), 'tall'),
              Panel(np.zeros((1, 1000, 3), np.uint8), 'wide')]
    assert sheet(panels, title='odd', footer='').shape[0] < 2500
