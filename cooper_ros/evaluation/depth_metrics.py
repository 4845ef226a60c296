"""Depth metrics and the pixels they count (reference section 8.4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from cooper_ros.errors import BadData
from cooper_ros.evaluation.alignment import align_least_squares
from cooper_ros.imaging.depth_sets import depth_set

LEAST_METRES = 1e-6  # predictions are clamped to this before logarithms and inverses
NYU_EIGEN = (45, 471, 41, 601)  # top, bottom, left, right of the 640x480 picture
NYU_SIZE = (480, 640)
KITTI_EIGEN = (0.3324324, 0.91351351, 0.0359477, 0.96405229)  # the same as shares of the sides


@dataclass(frozen=True)
class DepthMetrics:
    """The published set. Errors in metres unless said otherwise.

    Attributes:
        abs_relative_difference: mean of |p - g| / g, no unit.
        squared_relative_difference: mean of (p - g)^2 / g.
        rmse_linear: root mean square of p - g.
        rmse_log: root mean square of ln p - ln g, no unit.
        log10: mean of |log10 p - log10 g|, no unit.
        delta1_acc: share of pixels with max(p/g, g/p) below 1.25.
        delta2_acc: below 1.25 squared.
        delta3_acc: below 1.25 cubed.
        i_rmse: root mean square of 1/p - 1/g, per metre.
        silog_rmse: 100 times the standard deviation of ln p - ln g.
    """

    abs_relative_difference: float
    squared_relative_difference: float
    rmse_linear: float
    rmse_log: float
    log10: float
    delta1_acc: float
    delta2_acc: float
    delta3_acc: float
    i_rmse: float
    silog_rmse: float

    def as_dict(self) -> dict[str, float]:
        """Name to value, for tables and JSON."""
        return asdict(self)


def depth_metrics(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> DepthMetrics:
    """Compare two metric depth maps over valid pixels, in double precision.

    Args:
        prediction: metres ``[H, W]``, above 0 where valid.
        truth: metres ``[H, W]``, above 0 where valid.
        valid: bool ``[H, W]``.

    Raises:
        BadData: no valid pixel, or depth not above 0 there.
    """
    valid = valid.astype(bool)
    p, g = (depth[valid].astype(np.float64) for depth in (prediction, truth))  # [n] each
    if not p.size:
        raise BadData('no valid pixel to measure', value=0, limit='at least 1')
    if not (min(p.min(), g.min()) > 0 and np.isfinite(p + g).all()):
        raise BadData('depth must be above 0 and finite', value=min(p.min(), g.min()),
                      remedy='clamp the prediction, mask the truth')
    error, log_error, ratio = p - g, np.log(p) - np.log(g), np.maximum(p / g, g / p)
    return DepthMetrics(
        abs_relative_difference=float(np.mean(np.abs(error) / g)),
        squared_relative_difference=float(np.mean(error ** 2 / g)),
        rmse_linear=_root_mean_square(error), rmse_log=_root_mean_square(log_error),
        log10=float(np.mean(np.abs(np.log10(p) - np.log10(g)))),
        delta1_acc=float(np.mean(ratio < 1.25)), delta2_acc=float(np.mean(ratio < 1.25 ** 2)),
        delta3_acc=float(np.mean(ratio < 1.25 ** 3)), i_rmse=_root_mean_square(1 / p - 1 / g),
        silog_rmse=100 * float(np.std(log_error)))


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values ** 2)))


def valid_mask(truth: np.ndarray, name: str, published: bool = False) -> np.ndarray:
    """Pixels of a ground truth that count: inside the data set's range and its Eigen crop.

    Args:
        truth: metres ``[H, W]``, at its own resolution unless ``published``.
        name: ``nyu``, ``kitti``, ``vkitti`` or ``hypersim`` (no crop).
        published: take the window the published numbers were made with instead: the NYU
            rows and columns applied as they are to nyu, kitti and vkitti, whatever the size of
            the (resized) truth (quirk Q20).

    Returns:
        bool ``[H, W]``.

    Raises:
        BadData: no such data set.
    """
    kind = depth_set(name)
    inside = (truth > kind.near_m) & (truth < kind.far_m)
    window = np.zeros(truth.shape, bool)
    top, bottom, left, right = (_published_window if published else _eigen_window)(truth, name)
    window[top:bottom, left:right] = True
    return inside & window


def _eigen_window(truth: np.ndarray, name: str) -> tuple[int, int, int, int]:
    """Eigen et al. 2014: the NYU crop scaled to the truth's size, the KITTI crop by shares."""
    height, width = truth.shape
    if name == 'nyu':
        down, right = height / NYU_SIZE[0], width / NYU_SIZE[1]
        scales = (down, down, right, right)
        top, bottom, left, end = (round(e * s) for e, s in zip(NYU_EIGEN, scales))
        return top, bottom, left, end
    if name in ('kitti', 'vkitti'):
        top, bottom, left, end = (int(share * side) for share, side in
                                  zip(KITTI_EIGEN, (height, height, width, width)))
        return top, bottom, left, end
    return 0, height, 0, width


def _published_window(truth: np.ndarray, name: str) -> tuple[int, int, int, int]:
    height, width = truth.shape
    return (0, height, 0, width) if name == 'hypersim' else NYU_EIGEN


def evaluate_depth(relative: np.ndarray, truth: np.ndarray, name: str,
                   published: bool = False) -> DepthMetrics:
    """Align a relative depth map to its truth, clamp it to the range, measure.

    Args:
        relative: ``[H, W]`` in 0..1, at the size of the truth.
        truth: metres ``[H, W]``.
        name: data set.
        published: see :func:`valid_mask`.

    Raises:
        BadData: sizes differ, or too few valid pixels.
    """
    if relative.shape != truth.shape:
        raise BadData('map and truth differ in size', value=relative.shape, limit=truth.shape)
    kind, valid = depth_set(name), valid_mask(truth, name, published)
    aligned = align_least_squares(relative, truth, valid).apply(relative)
    metres = np.maximum(np.clip(aligned, kind.near_m, kind.far_m), LEAST_METRES)
    return depth_metrics(metres, truth, valid)


def mean_metrics(rows: list[DepthMetrics]) -> DepthMetrics:
    """Average per-picture metrics, every picture counting the same.

    Raises:
        BadData: no rows.
    """
    if not rows:
        raise BadData('no pictures to average', value=0, limit='at least 1')
    table = np.array([list(row.as_dict().values()) for row in rows])
    return DepthMetrics(*table.mean(axis=0).tolist())
