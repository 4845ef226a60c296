"""Depth metrics against values worked out by hand, and the pixels that count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cooper_ros.errors import BadData
from cooper_ros.evaluation.depth_metrics import (
    depth_metrics,
    evaluate_depth,
    mean_metrics,
    valid_mask,
)


def test_values_worked_out_by_hand() -> None:
    truth, prediction = np.array([[1.0, 2.0, 4.0, 9.0]]), np.array([[1.0, 3.0, 2.0, 5.0]])
    got = depth_metrics(prediction, truth, np.array([[1, 1, 1, 0]]))
    logs = np.log([1, 1.5, 0.5])
    assert got.abs_relative_difference == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert got.squared_relative_difference == pytest.approx((0 + 0.5 + 1) / 3)
    assert got.rmse_linear == pytest.approx(math.sqrt(5 / 3))
    assert got.rmse_log == pytest.approx(math.sqrt((logs ** 2).mean()))
    assert got.log10 == pytest.approx(np.abs(logs / math.log(10)).mean())
    assert (got.delta1_acc, got.delta2_acc) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert got.delta3_acc == pytest.approx(2 / 3)
    assert got.i_rmse == pytest.approx(math.sqrt(((1 / 6) ** 2 + 0.25 ** 2) / 3))
    assert got.silog_rmse == pytest.approx(100 * logs.std())


def test_a_perfect_map_is_perfect_and_scale_hides_from_silog_only() -> None:
    truth = np.linspace(1, 9, 20).reshape(4, 5)
    every = np.ones_like(truth, bool)
    perfect = depth_metrics(truth, truth, every)
    assert perfect.delta1_acc == 1 and perfect.rmse_linear == 0 and perfect.silog_rmse == 0
    doubled = depth_metrics(truth * 2, truth, every)
    assert doubled.silog_rmse == pytest.approx(0, abs=1e-6)
    assert doubled.abs_relative_difference == pytest.approx(1)


@pytest.mark.parametrize('prediction,valid,message', [
    (np.ones((1, 2)), np.zeros((1, 2)), 'no valid pixel'),
    (np.array([[1.0, 0.0]]), np.ones((1, 2)), 'above 0 and finite'),
    (np.array([[1.0, np.nan]]), np.ones((1, 2)), 'above 0 and finite')])
def test_what_cannot_be_measured(prediction: np.ndarray, valid: np.ndarray,
                                 message: str) -> None:
    with pytest.raises(BadData, match=message):
        depth_metrics(prediction, np.ones((1, 2)), valid)


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def test_windows_at_native_size_and_as_published() -> None:
    nyu, kitti = np.full((480, 640), 5.0), np.full((352, 1216), 5.0)
    assert box(valid_mask(nyu, 'nyu')) == (45, 471, 41, 601)
    assert box(valid_mask(np.full((240, 320), 5.0), 'nyu')) == (22, 236, 20, 300)
    assert box(valid_mask(kitti, 'kitti')) == (117, 321, 43, 1172)
    assert box(valid_mask(nyu, 'hypersim')) == (0, 480, 0, 640)
    resized = np.full((512, 688), 5.0)
    for name in ('nyu', 'kitti', 'vkitti'):
        assert box(valid_mask(resized, name, published=True)) == (45, 471, 41, 601)
    assert box(valid_mask(resized, 'hypersim', published=True)) == (0, 512, 0, 688)


def test_the_range_is_open_at_both_ends() -> None:
    truth = np.array([[0.0, 1e-3, 0.5, 9.999, 10.0, np.nan]]).repeat(500, 0).repeat(120, 1)
    mask = valid_mask(truth, 'nyu', published=True)
    assert set(truth[mask]) == {0.5, 9.999}


def test_relative_maps_are_aligned_clamped_and_scored() -> None:
    truth = np.random.default_rng(0).uniform(1, 9, (480, 640))
    relative = (truth - 0.5) / 20
    good = evaluate_depth(relative, truth, 'nyu')
    assert good.abs_relative_difference < 1e-6 and good.delta1_acc == 1
    bad = evaluate_depth(np.random.default_rng(1).uniform(0, 1, truth.shape), truth, 'nyu')
    assert bad.abs_relative_difference > 0.3
    assert mean_metrics([good, bad]).delta1_acc == pytest.approx(
        (good.delta1_acc + bad.delta1_acc) / 2)
    with pytest.raises(BadData, match='differ in size'):
        evaluate_depth(relative[:-1], truth, 'nyu')
    with pytest.raises(BadData, match='no pictures'):
        mean_metrics([])
