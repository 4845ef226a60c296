"""Flags of questions: measured both ways, kept line by line, never mixed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
from model_folder import write_model_folder
from support.rl_data import questions
from support.tiny import tiny_engine

from cooper_ros.engine.events import Event, Failure
from cooper_ros.errors import BadData, BadOption, ContextFull
from cooper_ros.scoring.judge import Claim
from cooper_ros.training.data import FrameStore
from cooper_ros.training.data_cli import flags as flags_command
from cooper_ros.training.datasets.cooper_set import RlSet
from cooper_ros.training.flags import FlagOptions, write_flags
from cooper_ros.training.questions import (
    SceneQuestions,
    asking_order,
    read_flags,
    with_flags,
)


class ByMode:
    """Right in some modes only, so that flags can be told apart."""

    def __init__(self, right: dict[str, set[str]]) -> None:
        self.right, self.asked = right, 0

    def scores(self, claims: list[Claim]) -> list[float]:
        mode = 'with' if self.asked % 2 == 0 else 'without'
        self.asked += 1
        return [float(claims[0].question.rstrip('?')[-1] in self.right[mode])] * len(claims)


def test_flags_compare_both_ways_and_resume(tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    checker = ByMode({'with': {'0', '2'}, 'without': {'1', '2'}})
    options = FlagOptions(with_mode='text', without_mode='direct')
    engine = tiny_engine()
    write_flags(engine, rows, out, options, checker, limit=2)
    asked = checker.asked
    counts = write_flags(engine, rows, out, options, checker, limit=4)
    assert asked == 4 and checker.asked == 8  # the first two were not asked again
    assert read_flags(out) == {'g0': 'positive', 'g1': 'negative', 'g2': 'boundary',
                               'g3': 'boundary'}
    assert counts == {'positive': 1, 'negative': 1, 'boundary': 2}
    out.write_bytes(out.read_bytes()[:-30])  # killed while it wrote the last line
    assert write_flags(engine, rows, out, options, checker, limit=4) == counts
    assert checker.asked == 10 and len(read_flags(out)) == 4
    first = json.loads(out.read_text().splitlines()[0])
    assert (first['with_tools'], first['without_tools']) == (1.0, 0.0)
    assert {name: first[name] for name in asdict(options)} == asdict(options)


def test_a_line_that_lacks_nothing_but_its_end_is_kept(tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    out.write_text('{"data_id": "g0", "flag": "negative"}')
    options = FlagOptions(with_mode='text', without_mode='direct')
    write_flags(tiny_engine(), rows, out, options, limit=2)
    assert list(read_flags(out)) == ['g0', 'g1']


def test_another_file_is_left_as_it_is(tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'notes.jsonl'
    for text in ('{"data": 1}\n{"data": ', 'weights\x00', '{"data_id": "g0"}\n'):
        out.write_text(text)
        with pytest.raises(BadData):
            write_flags(tiny_engine(), rows, out)
        assert out.read_text() == text


def test_flags_of_two_models_do_not_mix(tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    out.write_text('{"data_id": "g0", "flag": "negative"}\n')  # as older versions wrote it
    options, engine = FlagOptions(with_mode='text', without_mode='direct'), tiny_engine()
    for limit in (2, 3):
        write_flags(engine, rows, out, options, limit=limit, model='abc')
    assert [json.loads(line).get('model') for line in out.read_text().splitlines()] == [
        None, 'abc', 'abc']
    with pytest.raises(BadOption, match=r'another model; got flags.jsonl:2: model abc; allowed: '
                                        'model xyz; remedy: give another --out'):
        write_flags(engine, rows, out, options, limit=4, model='xyz')
    assert len(read_flags(out)) == 3


@pytest.mark.parametrize('changes, words', [
    ({'with_mode': 'auto'}, 'flags.jsonl:2: with_mode text; allowed: with_mode auto; remedy: '
                            'give another --out, or delete .*flags.jsonl'),
    ({'without_mode': 'maps'}, 'without_mode direct; allowed: without_mode maps'),
    ({'tries': 2, 'margin': 0.5}, 'tries 1, margin 0.0; allowed: tries 2, margin 0.5')])
def test_flags_measured_in_other_ways_do_not_mix(changes: dict, words: str,
                                                 tmp_path: Path) -> None:
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    out.write_text('{"data_id": "g5", "flag": "negative"}\n')  # as older versions wrote it
    options = FlagOptions(with_mode='text', without_mode='direct')
    write_flags(tiny_engine(), rows, out, options, limit=2)
    before = out.read_bytes()
    with pytest.raises(BadOption, match=f'measured in another way; got .*{words}'):
        write_flags(tiny_engine(), rows, out, replace(options, **changes), limit=3)
    assert out.read_bytes() == before
    assert with_flags(rows, out).sample(5).flag == 'negative'  # training reads both kinds of rows


class Refusing:
    """An engine that cannot answer one question."""

    def __init__(self, number: int) -> None:
        self.number, self.engine = number, tiny_engine()

    def ask(self, image: np.ndarray, question: str, **changes: object) -> Iterator[Event]:
        if f'row {self.number}?' in question:
            return iter([Failure('r', 0.0, 307, 'CONTEXT_FULL: no room for it')])
        return self.engine.ask(image, question, **changes)


def test_a_question_the_engine_refuses_has_no_flag(tmp_path: Path) -> None:
    """It would count as wrong both ways, or in one of both if just that one fails."""
    rows, out = RlSet(questions(tmp_path / 'set')), tmp_path / 'flags.jsonl'
    options = FlagOptions(with_mode='text', without_mode='direct')
    with pytest.raises(ContextFull, match='not answered; got g1 in mode text: CONTEXT_FULL: no '
                                          'room for it; remedy: .*the same command then goes on'):
        write_flags(Refusing(1), rows, out, options)
    assert list(read_flags(out)) == ['g0']
    write_flags(tiny_engine(), rows, out, options, limit=2)
    assert list(read_flags(out)) == ['g0', 'g1']


@pytest.mark.parametrize('changes, words', [
    ({'with_mode': 'nope'}, 'with_mode is out of range; got nope; allowed: auto, direct, text, '
                            'maps'),
    ({'without_mode': ''}, 'without_mode is out of range; .*allowed: auto, direct'),
    ({'with_mode': 'text'}, 'without_mode is out of range; got text; allowed: another than'),
    ({'tries': 0}, 'tries is out of range; got 0'), ({'margin': -0.1}, 'margin is out of range'),
    ({'margin': float('nan')}, 'margin is out'), ({'temperature': 0.0}, 'temperature is out')])
def test_flags_cannot_be_measured_in_any_way(changes: dict, words: str) -> None:
    with pytest.raises(BadOption, match=words):
        FlagOptions(**changes)


def test_a_wrong_mode_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match='with_mode is out of range; got nope'):
        flags_command('gone', tmp_path / 'f.jsonl', tmp_path / 'gone', with_mode='nope')
    assert not list(tmp_path.iterdir())


def test_flags_of_other_questions_are_refused(tmp_path: Path, store: FrameStore,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    asked, path = SceneQuestions(store, 'train/0'), tmp_path / 'flags.jsonl'
    for text in ('{"data_id": "train/0/3/1", "flag": "positive"}\n', ''):
        path.write_text(text)
        with pytest.raises(BadData, match='of other questions.*such as train/0/0/.*cooper data '
                                          'flags.*docs/training.md'):
            with_flags(asked, path)
    name = asked.data_id(5)
    path.write_text(text := f'{{"data_id": "{name}", "flag": "positive"}}\n')
    assert text and with_flags(asked, path).sample(5).flag == 'positive'
    assert f'flags: 1 of {len(asked)} questions have one (1 %)' in capsys.readouterr().err


def test_flags_of_a_part_are_of_all_rooms_and_go_on(tmp_path: Path, store: FrameStore) -> None:
    """The first questions are about one room; a larger limit asks those of a smaller one too."""
    asked, out = SceneQuestions(store, 'train/0'), tmp_path / 'flags.jsonl'
    options, engine = FlagOptions(with_mode='text', without_mode='direct'), tiny_engine()
    write_flags(engine, asked, out, options, limit=5)
    before = out.read_text()
    write_flags(engine, asked, out, options, limit=16)
    names = list(read_flags(out))
    assert out.read_text().startswith(before) and before.count('\n') == 5
    assert len(names) == 16 and len({name.split('/')[2] for name in names}) >= 6
    assert len({name.split('/')[3] for name in names}) >= 6  # categories
    assert sorted(asking_order(asked)) == list(range(len(asked)))


def test_what_no_flag_names_may_be_left_out(tmp_path: Path, store: FrameStore,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    asked, path = SceneQuestions(store, 'train/0'), tmp_path / 'flags.jsonl'
    count = len(asked)
    for named, only, words in (
            (3, True, '; the others do not train'), (3, False, '; the others have no exploration '
             'reward, unless their rows have flags: task.flagged_only leaves them out'),
            (count // 3, False, ''), (count // 3, True, '; the others do not train')):
        ids = [asked.data_id(index) for index in range(0, count, count // named)][:named]
        path.write_text(''.join(f'{{"data_id": "{name}", "flag": "negative"}}\n' for name in ids))
        found = with_flags(asked, path, only)
        assert f'{named} of {count} questions have one ({100 * named / count:.0f} %){words}\n' in (
            capsys.readouterr().err)
        assert len(found) == (named if only else count)
        rows = [found.sample(index) for index in range(len(found))]
        assert [row.data_id for row in rows if row.flag == 'negative'] == ids


def test_the_flags_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from cooper_ros.training.data_cli import app
    outcome = CliRunner().invoke(app, [
        'flags', '--model', str(write_model_folder(tmp_path / 'model')), '--questions',
        str(questions(tmp_path / 'set')), '--out', str(tmp_path / 'f.jsonl'), '--limit', '2',
        '--with-mode', 'text', '--without-mode', 'direct'])
    assert outcome.exit_code == 0 and '2 boundary' in outcome.output, outcome.output
    rows = [json.loads(line) for line in (tmp_path / 'f.jsonl').read_text().splitlines()]
    assert rows[0]['model'] == rows[1]['model'] and len(rows[0]['model']) == 16
