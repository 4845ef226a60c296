"""Depth edges where the picture has them.

A drawn edge is a few pixels of mixtures of its two sides; in a point cloud they float between
near and far. The picture knows the edge better: a pixel there takes one of the depths around it,
the one that pixels of its own colour have (weighted median, Ma et al., ICCV 2013).
"""

from __future__ import annotations

import cv2
import numpy as np

DRAWN, PICTURE = 'drawn', 'picture'  # where edges may lie
REACH = 3  # pixels; mixtures are as wide as half a latent cell of 8
JUMP = 0.2  # far over near around a pixel, less 1, from which there is an edge
SAME_COLOUR = 24.0  # distance of colours, in 0..255 units, within which a surface stays
LEAST_M = 1e-3  # nearer counts as this; relative errors have no meaning at 0
AT_ONCE = 1 << 15  # pixels; bounds memory on large maps


def edges_from_picture(metres: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Move the edges of a depth map to those of its picture; what lies off edges stays.

    Each pixel beside a jump gets the depth around it that has the least mean relative error
    over pixels of like colour, which is their median with weights over depth.

    Args:
        metres: float32 ``[H, W]``, depth along the optical axis, 0 or more.
        rgb: uint8 ``[H, W, 3]``, the picture it was drawn of, at the same size.

    Returns:
        float32 ``[H, W]``; every value is one of ``metres`` at most three pixels away.
    """
    side = 2 * REACH + 1
    around = np.ones((side, side), np.uint8)
    near, far = cv2.erode(metres, around), cv2.dilate(metres, around)
    rows, columns = np.nonzero(far > (1 + JUMP) * np.maximum(near, LEAST_M))
    depths = _windows(metres)  # [H, W, S, S]
    colours = _windows(rgb)  # [H, W, 3, S, S]
    settled = metres.copy()
    for first in range(0, len(rows), AT_ONCE):
        places = rows[first:first + AT_ONCE], columns[first:first + AT_ONCE]
        beside = depths[places].reshape(len(places[0]), -1)  # [N, S * S]
        shades = colours[places].reshape(len(beside), 3, -1).astype(np.float32)
        away = np.square(shades - rgb[places][..., None]).sum(1)
        alike = np.exp(-away / (2 * SAME_COLOUR ** 2))
        settled[places] = _weighted_median(beside, alike / np.maximum(beside, LEAST_M))
    return settled


def _windows(layers: np.ndarray) -> np.ndarray:
    """The square around every pixel, borders repeated: ``[H, W, ..., S, S]``, without copying."""
    beyond = [(REACH, REACH)] * 2 + [(0, 0)] * (layers.ndim - 2)
    return np.lib.stride_tricks.sliding_window_view(
        np.pad(layers, beyond, mode='edge'), (2 * REACH + 1,) * 2, axis=(0, 1))


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The value ``[N]`` in each row of ``[N, K]`` with half of the weight up to it."""
    order = np.argsort(values, axis=1)
    passed = np.take_along_axis(weights, order, 1).cumsum(1)
    middle = (passed >= 0.5 * passed[:, -1:]).argmax(1)[:, None]
    return np.take_along_axis(values, np.take_along_axis(order, middle, 1), 1)[:, 0]
