"""Depth drawn for one lens, published for the lens it was seen through."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.tiny import tiny_engine

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer
from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.imaging.lens import focal_of, misfit_of, region_of
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.runtime.card import ModelCard
from cooper_ros.scenes.sample import sample_scene
from cooper_ros.scenes.scene import MAX_DEPTH_M, MIN_DEPTH_M
from cooper_ros.training.data import STEPS_PER_METRE, FrameStore, frame_store, open_store
from cooper_ros.training.folder import card
from cooper_ros.training.pictures import picture_cache
from cooper_ros.training.settings import DataSettings
from cooper_ros.training.vae_task import DEPTH

RGB = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)


def engine(canonical_focal: float, range_m: tuple[float, float] | None = (0.2, 8.0),
           power: float = 1.0) -> CooperEngine:
    """A tiny model that draws for such a lens."""
    made = tiny_engine(config=CooperConfig(depth_edges='picture'), depth_range_m=range_m)
    drawing = replace(made.parts.card.drawing, canonical_focal=canonical_focal,
                      focal_power=power)
    made.parts = replace(made.parts, card=replace(made.parts.card, drawing=drawing))
    return made


def test_a_longer_lens_makes_everything_farther_and_leaves_the_picture_of_it() -> None:
    eyes = engine(0.8)
    own, longer = eyes.estimate_depth(RGB, focal=0.8), eyes.estimate_depth(RGB, focal=1.2)
    assert own.range_m == (0.2, 8.0) and longer.range_m == pytest.approx((0.3, 12.0))
    np.testing.assert_allclose(longer.metres, own.metres * 1.5, rtol=1e-6)
    assert np.array_equal(own.relative, longer.relative)
    assert np.array_equal(own.colour, longer.colour)  # what the network is shown


@pytest.mark.parametrize(('power', 'ratio'), [(1.0, 4.0), (0.5, 2.0), (0.0, 1.0)])
def test_metres_follow_the_lens_as_far_as_the_model_leaves_it_to_them(power: float, ratio: float
                                                                      ) -> None:
    eyes = engine(0.5, power=power)
    near, far = (eyes.estimate_depth(RGB, focal=focal).metres for focal in (0.5, 2.0))
    np.testing.assert_allclose(far, near * ratio, rtol=1e-6)


@pytest.mark.parametrize(('canonical', 'focal'), [(0.8, 0.0), (0.0, 1.2)])
def test_metres_stay_where_the_camera_or_the_model_says_nothing(canonical: float,
                                                                focal: float) -> None:
    plain = engine(0.0).estimate_depth(RGB)
    found = engine(canonical).estimate_depth(RGB, focal=focal)
    assert np.array_equal(found.metres, plain.metres) and found.range_m == (0.2, 8.0)
    assert plain.lens_known and found.lens_known == (canonical == 0)
    assert (found.vouched_metres is None) == (canonical > 0)  # a guess is no promise


@pytest.mark.parametrize(('ends', 'found'), [
    ((1.0, 10.0), (1.0, 10.0)), ((1.0, -1.0), (1.0, 6.0)), ((-1.0, 10.0), (0.15, 10.0))])
def test_an_end_that_is_given_holds_for_every_lens(ends: tuple[float, float],
                                                   found: tuple[float, float]) -> None:
    """The other is the model's, which follows the lens: unknown, it is no promise."""
    eyes = engine(0.8)
    given = {'depth_min_m': ends[0], 'depth_max_m': ends[1]}
    seen = eyes.estimate_depth(RGB, focal=0.6, **given)
    assert seen.range_m == pytest.approx(found) and seen.lens_known
    guessed = eyes.estimate_depth(RGB, focal=0.0, **given)
    assert guessed.lens_known == (min(ends) >= 0)
    assert (guessed.vouched_metres is None) == (min(ends) < 0)


def test_one_end_of_a_range_must_fit_the_other_once_depth_is_drawn() -> None:
    with pytest.raises(BadOption, match='range of depth is empty; got 9 .. 8 m.*give both ends'):
        engine(0.8).estimate_depth(RGB, depth_min_m=9.0)
    assert engine(0.8).segment(RGB, depth_min_m=9.0).rgb.any()
    *_, end = engine(0.8).ask(RGB, 'which?', mode='direct', depth_min_m=9.0)
    assert isinstance(end, Answer)
    alone = engine(0.8, None).estimate_depth(RGB, depth_min_m=1.0)
    assert alone.metres is None  # nobody says where the far end is


def test_a_lens_makes_no_metres_where_there_is_no_scale() -> None:
    found = engine(0.8, None).estimate_depth(RGB, focal=1.2)
    assert found.metres is None and found.range_m is None


WHOLE = (0, 0, 0, 0)


@pytest.mark.parametrize(('topic', 'size', 'p', 'roi', 'focal'), [
    ('/c/image_raw', (640, 480), 490.0, WHOLE, 500 / 640),
    ('/c/image_rect_color', (640, 480), 490.0, WHOLE, 490 / 640),
    ('/c/image_rect', (640, 480), 0.0, WHOLE, 500 / 640),  # nobody says what P is
    ('/zed/left/rect/image', (640, 480), 490.0, WHOLE, 490 / 640),
    ('/direct/image_raw', (640, 480), 490.0, WHOLE, 500 / 640),
    ('/rectangle/image', (640, 480), 490.0, WHOLE, 500 / 640),
    ('/c/image_raw', (480, 640), 490.0, WHOLE, 500 / 640),  # upright: its longest side is the same
    ('/c/image_raw', (640, 480), 490.0, (100, 40, 200, 100), 500 / 200),
    ('/c/image_raw', (0, 0), 490.0, WHOLE, 0.0)])
def test_focal_lengths_of_camera_info(topic: str, size: tuple[int, int], p: float, focal: float,
                                      roi: tuple[int, int, int, int]) -> None:
    left, top, width, height = roi
    for names in ('kp', 'KP'):  # ROS 2, ROS 1
        info = SimpleNamespace(width=size[0], height=size[1], binning_x=0, binning_y=0,
                               roi=SimpleNamespace(
            x_offset=left, y_offset=top, width=width, height=height),
            **dict(zip(names, ([500.0] + [0.0] * 8, [p] + [0.0] * 11))))
        assert focal_of(info, topic) == focal
        assert region_of(info) == (roi if width else (0, 0, *size))


@pytest.mark.parametrize(('binning', 'size', 'focal'), [
    ((1, 1), (640, 480), 500 / 640), ((2, 2), (320, 240), 500 / 640),
    ((2, 1), (320, 480), 250 / 480), ((1, 2), (640, 240), 500 / 640)])
def test_a_sensor_that_joins_its_pixels_is_no_misfit(binning: tuple[int, int],
                                                     size: tuple[int, int], focal: float) -> None:
    info = SimpleNamespace(width=640, height=480, binning_x=binning[0], binning_y=binning[1],
                           roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
                           k=[500.0] + [0.0] * 8, p=[500.0] + [0.0] * 11)
    assert focal_of(info, 'image_raw') == focal and not misfit_of(info, size)
    assert 'the picture has 100x300' in misfit_of(info, (100, 300))


@pytest.mark.parametrize('wrong', [-1.0, 1000.0, float('nan')])
def test_impossible_lenses_are_refused(wrong: float) -> None:
    with pytest.raises(BadOption, match='focal is out of range.*0.0 .. 100.0'):
        engine(0.8).estimate_depth(RGB, focal=wrong)


@pytest.mark.parametrize('wrong', [-0.1, 1.1, float('nan')])
def test_a_card_with_an_impossible_power_is_refused(wrong: float) -> None:
    with pytest.raises(BadCheckpoint, match='focal_power is out of range.*0 .. 1'):
        ModelCard.from_json({'drawing': {'focal_power': wrong}})


@pytest.mark.parametrize('wrong', [-1.0, 1e-9, 101.0, float('nan')])
def test_a_card_with_an_impossible_lens_is_refused(wrong: float) -> None:
    with pytest.raises(BadCheckpoint, match='canonical_focal is no focal length.*100, or 0'):
        ModelCard.from_json({'drawing': {'canonical_focal': wrong}})
    assert ModelCard.from_json({}).drawing.canonical_focal == 0  # as published


def test_training_on_one_lens_tells_the_exported_model() -> None:
    for trained, power in ((0.9, 1.0), (0.0, 0.5)):
        shipped = ModelCard.from_json(card((128, 128, 16), (112, 112, 14), 2, trained).to_json())
        assert shipped.drawing.canonical_focal == (trained or 0.816)
        assert shipped.drawing.focal_power == power
    with pytest.raises(BadOption, match='canonical_focal is too small; got -1'):
        DataSettings(canonical_focal=-1)


def test_training_depth_is_what_one_lens_would_have_seen(store: FrameStore) -> None:
    """A metre seen through the camera's own lens is canonical/own of it through the other."""
    canonical = open_store(store.folder, 0.816)
    for frame in range(len(store)):
        own = sample_scene(frame).camera.intrinsics(128, 96)[0, 0] / 128
        assert store.focal[frame] == pytest.approx(own, rel=1e-6)
        metres = np.asarray(store.depth[frame]) / STEPS_PER_METRE * 0.816 / own
        np.testing.assert_allclose(canonical.relative(frame), np.clip(
            (metres - MIN_DEPTH_M) / (MAX_DEPTH_M - MIN_DEPTH_M), 0, 1), atol=1e-5)


def test_pictures_of_both_kinds_of_depth_are_kept_apart(store: FrameStore) -> None:
    rules = ImageTransform(128, 128, 16), ImageTransform(112, 112, 14)
    plain, canonical = (picture_cache(open_store(store.folder, focal), None, *rules, 0)
                        for focal in (0.0, 0.816))
    assert np.array_equal(plain.vision[:, 0], canonical.vision[:, 0])
    assert not np.array_equal(plain.vision[:, DEPTH], canonical.vision[:, DEPTH])


def test_frames_of_an_older_form_are_made_again(store: FrameStore, tmp_path: Path) -> None:
    older = tmp_path / store.folder.name
    shutil.copytree(store.folder, older)
    (older / 'focal.npy').unlink()
    again = frame_store(older.parent, 'train', 0, 8, 1)
    assert np.array_equal(again.focal, store.focal) and np.array_equal(again.rgb, store.rgb)
