"""Is an answer right? By rules, or by a language model behind an OpenAI-compatible address.

The published recipe asks a judge for every rollout and has no rules (reference section 11.3).
Here rules are the default: exact, free and repeatable. A judge can be configured; where it
fails for good, the rules decide and the failure is counted, unless ``published`` asks for the 0
of the released code.
"""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from typing import Any, Mapping, Protocol, Sequence

from cooper_ros.engine.answers import short_answer
from cooper_ros.errors import BadOption
from cooper_ros.scoring.answer_rules import (
    NUMBER,
    find_quantity,
    in_one_unit,
    kind_of,
    score,
)
from cooper_ros.scoring.judge import EASY, Claim, Judge, JudgeSettings
from cooper_ros.training.typed import build

GRADES = ('threshold', 'mra')


class Checker(Protocol):
    """Scores answers, 0 (wrong) to 1 (right)."""

    def scores(self, claims: Sequence[Claim]) -> list[float]:
        """One score per claim, in order."""


@dataclass(frozen=True)
class RuleChecker:
    """Options by letter or text, yes or no, counts exactly, lengths with units.

    Attributes:
        grade: ``threshold`` makes a number right or wrong, as a reward of 0 or 1 wants it;
            ``mra`` gives it its mean relative accuracy.
        tolerance: largest relative error of a right number.

    Raises:
        BadOption: a value is unknown or out of its range.

    >>> RuleChecker().scores([Claim('how far, in meters?', '2.0', r'\\boxed{180 cm}')])
    [1.0]
    """

    grade: str = 'threshold'
    tolerance: float = 0.25

    def __post_init__(self) -> None:
        if self.grade not in GRADES:
            raise BadOption('no such grade', value=self.grade, limit=', '.join(GRADES))
        if not 0 < self.tolerance < 10:
            raise BadOption('tolerance is out of range', value=self.tolerance, limit='0 .. 10')

    def scores(self, claims: Sequence[Claim]) -> list[float]:
        """See :class:`Checker`."""
        return [self._score(claim) for claim in claims]

    def _score(self, claim: Claim) -> float:
        kind = kind_of(claim.truth, claim.question)
        if kind != NUMBER or self.grade == 'mra':
            return score(claim.response, claim.truth, claim.question, kind)
        found = find_quantity(short_answer(claim.response))
        wanted = find_quantity(claim.truth)
        if found is None or wanted is None:
            return 0.0
        number, truth = in_one_unit(found, wanted, claim.question)
        return float(abs(number - truth) <= self.tolerance * abs(truth))


@dataclass
class JudgeChecker:
    """Asks a chat model, and the rules where it does not decide.

    Attributes:
        judge: where and how it is asked.
        rules: what decides where the judge does not.
        published: score 0 what the judge failed to judge, instead of asking the rules.
        asked: claims so far.
        failed: claims the judge never answered with True or False.
        failed_share: of those, in the last call, 0..1.
    """

    judge: Judge
    rules: Checker = field(default_factory=RuleChecker)
    published: bool = False
    asked: int = 0
    failed: int = 0
    failed_share: float = 0.0

    def scores(self, claims: Sequence[Claim]) -> list[float]:
        """See :class:`Checker`; claims are sent from several threads."""
        verdicts = self.judge.verdicts(claims)
        failed = sum(verdict is None for verdict in verdicts)
        self.asked, self.failed = self.asked + len(claims), self.failed + failed
        self.failed_share = failed / max(1, len(claims))
        spare = [0.0] * len(claims) if self.published else self.rules.scores(claims)
        return [rule if verdict is None else float(verdict)
                for verdict, rule in zip(verdicts, spare)]

    def require(self) -> None:
        """Ask one easy question, before anything is loaded and sampled for claims.

        Raises:
            BadOption: there is no verdict.
        """
        if self.judge.verdicts([EASY]) == [None]:
            raise self._absent('the judge does not judge', 'an easy question failed')

    def require_verdicts(self) -> None:
        """Check that there is a judge at all: without one, a run would go on unnoticed.

        Raises:
            BadOption: not one claim was ever judged.
        """
        if self.asked and self.failed == self.asked:
            raise self._absent('the judge has judged nothing',
                               f'{self.failed} of {self.asked} claims failed')

    def _absent(self, what: str, seen: str) -> BadOption:
        asked = self.judge.settings
        return BadOption(
            what, value=f'{seen}, {asked.model} at {asked.url}', limit='replies of True or False',
            remedy='see that the server runs and knows the model, and check url, model and '
                   f'the key in {asked.key_variable}; without task.checker.judge rules decide')


def make_checker(values: Mapping[str, Any]) -> Checker:
    """Build the checker of a training file: the fields of :class:`RuleChecker`, and for a judge
    ``judge: {url: ..., model: ..., published: false}``.

    Raises:
        BadOption: an unknown or missing field.
    """
    values = dict(values)
    judge = values.pop('judge', None)
    rules = build(RuleChecker, values, 'task.checker')
    if judge is None:
        return rules
    if not isinstance(judge, AnyMapping):
        raise BadOption('task.checker.judge must be a mapping', value=repr(judge),
                        limit='{url: ..., model: ..., published: false}')
    judge = dict(judge)
    published = judge.pop('published', False)
    if not isinstance(published, bool):
        raise BadOption('task.checker.judge.published has the wrong type', value=repr(published),
                        limit='true, false')
    asked = build(JudgeSettings, judge, 'task.checker.judge')
    return JudgeChecker(Judge(asked), rules, published)
