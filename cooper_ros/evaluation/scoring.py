"""Scores of the questions about scenes, their intervals, and the best constant answer."""

from __future__ import annotations

import math
from collections import Counter
from typing import Iterable, Sequence

from cooper_ros.errors import BadOption
from cooper_ros.evaluation import answer_rules

KINDS = ('mcq', 'yes_no', 'number', 'number_int')


def score(kind: str, given: str, truth: str, question: str = '') -> float:
    """Score one short answer by the rules of the reward.

    Args:
        kind: ``mcq``, ``yes_no``, ``number`` (mean relative accuracy) or ``number_int`` (exact).
        given: content of the answer's box.
        truth: the right answer in the same form.
        question: options and the unit asked for are read from it.

    Returns:
        0..1.

    Raises:
        BadOption: unknown kind.
    """
    if kind not in KINDS:
        raise BadOption('unknown kind of question', value=kind, limit=', '.join(KINDS))
    return answer_rules.score(given, truth, question, kind)


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
