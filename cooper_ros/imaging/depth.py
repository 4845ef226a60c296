"""Depth maps: metres, relative values in 0..1, and what the decoder gives (section 8)."""

from __future__ import annotations

import numpy as np


def relative_from_metres(metres: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Metres -> float32 0..1, linear, 0 near and 1 far; clipped to the range, NaN stays."""
    clipped = np.clip(metres.astype(np.float32), np.float32(near_m), np.float32(far_m))
    return (clipped - np.float32(near_m)) / np.float32(far_m - near_m)


def metres_from_relative(relative: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Relative depth 0..1 -> float32 metres between ``near_m`` and ``far_m``."""
    return (near_m + relative * (far_m - near_m)).astype(np.float32)


def relative_from_decoded(decoded: np.ndarray) -> np.ndarray:
    """Raw decoder output ``[3, H, W]`` (about -1..1) -> relative depth ``[H, W]`` in 0..1."""
    return unit_range(decoded).mean(axis=0, dtype=np.float32)


def picture_from_decoded(decoded: np.ndarray) -> np.ndarray:
    """Raw decoder output ``[3, H, W]`` -> uint8 ``[H, W, 3]``; truncated as published."""
    planes = unit_range(decoded) * np.float32(255)
    return np.ascontiguousarray(planes.transpose(1, 2, 0)).astype(np.uint8)


def unit_range(decoded: np.ndarray) -> np.ndarray:
    """Map -1..1 to 0..1 and cut off what lies beyond."""
    return np.clip(decoded * np.float32(0.5) + np.float32(0.5), 0, 1)
