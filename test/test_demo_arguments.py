"""Command lines of the demo's and the node's programs: wrong ones end at once, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, cast

import pytest
import rclpy
from rclpy.node import Node

from cooper_ros.errors import BadOption
from cooper_ros.node import cooper_node
from cooper_ros.node.arguments import whole
from cooper_ros.node.demo import __main__ as demo
from cooper_ros.node.demo import client, sim_camera
from cooper_ros.node.demo.record import Recorder


@pytest.mark.parametrize(('parse', 'words', 'said'), [
    (demo.parse, ['--questions', '-3'], '--questions: -3 is no whole number of 1 .. 10000'),
    (demo.parse, ['--questions', '0'], '--questions: 0 is no whole number'),
    (demo.parse, ['--questions', 'many'], '--questions: many is no whole number'),
    (demo.parse, ['--seed', '-1'], '--seed: -1 is no whole number of 0 .. 1073741823'),
    (demo.parse, ['--seed', str(2**30)], f'--seed: {2**30} is no whole number'),
    (client.parse, ['--questions', '0'], '--questions: 0 is no whole number of 1 .. 10000')])
def test_numbers_out_of_range_are_refused_before_anything_starts(
        parse: Callable, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        parse(words)
    assert said in capsys.readouterr().err


def test_numbers_in_range_are_taken() -> None:
    options = demo.parse(['--questions', '1', '--seed', '0'])
    assert (options.questions, options.seed) == (1, 0) and demo.parse([]).seed is None
    assert whole(-2, 5)('-2') == -2


@pytest.mark.parametrize('word', ['-h', '--help'])
@pytest.mark.parametrize(('main', 'said'), [
    (cooper_node.main, ['usage: cooper_node', 'cooper config', 'docs/interfaces.md']),
    (sim_camera.main, ['usage: sim_camera', 'truth/depth', 'rate_hz', 'pictures per second'])])
def test_who_asks_for_help_gets_it_and_no_node(
        main: Callable[[list[str]], int], said: list[str], word: str,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rclpy, 'init', lambda **words: 1 / 0)
    assert main([word]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in said)
    assert all(len(line) < 100 for line in shown.splitlines())


@pytest.mark.parametrize(('setting', 'said'), [
    ('rate_hz:=5', 'rate_hz'), ('frame_id:=7', 'frame_id'), ('frame_id:=[]', 'frame_id'),
    ('seed:=-1', 'scene seed out of range; got -1'), ('rate_hz:=0.0', 'allowed: 0.01 .. 100')])
def test_a_parameter_that_the_camera_cannot_use_is_named_in_one_line(
        setting: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert sim_camera.main(['sim_camera', '--ros-args', '-p', setting]) == 2
    line, = capfd.readouterr().err.splitlines()
    assert line.startswith('sim_camera: BAD_OPTION: ') and said in line


def test_a_bag_that_no_demo_made_is_left_alone(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
        ) -> None:
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'mine_0.mcap').touch()
    monkeypatch.setattr(demo, 'set_environment', lambda out: 1 / 0)
    monkeypatch.setattr(demo.signal, 'signal', lambda number, act: None)  # they are ours
    assert demo.main(['--out', str(tmp_path), '--model', str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f'and it is not replaced; got {tmp_path}/bag; remedy: give another' in said
    with pytest.raises(BadOption, match='is not replaced'):  # a client may be started alone
        Recorder(cast(Node, None), tmp_path / 'bag', ())
    assert (tmp_path / 'bag' / 'mine_0.mcap').exists()


def test_a_demo_that_could_not_leave_anything_does_not_start(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
        ) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setattr(demo, 'set_environment', lambda out: 1 / 0)
    words = ['--out', str(tmp_path / 'file'), '--model', str(tmp_path)]
    monkeypatch.setattr(demo.signal, 'signal', lambda number, act: None)  # they are ours
    assert demo.main(words) == 1
    assert 'demo: BAD_OPTION: the output folder cannot be used' in capsys.readouterr().err
