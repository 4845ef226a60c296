"""The Spectral colour map as a table, near red and far violet, without matplotlib."""

from __future__ import annotations

import numpy as np

# The eleven anchors of ColorBrewer's "Spectral" (Cynthia Brewer, Mark Harrower, Penn State
# University; Apache-2.0), uint8 RGB.
ANCHORS = np.array([
    (158, 1, 66), (213, 62, 79), (244, 109, 67), (253, 174, 97), (254, 224, 139),
    (255, 255, 191), (230, 245, 152), (171, 221, 164), (102, 194, 165), (50, 136, 189),
    (94, 79, 162)], dtype=np.uint8)
TABLE_SIZE = 256


def spectral_table() -> np.ndarray:
    """float64 ``[256, 3]`` in 0..1.

    The order of the operations is that of the plotting library that coloured the training
    maps: the table is truncated to 8 bits later, and another order flips single values.
    """
    anchors = ANCHORS / 255  # [11, 3]
    knots = np.linspace(0, 1, len(anchors)) * (TABLE_SIZE - 1)
    at = (TABLE_SIZE - 1) * np.linspace(0, 1, TABLE_SIZE)
    right = np.searchsorted(knots, at)[1:-1]
    share = ((at[1:-1] - knots[right - 1]) / (knots[right] - knots[right - 1]))[:, None]
    inner = share * (anchors[right] - anchors[right - 1]) + anchors[right - 1]
    return np.clip(np.concatenate([anchors[:1], inner, anchors[-1:]]), 0, 1)


SPECTRAL = spectral_table()
# Multiplied in float32 and truncated, as published: float64 would give two other values.
SPECTRAL_U8 = (SPECTRAL.astype(np.float32) * np.float32(255)).astype(np.uint8)
BLACK = len(SPECTRAL_U8)
_WITH_BLACK = np.concatenate([SPECTRAL_U8, np.zeros((1, 3), np.uint8)])
_WITH_BLACK_FLOAT = np.concatenate([SPECTRAL, np.zeros((1, 3))])


def table_index(relative: np.ndarray, low: float = 0.0, high: float = 1.0,
                valid: np.ndarray | None = None) -> np.ndarray:
    """Rows of the table: floor(256 y) within 0..255; 256 (black) where invalid or NaN.

    Args:
        relative: ``[...]``, any shape.
        low: value of the first colour.
        high: value of the last colour.
        valid: bool, same shape; None for all.
    """
    unit = (np.asarray(relative) - low) / (high - low)
    known = np.isfinite(unit) if valid is None else np.isfinite(unit) & valid.astype(bool)
    bins = np.clip(np.where(known, unit, 0), 0, 1) * TABLE_SIZE
    return np.where(known, np.minimum(bins.astype(np.int16), TABLE_SIZE - 1), BLACK)


def colourise(relative: np.ndarray, low: float = 0.0, high: float = 1.0,
              valid: np.ndarray | None = None) -> np.ndarray:
    """Relative depth ``[H, W]`` -> uint8 ``[H, W, 3]``, red near, violet far, black unknown."""
    return _WITH_BLACK[table_index(relative, low, high, valid)]


def colourise_float(relative: np.ndarray, low: float = 0.0, high: float = 1.0,
                    valid: np.ndarray | None = None) -> np.ndarray:
    """The same as float32 ``[..., 3]`` in 0..1, before the truncation to 8 bits."""
    return _WITH_BLACK_FLOAT[table_index(relative, low, high, valid)].astype(np.float32)
