"""``--suite scenes``: a checkpoint on simulated rooms it has never seen, with baselines.

Every question goes through the real engine. Two baselines tell what a score is worth: the best
constant answer of the training split per category, and the same model on a grey picture.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Iterable, Sequence

import numpy as np
from tqdm import tqdm

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import DEPTH, SEGMENTATION, Answer, DepthMap, Failure
from cooper_ros.evaluation.map_suites import DepthRow, class_counts, depth_row, depth_summary
from cooper_ros.scenes.generate import Sample, generate
from cooper_ros.scenes.palette import SCENE_PALETTE
from cooper_ros.scenes.phrasing import rephrase
from cooper_ros.scenes.splits import names_held_out
from cooper_ros.scoring.scores import best_constant, mean_interval, score

GREY = 128


@dataclass(frozen=True)
class Reply:
    """What a request ended in: the short answer and kinds of maps, or the message of a failure."""

    short: str
    maps: tuple[str, ...]
    seconds: float
    error: str = ''


@dataclass
class Row:
    """One question and what became of it.

    Attributes:
        held_out: whether it names a thing that training never shows.
        failures: how many of its requests had no answer.
        error: message of the first of them.
    """

    scene: int
    category: str
    kind: str
    truth: str
    given: str
    score: float
    majority: float
    blind: float | None
    maps: tuple[str, ...]
    seconds: float
    failures: int
    error: str = ''
    held_out: bool = False


@dataclass
class Maps:
    """Map scores: depth per frame, measured as suite ``depth`` does, and pixel counts per class.

    ``frames`` counts segmentations; a model without metres has depth after the fit only.
    """

    frames: int = 0
    depth: list[DepthRow] = field(default_factory=list)
    inside: np.ndarray = field(default_factory=lambda: np.zeros(len(SCENE_PALETTE)))
    union: np.ndarray = field(default_factory=lambda: np.zeros(len(SCENE_PALETTE)))

    def add_depth(self, drawn: DepthMap, truth: np.ndarray) -> None:
        """Compare a map with metres ``[H, W]``, as it is and after the fit."""
        self.depth.append(depth_row(f'frame {len(self.depth)}', drawn, truth,
                                    (1.0, 'rendered')))

    def add_labels(self, labels: np.ndarray, truth: np.ndarray) -> None:
        """Count pixels of every class; the counts of all frames make one mIoU."""
        self.frames += 1
        inside, union = class_counts(labels, truth)[:, :len(SCENE_PALETTE)]
        self.inside += inside
        self.union += union

    def summary(self) -> dict[str, Any]:
        """Means over frames; ``metric`` is None without metres; mIoU over classes that occur."""
        if not self.frames:
            return {}
        present, depth = self.union > 0, depth_summary(self.depth)
        return {'frames': self.frames,
                **{name: depth[name] for name in ('metric', 'aligned', 'order')},
                'miou': float(np.mean(self.inside[present] / self.union[present]))}


@functools.cache
def constants(frames: int = 200, other_words: bool = False) -> dict[tuple[str, str], str]:
    """The best constant answer of every (category, kind), from training scenes."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for sample in generate(0, frames, 'train', per_category=2, smooth=False):
        for question in (in_other_words(sample) if other_words else sample).questions:
            found[question.category, question.kind].append(question.answer)
    return {key: best_constant(key[1], answers) for key, answers in found.items()}


def in_other_words(sample: Sample) -> Sample:
    """A sample whose questions are worded anew, the same way every time."""
    rng = np.random.default_rng(sample.scene.seed)
    return replace(sample, questions=tuple(
        rephrase(question, lambda end: int(rng.integers(end))) for question in sample.questions))


def run(engine: CooperEngine, *, seed: int, count: int, mode: str, split: str = 'test',
        blind: bool = True, map_frames: int = 50, per_category: int = 1,
        other_words: bool = False) -> dict[str, Any]:
    """Ask all questions of ``count`` scenes and draw both maps of the first ``map_frames``.

    Args:
        engine: a loaded engine.
        seed: first scene seed within the split.
        count: scenes.
        mode: reasoning mode.
        split: ``test``, or ``validation`` for choosing settings.
        blind: also ask with a grey picture (doubles the time).
        map_frames: scenes whose maps are drawn and measured.
        per_category: questions of each category per scene at most.
        other_words: put every question in other words, as :mod:`cooper_ros.scenes.phrasing` does.

    Returns:
        JSON-ready results.
    """
    answers, rows, maps = constants(other_words=other_words), [], Maps()
    samples = generate(seed, count, split, per_category=per_category)
    for number, sample in enumerate(tqdm(samples, total=count, desc=f'scenes, {mode}',
                                         mininterval=2)):
        if number < map_frames:
            _draw(engine, sample, maps)
        sample = in_other_words(sample) if other_words else sample
        rows += _ask_all(engine, sample, seed + number, split, mode, blind, answers)
    return {'suite': 'scenes', 'split': split, 'seed': seed, 'scenes': count, 'mode': mode,
            'other_words': other_words,
            'overall': _summary(rows), 'held_out': _summary([row for row in rows if row.held_out]),
            'categories': _by_category(rows), 'maps': maps.summary(),
            'failures': sum(row.failures for row in rows),
            'seconds_per_question': float(np.median([row.seconds for row in rows])),
            'rows': [asdict(row) for row in rows]}


def _draw(engine: CooperEngine, sample: Sample, maps: Maps) -> None:
    frame = sample.frame
    maps.add_depth(engine.estimate_depth(frame.rgb, focal=frame.focal), frame.depth_m)
    maps.add_labels(engine.segment(frame.rgb).labels, frame.labels)


def _ask_all(engine: CooperEngine, sample: Sample, scene: int, split: str, mode: str, blind: bool,
             answers: dict[tuple[str, str], str]) -> Iterable[Row]:
    grey = np.full_like(sample.frame.rgb, GREY)
    for question in sample.questions:
        mark = functools.partial(score, question.kind, truth=question.answer,
                                 question=question.question)
        given = _ask(engine, sample.frame.rgb, question.question, mode)
        constant = answers.get((question.category, question.kind), '')
        unseen = _ask(engine, grey, question.question, mode) if blind else None
        errors = [one.error for one in (given, unseen) if one is not None and one.error]
        yield Row(scene, question.category, question.kind, question.answer, given.short,
                  mark(given.short), mark(constant),
                  None if unseen is None else mark(unseen.short),
                  given.maps, given.seconds, len(errors), ''.join(errors[:1]),
                  names_held_out(question.question, split))


def _ask(engine: CooperEngine, rgb: np.ndarray, question: str, mode: str) -> Reply:
    last = list(engine.ask(rgb, question, mode=mode))[-1]
    if isinstance(last, Failure):
        return Reply('', (), last.elapsed, last.error_msg)
    assert isinstance(last, Answer)
    return Reply(last.short, tuple(drawn.kind for drawn in last.maps), last.timings.total_s)


def _summary(rows: Sequence[Row]) -> dict[str, Any]:
    if not rows:
        return {}
    scores, scenes = [row.score for row in rows], [row.scene for row in rows]
    blind = [row.blind for row in rows if row.blind is not None]
    return {'questions': len(rows), 'scenes': len(set(scenes)), 'score': float(np.mean(scores)),
            'interval': mean_interval(scores, scenes),
            'majority': float(np.mean([row.majority for row in rows])),
            'blind': float(np.mean(blind)) if blind else None,
            'draws_depth': float(np.mean([DEPTH in row.maps for row in rows])),
            'draws_segmentation': float(np.mean([SEGMENTATION in row.maps for row in rows]))}


def _by_category(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    names = list(dict.fromkeys(row.category for row in rows))
    return {name: _summary([row for row in rows if row.category == name]) for name in names}
