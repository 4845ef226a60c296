"""Questions about what is in the picture: counting, existence, occlusion, grid cell."""

from __future__ import annotations

import numpy as np

from cooper_ros.scenes.ask import Rng, choice, pick, yes_no
from cooper_ros.scenes.palette import COLOURS, SHAPES
from cooper_ros.scenes.qa import MIN_SHARE, SEGMENTATION, Draft, View
from cooper_ros.scenes.splits import COMMON_PAIRS, HELD_OUT
from cooper_ros.scenes.truth import ObjectTruth

_SEGMENTATION = (SEGMENTATION,)
_PLURAL = {'box': 'boxes', 'ball': 'balls', 'can': 'cans', 'pill': 'pills', 'egg': 'eggs',
           'cup': 'cups'}
_CELLS = ('top left', 'top center', 'top right', 'middle left', 'middle center', 'middle right',
          'bottom left', 'bottom center', 'bottom right')
_ONE_WEIGHT = 0.12  # most groups have one member: `1` would nearly always be right
# Objects gather in the middle of pictures. So the middle cell is asked about only where nothing
# lies elsewhere, and the others about equally often. Cells are wrong options so often that each is
# right about every fourth time it is offered (fitted on 900 training scenes): no safe guess.
_CELL_WEIGHT = 1 / np.array([0.04, 0.08, 0.04, 0.25, 100.0, 0.30, 0.07, 0.08, 0.06])
_WRONG_WEIGHT = np.array([0.02, 0.06, 0.02, 0.21, 0.32, 0.27, 0.04, 0.04, 0.03])
_CELL_MARGIN = 0.12  # the centroid is at least this share of a cell away from grid lines


def _countable(things: list[ObjectTruth]) -> list[ObjectTruth] | None:
    """Return the visible ones, or None where one of them is too little visible to be sure."""
    if any(0 < thing.share < MIN_SHARE for thing in things):
        return None
    return [thing for thing in things if thing.share > 0]


def counting(view: View, rng: Rng) -> Draft | None:
    """How many objects of a colour, of a shape, on the table, or in all; they are listed from
    left to right with their place in percent of the picture."""
    groups = [(f'{colour} objects', [t for t in view.truths if t.thing.colour == colour])
              for colour in COLOURS]
    groups += [(_PLURAL[shape], [t for t in view.truths if t.thing.shape == shape])
               for shape in SHAPES]
    groups.append(('objects', list(view.truths)))
    if view.scene.table is not None:
        groups.append(('objects on the table', [t for t in view.truths if t.thing.on_table]))
    by_count: dict[int, list[tuple[str, list[ObjectTruth]]]] = {}
    for words, things in groups:
        seen = _countable(things)
        if seen:
            by_count.setdefault(len(seen), []).append((words, seen))
    if not by_count:
        return None
    counts = sorted(by_count)
    weights = np.array([_ONE_WEIGHT if count == 1 else 1.0 for count in counts])
    count = counts[int(rng.choice(len(counts), p=weights / weights.sum()))]
    words, seen = pick(rng, by_count[count])
    listed = ', '.join(f'{t.name} at {100 * t.centroid[0] / view.width:.0f}'
                       for t in sorted(seen, key=lambda t: t.centroid[0]))
    stem = pick(rng, ('how many {} are there?', 'count the {}.'))
    return Draft('number_int', stem.format(words), str(len(seen)), '', f'{listed}: {len(seen)}.',
                 _SEGMENTATION)


def existence(view: View, rng: Rng) -> Draft | None:
    """Whether an object, a colour or a shape is in the picture; absent ones are near misses."""
    form = rng.random()
    if form < 0.5:
        yes, no = _pairs(view, rng)
        stem = 'is there a {}?'
    elif form < 0.75:
        yes = [t.thing.colour for t in view.truths if t.share >= MIN_SHARE]
        no = [c for c in COLOURS if c not in {t.thing.colour for t in view.truths}]
        stem = 'is there anything {}?'
    else:
        yes = [t.thing.shape for t in view.truths if t.share >= MIN_SHARE]
        no = [s for s in SHAPES if s not in {t.thing.shape for t in view.truths}]
        stem = 'is there a {}?'
    return yes_no(rng, [(_article(stem, name), f'{name} found.') for name in yes],
                  [(_article(stem, name), f'no {name}.') for name in no], _SEGMENTATION)


def _article(stem: str, name: str) -> str:
    text = stem.format(name)
    return text.replace(' a ', ' an ', 1) if name[0] in 'aeo' and ' a ' in text else text


def _pairs(view: View, rng: Rng) -> tuple[list[str], list[str]]:
    """Names in the picture, and names that share a colour or a shape with one but are absent.

    Both are reserved for the split, or neither is, so that a new name gives nothing away.
    """
    reserved = HELD_OUT[view.scene.split]
    pool = reserved if reserved and rng.random() < 0.5 else COMMON_PAIRS
    present = {(t.thing.colour, t.thing.shape) for t in view.truths}
    colours, shapes = {c for c, _ in present}, {s for _, s in present}
    absent = [' '.join(pair) for pair in pool
              if pair not in present and pair[0] in colours and pair[1] in shapes]
    return [t.name for t in view.truths if t.share >= MIN_SHARE
            and (t.thing.colour, t.thing.shape) in pool], absent


def occlusion(view: View, rng: Rng) -> Draft | None:
    """Whether something hides part of an object, and what."""
    hidden = [t for t in view.named if t.hidden >= 0.15]
    if rng.random() < 0.4:
        return _hider(view, hidden, rng)
    clear = [t for t in view.named if t.hidden <= 0.005 and not t.cut]
    stem = 'is the {} partly hidden?'
    return yes_no(rng, [(stem.format(t.name), _hidden_facts(view, t)) for t in hidden],
                  [(stem.format(t.name), f'{t.name} whole.') for t in clear], _SEGMENTATION)


def _main_hider(view: View, thing: ObjectTruth) -> ObjectTruth | None:
    """Return the named object that covers at least 80 percent of the hidden part."""
    index, pixels = max(thing.hidden_by.items(), key=lambda entry: entry[1])
    if pixels < 0.8 * sum(thing.hidden_by.values()):
        return None
    return next((t for t in view.named if t.index == index), None)


def _hidden_facts(view: View, thing: ObjectTruth) -> str:
    hider = _main_hider(view, thing)
    return f'{thing.name} hidden' + (f' by {hider.name}.' if hider else '.')


def _hider(view: View, hidden: list[ObjectTruth], rng: Rng) -> Draft | None:
    pairs = [(t, hider) for t in hidden if (hider := _main_hider(view, t)) is not None]
    if not pairs:
        return None
    thing, hider = pick(rng, pairs)
    others = [t.name for t in view.named if t is not thing and t.index not in thing.hidden_by]
    if not others:
        return None
    wrong = [others[int(i)] for i in rng.permutation(len(others))][:2]
    return choice(rng, f'which object hides part of the {thing.name}?', hider.name, wrong,
                  f'{thing.name} hidden by {hider.name}.', _SEGMENTATION)


def grid_cell(thing: ObjectTruth, width: int, height: int) -> int | None:
    """Return the 3x3 cell 0..8 of an object's visible centroid, None near a grid line."""
    across, down = thing.centroid[0] / width * 3, thing.centroid[1] / height * 3
    if any(min(v % 1, 1 - v % 1) < _CELL_MARGIN and 0.5 < v < 2.5 for v in (across, down)):
        return None
    return min(int(down), 2) * 3 + min(int(across), 2)


def spatial_grid(view: View, rng: Rng) -> Draft | None:
    """In which cell of a 3x3 grid over the picture an object lies."""
    cells: dict[int, list[ObjectTruth]] = {}
    for thing in view.named:
        cell = grid_cell(thing, view.width, view.height)
        if cell is not None and not thing.cut:
            cells.setdefault(cell, []).append(thing)
    if not cells:
        return None
    known = sorted(cells)
    weights = _CELL_WEIGHT[known]
    cell = known[int(rng.choice(len(known), p=weights / weights.sum()))]
    thing = pick(rng, cells[cell])
    facts = f'{thing.name} {_CELLS[cell]}.'
    if rng.random() < 0.5:
        stem = 'a 3x3 grid numbers the image 1 to 9 from the top left. which cell holds the {}?'
        return Draft('number_int', stem.format(thing.name), str(cell + 1), '', facts, ())
    share = np.where(np.arange(9) == cell, 0.0, _WRONG_WEIGHT)
    wrong = [_CELLS[int(i)] for i in rng.choice(9, 3, replace=False, p=share / share.sum())]
    return choice(rng, f'where in the image is the {thing.name}?', _CELLS[cell], wrong, facts, ())
