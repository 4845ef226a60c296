"""Scores of answers: exact match, mean relative accuracy, intervals (reference section 12.2)."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Iterable, Sequence

from cooper_ros.errors import BadOption

THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
KINDS = ('mcq', 'yes_no', 'number', 'number_int')
_NUMBER = re.compile(r'[-+]?\d+(?:\.\d+)?')
_SLACK = 1e-9  # 0.15 < 1 - 0.85 must not hang on the last bit


def mean_relative_accuracy(given: float, truth: float) -> float:
    """Share of the thresholds 0.50, 0.55 .. 0.95 that the relative error stays below.

    Args:
        given: the answer.
        truth: the true value, not 0.

    Returns:
        0..1 in tenths.
    """
    error = abs(given - truth) / abs(truth)
    return sum(error < 1 - threshold - _SLACK for threshold in THRESHOLDS) / len(THRESHOLDS)


def first_number(text: str) -> float | None:
    """The first number in a text, or None."""
    match = _NUMBER.search(text)
    return float(match.group()) if match else None


def score(kind: str, given: str, truth: str) -> float:
    """Score one short answer.

    Args:
        kind: ``mcq``, ``yes_no``, ``number`` (mean relative accuracy) or ``number_int`` (exact).
        given: content of the answer's box.
        truth: the right answer in the same form.

    Returns:
        0..1.

    Raises:
        BadOption: unknown kind.
    """
    if kind not in KINDS:
        raise BadOption('unknown kind of question', value=kind, limit=', '.join(KINDS))
    if kind in ('number', 'number_int'):
        number = first_number(given)
        if number is None:
            return 0.0
        wanted = float(truth)
        return float(number == wanted) if kind == 'number_int' or wanted == 0 else (
            mean_relative_accuracy(number, wanted))
    words = re.findall(r'[a-z]+', given.lower())
    return float(bool(words) and words[0] == truth.lower())


def wilson(mean: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % Wilson interval of a share.

    For scores between 0 and 1 it is an upper estimate of the width, since their variance is at
    most that of hits and misses with the same mean.
    """
    if count == 0:
        return 0.0, 1.0
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(mean * (1 - mean) / count
                                               + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def best_constant(kind: str, answers: Iterable[str]) -> str:
    """The one answer that scores best if it is given every time."""
    known = list(answers)
    candidates: Sequence[str] = [answer for answer, _ in Counter(known).most_common(40)]
    return max(candidates, key=lambda one: sum(score(kind, one, truth) for truth in known))
