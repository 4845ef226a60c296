"""Relative depth brought to metres by the scale and shift that fit its truth best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cooper_ros.errors import BadData


@dataclass(frozen=True)
class Alignment:
    """Least squares fit ``truth = scale * prediction + shift`` over valid pixels."""

    scale: float
    shift: float

    def apply(self, prediction: np.ndarray) -> np.ndarray:
        """Return the prediction in the units of the truth, float32."""
        return prediction.astype(np.float32) * np.float32(self.scale) + np.float32(self.shift)


def align_least_squares(prediction: np.ndarray, truth: np.ndarray,
                        valid: np.ndarray) -> Alignment:
    """Fit scale and shift of one map to its truth (reference 8.4), in double precision.

    Args:
        prediction: relative depth ``[H, W]``.
        truth: metres ``[H, W]``.
        valid: bool ``[H, W]``, the pixels to use.

    Raises:
        BadData: fewer than two valid pixels.
    """
    valid = valid.astype(bool)
    if valid.sum() < 2:
        raise BadData('too few valid pixels to align', value=int(valid.sum()), limit='at least 2')
    x = prediction[valid].astype(np.float64)
    system = np.stack([x, np.ones_like(x)], axis=1)  # [n, 2]
    scale, shift = np.linalg.lstsq(system, truth[valid].astype(np.float64), rcond=None)[0]
    return Alignment(float(scale), float(shift))
