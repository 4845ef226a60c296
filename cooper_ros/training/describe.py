"""A picture in words, made from its label map and depth alone."""

from __future__ import annotations

import cv2
import numpy as np

from cooper_ros.scenes.palette import SCENE_PALETTE, TABLE

DESCRIBE = 'where are the objects in the image?'
MIN_PIXELS = 40
ROWS, COLUMNS = ('top', 'middle', 'bottom'), ('left', 'center', 'right')


def describe_objects(labels: np.ndarray, metres: np.ndarray, most: int = 8) -> str:
    """Every coloured region from left to right: colour, third of the picture, distance.

    Args:
        labels: class ids ``[H, W]`` of the scene palette.
        metres: depth ``[H, W]`` along the optical axis.
        most: regions named at most.

    Returns:
        such as ``red middle left 2.42, blue bottom center 1.10.``
    """
    found = []
    for entry in SCENE_PALETTE:
        if entry.id > TABLE:
            found += [(x, f'{entry.name} {place} {distance:.2f}') for x, place, distance in
                      _regions((labels == entry.id).astype(np.uint8), metres)]
    return ', '.join(text for _, text in sorted(found)[:most]) + '.'


def _regions(mask: np.ndarray, metres: np.ndarray) -> list[tuple[float, str, float]]:
    """Centre column, place and distance of every connected region of a mask ``[H, W]``."""
    count, ids, stats, centres = cv2.connectedComponentsWithStats(mask)
    height, width = mask.shape
    regions = []
    for number in range(1, count):
        if stats[number, cv2.CC_STAT_AREA] >= MIN_PIXELS:
            x, y = centres[number]
            place = f'{ROWS[int(3 * y / height)]} {COLUMNS[int(3 * x / width)]}'
            regions.append((float(x), place, float(np.median(metres[ids == number]))))
    return regions
