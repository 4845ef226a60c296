"""Reward functions of one's own, among them the one in docs/training.md, word for word."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch
import yaml
from test_grpo_task import likes_low, settings  # noqa: F401

from cooper_ros.errors import BadCheckpoint, BadData, BadOption, CooperError
from cooper_ros.training.cli import run_stage
from cooper_ros.training.grpo_task import GrpoTask
from cooper_ros.training.processes import joined, leave
from cooper_ros.training.reward_function import Reward, load_function
from cooper_ros.training.rewards import (
    RewardGroup,
    RewardOptions,
    RewardRollout,
    advantages,
    cooperative,
    group_rewards,
)
from cooper_ros.training.settings import TrainSettings

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
    ('raise SystemExit(0)', r'cannot be imported; got .*own.py: SystemExit\(0\)'),
    ('def other(group): ...', r'is not there; got .*own.py:rewards; allowed: other')])
def test_a_file_that_does_not_run_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / 'own.py').write_text(text + '\n')
    with pytest.raises(BadOption, match=words):
        load_function(f'{tmp_path}/own.py:rewards')


@pytest.mark.parametrize('body, words', [
    ('return [{"a": 1}]', 'the terms of every rollout; got AT: 1; allowed: 2 mappings'),
    ('return None', 'the terms of every rollout; got AT: None; allowed: 2 mappings'),
    ('return [1.0, 2.0]', 'names with numbers; got AT rollout 0: 1.0'),
    ('return [{}, {}]', 'names with numbers; got AT rollout 0'),
    ('return [{"std": 1}] * 2', 'names with numbers; .*none of them std'),
    ('return [{"a": 1}, {"b": 1}]', 'terms of a reward change; got AT rollout 1: b; allowed: a'),
    ('return [{"a": 1}, {"a": math.nan}]', 'no finite number; got AT rollout 1: a nan'),
    ('return [{"a": math.inf}] * 2', 'no finite number; got AT rollout 0: a inf'),
    ('return [{"a": "much"}] * 2', "no finite number; got AT rollout 0: a 'much'"),
    ('return [{"a": 10 ** 400}] * 2', 'no finite number; got AT rollout 0: a 1000'),
    ('return [{"a": 10 ** 5000}] * 2', 'no finite number; got AT rollout 0: a int'),
    ('return [{"a": 1j}] * 2', 'no finite number; got AT rollout 0: a 1j'),
    ('return [{"a": 1e308, "b": 1e308}] * 2',  # each finite, their sum is not
     'too large; got AT rollout 0: a 1e.308; allowed: -1e.12 .. 1e.12; remedy: .*larger units')])
def test_what_is_no_reward_is_refused(tmp_path: Path, body: str, words: str) -> None:
    reward = Reward(RewardOptions(function=own(tmp_path, body)))
    with pytest.raises(BadOption, match=words.replace('AT', '.*own.py:rewards on g1')):
        reward.terms(GROUP)


def test_what_no_float_can_hold_is_named_with_its_cause(tmp_path: Path) -> None:
    reward = Reward(RewardOptions(function=own(tmp_path, 'return [{"a": 10 ** 400}] * 2')))
    with pytest.raises(BadOption, match=r"g1 rollout 0: a 10+ \(OverflowError\('int too large to "
                                        r"convert to float'\)\)$") as caught:
        reward.terms(GROUP)
    assert type(caught.value.__cause__) is OverflowError and len(str(caught.value)) < 500


@pytest.mark.parametrize('body', [
    'import torch; return [{"a": torch.tensor(2.0)}] * 2',
    'import numpy; return ({"a": numpy.float32(2)},) * 2', 'return [{"a": 2}] * 2'])
def test_any_kind_of_number_is_a_term(tmp_path: Path, body: str) -> None:
    assert Reward(RewardOptions(function=own(tmp_path, body))).terms(GROUP) == [{'a': 2.0}] * 2


def test_the_largest_terms_leave_every_number_of_a_step_finite(tmp_path: Path) -> None:
    body = 'return [{"a": 1e12, "b": 1e12}, {"a": -1e12, "b": 0}]'
    terms = Reward(RewardOptions(function=own(tmp_path, body))).terms(GROUP)
    gains = torch.tensor(advantages([sum(entry.values()) for entry in terms], scaled=False))
    assert gains.dtype == torch.float32 and gains.square().sum().isfinite()


@pytest.mark.parametrize('body, words, cause', [
    ('raise KeyError("boom")', r"KeyError\('boom'\)", KeyError),
    ('return [{"a": 1 / (1 - group.rollouts[0].accuracy)}]', 'ZeroDivisionError.*by zero',
     ZeroDivisionError),
    ('return group.rewards', "AttributeError.*no attribute 'rewards'", AttributeError)])
def test_a_function_that_raises_is_named_with_its_question(
        tmp_path: Path, body: str, words: str, cause: type[Exception]) -> None:
    reward = Reward(RewardOptions(function=own(tmp_path, body)))
    with pytest.raises(BadData, match=f'function failed; got .*own.py:rewards on g1: {words}.*'
                                      'remedy: mend it.*--changed-settings') as caught:
        reward.terms(GROUP)
    assert type(caught.value.__cause__) is cause


def test_a_function_may_be_stopped_by_hand(tmp_path: Path) -> None:
    reward = Reward(RewardOptions(function=own(tmp_path, 'raise KeyboardInterrupt')))
    with pytest.raises(KeyboardInterrupt):
        reward.terms(GROUP)


def test_a_file_imports_what_lies_beside_it(tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'path', list(sys.path))
    (tmp_path / 'prices_of_a_test.py').write_text('EACH = 3.0\n')
    (tmp_path / 'later_of_a_test.py').write_text('MORE = 1.0\n')
    (tmp_path / 'json.py').write_text('raise ValueError("not the one of Python")\n')
    (tmp_path / 'own.py').write_text(
        'import json\nfrom prices_of_a_test import EACH\n\ndef rewards(group):\n'
        '    from later_of_a_test import MORE\n'
        '    return [{"a": EACH + MORE}] * len(group.rollouts)\n')
    monkeypatch.chdir(tmp_path)
    terms = Reward(RewardOptions(function='own.py:rewards')).terms(GROUP)
    assert terms == [{'a': 4.0}] * 2 and sys.path[-1] == str(tmp_path)


def agree(rank: int, port: int, places: list[str]) -> None:
    """One of two processes with a reward function of its own; what it raised goes into a file."""
    os.environ |= {'RANK': str(rank), 'WORLD_SIZE': '2', 'MASTER_ADDR': 'localhost',
                   'MASTER_PORT': str(port)}
    with joined(torch.device('cpu')):
        for place in places:
            said = Path(place) / f'said_{rank}'
            try:
                reward = Reward(RewardOptions(function=f'{place}/{rank}.py:rewards'))
                said.write_text(str([reward.terms(GROUP)[0], reward.terms(GROUP)[0]]))
            except CooperError as error:
                said.write_text(str(error))
    leave()


def test_processes_compare_their_terms_once(tmp_path: Path) -> None:
    """Their curves are added up: other names would mix them, or end in an abort of gloo."""
    bodies = {'same': ('return [{"a": 1, "b": 0}] * 2', 'return [{"b": 2, "a": 1}] * 2'),
              'more': ('return [{"a": 1}] * 2', 'return [{"a": 1, "b": 2}] * 2'),
              'raises': ('return [{"a": 1}] * 2', 'raise ValueError("only here")')}
    for name, pair in bodies.items():
        (tmp_path / name).mkdir()
        for rank, body in enumerate(pair):
            (tmp_path / name / f'{rank}.py').write_text(f'def rewards(group):\n    {body}\n')
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(agree, (port, [str(tmp_path / name) for name in bodies]),
                                nprocs=2)
    said = {name: [(tmp_path / name / f'said_{rank}').read_text() for rank in (0, 1)]
            for name in bodies}
    assert said['same'] == ["[{'a': 1.0, 'b': 0.0}, {'a': 1.0, 'b': 0.0}]",
                            "[{'b': 2.0, 'a': 1.0}, {'b': 2.0, 'a': 1.0}]"]
    assert 'differ between processes; got a, b in process 1; allowed: a;' in said['more'][0]
    assert 'differ between processes; got a in process 0; allowed: a, b;' in said['more'][1]
    assert 'failed in another process; got process 1' in said['raises'][0]
    assert "on g1: ValueError('only here')" in said['raises'][1]


class OneWeight:
    """A task that learns nothing, with a reward function."""

    def __init__(self, settings: TrainSettings) -> None:
        self.module = torch.nn.Linear(1, 1)
        self.reward = Reward(RewardOptions(**settings.task['reward']))

    def samples(self, step: int) -> int:
        return 1

    def loss(self, step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {'loss': self.module(torch.ones(1)).sum()}

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        return {}, {}


@pytest.fixture
def one_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`cooper train grpo` of that task, up to a step."""
    monkeypatch.setattr('cooper_ros.training.cli.make_task', OneWeight)

    def train(function: str, steps: int, changed: bool = False) -> None:
        values = {'stage': 'grpo', 'folder': str(tmp_path / 'run'), 'steps': 9, 'batch': 1,
                  'start': 'x', 'track': 'none', 'device': 'cpu', 'checkpoint_every': 1,
                  'task': {'reward': {'function': function}}}
        (tmp_path / 'x.yaml').write_text(yaml.safe_dump(values))
        run_stage('grpo', tmp_path / 'x.yaml', steps, changed=changed)
    return train


def test_a_run_notices_that_its_reward_was_edited(tmp_path: Path,
                                                  one_weight: Callable[..., None]) -> None:
    name, kept = own(tmp_path, 'return [{"a": 1.0}] * 2'), tmp_path / 'run' / 'settings.json'
    one_weight(name, 1)
    begun = hashlib.sha256((tmp_path / 'own.py').read_bytes()).hexdigest()
    one_weight(name, 2)  # nothing has changed
    own(tmp_path, 'return [{"a": 2.0}] * 2')
    now = hashlib.sha256((tmp_path / 'own.py').read_bytes()).hexdigest()
    with pytest.raises(BadCheckpoint, match=f'other settings; got task.reward.function.sha256 '
                                            f'{now}; allowed: task.reward.function.sha256 {begun}'
                                            '; remedy: .*--changed-settings takes the new'):
        one_weight(name, 3)
    one_weight(name, 3, changed=True)
    one_weight(name, 4)  # the new one is what it goes on with
    values = json.loads(kept.read_text())
    assert values.pop('sha256') == {'task.reward.function': now}
    kept.write_text(json.dumps(values))  # as a run of an older version left it
    own(tmp_path, 'return [{"a": 3.0}] * 2')
    one_weight(name, 5)
    (tmp_path / 'own.py').unlink()
    with pytest.raises(BadOption, match='file of the reward function is missing'):
        one_weight(name, 6)


def test_what_is_edited_while_a_run_goes_on_is_noticed_too(
        tmp_path: Path, one_weight: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    name = own(tmp_path, 'return [{"a": 1.0}] * 2')

    def edits(self: OneWeight) -> tuple[dict, dict]:
        own(tmp_path, 'return [{"a": 2.0}] * 2')
        return {}, {}
    monkeypatch.setattr(OneWeight, 'validate', edits)
    one_weight(name, 1)  # its checkpoint is written after the edit
    with pytest.raises(BadCheckpoint, match='begun with other settings; got task.reward.function'):
        one_weight(name, 2)


def test_the_file_of_a_module_is_kept_too(tmp_path: Path, one_weight: Callable[..., None],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'module_of_a_test.py').write_text('def rewards(group): ...\n')
    one_weight('module_of_a_test:rewards', 1)
    (tmp_path / 'module_of_a_test.py').write_text('def rewards(group): return []\n')
    with pytest.raises(BadCheckpoint, match='got task.reward.function.sha256'):
        one_weight('module_of_a_test:rewards', 2)


def test_a_file_is_read_anew_however_quickly_it_is_edited(tmp_path: Path) -> None:
    """Bytecode that Python keeps knows a second and a size; these two files share both."""
    for value in (1.0, 2.0):
        name = own(tmp_path, f'return [{{"a": {value}}}] * 2')
        os.utime(tmp_path / 'own.py', (1e9, 1e9))
        assert Reward(RewardOptions(function=name)).terms(GROUP)[0] == {'a': value}


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
