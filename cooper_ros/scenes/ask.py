"""Small tools that every category of questions uses: options, balance, wording."""

from __future__ import annotations

import math
from typing import Sequence, TypeVar

import numpy as np

from cooper_ros.scenes.qa import Draft
from cooper_ros.scenes.scene import FloatArray, Scene
from cooper_ros.scenes.truth import ObjectTruth

Rng = np.random.Generator
T = TypeVar('T')
LETTERS = 'abcd'
MARGIN = 1.10  # two lengths differ clearly at this ratio or a larger one
SIDE_ANGLE = math.radians(25)  # left and right are asked only this far from straight ahead


def pick(rng: Rng, items: Sequence[T]) -> T:
    """Return one item."""
    return items[int(rng.integers(len(items)))]


def pick_two(rng: Rng, items: Sequence[T]) -> tuple[T, T]:
    """Return two different items in random order."""
    first, second = rng.choice(len(items), 2, replace=False)
    return items[int(first)], items[int(second)]


def choice(rng: Rng, stem: str, right: str, wrong: Sequence[str], facts: str | dict[str, str],
           tools: tuple[str, ...], start: str = '') -> Draft:
    """Make a multiple-choice question; every letter is equally often right.

    ``facts`` is a sentence, or a fact for each option. Facts are stated after ``start`` in the
    order of the options, so that the order does not give the answer away; the right option is
    named at the end.
    """
    options = [right, *wrong]
    order = [int(i) for i in rng.permutation(len(options))]
    listed = ' '.join(f'({LETTERS[at]}) {options[i]}' for at, i in enumerate(order))
    if isinstance(facts, dict):
        stated = ', '.join(f'{options[i]} {facts[options[i]]}' for i in order)
        facts = f'{start}{stated}: {right}.'
    return Draft('mcq', f'{stem} {listed}', LETTERS[order.index(0)], '', facts, tools)


def yes_no(rng: Rng, yes: Sequence[tuple[str, str]], no: Sequence[tuple[str, str]],
           tools: tuple[str, ...]) -> Draft | None:
    """Make a yes-no question from (question, facts) pairs; balanced by construction.

    Nothing is asked unless the scene offers both answers, so no answer is likelier than the
    other, whatever scenes look like.
    """
    if not yes or not no:
        return None
    answer = 'yes' if rng.random() < 0.5 else 'no'
    question, facts = pick(rng, yes if answer == 'yes' else no)
    return Draft('yes_no', question, answer, '', facts, tools)


def metres(value: float) -> str:
    """Write a length in metres with two decimals."""
    return f'{value + 0.0:.2f}'.replace('-0.00', '0.00')


def clearly_less(a: float, b: float, least: float = 0.0) -> bool:
    """Return whether a is below b by 10 percent of b's size and by ``least``."""
    return a * MARGIN <= b and a + least <= b


def gap(a: ObjectTruth, b: ObjectTruth) -> float:
    """Return the distance between two object centres in metres."""
    return float(np.linalg.norm(a.position - b.position))


def place(truth: ObjectTruth, axes: str = 'xz') -> str:
    """Write where an object is in the optical frame, metres: x right, y down, z ahead."""
    where = ' '.join(f'{axis} {metres(truth.position["xyz".index(axis)])}' for axis in axes)
    return f'{truth.name} {where}'


def apart(words: str, a: ObjectTruth, b: ObjectTruth, axes: str = 'xz') -> str:
    """Write how far b lies from a along axes of the optical frame, metres."""
    way = b.position - a.position
    return ' '.join([words, *(f'{axis} {metres(way["xyz".index(axis)])}' for axis in axes)])


def hour(scene: Scene, a: ObjectTruth, b: ObjectTruth) -> str:
    """Write the direction from a to b on the floor plan as the hour of a clock, 1 to 12; 12 is
    where the camera looks, 3 is to its right."""
    axes = scene.camera.rotation()[:2]  # of the optical frame, on the floor plan
    way = ground(b) - ground(a)
    right, forward = way @ axes[:, 0], way @ axes[:, 2] / np.linalg.norm(axes[:, 2])
    return f'at {round(math.degrees(math.atan2(right, forward)) / 30 - 1) % 12 + 1}'


def ground(truth: ObjectTruth) -> FloatArray:
    """Return an object's place on the floor plan [2], world metres."""
    return np.array(truth.thing.centre[:2])


def bearing(origin: FloatArray, facing: FloatArray, other: FloatArray) -> float:
    """Return the angle to ``other`` for somebody at ``origin`` who looks at ``facing``.

    Floor-plan points [2]; radians, positive to the left, -pi .. pi.
    """
    a, b = facing - origin, other - origin
    return math.atan2(a[0] * b[1] - a[1] * b[0], a[0] * b[0] + a[1] * b[1])


def side_of(angle: float) -> str | None:
    """Return left or right for a bearing, None where it is too near the middle line."""
    if SIDE_ANGLE <= angle <= math.pi - SIDE_ANGLE:
        return 'left'
    return 'right' if SIDE_ANGLE - math.pi <= angle <= -SIDE_ANGLE else None


def depth_side_of(angle: float) -> str | None:
    """Return in front or behind for a bearing, None where it is too near the side line."""
    if abs(angle) <= math.pi / 2 - SIDE_ANGLE:
        return 'in front'
    return 'behind' if abs(angle) >= math.pi / 2 + SIDE_ANGLE else None
