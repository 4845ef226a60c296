"""Reward functions of one's own, among them the one in docs/training.md, word for word."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_grpo_task import likes_low, settings  # noqa: F401

from cooper_ros.errors import BadOption
from cooper_ros.training.grpo_task import GrpoTask
from cooper_ros.training.reward_function import Reward, load_function
from cooper_ros.training.rewards import (
    RewardGroup,
    RewardOptions,
    RewardRollout,
    cooperative,
    group_rewards,
)

PAGE = (Path(__file__).parents[1] / 'docs' / 'training.md').read_text()
SECTION = PAGE.partition('### Change the reward')[2].partition('\n### ')[0]
DEPTH = '<think>how far</think><depth-estimation>depth</depth-estimation>'
LAST = '<think>so</think><answer>\\boxed{a}</answer>'
IMAGE = np.zeros((4, 4, 3), np.uint8)
GROUP = RewardGroup('g1', 'which?', 'a', 'reach', 'positive', IMAGE, (
    RewardRollout((DEPTH, LAST), (9, 5), (), 1.0, True), RewardRollout((LAST,), (7,), (), 0.5,
                                                                       False)), RewardOptions())


def block(language: str) -> str:
    return re.findall(rf'```{language}\n(.*?)```', SECTION, re.DOTALL)[0]


def own(folder: Path, body: str) -> str:
    path = folder / 'own.py'
    path.write_text(f'import math\n\ndef rewards(group):\n    {body}\n')
    return f'{path}:rewards'


def test_the_example_of_the_page_takes_a_step(tmp_path: Path, likes_low: None,  # noqa: F811
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'my_reward.py').write_text(block('python'))
    monkeypatch.chdir(tmp_path)
    task = GrpoTask(settings(tmp_path, **yaml.safe_load(block('yaml'))['task']))
    found = task.loss(1, torch.Generator().manual_seed(1))
    assert -0.005 <= found['reward_length'] < 0  # turns have 5 tokens at most
    assert found['reward_exploration'] == 0 and found['reward_format'] == 0
    assert found['reward'] == pytest.approx(float(found['reward_accuracy']
                                                  + found['reward_length']))


def test_a_function_sees_the_question_and_what_was_sampled(tmp_path: Path) -> None:
    task = GrpoTask(settings(tmp_path))
    seen: list[RewardGroup] = []
    task.reward.function = lambda group: seen.append(group) or cooperative(group)
    task.loss(1, torch.Generator().manual_seed(1))
    assert [(group.truth, group.flag, len(group.rollouts)) for group in seen] == [
        ('yes', 'positive', 4)] * 2
    assert all(group.question.endswith(f'row {group.data_id[1:]}?') for group in seen)
    rollout = seen[0].rollouts[0]
    assert seen[0].image.shape == (48, 64, 3) and rollout.maps == ()
    assert len(rollout.turns) == len(rollout.tokens) == 1 and 0 <= rollout.tokens[0] <= 5


def test_the_default_is_the_cooperative_reward() -> None:
    terms = Reward(RewardOptions(format_weight=0.5)).terms(
        replace(GROUP, options=RewardOptions(format_weight=0.5)))
    assert terms == [{'accuracy': 1.0, 'format': 0.5, 'exploration': 0.2},
                     {'accuracy': 0.5, 'format': 0.0, 'exploration': 0.0}]
    pure = group_rewards([[DEPTH, LAST], [LAST]], [1.0, 0.5], 'positive',
                         RewardOptions(format_weight=0.5), [True, False])
    assert [sum(entry.values()) for entry in terms] == [entry.total for entry in pure]


@pytest.mark.parametrize('name, words', [
    ('rewards', 'no such form; got rewards; allowed: my_reward.py:rewards'),
    ('my_reward.py', 'no such form'), (':rewards', 'no such form'),
    ('gone.py:rewards', 'file of the reward function is missing; got gone.py; remedy: give its'),
    ('no.such.module:rewards', 'module of the reward function cannot be imported; got no.such'),
    ('cooper_ros.training.rewards:reward', r'is not there; got .*:reward; allowed: .*cooperative'),
    ('cooper_ros.training.rewards:STYLES', 'the reward function is not there')])
def test_a_function_that_is_not_there_is_named(name: str, words: str) -> None:
    with pytest.raises(BadOption, match=words):
        load_function(name)
    assert load_function('cooper_ros.training.rewards:cooperative') is cooperative


@pytest.mark.parametrize('text, words', [
    ('def rewards(group) return 1', 'cannot be imported; got .*own.py: SyntaxError'),
    ('import no_such_thing', 'cannot be imported; got .*own.py: ModuleNotFoundError'),
    ('def other(group): ...', r'is not there; got .*own.py:rewards; allowed: other')])
def test_a_file_that_does_not_run_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / 'own.py').write_text(text + '\n')
    with pytest.raises(BadOption, match=words):
        load_function(f'{tmp_path}/own.py:rewards')


@pytest.mark.parametrize('body, words', [
    ('return [{"a": 1}]', 'the terms of every rollout; got 1; allowed: 2 mappings'),
    ('return None', 'the terms of every rollout; got None; allowed: 2 mappings'),
    ('return [1.0, 2.0]', 'names with numbers; got g1 rollout 0: 1.0'),
    ('return [{}, {}]', 'names with numbers; got g1 rollout 0'),
    ('return [{"std": 1}] * 2', 'names with numbers; .*none of them std'),
    ('return [{"a": 1}, {"b": 1}]', 'terms of a reward change; got g1 rollout 1: b; allowed: a'),
    ('return [{"a": 1}, {"a": math.nan}]', 'no finite number; got g1 rollout 1: a nan'),
    ('return [{"a": math.inf}] * 2', 'no finite number; got g1 rollout 0: a inf'),
    ('return [{"a": "much"}] * 2', "no finite number; got g1 rollout 0: a 'much'")])
def test_what_is_no_reward_is_refused(tmp_path: Path, body: str, words: str) -> None:
    reward = Reward(RewardOptions(function=own(tmp_path, body)))
    with pytest.raises(BadOption, match=words):
        reward.terms(GROUP)


@pytest.mark.parametrize('body', [
    'import torch; return [{"a": torch.tensor(2.0)}] * 2',
    'import numpy; return ({"a": numpy.float32(2)},) * 2', 'return [{"a": 2}] * 2'])
def test_any_kind_of_number_is_a_term(tmp_path: Path, body: str) -> None:
    assert Reward(RewardOptions(function=own(tmp_path, body))).terms(GROUP) == [{'a': 2.0}] * 2


def test_a_file_may_hold_dataclasses(tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(
        'from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\n'
        'class Price:\n    each: float = 1.0\n\ndef rewards(group):\n'
        '    return [{"a": Price().each}] * len(group.rollouts)\n')
    terms = Reward(RewardOptions(function=f'{tmp_path}/own.py:rewards')).terms(GROUP)
    assert terms == [{'a': 1.0}] * 2


def test_a_wrong_function_is_refused_before_anything_is_loaded(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('cooper_ros.training.grpo_task.open_policy', None)
    with pytest.raises(BadOption, match='gone.py'):
        GrpoTask(settings(tmp_path, reward={'function': 'gone.py:rewards'}))
