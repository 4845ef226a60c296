"""What commands take from the command line and what they print, letter by letter."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from bag_maker import picture
from rich.console import Console
from typer.testing import CliRunner

from cooper_ros.cli import engine
from cooper_ros.cli.app import app
from cooper_ros.cli.ask import _split
from cooper_ros.cli.replay import _report, _watch
from cooper_ros.cli.show import load_engine
from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer, Failure
from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.replay.bag import Frame, Skipped
from cooper_ros.replay.output import _line
from cooper_ros.replay.questions import Question
from cooper_ros.replay.run import Asked, Request, Result
from cooper_ros.replay.storage import Topic
from cooper_ros.replay.summary import _markdown, summary

LONG = '/data/[/bold] run [1]/' + 'x' * 90


def asked(end: Answer | Failure) -> Asked:
    return Asked(Frame('/image', 0, 0, 0, '', picture(0), b''), Question('?'), 'direct', end, 0.0)


def result(*ends: Answer | Failure, warnings: tuple[str, ...] = ()) -> Result:
    return Result(Request(Path('in'), Path('out')), Topic('/image', 'Image', 1, False), 1,
                  list(map(asked, ends)), warnings=list(warnings))


ANSWER = Answer('1', 0.0, 'yes', 'yes', (), 1.0)
FAILURE = Failure('1', 0.0, 304, 'no memory')


def test_a_replay_without_one_answer_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        _report(result(FAILURE, FAILURE), Path('summary.md'), Console())
    assert caught.value.exit_code == 1
    assert '2 questions, 2 failed, 0 skip' in capsys.readouterr().out
    _report(result(ANSWER, FAILURE), Path('summary.md'), Console())
    assert '2 questions, 1 failed' in capsys.readouterr().out
    _report(result(), Path('summary.md'), Console())
    assert 'failed' not in capsys.readouterr().out
    assert 'Exit status 1 when' in ' '.join(CliRunner().invoke(app, ['replay', '--help']
                                                               ).output.split())


def shown(end: Answer | Failure, capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """What the terminal says of a question that has ended."""
    bar: Any = SimpleNamespace(add_task=lambda *_, **__: 0, update=lambda *_, **__: None)
    _watch(Request(Path('in'), folder), bar, Console(width=200), {}).asked(0, asked(end))
    return capsys.readouterr().out


def test_an_answer_that_was_cut_short_is_no_answer_to_act_on(
        capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cut = replace(ANSWER, text='[no', complete=False, error_code=303, error_msg='DEADLINE: [/x]')
    assert shown(cut, capsys, tmp_path) == 'picture 0 ? [no (cut short: DEADLINE: [/x])\n'
    assert shown(ANSWER, capsys, tmp_path) == 'picture 0 ? yes\n'
    assert shown(FAILURE, capsys, tmp_path) == 'picture 0 ? no memory\n'
    done = result(ANSWER, cut, FAILURE)
    _report(done, Path('summary.md'), Console(width=200))
    assert '3 questions, 1 failed, 1 cut short, 0 skip' in capsys.readouterr().out
    assert '3 questions, 1 answered, 1 cut short, 0 pictures skip' in _markdown(summary(done, {}))
    assert '1 questions, 1 answered, 0 pictures' in _markdown(summary(result(ANSWER), {}))
    assert [_line(end) for end in (ANSWER, cut, FAILURE)] == ['yes', 'DEADLINE: [/x]', 'no memory']


def test_names_are_printed_whole_and_as_they_are(capsys: pytest.CaptureFixture[str],
                                                 tmp_path: Path) -> None:
    console = Console(width=60)
    _report(result(warnings=(LONG + 'a',)), Path(LONG + 'b'), console)
    bar: Any = SimpleNamespace(add_task=lambda *_, **__: 0, update=lambda *_, **__: None)
    watch = _watch(Request(Path('in'), tmp_path), bar, console, {})
    watch.skipped(Skipped('/image', 0, 0, LONG + 'c'))
    said = capsys.readouterr().out
    assert all(LONG + letter in said for letter in 'abc')


def test_a_model_folder_may_have_brackets_in_its_name() -> None:
    with pytest.raises(BadCheckpoint, match='there is no such model'):
        load_engine(CooperConfig(model_path='none/[/bold]'), Console())


@pytest.mark.parametrize('question', ['4//2 = ?', '', 'Is ./ here?', 'Why? ' * 100])
def test_a_question_is_taken_letter_by_letter(question: str) -> None:
    assert _split(['a//b.png', question]) == ([Path('a/b.png')], question)


def test_engine_is_a_group_like_the_others() -> None:
    said = CliRunner().invoke(engine.app, ['--help']).output
    assert '--install-completion' not in said
    assert not engine.app.pretty_exceptions_enable


def test_examples_of_config_stand_in_lines_of_their_own() -> None:
    said = CliRunner().invoke(app, ['config', '--help']).output.splitlines()
    assert '    cooper config --format yaml > cooper.yaml' in said


@pytest.mark.parametrize(('absent', 'name'), [('rclpy', 'ROS 2'), ('mujoco', 'MuJoCo')])
def test_the_demo_names_what_it_lacks(absent: str, name: str,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec',
                        lambda module, *rest: None if module == absent else find(module, *rest))
    done = CliRunner().invoke(app, ['demo', '--model', 'none'])
    assert isinstance(done.exception, BadOption)
    assert f'the demo needs {name}; got no module {absent}; remedy: run `make demo`' in str(
        done.exception)
    assert CliRunner().invoke(app, ['demo', '--help']).exit_code == 0
