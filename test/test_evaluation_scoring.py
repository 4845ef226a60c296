"""Scores: the reference's own examples, extraction, intervals, constants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cooper_ros.errors import BadOption
from cooper_ros.evaluation.scenes_suite import Maps
from cooper_ros.evaluation.scoring import (
    best_constant,
    first_number,
    mean_relative_accuracy,
    score,
    wilson,
)


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


def test_numbers_in_text() -> None:
    assert first_number('x -1.50 m, 2') == -1.5
    assert first_number('none') is None


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_mean(hits_of_count: tuple[int, int]) -> None:
    hits, count = hits_of_count
    low, high = wilson(hits / count, count)
    assert 0 <= low <= hits / count + 1e-9 and hits / count - 1e-9 <= high <= 1
    assert wilson(hits / count, count * 4)[1] - wilson(hits / count, count * 4)[0] < high - low


def test_wilson_of_a_table() -> None:  # Newcombe 1998, table I: 81 of 263
    low, high = wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_the_best_constant() -> None:
    assert best_constant('yes_no', ['yes', 'no', 'no']) == 'no'
    assert best_constant('number', ['1.00', '1.20', '1.40', '9.00']) == '1.20'


def test_maps_are_compared_without_alignment() -> None:
    maps = Maps()
    truth = np.full((4, 4), 2.0, np.float32)
    maps.add_depth(truth * 1.1, truth)
    maps.add_depth(truth * 1.3, truth)
    labels = np.zeros((4, 4), np.uint8)
    labels[:2] = 1
    maps.add_labels(np.zeros((4, 4), np.uint8), labels)
    summary = maps.summary()
    assert summary['absrel'] == pytest.approx(0.2)
    assert summary['delta1'] == 0.5
    assert summary['miou'] == pytest.approx((0.5 + 0.0) / 2)
