"""Scores: the reference's own examples, extraction, intervals, constants."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cooper_ros.engine.events import Answer, DepthMap
from cooper_ros.errors import BadOption
from cooper_ros.evaluation import scenes_suite
from cooper_ros.evaluation.map_suites import depth_row, depth_summary
from cooper_ros.evaluation.scenes_suite import Maps, Row
from cooper_ros.scenes.generate import make_sample
from cooper_ros.scoring import scores
from cooper_ros.scoring.answer_rules import find_letter, mean_relative_accuracy, options_of
from cooper_ros.scoring.judge import Claim
from cooper_ros.scoring.scores import best_constant, mean_interval, score, wilson
from cooper_ros.training.checker import RuleChecker


@pytest.mark.parametrize(('guess', 'truth', 'expected'), [
    (10, 10, 1.0), (12.4, 10, 0.6), (15, 10, 0.0), (0, 10, 0.0), (11.5, 10, 0.7), (8.5, 10, 0.7)])
def test_mean_relative_accuracy_of_the_reference(guess: float, truth: float,
                                                 expected: float) -> None:
    assert mean_relative_accuracy(guess, truth) == pytest.approx(expected)


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0.01, 100))
def test_mean_relative_accuracy_knows_no_unit(guess: float, truth: float, unit: float) -> None:
    scaled = mean_relative_accuracy(guess * unit, truth * unit)
    assert scaled == pytest.approx(mean_relative_accuracy(guess, truth), abs=0.1001)


@pytest.mark.parametrize(('kind', 'answer', 'truth', 'expected'), [
    ('mcq', 'b', 'b', 1), ('mcq', 'B) left', 'b', 1), ('mcq', '', 'b', 0), ('mcq', 'a', 'b', 0),
    ('yes_no', 'Yes.', 'yes', 1), ('yes_no', 'no', 'yes', 0), ('yes_no', 'yesterday', 'yes', 0),
    ('number_int', '3', '3', 1), ('number_int', 'about 3', '3', 1), ('number_int', '4', '3', 0),
    ('number', '1.83 m', '1.83', 1), ('number', 'far', '1.83', 0), ('number', '3', '1', 0)])
def test_one_answer(kind: str, answer: str, truth: str, expected: float) -> None:
    assert score(kind, answer, truth) == expected


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(BadOption, match='essay'):
        score('essay', 'a', 'a')


WHICH = 'which is closer to the camera? (a) red box (b) blue can'


@pytest.mark.parametrize(('kind', 'answer', 'truth', 'question', 'expected'), [
    ('number', '150 cm', '1.5', 'how far is the can in meters?', 1),
    ('number', '1,500 mm', '1.50', 'how many meters away is the can?', 1),
    ('number', '1.5', '1.5', 'how far is the can in meters?', 1),
    ('number', '0.2 m', '20', 'how tall is the can in centimeters?', 1),
    ('number', '5 ft', '1.5', 'how far is the can in meters?', 1),
    ('number_int', 'three', '3', 'how many cans are there?', 1),
    ('number_int', 'there are three', '2', 'how many cans are there?', 0),
    ('mcq', 'The answer is b', 'b', WHICH, 1), ('mcq', 'Option B', 'b', WHICH, 1),
    ('mcq', 'the blue can', 'b', WHICH, 1), ('mcq', 'a red box', 'b', WHICH, 0),
    ('yes_no', 'the answer is yes', 'yes', 'is there a can?', 1),
    ('yes_no', 'I am not sure', 'no', 'is there a can?', 0)])
def test_scenes_are_scored_as_rewards_are(kind: str, answer: str, truth: str, question: str,
                                          expected: float) -> None:
    assert score(kind, answer, truth, question) == expected
    rewarded = RuleChecker(grade='mra').scores([Claim(question, truth, answer)])
    assert rewarded == [expected]


class Wordy:
    """Knows every answer, and says it in other units and words."""

    def __init__(self, seeds: range) -> None:
        self.known = {one.question: one for seed in seeds
                      for one in make_sample(seed, 'test', smooth=False).questions}

    def ask(self, image: np.ndarray, question: str, mode: str) -> list[Answer]:
        one = self.known[question]
        if one.kind == 'mcq':
            short = f'The answer is {options_of(question)[one.answer]}.'
        else:
            short = {'m': lambda: f'{100 * float(one.answer):.0f} cm',
                     'cm': lambda: f'{float(one.answer) / 100:.4f} m',
                     '': lambda: f'I say {one.answer}'}[one.unit]()
        return [Answer('', 0.0, short, short, (short,), 1.0)]


def test_the_suite_reads_units_and_options_of_the_question(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes_suite, 'constants', dict)
    found = scenes_suite.run(Wordy(range(3)), seed=0, count=3, mode='direct', blind=False,
                             map_frames=0)
    assert {row['kind'] for row in found['rows']} == {'mcq', 'yes_no', 'number', 'number_int'}
    assert [row for row in found['rows'] if row['score'] < 1] == []


def old_score(kind: str, given: str, truth: str) -> float:
    """The rules by which the scores of cooper-nano were published."""
    if kind in ('number', 'number_int'):
        match = re.search(r'[-+]?\d+(?:\.\d+)?', given)
        if match is None:
            return 0.0
        number, wanted = float(match.group()), float(truth)
        return float(number == wanted) if kind == 'number_int' else (
            mean_relative_accuracy(number, wanted))
    words = re.findall(r'[a-z]+', given.lower())
    return float(bool(words) and words[0] == truth.lower())


def test_bare_answers_score_as_they_always_did() -> None:
    random, seen = np.random.default_rng(0), set()
    for seed in range(12):
        for one in make_sample(seed, 'test', smooth=False, per_category=2).questions:
            bare = [one.answer, '', *'abcd', 'yes', 'no', 'Yes', 'B', *'123456789']
            bare += [f'{value:.2f}' for value in random.uniform(0, 5, 5)]
            if one.kind == 'number':
                bare += [f'{float(one.answer) * factor:.2f}'
                         for factor in random.uniform(0.4, 1.6, 20)]
            for text in bare:
                found = score(one.kind, text, one.answer, one.question)
                assert found == old_score(one.kind, text, one.answer), (one, text)
                seen.add((one.kind, found))
    assert {kind for kind, _ in seen} == {'mcq', 'yes_no', 'number', 'number_int'}
    assert len({found for kind, found in seen if kind == 'number'}) > 8


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_mean(hits_of_count: tuple[int, int]) -> None:
    hits, count = hits_of_count
    low, high = wilson(hits / count, count)
    assert 0 <= low <= hits / count + 1e-9 and hits / count - 1e-9 <= high <= 1
    assert wilson(hits / count, count * 4)[1] - wilson(hits / count, count * 4)[0] < high - low


def test_wilson_of_a_table() -> None:  # Newcombe 1998, table I: 81 of 263
    low, high = wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_questions_of_one_scene_do_not_narrow_an_interval() -> None:
    """Four copies of every question tell nothing new; one question a scene is Wilson's."""
    hits = (np.random.default_rng(5).random(200) < 0.8).astype(float)
    mean, scenes = float(hits.mean()), np.arange(200)
    once = mean_interval(hits, scenes)
    assert once == wilson(mean, 200)
    copies = mean_interval(np.repeat(hits, 4), np.repeat(scenes, 4))
    assert copies == pytest.approx(once, abs=0.01)
    assert copies == mean_interval(np.repeat(hits, 4), np.repeat(scenes, 4))
    low, high = wilson(mean, 800)
    assert copies[0] < low - 0.01 and copies[1] > high + 0.01


def test_scenes_are_drawn_in_parts_as_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hits, scenes = np.random.default_rng(2).random(90), np.arange(90) // 3
    whole = mean_interval(hits, scenes, rounds=500)
    monkeypatch.setattr(scores, '_AT_ONCE', 100)
    assert mean_interval(hits, scenes, rounds=500) == whole


def test_scenes_that_all_score_alike_are_one_witness_each() -> None:
    assert mean_interval([1.0] * 12, [0, 1, 2] * 4) == wilson(1.0, 3)
    assert mean_interval([1.0, 0.0], [7, 7]) == wilson(0.5, 1)


def test_all_categories_together_have_an_interval_over_scenes() -> None:
    rows = [Row(scene, category, 'yes_no', 'yes', 'yes', float(scene % 3 > 0), 0.5, None, (), 1.0,
                0) for scene in range(60) for category in ('height', 'reach')]
    found = scenes_suite._summary(rows)
    assert found['interval'] == mean_interval([row.score for row in rows],
                                              [row.scene for row in rows]) != wilson(2 / 3, 120)
    assert (found['questions'], found['scenes']) == (120, 60)
    assert scenes_suite._by_category(rows)['height']['interval'] == wilson(2 / 3, 60)


def test_the_best_constant() -> None:
    assert best_constant('yes_no', ['yes', 'no', 'no']) == 'no'
    assert best_constant('number', ['1.00', '1.20', '1.40', '9.00']) == '1.20'


def drawn(metres: np.ndarray) -> DepthMap:
    return DepthMap(metres / 10, metres, (0.0, 10.0), np.zeros((*metres.shape, 3), np.uint8))


def test_maps_are_measured_as_suite_depth_does() -> None:
    maps, truth = Maps(), np.linspace(1, 4, 16, dtype=np.float32).reshape(4, 4)
    for factor in (1.1, 1.3):
        maps.add_depth(drawn(truth * factor), truth)
    labels = np.zeros((4, 4), np.uint8)
    labels[:2] = 1
    maps.add_labels(np.zeros((4, 4), np.uint8), labels)
    summary = maps.summary()
    assert summary['metric']['abs_relative_difference'] == pytest.approx(0.2)
    assert summary['metric']['delta1_acc'] == 0.5
    assert summary['metric']['silog_rmse'] == pytest.approx(0, abs=1e-4)  # of one factor
    assert summary['aligned']['abs_relative_difference'] == pytest.approx(0, abs=1e-5)
    same = depth_summary([depth_row('x', drawn(truth * factor), truth, (1.0, 'x'))
                          for factor in (1.1, 1.3)])
    assert {name: summary[name] for name in ('metric', 'aligned', 'order')} == {
        name: same[name] for name in ('metric', 'aligned', 'order')}
    assert summary['miou'] == pytest.approx((0.5 + 0.0) / 2)


@pytest.mark.parametrize('text, letter', [
    ('A or B', None), ("It's A, not B", None), ('Not B, so A', None), ('(A) or (D)', None),
    ('A, B', None), ('a or d', None), ('Option A or D', None), ('A/B', None), ('e.g. A', 'a'),
    ('A, because it is near', 'a'), ('The answer is B because A is farther', 'b'),
    ('I compared A and B; the answer is B.', 'b'), ('D) the door', 'd'), ('a.', 'a'),
    ('A red box', None), ('(B) the red one, not (A)', 'b')])
def test_a_letter_is_read_where_one_is_chosen(text: str, letter: str | None) -> None:
    """Naming several would be a second guess for nothing under a rule that takes the last."""
    assert find_letter(text) == letter


def test_a_letter_that_is_no_option_is_no_answer() -> None:
    options = {'a': 'red box', 'b': 'blue can'}
    assert find_letter('C', options) is None
    assert find_letter('Between A and C I pick A', options) == 'a'
    hedged = 'which? (a) red box (b) blue can (c) cup (d) egg'
    assert [score('mcq', f'A or {letter}', 'd', hedged) for letter in 'BCD'] == [0, 0, 0]
