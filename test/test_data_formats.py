"""The rows of docs/training.md are rows of the readers; mixtures of sets are checked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_data_readers import rgb, save

from cooper_ros.errors import BadOption
from cooper_ros.training.checker import make_checker
from cooper_ros.training.corpus_items import corpus_options
from cooper_ros.training.datasets.check import check
from cooper_ros.training.datasets.cooper_set import RL_FILE, SFT_FILE, RlSet, TalkSet
from cooper_ros.training.grpo_task import grpo_options
from cooper_ros.training.rewards import RewardOptions
from cooper_ros.training.typed import build

PAGE = (Path(__file__).parents[1] / 'docs' / 'training.md').read_text()


def section(name: str) -> str:
    found = re.search(rf'### [^\n]*`{name}`\n(.*?)\n##', PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def page_set(tmp_path: Path) -> Path:
    """The example rows of the page as files, one line each."""
    for name in (SFT_FILE, RL_FILE):
        row = re.findall(r'```json\n(.*?)```', section(name), re.DOTALL)[0]
        (tmp_path / name).write_text(json.dumps(json.loads(row)) + '\n')
    save(tmp_path / 'kitchen.png', rgb())
    return tmp_path


def test_the_example_rows_of_the_page_are_read(page_set: Path) -> None:
    talk, asked = TalkSet(page_set).sample(0), RlSet(page_set).sample(0)
    assert talk.data_id == asked.data_id == 'kitchen-7'
    assert [item.image is not None for item in talk.items] == [True, False, False, True, False,
                                                               False]
    assert [item.need_loss for item in talk.items] == [False, False, True, False, False, True]
    assert talk.items[-1].text.endswith('<answer>\\boxed{2.0}</answer>')
    assert (asked.question, asked.answer, asked.flag) == (talk.items[1].text, '2.0', 'positive')
    assert asked.category == '' and check('cooper', page_set).ok


@pytest.mark.parametrize('name, needed', [(SFT_FILE, ['interleaved_reason']),
                                          (RL_FILE, ['question', 'answer', 'image'])])
def test_the_tables_say_what_a_row_needs(page_set: Path, name: str, needed: list[str]) -> None:
    keys = re.findall(r'^\| `(\w+)` \| ([^|]*)', section(name), re.MULTILINE)
    assert [key for key, kind in keys if 'optional' not in kind] == needed
    row = json.loads((page_set / name).read_text())
    assert set(row) <= {key for key, _ in keys}
    optional = {key for key, _ in keys} - set(needed)
    (page_set / name).write_text(json.dumps({key: row[key] for key in set(row) - optional}))
    assert check('cooper', page_set / name).ok
    for key in needed:
        (page_set / name).write_text(json.dumps({**row, key: []} if len(needed) == 1 else {
            other: value for other, value in row.items() if other != key}))
        assert not check('cooper', page_set / name).ok


def test_the_category_of_a_question_is_kept(page_set: Path) -> None:
    row = {**json.loads((page_set / RL_FILE).read_text()), 'category': 'distance'}
    (page_set / RL_FILE).write_text(json.dumps(row))
    assert RlSet(page_set).sample(0).category == 'distance'


@pytest.mark.parametrize('task, words', [
    ({'sets': {}}, 'task.sets names no set'),
    ({'sets': {'hypersim': {'place': None}}}, 'task.sets.hypersim.place has the wrong type'),
    ({'sets': {'hypersim': {'place': ''}}}, 'task.sets.hypersim.place is empty'),
    ({'sets': {'nyu': {'place': 'x', 'weight': 0}}},
     'task.sets.nyu.weight is out of range; got 0.0; allowed: > 0'),
    ({'sets': {'nyu': {'place': 'x', 'weight': -1}}}, 'task.sets.nyu.weight is out of range'),
    ({'sets': {'nyu': {'place': 'x', 'weight': 'much'}}}, 'task.sets.nyu.weight has the wrong'),
    ({'sets': {'nyu': {'place': 'x', 'speed': 1}}}, 'unknown setting of task.sets.nyu; got speed'),
    ({'sets': {'mine': {'place': 'x'}}},
     'no such kind of data set; got mine; allowed: hypersim.*cooper; remedy: .*kind: cooper'),
    ({'sets': {'mine': {'place': 'x', 'kind': 'cupper'}}}, 'no such kind .*; got mine: cupper'),
    ({'sets': {'a/b': {'place': 'x', 'kind': 'cooper'}}}, "odd name; got 'a/b'"),
    ({'valid': -1}, 'task.valid is out of range; got -1; allowed: >= 0'),
    ({'max_tokens': 0}, 'task.max_tokens is'), ({'mirror': 1.5}, 'task.mirror is'),
    ({'ce_weight': -1}, 'task.ce_weight is'), ({'timestep_shift': 0}, 'task.timestep_shift is')])
def test_settings_of_published_sets_out_of_range_are_named(task: dict[str, Any],
                                                           words: str) -> None:
    with pytest.raises(BadOption, match=words):
        corpus_options({'sets': {'nyu': {'place': 'x'}}, **task})


@pytest.mark.parametrize('task, words', [
    ({'valid_questions': -1}, 'task.valid_questions is out of range; got -1; allowed: >= 0'),
    ({'epsilon': 0}, 'task.epsilon is out of range; got 0.0; allowed: > 0'),
    ({'learned': 2}, 'task.learned is out of range; got 2.0')])
def test_settings_of_grpo_out_of_range_are_named(task: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        grpo_options(task)


@pytest.mark.parametrize('name, value', [('threshold', -1), ('exploration', -0.2),
                                         ('format_weight', -1.0)])
def test_settings_of_the_reward_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(BadOption, match=f'reward.{name} is out of range; got {value}'):
        build(RewardOptions, {name: value})
    with pytest.raises(BadOption, match=f'reward.{name} is out of range; got nan'):
        RewardOptions(**{name: float('nan')})


@pytest.mark.parametrize('judge, words', [
    ('http://x', 'task.checker.judge must be a mapping'), ({'url': 'x', 'address': 1}, 'address'),
    ({'url': 'x', 'published': 'no'}, 'judge.published has the wrong type'),
    ({'threads': 0}, 'judge.threads is out of range; got 0; allowed: 1 .. 1024'),
    ({'attempts': 0}, 'judge.attempts is out of range; got 0; allowed: 1 .. 20'),
    ({'attempts': 21}, 'judge.attempts is out of range'),
    ({'backoff_s': -1}, 'judge.backoff_s is out of range; got -1.0; allowed: 0 .. 3600'),
    ({'timeout_s': 0}, r'judge.timeout_s is out of range; got 0.0; allowed: 0.1 .. 86400'),
    ({'timeout_s': 1e12}, 'judge.timeout_s is out of range'),
    ({'max_tokens': 0}, 'judge.max_tokens is out of range; got 0; allowed: 1 .. 1000000')])
def test_a_wrong_judge_is_named(judge: object, words: str) -> None:
    known = {'url': 'http://x', **judge} if isinstance(judge, dict) else judge
    with pytest.raises(BadOption, match=words):
        make_checker({'judge': known})
