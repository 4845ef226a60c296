"""Short questions about single objects: the first words a small model can ground.

A question of the suite needs several steps at once (find two objects, read their places, compare).
From nothing, that is learnt late. One lookup is learnt soon, and a picture yields dozens of them:
whether an object is there, where, how far, how tall. They are worded like the facts that the
reasoning traces state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cooper_ros.scenes.palette import COLOURS, SHAPES
from cooper_ros.training.describe import COLUMNS, ROWS

LEAST_PIXELS = 60  # what questions ask of an object they name
KINDS = ('there', 'place', 'far', 'size', 'cell')
SHARES = (0.2, 0.35, 0.15, 0.2, 0.1)


@dataclass(frozen=True)
class Seen:
    """One object in the picture.

    Attributes:
        colour, shape: indices in ``COLOURS`` and ``SHAPES``.
        position: centre in the optical frame, metres.
        tall, top: its height, and how high its top is above the floor, metres.
        across, down: where its visible pixels are in the picture, 0..1.
    """

    colour: int
    shape: int
    position: np.ndarray
    tall: float
    top: float
    across: float
    down: float

    @property
    def name(self) -> str:
        """What questions call it."""
        return f'{COLOURS[self.colour]} {SHAPES[self.shape]}'


def seen_objects(instance: np.ndarray, objects: np.ndarray) -> list[Seen]:
    """Objects that show enough of themselves.

    Args:
        instance: ``[H, W]`` as in :class:`~cooper_ros.training.data.FrameStore`.
        objects: ``[N, 7]`` as there.
    """
    found = []
    for index, row in enumerate(objects):
        ys, xs = np.nonzero(instance == index)
        if len(ys) >= LEAST_PIXELS and np.isfinite(row).all():
            found.append(Seen(int(row[0]), int(row[1]), row[2:5], float(row[5]), float(row[6]),
                              float(xs.mean()) / instance.shape[1],
                              float(ys.mean()) / instance.shape[0]))
    return found


def probes(instance: np.ndarray, objects: np.ndarray, count: int,
           generator: torch.Generator) -> list[tuple[str, str]]:
    """Lookups of one frame: (question, answer) pairs, drawn by the generator."""
    seen = seen_objects(instance, objects)
    names = [thing.name for thing in seen]
    single = [thing for thing in seen if names.count(thing.name) == 1]
    kinds = torch.multinomial(torch.tensor(SHARES), count, replacement=True, generator=generator)
    chances = torch.rand(count, 3, generator=generator).tolist()
    return [_lookup(KINDS[kind], seen, single, chance)
            for kind, chance in zip(kinds.tolist(), chances)]


def _lookup(kind: str, seen: list[Seen], single: list[Seen], chance: list[float]
            ) -> tuple[str, str]:
    if kind == 'there' or not single:
        return _there(seen, chance)
    thing = single[int(chance[0] * len(single))]
    if kind == 'place':
        where = ' '.join(f'{axis} {value + 0.0:.2f}' for axis, value in zip('xyz', thing.position))
        return f'where is the {thing.name}?', where.replace('-0.00', '0.00')
    if kind == 'far':
        return f'how far is the {thing.name}?', f'{np.linalg.norm(thing.position):.2f} m'
    if kind == 'size':
        return (f'how tall is the {thing.name}?',
                f'{100 * thing.tall:.0f} cm, top {thing.top:.2f} m')
    cell = f'{ROWS[int(3 * thing.down)]} {COLUMNS[int(3 * thing.across)]}'
    return f'where in the image is the {thing.name}?', cell


def _there(seen: list[Seen], chance: list[float]) -> tuple[str, str]:
    """A name, right or with another colour or shape."""
    names = {thing.name for thing in seen}
    thing = seen[int(chance[0] * len(seen))] if seen else None
    colour, shape = (thing.colour, thing.shape) if thing else (0, 0)
    if chance[1] < 0.3:
        colour = int(chance[2] * len(COLOURS))
    elif chance[1] < 0.6:
        shape = int(chance[2] * len(SHAPES))
    name = f'{COLOURS[colour]} {SHAPES[shape]}'
    return f'is there a {name}?', 'yes' if name in names else 'no'
