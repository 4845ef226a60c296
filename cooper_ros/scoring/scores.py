"""Scores of the questions about scenes, their intervals, and the best constant answer."""

from __future__ import annotations

import math
from collections import Counter
from typing import Iterable, Sequence

import numpy as np

from cooper_ros.errors import BadOption
from cooper_ros.scoring import answer_rules

KINDS = ('mcq', 'yes_no', 'number', 'number_int', 'exact')
ROUNDS = 10_000
_AT_ONCE = 2**22  # scenes drawn before their means are kept: tables have thousands of pictures


def score(kind: str, given: str, truth: str, question: str = '') -> float:
    """Score one short answer by the rules of the reward.

    Args:
        kind: ``mcq``, ``yes_no``, ``number`` (mean relative accuracy), ``number_int`` (exact)
            or ``exact`` (the same words).
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


def per_scene(values: Sequence[float], scenes: Sequence[int | str]
              ) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values of every scene, and how many there are: ``[S]`` each."""
    _, owner = np.unique(np.asarray(scenes), return_inverse=True)
    return np.bincount(owner, np.asarray(values, float)), np.bincount(owner)


def scene_bootstrap(sums: np.ndarray, counts: np.ndarray, rounds: int,
                    rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of a mean over questions, from scenes drawn again with their questions."""
    means, step = [], max(1, _AT_ONCE // len(sums))
    for first in range(0, rounds, step):
        drawn = rng.integers(len(sums), size=(min(step, rounds - first), len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


def mean_interval(scores: Sequence[float], scenes: Sequence[int | str], rounds: int = ROUNDS,
                  seed: int = 0) -> tuple[float, float]:
    """95 % interval of a mean score; questions about one scene are right or wrong together.

    Where a scene has several questions, scenes are drawn and not questions. Scenes that all
    scored alike show no spread to draw from: then each counts as one observation.

    Args:
        scores: 0..1, one per question, at least one.
        scenes: the scene, or the picture, of every question: a number or a name.
        rounds: resamples.
        seed: of the resamples.
    """
    sums, counts = per_scene(scores, scenes)
    if len(sums) == len(scores) or np.ptp(sums / counts) < 1e-12:
        return wilson(float(np.mean(scores)), len(sums))
    return scene_bootstrap(sums, counts, rounds, np.random.default_rng(seed))


def best_constant(kind: str, answers: Iterable[str]) -> str:
    """The one answer that scores best if it is given every time."""
    known = list(answers)
    candidates: Sequence[str] = [answer for answer, _ in Counter(known).most_common(40)]
    return max(candidates, key=lambda one: sum(score(kind, one, truth) for truth in known))
