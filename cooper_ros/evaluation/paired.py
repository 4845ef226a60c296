"""Is one way of answering better than another? Both answered the same questions.

Questions about one picture are right or wrong together, so scenes are drawn and exchanged, not
questions: a cluster bootstrap for the interval, a sign-flip permutation test for p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from cooper_ros.errors import BadData
from cooper_ros.scoring.scores import ROUNDS, per_scene, scene_bootstrap

_AT_ONCE = 2**22  # signs drawn before their sums are kept: tables have thousands of pictures


@dataclass(frozen=True)
class Comparison:
    """Mean score of the first minus that of the second, in shares of 1.

    Attributes:
        difference: over all questions.
        interval: 95 % bootstrap interval over scenes.
        p: two-sided, of the difference if the two were alike.
        questions, scenes: how many.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    questions: int
    scenes: int

    def __str__(self) -> str:
        low, high = (100 * end for end in self.interval)
        return (f'{100 * self.difference:+.1f} points ({low:.1f} to {high:.1f}, '
                f'p = {self.p:.4f}, {self.questions} questions, {self.scenes} scenes)')


def compare_paired(first: Sequence[float], second: Sequence[float], scenes: Sequence[int], *,
                   rounds: int = ROUNDS, seed: int = 0) -> Comparison:
    """Compare scores of the same questions.

    Args:
        first, second: scores 0..1, one per question.
        scenes: the scene of every question.
        rounds: resamples, and sign flips.
        seed: of both.

    Raises:
        BadData: the lists differ in length or are empty.
    """
    if not len(first) == len(second) == len(scenes) or not len(first):
        raise BadData('paired scores must belong to the same questions',
                      value=(len(first), len(second), len(scenes)), limit='equal, at least 1')
    gain = np.asarray(first, float) - np.asarray(second, float)
    sums, counts = per_scene(gain, scenes)
    rng = np.random.default_rng(seed)
    interval = scene_bootstrap(sums, counts, rounds, rng)
    p = (1 + np.sum(np.abs(_flips(sums, rounds, rng)) >= abs(sums.sum()) - 1e-12)) / (rounds + 1)
    return Comparison(float(gain.mean()), interval, float(p), len(gain), len(sums))


def _flips(sums: np.ndarray, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """Total of the sums with signs by chance, ``rounds`` times."""
    step = max(1, _AT_ONCE // len(sums))
    return np.concatenate([
        rng.choice((-1.0, 1.0), size=(min(step, rounds - first), len(sums))) @ sums
        for first in range(0, rounds, step)])
