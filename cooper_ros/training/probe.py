"""Short questions about single colours: the first words a small model can ground.

A question of the suite needs several steps at once (find two objects, read their places, compare).
From nothing, that is learnt late. One lookup is learnt soon, and a picture yields dozens of them:
whether a colour is there, where, and how far.
"""

from __future__ import annotations

import numpy as np
import torch

from cooper_ros.scenes.palette import SCENE_PALETTE, TABLE, SceneClass
from cooper_ros.training.describe import COLUMNS, ROWS

PATCH = 16  # frame pixels per patch of the vision tower
LEAST_PIXELS = 24
COLOURS = [entry for entry in SCENE_PALETTE if entry.id > TABLE]


def probes(labels: np.ndarray, metres: np.ndarray, count: int,
           generator: torch.Generator) -> list[tuple[str, str]]:
    """Lookups of one frame.

    Args:
        labels: class ids ``[H, W]`` of the scene palette.
        metres: depth ``[H, W]`` along the optical axis.
        count: how many; a quarter about colours that may be absent, the others about present ones.
        generator: chooses them.

    Returns:
        (question, answer) pairs.
    """
    pixels = np.bincount(labels.ravel(), minlength=len(SCENE_PALETTE))
    present = [entry for entry in COLOURS if pixels[entry.id] >= LEAST_PIXELS] or COLOURS
    found = []
    for number, (kind, which) in enumerate(torch.rand(count, 2, generator=generator).tolist()):
        pool = COLOURS if number % 4 == 0 else present
        found.append(_lookup(labels, metres, pool[int(which * len(pool))], kind))
    return found


def _lookup(labels: np.ndarray, metres: np.ndarray, entry: SceneClass, kind: float
            ) -> tuple[str, str]:
    mask = labels == entry.id
    if mask.sum() < LEAST_PIXELS:
        return f'is there anything {entry.name}?', 'no'
    if kind < 0.2:
        return f'is there anything {entry.name}?', 'yes'
    if kind < 0.6:
        return f'how far is the {entry.name} one?', f'{np.median(metres[mask]):.1f}'
    ys, xs = np.nonzero(mask)
    row, column = (int(3 * np.median(values) / side)
                   for values, side in zip((ys, xs), labels.shape))
    return f'where is the {entry.name} one?', f'{ROWS[row]} {COLUMNS[column]}'
