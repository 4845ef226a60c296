"""Names, colours and shapes of the synthetic world, and the palette of its segmentation target.

Two colour tables live here and must not be mixed up: :data:`ALBEDO` is what an object looks like
before light falls on it, :data:`SCENE_PALETTE` is what the segmentation target paints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLOURS = ('red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'black')
SHAPES = ('box', 'ball', 'can', 'pill', 'egg', 'cup')

# Display-space RGB in 0..1. Hues are far enough apart to be told under shade and warm light.
ALBEDO = {
    'red': (0.84, 0.11, 0.12), 'orange': (0.98, 0.52, 0.08), 'yellow': (0.97, 0.87, 0.14),
    'green': (0.14, 0.66, 0.23), 'cyan': (0.20, 0.80, 0.86), 'blue': (0.11, 0.27, 0.83),
    'purple': (0.55, 0.17, 0.70), 'black': (0.10, 0.10, 0.11),
}


@dataclass(frozen=True)
class SceneClass:
    """One class of the segmentation target: number, name, and the RGB colour it is painted in."""

    id: int
    name: str
    rgb: tuple[int, int, int]


# Corners of the RGB cube first, then the three points farthest from them: any two colours are
# at least 127 apart, so a blurred decoder output still falls to the right class.
SCENE_PALETTE: tuple[SceneClass, ...] = (
    SceneClass(0, 'wall', (255, 255, 255)),
    SceneClass(1, 'floor', (128, 128, 128)),
    SceneClass(2, 'table', (128, 64, 0)),
    SceneClass(3, 'red', (255, 0, 0)),
    SceneClass(4, 'orange', (255, 128, 0)),
    SceneClass(5, 'yellow', (255, 255, 0)),
    SceneClass(6, 'green', (0, 255, 0)),
    SceneClass(7, 'cyan', (0, 255, 255)),
    SceneClass(8, 'blue', (0, 0, 255)),
    SceneClass(9, 'purple', (255, 0, 255)),
    SceneClass(10, 'black', (0, 0, 0)),
)
WALL, FLOOR, TABLE = 0, 1, 2
CLASS_OF_COLOUR = {entry.name: entry.id for entry in SCENE_PALETTE if entry.name in COLOURS}


def palette_rgb() -> NDArray[np.uint8]:
    """Return the palette as a look-up table [classes, 3], uint8."""
    return np.array([entry.rgb for entry in SCENE_PALETTE], np.uint8)


def paint(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn class ids [H, W] into the RGB segmentation target [H, W, 3]."""
    return palette_rgb()[labels]


def palette_json() -> list[dict[str, object]]:
    """Return the palette in the form of the ``palette`` entry of ``cooper.json``."""
    return [{'id': entry.id, 'name': entry.name, 'rgb': list(entry.rgb)}
            for entry in SCENE_PALETTE]
