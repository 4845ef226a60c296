"""Two checkpoints on the same questions, compared one question at a time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Iterator

import numpy as np
from torch import Tensor

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, DepthMap, Failure
from cooper_ros.errors import BadOption
from cooper_ros.scenes.generate import generate


@dataclass(frozen=True)
class ParityRow:
    """One question, both checkpoints.

    Attributes:
        scene: seed within the test split.
        question, first, second: the question and both short answers.
        agree: the short answers are the same text, and both are answers.
        logits: largest difference of the logits of the first generated token.
        differs_at: number of the first generated token that differs, from 0; None when none does.
        maps: mean difference of each map drawn: relative depth, or share of other labels; None
            when the two did not draw the same maps.
    """

    scene: int
    question: str
    first: str
    second: str
    agree: bool
    logits: float
    differs_at: int | None
    maps: tuple[float, ...] | None


class Recorder:
    """A runtime that remembers the tokens of a request and the logits of its first one."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.tokens: list[int] = []
        self.logits: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def session(self, **sizes: int) -> Any:
        """A session whose steps are remembered."""
        session = self._runtime.session(**sizes)
        step = session.step

        def remembered(row: int, token: int) -> Tensor:
            logits = step(row, token)
            self.tokens.append(token)
            if self.logits is None:
                self.logits = logits.float().cpu()
            return logits

        session.step = remembered
        return session


class Watched:
    """An engine and what it did for its last question."""

    def __init__(self, engine: CooperEngine) -> None:
        self.recorder = Recorder(engine.parts.runtime)
        parts = dataclasses.replace(engine.parts, runtime=self.recorder)  # type: ignore[arg-type]
        self.engine = CooperEngine(parts, engine.config)

    def ask(self, picture: np.ndarray, question: str) -> Answer | Failure:
        """The last event of a question asked alone."""
        self.recorder.tokens, self.recorder.logits = [], None
        *_, last = self.engine.ask(picture, question)
        assert isinstance(last, (Answer, Failure))
        return last


def compare(first: CooperEngine, second: CooperEngine, *, seed: int = 0, count: int = 10
            ) -> Iterator[ParityRow]:
    """Ask both about scenes of the test split; yields a row per question.

    Raises:
        BadOption: they choose from different numbers of tokens.
    """
    sizes = [engine.parts.runtime.vocabulary for engine in (first, second)]
    if sizes[0] != sizes[1]:
        raise BadOption('the models have different vocabularies', value=f'{sizes[1]} tokens',
                        limit=f'{sizes[0]} tokens', remedy='compare two forms of one model')
    one, other = Watched(first), Watched(second)
    for offset, sample in enumerate(generate(seed, count, 'test')):
        for entry in sample.questions:
            a, b = (side.ask(sample.frame.rgb, entry.question) for side in (one, other))
            yield _row(seed + offset, entry.question, (one, a), (other, b))


def _row(scene: int, question: str, one: tuple[Watched, Answer | Failure],
         other: tuple[Watched, Answer | Failure]) -> ParityRow:
    (left, a), (right, b) = one, other
    said = [end.short if isinstance(end, Answer) else end.error_msg for end in (a, b)]
    both = isinstance(a, Answer) and isinstance(b, Answer)
    x, y = left.recorder, right.recorder
    logits = (float((x.logits - y.logits).abs().max())
              if x.logits is not None and y.logits is not None else float('nan'))
    return ParityRow(scene, question, said[0], said[1], both and said[0] == said[1], logits,
                     first_difference(x.tokens, y.tokens), _maps(a, b))


def first_difference(one: list[int], other: list[int]) -> int | None:
    """Index of the first generated token that differs; fed tokens start with the begin marker."""
    for at, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return at - 1
    return None if len(one) == len(other) else min(len(one), len(other)) - 1


def _maps(a: Answer | Failure, b: Answer | Failure) -> tuple[float, ...] | None:
    one, other = (end.maps if isinstance(end, Answer) else () for end in (a, b))
    if [entry.kind for entry in one] != [entry.kind for entry in other]:
        return None
    return tuple(float(np.abs(m.relative - n.relative).mean()) if isinstance(m, DepthMap)
                 else float((m.labels != n.labels).mean())  # type: ignore[union-attr]
                 for m, n in zip(one, other))
