"""Questions about directions: left, right, in front, behind, from several points of view."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from cooper_ros.scenes.ask import (
    Rng,
    apart,
    bearing,
    choice,
    clearly_less,
    depth_side_of,
    ground,
    hour,
    pick,
    pick_two,
    place,
    side_of,
    yes_no,
)
from cooper_ros.scenes.qa import DEPTH, Draft, View
from cooper_ros.scenes.scene import Scene
from cooper_ros.scenes.truth import ObjectTruth

_DEPTH = (DEPTH,)
_LEAST_APART = 0.08  # metres on the floor plan from which on a direction is clear
_MIN_SIDE = 0.10  # least difference of x / z, the tangent of the viewing angle


def camera_side(a: ObjectTruth, b: ObjectTruth) -> str | None:
    """Return whether a is left or right of b for the camera, None where it is not clear."""
    angle = a.position[0] / a.position[2] - b.position[0] / b.position[2]
    offset = a.position[0] - b.position[0]
    if abs(angle) < _MIN_SIDE or abs(offset) < 0.04 or (angle > 0) != (offset > 0):
        return None
    return 'right' if offset > 0 else 'left'


def camera_depth_side(scene: Scene, a: ObjectTruth, b: ObjectTruth) -> str | None:
    """Return whether a is in front of b (nearer) or behind it; depth and floor plan must agree."""
    eye = np.array(scene.camera.position[:2])
    plan_a, plan_b = (float(np.linalg.norm(ground(t) - eye)) for t in (a, b))
    if clearly_less(a.position[2], b.position[2], 0.05) and clearly_less(plan_a, plan_b, 0.05):
        return 'in front'
    if clearly_less(b.position[2], a.position[2], 0.05) and clearly_less(plan_b, plan_a, 0.05):
        return 'behind'
    return None


def relation_camera(view: View, rng: Rng) -> Draft | None:
    """Left, right, in front or behind, as the camera sees it."""
    if len(view.named) < 2:
        return None
    a, b = pick_two(rng, view.named)
    sideways = rng.random() < 0.5
    side = camera_side(a, b) if sideways else camera_depth_side(view.scene, a, b)
    words = ('left of', 'right of') if sideways else ('in front of', 'behind')
    tools: tuple[str, ...] = () if sideways else _DEPTH
    axis = 'x' if sideways else 'z'
    if side is None:
        return None
    true = words[0] if side in ('left', 'in front') else words[1]
    false = words[1] if true == words[0] else words[0]
    of_a = f'{place(a, axis)}, {place(b, axis)}: {true.removesuffix(" of")}.'
    of_b = f'{place(b, axis)}, {place(a, axis)}: {false.removesuffix(" of")}.'
    if rng.random() < 0.5:
        stem = f'where is the {a.name} seen from the camera?'
        return choice(rng, stem, f'{true} the {b.name}', [f'{false} the {b.name}'], of_a, tools)
    stem = 'is the {} {} the {}?'
    return yes_no(rng, [(stem.format(a.name, true, b.name), of_a),
                        (stem.format(b.name, false, a.name), of_b)],
                  [(stem.format(a.name, false, b.name), of_a),
                   (stem.format(b.name, true, a.name), of_b)], tools)


def relation_object(view: View, rng: Rng) -> Draft | None:
    """The same in the frame of an object that faces the camera: its left is our right.

    The side is chosen before the objects, because more pairs are clearly in front than behind.
    """
    phrases = {'left': 'on its left', 'right': 'on its right'} if rng.random() < 0.6 else \
        {'in front': 'in front of it', 'behind': 'behind it'}
    clear = {side: [pair for pair in permutations(view.named, 2)
                    if _object_side(view.scene, *pair, side)] for side in phrases}
    if not all(clear.values()):
        return None
    side, other = pick_two(rng, list(phrases))
    a, b = pick(rng, clear[side])
    facts = f'{place(a)}, {place(b)}, {apart("there", a, b)}: {side}.'
    start = f'the {a.name} faces the camera.'
    if rng.random() < 0.5:
        return choice(rng, f'{start} where is the {b.name} for it?', side, [other], facts, _DEPTH)
    ask = f'{start} is the {b.name} {{}}?'
    return yes_no(rng, [(ask.format(phrases[side]), facts)],
                  [(ask.format(phrases[other]), facts)], _DEPTH)


def _object_side(scene: Scene, a: ObjectTruth, b: ObjectTruth, side: str) -> bool:
    """Whether b is clearly on one side of a, which faces the camera."""
    if np.linalg.norm(ground(a) - ground(b)) < _LEAST_APART:
        return False
    angle = bearing(ground(a), np.array(scene.camera.position[:2]), ground(b))
    return side in (side_of(angle), depth_side_of(angle))


def situational(view: View, rng: Rng) -> Draft | None:
    """Standing at one object and facing a second: is a third on the left or on the right?"""
    if len(view.named) < 3:
        return None
    a, b, c = (view.named[int(i)] for i in rng.choice(len(view.named), 3, replace=False))
    points = [ground(thing) for thing in (a, b, c)]
    side = side_of(bearing(*points))
    if side is None or min(np.linalg.norm(points[0] - p) for p in points[1:]) < _LEAST_APART:
        return None
    other = 'right' if side == 'left' else 'left'
    ways = [f'{apart(word, a, to)} {hour(view.scene, a, to)}'
            for word, to in (('ahead', b), ('there', c))]
    facts = f'{place(a)}, {place(b)}, {place(c)}, {", ".join(ways)}: {side}.'
    start = pick(rng, ('you stand at the {} and face the {}.', 'from the {} you look at the {}.'))
    start = start.format(a.name, b.name)
    if rng.random() < 0.6:
        return choice(rng, f'{start} where is the {c.name}?', side, [other], facts, _DEPTH)
    stem = f'{start} is the {c.name} on your {{}}?'
    return yes_no(rng, [(stem.format(side), facts)], [(stem.format(other), facts)], _DEPTH)
