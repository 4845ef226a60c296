"""``cooper evaluate --other-words``: the same scenes, asked as people ask."""

from __future__ import annotations

import numpy as np
import pytest

from cooper_ros.engine.events import Answer
from cooper_ros.evaluation import scenes_suite
from cooper_ros.scenes.generate import make_sample


class Remembers:
    """Answers what it knows, and keeps what it was asked."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known, self.asked = known, []

    def ask(self, image: np.ndarray, question: str, mode: str) -> list[Answer]:
        self.asked.append(question)
        short = self.known.get(question, 'nothing')
        return [Answer('', 0.0, short, short, (short,), 1.0)]


def run(engine: Remembers, other_words: bool) -> dict:
    return scenes_suite.run(engine, seed=0, count=4, mode='direct', blind=False, map_frames=0,
                            other_words=other_words)


def test_questions_are_worded_anew_and_scored_by_their_truth(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes_suite, 'constants', lambda frames=0, other_words=False: {})
    usual = Remembers({one.question: one.answer for seed in range(4)
                       for one in make_sample(seed, 'test').questions})
    assert run(usual, other_words=False)['overall']['score'] == 1
    others = {one.question: one.answer for seed in range(4) for one in
              scenes_suite.in_other_words(make_sample(seed, 'test')).questions}
    other, lost = Remembers(others), Remembers(usual.known)
    found = run(other, other_words=True)
    assert found['overall']['score'] == 1 and found['other_words'] is True
    assert {row['kind'] for row in found['rows']} >= {'exact', 'yes_no', 'number', 'number_int'}
    assert len(set(other.asked) - set(usual.asked)) > 0.7 * len(other.asked)
    assert len(other.asked) == len(usual.asked)
    assert run(lost, other_words=True)['overall']['score'] < 0.3


def test_the_constant_answer_is_one_of_those_words() -> None:
    constants = scenes_suite.constants(12, other_words=True)
    assert constants['relation_object', 'exact'] in ('left', 'right', 'in front', 'behind')
    assert constants['camera_distance', 'number'].endswith(' m') or \
        constants['camera_distance', 'number'][-1].isdigit()
    assert ('relation_object', 'mcq') not in constants
