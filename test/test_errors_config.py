"""Errors say what, how much, what is allowed and what to do; settings are checked once."""

from __future__ import annotations

import dataclasses
import pickle
import threading

import pytest

from cooper_ros import errors
from cooper_ros.config import CooperConfig, options
from cooper_ros.errors import BadOption, Busy, CooperError, ErrorCode, class_of


def family() -> list[type[CooperError]]:
    return [value for value in vars(errors).values()
            if isinstance(value, type) and issubclass(value, CooperError)]


def test_message_holds_code_value_limit_and_remedy() -> None:
    error = Busy('the queue is full', value=5, limit=4, remedy='ask later')
    assert str(error) == 'BUSY: the queue is full; got 5; allowed: 4; remedy: ask later'


@pytest.mark.parametrize('kind', family())
def test_errors_survive_a_pipe(kind: type[CooperError]) -> None:
    error = kind('what', value=(1, 2), limit='x', remedy='do')
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind and str(back) == str(error) and back.code == error.code


class Unshown:
    """What has no text."""

    def __str__(self) -> str:
        raise RuntimeError('no')


@pytest.mark.parametrize(('value', 'shown'), [
    (threading.Lock(), 'lock object at'), (lambda: 0, '<lambda>'),
    (Unshown(), 'a Unshown that cannot be shown (RuntimeError)')])
def test_a_value_that_no_pipe_carries_does_not_cost_the_cause(value: object, shown: str) -> None:
    error = BadOption('what', value=value, limit=value)
    assert str(error).count(shown) == 2
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_codes_lead_back_to_classes() -> None:
    assert all(class_of(kind.code) is kind for kind in family())
    assert class_of(12345) is CooperError and class_of(ErrorCode.NONE) is CooperError


def test_every_code_but_none_has_one_error_class() -> None:
    codes = [kind.code for kind in family()]
    assert sorted(codes) == sorted(set(ErrorCode) - {ErrorCode.NONE})


def test_defaults_are_valid_and_every_setting_is_described() -> None:
    config = CooperConfig()
    for entry in options():
        assert entry.metadata['help'] and entry.metadata['group'], entry.name
    assert dataclasses.asdict(config) == dataclasses.asdict(CooperConfig.from_mapping({}))


@pytest.mark.parametrize('name, value, words', [
    ('max_turns', 0, 'allowed: 1 .. 16'), ('mode', 'loud', 'auto, direct, text, maps'),
    ('top_p', float('nan'), '0.0 .. 1.0'), ('sample', 1, 'bool'), ('max_turns', True, 'int'),
    ('time_budget_s', '3', 'float')])
def test_bad_values_are_named(name: str, value: object, words: str) -> None:
    with pytest.raises(BadOption, match=name) as caught:
        CooperConfig().replaced(**{name: value})
    assert words in str(caught.value)


@pytest.mark.parametrize('value', [0, -0.0, 1e-9, 0.0009])
def test_a_shift_that_draws_no_numbers_is_refused(value: float) -> None:
    with pytest.raises(BadOption, match='flow_shift leaves no flow times') as caught:
        CooperConfig().replaced(flow_shift=value)
    assert f'got {value}; allowed: flow_shift >= 0.001, or -1' in str(caught.value)


@pytest.mark.parametrize('value', [-1.0, -0.5, 0.001, 100])
def test_a_shift_may_be_left_to_the_model_folder(value: float) -> None:
    assert CooperConfig(flow_shift=value).flow_shift == value


def test_unknown_setting_lists_the_known() -> None:
    with pytest.raises(BadOption, match='max_turns') as caught:
        CooperConfig.from_mapping({'maxturns': 2})
    assert 'maxturns' in str(caught.value)


def test_whole_numbers_are_accepted_for_floats() -> None:
    assert CooperConfig().replaced(time_budget_s=3).time_budget_s == 3
