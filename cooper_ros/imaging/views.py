"""Pictures for people: labels over a picture, metric depth in colour."""

from __future__ import annotations

from typing import Sequence

import cv2
import numpy as np

from cooper_ros.imaging.colours import colourise
from cooper_ros.imaging.segmentation import UNLABELED, Label

CHEQUERS = (96, 176)  # light and dark of what has no label


def label_picture(labels: np.ndarray, legend: Sequence[Label]) -> np.ndarray:
    """Ids ``[H, W]`` -> their legend colours, uint8 ``[H, W, 3]``.

    Pixels of no entry are a chequer board of two greys: any plain colour may be that of a class.
    """
    table, known = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    for entry in legend:
        table[entry.id], known[entry.id] = entry.rgb, True
    return np.where(known[labels][..., None], table[labels], chequers(*labels.shape)[..., None])


def chequers(height: int, width: int, square: int = 4) -> np.ndarray:
    """The pattern of what has no label, uint8 ``[H, W]``."""
    rows, columns = np.indices((height, width)) // square
    return np.where((rows + columns) % 2, *CHEQUERS).astype(np.uint8)


def unlabelled(labels: np.ndarray) -> list[Label]:
    """The legend entry of pixels without a label, if there are any; sheets draw its pattern."""
    pixels = int((labels == UNLABELED).sum())
    grey = (sum(CHEQUERS) // 2,) * 3
    return [Label(UNLABELED, 'no label', grey, pixels)] if pixels else []


def overlay(rgb: np.ndarray, labels: np.ndarray, legend: Sequence[Label],
            opacity: float = 0.45) -> np.ndarray:
    """Tint a picture with its labels and draw their outlines in white.

    Args:
        rgb: uint8 ``[H, W, 3]``.
        labels: uint8 ``[h, w]`` ids; resized to the picture without mixing ids.
        legend: colours of the ids.
        opacity: share of the label colour, 0..1; unlabelled pixels stay as they are.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    height, width = rgb.shape[:2]
    labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
    tint = label_picture(labels, legend).astype(np.float32)
    mixed = np.rint(rgb * np.float32(1 - opacity) + tint * np.float32(opacity)).astype(np.uint8)
    mixed = np.where((labels == UNLABELED)[..., None], rgb, mixed)
    mixed[outlines(labels)] = 255
    return mixed


def outlines(labels: np.ndarray) -> np.ndarray:
    """bool ``[H, W]``: pixels whose right or lower neighbour has another id."""
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[1:] != labels[:-1]
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    return edge


def depth_view(metres: np.ndarray, near_m: float | None = None,
               far_m: float | None = None) -> tuple[np.ndarray, float, float]:
    """Metric depth in colour, red near and violet far, black unknown.

    Args:
        metres: float32 ``[H, W]``, NaN or values not above 0 where unknown.
        near_m: metres of the first colour; None takes the second percentile.
        far_m: metres of the last colour; None takes the 98th percentile.

    Returns:
        uint8 ``[H, W, 3]`` and the two ends that were used.
    """
    valid = np.isfinite(metres) & (metres > 0)
    low, high = np.percentile(metres[valid], (2, 98)) if valid.any() else (0.0, 1.0)
    near, far = float(low if near_m is None else near_m), float(high if far_m is None else far_m)
    far = max(far, near + 1e-3)
    return colourise(metres, near, far, valid), near, far
