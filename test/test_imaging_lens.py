"""Which of a camera's calibrations a picture was taken with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cooper_ros.imaging.lens import Calibration, Lenses, check_camera_info, focal_of, projection_of


def said(*stamps: int, most: int = 10) -> Lenses:
    """A camera that said ``at <stamp>`` at these stamps."""
    lenses = Lenses()
    for stamp in stamps:
        lenses.hear(stamp, f'at {stamp}', most)
    return lenses


@pytest.mark.parametrize(('stamp', 'found'), [
    (5, 'at 10'), (10, 'at 10'), (15, 'at 10'), (20, 'at 20'), (29, 'at 20'), (99, 'at 30')])
def test_the_nearest_before_counts_else_the_first_after(stamp: int, found: str) -> None:
    assert said(10, 20, 30).at(stamp) == said(20, 30, 10).at(stamp) == found


def test_without_a_word_of_it_no_lens_is_known() -> None:
    assert said().at(7) is None


def test_what_was_heard_first_is_forgotten_first() -> None:
    assert said(10, 20, 10, 30, most=2).at(25) == 'at 10'  # heard again, and later than 20
    again = said(10, 20)
    again.forget()
    assert again.at(5) == again.at(10) == 'at 20'


@pytest.mark.parametrize(('error', 'focal', 'scale'), [
    ('', 0.0, True), ('', 0.7, True), ('zero', 0.7, True), ('zero', 0.0, False)])
def test_metres_mean_nothing_behind_an_invalid_lens_alone(error: str, focal: float, scale: bool
                                                          ) -> None:
    assert Calibration(error=error, focal=focal).has_scale is scale


def info(**fields: object) -> SimpleNamespace:
    """A raw camera of 100x50 whose driver fills K alone."""
    values = dict(width=100, height=50, k=[80., 0., 50., 0., 90., 25., 0., 0., 1.], p=[0.] * 12,
                  roi=SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0),
                  binning_x=0, binning_y=0)
    return SimpleNamespace(**{**values, **fields})


def test_a_projection_that_nobody_filled_is_made_of_k() -> None:
    blank = info()
    check_camera_info(blank)
    np.testing.assert_array_equal(projection_of(blank), [80, 0, 50, 0, 0, 90, 25, 0, 0, 0, 1, 0])
    assert focal_of(blank, '/image_raw') == focal_of(blank, '/image_rect') == 0.8
    filled = info(p=[70., 0., 50., -7., 0., 70., 25., 0., 0., 0., 1., 0.])
    assert list(projection_of(filled)) == filled.p and focal_of(filled, '/image_rect') == 0.7
    assert focal_of(info(width=0, height=0), '/image_raw') == 0


def test_what_is_stamped_by_another_clock_is_taken_as_it_comes() -> None:
    lenses = Lenses()
    for second in range(100, 110):
        lenses.hear(second * 10**9, f'info {second}', 5)
    assert lenses.at(5 * 10**9) == 'info 109'
    assert lenses.at(105 * 10**9 - 1) == 'info 105'  # so near, it is of this clock
