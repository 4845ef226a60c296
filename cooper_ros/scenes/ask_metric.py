"""Questions about lengths: distance, size, height, reach.

Distances are those of centres. :func:`reach` asks nothing where the answer would be another one if
the distance were measured to the surface.
"""

from __future__ import annotations

import math

import numpy as np

from cooper_ros.scenes.ask import (
    MARGIN,
    Rng,
    apart,
    choice,
    clearly_less,
    gap,
    metres,
    pick,
    pick_two,
    place,
    yes_no,
)
from cooper_ros.scenes.qa import DEPTH, Draft, View
from cooper_ros.scenes.truth import ObjectTruth

_DEPTH = (DEPTH,)


def camera_distance(view: View, rng: Rng) -> Draft | None:
    """How far an object's centre is from the camera, metres."""
    if not view.whole:
        return None
    thing = pick(rng, view.whole)
    answer = metres(thing.distance)
    stem = pick(rng, ('how far is the {} from the camera in meters?',
                      'how many meters away is the {}?'))
    return Draft('number', stem.format(thing.name), answer, 'm', f'{thing.name} {answer} m.',
                 _DEPTH)


def object_distance(view: View, rng: Rng) -> Draft | None:
    """How far two object centres are apart, metres."""
    if len(view.whole) < 2:
        return None
    a, b = pick_two(rng, view.whole)
    answer = metres(gap(a, b))
    flat = metres(float(np.linalg.norm((b.position - a.position)[[0, 2]])))  # of x and z alone
    way = f'{apart("apart", a, b)} floor {flat}{apart("", a, b, "y")}'
    return Draft('number', f'how far is the {a.name} from the {b.name} in meters?', answer, 'm',
                 f'{place(a, "xyz")}, {place(b, "xyz")}, {way}: {answer} m.', _DEPTH)


def relative_distance(view: View, rng: Rng) -> Draft | None:
    """Which of two or three objects is nearest to the camera, or to another object."""
    if len(view.named) < 2:
        return None
    base = pick(rng, view.named) if len(view.named) > 2 and rng.random() < 0.35 else None
    rest = [thing for thing in view.named if thing is not base]
    rest = [rest[int(i)] for i in rng.permutation(len(rest))][:3 if rng.random() < 0.35 else 2]
    if base is not None and not base.cut:
        return _closest(rng, rest, [gap(base, thing) for thing in rest], f'the {base.name}', True,
                        base)
    nearest = rng.random() < 0.6
    return _closest(rng, rest, [thing.distance for thing in rest], 'the camera', nearest)


def _closest(rng: Rng, things: list[ObjectTruth], lengths: list[float], to: str,
             nearest: bool, base: ObjectTruth | None = None) -> Draft | None:
    order = sorted(range(len(things)), key=lambda i: lengths[i] if nearest else -lengths[i])
    first, second = sorted((lengths[order[0]], lengths[order[1]]))
    if not clearly_less(first, second, 0.05):
        return None
    facts = {thing.name: _length(thing, length, base) for thing, length in zip(things, lengths)}
    words = ('closer to', 'closest to') if nearest else ('farther from', 'farthest from')
    stem = f'which is {words[len(things) > 2]} {to}?'
    start = f'{place(base, "xyz")}, ' if base else ''
    return choice(rng, stem, things[order[0]].name, [things[i].name for i in order[1:]], facts,
                  _DEPTH, start)


def _length(thing: ObjectTruth, length: float, base: ObjectTruth | None) -> str:
    """Distance of a thing from the camera, or its place and distance from another object."""
    where = place(thing, 'xyz')[len(thing.name) + 1:] + ' ' if base else ''
    return f'{where}{metres(length)} m'


def object_size(view: View, rng: Rng) -> Draft | None:
    """How tall an object is in centimetres, or which of two is bigger or taller."""
    whole = view.whole
    if whole and rng.random() < 0.5:
        thing = pick(rng, whole)
        answer = f'{100 * thing.thing.size[2]:.0f}'
        stem = pick(rng, ('how tall is the {} in centimeters?',
                          'how many centimeters tall is the {}?'))
        return Draft('number', stem.format(thing.name), answer, 'cm', f'{thing.name} {answer} cm.',
                     _DEPTH)
    if len(whole) < 2:
        return None
    a, b = pick_two(rng, whole)
    return _taller(rng, a, b) if rng.random() < 0.5 else _bigger(rng, a, b)


def _taller(rng: Rng, a: ObjectTruth, b: ObjectTruth) -> Draft | None:
    small, large = sorted((a, b), key=lambda thing: thing.thing.size[2])
    if small.thing.size[2] * 1.25 > large.thing.size[2]:
        return None
    facts = {t.name: f'{100 * t.thing.size[2]:.0f} cm' for t in (a, b)}
    return choice(rng, 'which object is taller?', large.name, [small.name], facts, _DEPTH)


def _bigger(rng: Rng, a: ObjectTruth, b: ObjectTruth) -> Draft | None:
    """Compare the mean edge of the bounding boxes (the cube root of the volume)."""
    def edge(truth: ObjectTruth) -> float:
        return math.prod(truth.thing.size) ** (1 / 3)
    small, large = sorted((a, b), key=edge)
    if edge(small) * 1.25 > edge(large):
        return None
    facts = {t.name: f'{100 * edge(t):.0f} cm' for t in (a, b)}
    return choice(rng, 'which object is bigger?', large.name, [small.name], facts, _DEPTH)


def height(view: View, rng: Rng) -> Draft | None:
    """How high an object's top is above the floor, or which of two tops is higher."""
    whole = view.whole
    if whole and rng.random() < 0.35:
        thing = pick(rng, whole)
        answer = metres(thing.thing.top)
        stem = pick(rng, ('how high above the floor is the top of the {} in meters?',
                          'how many meters above the floor is the top of the {}?'))
        return Draft('number', stem.format(thing.name), answer, 'm', f'{thing.name} {answer} m.',
                     _DEPTH)
    if len(whole) < 2:
        return None
    low, high = sorted(pick_two(rng, whole), key=lambda thing: thing.thing.top)
    if not clearly_less(low.thing.top, high.thing.top, 0.03):
        return None
    facts = {t.name: f'{metres(t.thing.top)} m' for t in (low, high)}
    if rng.random() < 0.5:
        return choice(rng, 'which top is higher above the floor?', high.name, [low.name], facts,
                      _DEPTH)
    stem = 'is the top of the {} higher than the top of the {}?'
    lines = [f'{t.name} {facts[t.name]}' for t in (high, low)]
    return yes_no(rng, [(stem.format(high.name, low.name), f'{lines[0]}, {lines[1]}: higher.')],
                  [(stem.format(low.name, high.name), f'{lines[1]}, {lines[0]}: lower.')], _DEPTH)


def reach(view: View, rng: Rng) -> Draft | None:
    """Whether an arm of given length reaches an object from the camera or from another object.

    The length always lies between the distances of two objects and either may be asked about, so
    the number alone tells nothing. It reaches the centre of the one, and no part of the other.
    """
    base = pick(rng, view.named) if len(view.named) > 2 and rng.random() < 0.4 else None
    lengths = {thing.name: gap(base, thing) if base else thing.distance
               for thing in view.named if thing is not base}
    things = {thing.name: thing for thing in view.named}
    pairs = [(near, far, lengths[near] * MARGIN, longest) for near in lengths for far in lengths
             if (longest := _short_of(things[far], lengths[far])) >= lengths[near] * MARGIN * 1.05]
    if not pairs:
        return None
    near, far, shortest, longest = pick(rng, pairs)
    arm = round(float(rng.uniform(shortest, longest)), 2)
    where = f'an arm at the {base.name}' if base else 'an arm at the camera'
    stem = pick(rng, (f'{where} reaches {metres(arm)} meters. can it reach the {{}}?',
                      f'{where} is {metres(arm)} meters long. is the {{}} in reach?'))
    yes, no = ([(stem.format(name), _reach_facts(things[name], lengths[name], arm, base))]
               for name in (near, far))
    return yes_no(rng, yes, no, _DEPTH)


def _short_of(target: ObjectTruth, length: float) -> float:
    """The longest arm that clearly ends before a thing whose centre is ``length`` away, metres."""
    radius = math.dist(target.thing.size, (0, 0, 0)) / 2  # of the ball around it
    return min(length / MARGIN, length - radius - 0.02)


def _reach_facts(target: ObjectTruth, length: float, arm: float, base: ObjectTruth | None) -> str:
    start = f'{place(base, "xyz")}, ' if base else ''
    found = 'in reach' if length <= arm else 'far'
    return f'{start}{target.name} {_length(target, length, base)}, arm {metres(arm)} m: {found}.'
