"""Depth edges where the picture has them: what moves, what stays, and who decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exported import nano_engine

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadCheckpoint
from cooper_ros.imaging import depth_edges
from cooper_ros.imaging.depth import relative_from_metres
from cooper_ros.imaging.depth_edges import JUMP, REACH, edges_from_picture
from cooper_ros.runtime.card import ModelCard
from cooper_ros.scenes.generate import make_sample

EDGE = 12  # column where the picture changes colour


def picture() -> np.ndarray:
    """Left orange, right blue, with a little noise."""
    rgb = np.zeros((16, 24, 3), np.int64)
    rgb[:, :EDGE], rgb[:, EDGE:] = (220, 120, 20), (30, 40, 200)
    noise = np.random.default_rng(0).integers(-8, 9, rgb.shape)
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def ramp(shift: int = 0) -> np.ndarray:
    """1 m on the left, 4 m on the right, and five pixels of mixtures between."""
    columns = np.clip((np.arange(24) - (EDGE + shift - 3)) / 5, 0, 1)
    return np.tile((1 + 3 * columns).astype(np.float32), (16, 1))


def relative_error(metres: np.ndarray) -> float:
    truth = np.where(np.arange(24) < EDGE, 1.0, 4.0)
    return float(np.mean(np.abs(metres - truth) / truth))


@pytest.mark.parametrize('shift', [-1, 0, 1])
def test_mixtures_become_one_side_or_the_other(shift: int) -> None:
    drawn = ramp(shift)
    settled = edges_from_picture(drawn, picture())
    assert relative_error(settled) < 0.7 * relative_error(drawn)
    assert (np.abs(np.diff(settled, axis=1)) > 1).any(1).all()  # every row has a sharp edge


def test_no_surface_of_one_colour_is_torn() -> None:
    """Without an edge in the picture the jump stays between the two depths, and monotone."""
    grey = np.full((16, 24, 3), 128, np.uint8)
    settled = edges_from_picture(ramp(), grey)
    assert (np.diff(settled, axis=1) >= 0).all() and settled.min() == 1 and settled.max() == 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_every_value_was_there_and_what_lies_off_edges_stays(seed: int, height: int, width: int,
                                                             empty: bool) -> None:
    draw = np.random.default_rng(seed)
    metres = draw.choice([0.0 if empty else 0.5, 1.0, 1.1, 3.0], (height, width)
                         ).astype(np.float32)
    rgb = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = metres.copy()
    settled = edges_from_picture(metres, rgb)
    assert np.array_equal(metres, before) and settled.dtype == np.float32
    for row, column in np.ndindex(height, width):
        beside = metres[max(0, row - REACH):row + REACH + 1,
                        max(0, column - REACH):column + REACH + 1]
        assert settled[row, column] in beside
        if beside.max() <= (1 + JUMP) * beside.min():
            assert settled[row, column] == metres[row, column]


def test_large_maps_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = edges_from_picture(ramp(), picture())
    monkeypatch.setattr(depth_edges, 'AT_ONCE', 7)
    assert np.array_equal(edges_from_picture(ramp(), picture()), whole)


def test_the_shipped_model_is_nearer_to_the_truth_with_them() -> None:
    """And says the same in both units: six rooms of the validation split, no alignment."""
    engine, errors = nano_engine(), {'drawn': 0.0, 'picture': 0.0}
    for seed in range(6):
        frame = make_sample(seed, 'validation', per_category=0).frame
        for edges in errors:
            found = engine.estimate_depth(frame.rgb, depth_edges=edges)
            assert found.metres is not None and found.range_m == (0.2, 8.0)
            errors[edges] += float(np.mean(np.abs(found.metres - frame.depth_m) / frame.depth_m))
            np.testing.assert_allclose(found.relative,
                                       relative_from_metres(found.metres, 0.2, 8.0), atol=1e-6)
    assert errors['picture'] < 0.98 * errors['drawn']


def test_the_model_folder_decides_unless_somebody_else_does() -> None:
    engine, rgb = nano_engine(), make_sample(0, 'validation', per_category=0).frame.rgb
    drawing = replace(engine.parts.card.drawing, depth_edges='drawn')
    plain = CooperEngine(replace(engine.parts, card=replace(engine.parts.card, drawing=drawing)),
                         engine.config)
    drawn, moved = (engine.estimate_depth(rgb, depth_edges=edges).relative
                    for edges in ('drawn', 'picture'))
    assert not np.array_equal(drawn, moved)
    assert np.array_equal(engine.estimate_depth(rgb).relative, moved)
    assert np.array_equal(plain.estimate_depth(rgb).relative, drawn)
    assert np.array_equal(plain.estimate_depth(rgb, depth_edges='picture').relative, moved)


def test_without_metres_nothing_moves() -> None:
    """What is near and far in parts of a distance is only known in metres."""
    engine, rgb = nano_engine(), make_sample(0, 'validation', per_category=0).frame.rgb
    unscaled = CooperEngine(replace(engine.parts, card=replace(engine.parts.card,
                                                               depth_range_m=None)), engine.config)
    found = [unscaled.estimate_depth(rgb, depth_edges=edges) for edges in ('drawn', 'picture')]
    assert np.array_equal(found[0].relative, found[1].relative) and found[0].metres is None


def test_a_card_with_other_edges_is_refused() -> None:
    with pytest.raises(BadCheckpoint, match='depth_edges is not a choice; got sharp; allowed: '
                       'drawn, picture'):
        ModelCard.from_json({'drawing': {'depth_edges': 'sharp'}})
    assert ModelCard.from_json({}).drawing.depth_edges == 'drawn'  # as published
