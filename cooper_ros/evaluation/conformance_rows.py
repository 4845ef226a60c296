"""One line of a conformance table, and the comparisons that make one.

Tolerances are those that come with the recordings: for floats about ten times the rounding noise
of a float32 run, which is still far below the effect of any real mistake.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

RELATIVE, ABSOLUTE = 5e-5, 1e-6  # of the largest expected value of the tensor, and beyond it
LOG_WIDTH = 150  # columns of the table where no terminal limits it
APART_SHARE = 0.005  # of the values of a picture that may differ at all
Array = Tensor | np.ndarray


@dataclass(frozen=True)
class Row:
    """Outcome of one item.

    Attributes:
        item: part and item, for instance ``b_vit.out.connector``.
        max_abs_error: largest difference, or None where there is no number.
        tolerance: what was allowed, 0 for "equal"; None where there is no number.
        passed: None where the item could not be tried (the note says what it needs).
        note: why it failed, or what is special.
    """

    item: str
    max_abs_error: float | None
    tolerance: float | None
    passed: bool | None
    note: str = ''


def failed(rows: Sequence[Row]) -> list[Row]:
    """The rows that decide the exit status; an untried item is not among them."""
    return [row for row in rows if row.passed is False]


def exact(item: str, got: object, wanted: object) -> Row:
    """Equality of anything: ids, sizes, hashes, traces."""
    passed = got == wanted
    note = '' if passed else f'got {_short(got)}, expected {_short(wanted)}'
    return Row(item, 0.0 if passed else None, 0.0, passed, note)


def compare_tensor(item: str, got: Array, expected: Array, tolerance: float | None = None) -> Row:
    """A tensor under the general rule; integers must be equal.

    Args:
        item: name for the table.
        got: ours, any shape.
        expected: recorded; the shapes must agree.
        tolerance: absolute, instead of the general rule.
    """
    mine, theirs = (torch.as_tensor(value).detach().cpu() for value in (got, expected))
    if mine.shape != theirs.shape:
        return Row(item, None, tolerance, False,
                   f'shape {list(mine.shape)}, expected {list(theirs.shape)}')
    if tolerance is None:
        tolerance = 0.0 if not theirs.is_floating_point() else general_tolerance(theirs)
    return _within(item, _largest_difference(mine, theirs), tolerance)


def compare_number(item: str, got: float, expected: float, tolerance: float | None = None,
                   relative: float = RELATIVE) -> Row:
    """One number, by default relative to its size."""
    if tolerance is None:
        tolerance = relative * abs(expected) + ABSOLUTE
    return _within(item, abs(float(got) - float(expected)), tolerance)


def compare_picture(item: str, got: np.ndarray, expected: Array, apart: int = 1) -> Row:
    """8-bit pictures: at most ``apart`` in at most half a percent of the values."""
    mine, theirs = np.asarray(got), np.asarray(expected)
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return Row(item, None, float(apart), False, f'{mine.dtype} {mine.shape}, expected '
                                                    f'{theirs.dtype} {theirs.shape}')
    difference = np.abs(mine.astype(int) - theirs.astype(int))
    share, largest = float((difference > 0).mean()), float(difference.max(initial=0))
    note = f'{share:.3%} of the values differ' if share else ''
    return Row(item, largest, float(apart), largest <= apart and share <= APART_SHARE, note)


def worst(item: str, rows: Sequence[Row]) -> Row:
    """Many numbers of one kind as one line: the one that uses most of its tolerance."""
    def share(row: Row) -> float:
        if row.max_abs_error is None or row.tolerance is None:
            return 0.0 if row.passed else math.inf
        return row.max_abs_error / (row.tolerance or ABSOLUTE)
    if not rows:
        return Row(item, None, None, False, 'nothing was recorded')
    found = max(rows, key=lambda row: (row.passed is False, share(row)))
    note = f'{found.item}: {found.note}' if found.note else f'{len(rows)} values'
    return Row(item, found.max_abs_error, found.tolerance, found.passed, note)


def general_tolerance(expected: Tensor) -> float:
    """``5e-5 * max |expected| + 1e-6``, over finite values."""
    finite = expected[torch.isfinite(expected)].abs()
    return RELATIVE * float(finite.max()) + ABSOLUTE if finite.numel() else ABSOLUTE


def _largest_difference(mine: Tensor, theirs: Tensor) -> float:
    """Infinities of one sign are equal to each other; a lone NaN is infinitely wrong."""
    if not mine.numel():
        return 0.0
    wide, other = mine.double(), theirs.double()
    difference = torch.where(wide == other, 0.0, (wide - other).abs())
    return float(torch.nan_to_num(difference, nan=math.inf, posinf=math.inf).max())


def _within(item: str, error: float, tolerance: float) -> Row:
    passed = error <= tolerance
    return Row(item, error, tolerance, passed, '' if passed else 'too far apart')


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + '...'


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print one line per item and a summary."""
    table = Table(box=SIMPLE, highlight=False)
    for title in ('item', 'max abs error', 'tolerance', 'pass', 'note'):
        table.add_column(title, overflow='fold', no_wrap=title not in ('item', 'note'))
    for row in rows:
        verdict = {True: '[green]yes', False: '[bold red]NO', None: '[yellow]not tried'}
        table.add_row(row.item, _number(row.max_abs_error), _number(row.tolerance),
                      verdict[row.passed], row.note)
    console = console or Console()
    if not console.is_terminal:  # a pipe or a log file: names stay whole
        console.width = max(console.width, LOG_WIDTH)
    console.print(table)
    console.print(summary(rows))


def summary(rows: Sequence[Row]) -> str:
    """How many items agreed, in one line."""
    untried = sum(row.passed is None for row in rows)
    text = f'{len(rows)} items: {sum(row.passed is True for row in rows)} pass, ' \
           f'{len(failed(rows))} fail'
    return text + (f', {untried} not tried' if untried else '')


def _number(value: float | None) -> str:
    return '-' if value is None else '0' if value == 0 else f'{value:.2e}'
