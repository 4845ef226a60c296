"""`make setup`: what it refuses, what it says, and that it leaves out what is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'scripts' / 'bootstrap.py'


@pytest.fixture
def setup(tmp_path, monkeypatch) -> SimpleNamespace:
    """The script as a module, its stamps in a folder of the test."""
    made = run_path(str(SCRIPT))
    for function in made.values():
        if hasattr(function, '__globals__') and 'STAMPS' in function.__globals__:
            function.__globals__['STAMPS'] = tmp_path / 'stamps'
    monkeypatch.delenv('ROS_DISTRO', raising=False)
    return SimpleNamespace(**made)


@pytest.mark.parametrize('name', ['AMENT_PREFIX_PATH', 'COLCON_PREFIX_PATH'])
def test_a_sourced_ros_is_refused_with_the_other_way(name: str) -> None:
    reply = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True,
                           env={**os.environ, name: '/opt/ros/jazzy'})
    assert reply.returncode == 2
    assert f'{name} has /opt/ros/jazzy' in reply.stderr
    assert 'colcon build --base-paths . cooper_interfaces' in reply.stderr
    assert reply.stdout == ''  # nothing was begun


def test_our_own_environment_is_no_sourced_ros(setup, monkeypatch) -> None:
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(ROOT / '.venv'))
    monkeypatch.delenv('COLCON_PREFIX_PATH', raising=False)
    assert setup.sourced_ros() == ''


def test_an_old_python_is_refused(setup, monkeypatch) -> None:
    monkeypatch.setattr(sys, 'version_info', (3, 9, 18))
    with pytest.raises(setup.SetupError, match='Python 3.10 or newer is needed.*PYTHON='):
        setup.check_machine()


def test_a_machine_without_wheels_is_refused(setup, monkeypatch) -> None:
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    monkeypatch.setattr('platform.machine', lambda: 'aarch64')
    with pytest.raises(setup.SetupError, match='x86_64 Linux only, and this is linux on aarch64'):
        setup.check_machine()


def test_a_missing_compiler_is_named_with_the_line_to_type(setup, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(setup.SetupError) as caught:
        setup.check_compiler()
    assert 'a C++ compiler' in str(caught.value)
    assert 'sudo apt install g++' in str(caught.value)


def test_missing_headers_are_named_with_the_line_to_type(setup, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr('sysconfig.get_path', lambda name: str(tmp_path))
    series = f'python3.{sys.version_info.minor}'
    with pytest.raises(setup.SetupError, match=f'sudo apt install .*{series}-dev'):
        setup.check_compiler()


def test_a_step_is_due_until_done_and_again_when_its_inputs_change(setup) -> None:
    assert setup.step('wheels', 'a==1', 'wheels').due
    first = setup.step('wheels', 'a==1', 'wheels')
    assert first.due  # it was interrupted: never said done
    first.done()
    assert not setup.step('wheels', 'a==1', 'wheels').due
    assert setup.step('wheels', 'a==2', 'wheels').due


def test_foreign_libraries_do_not_reach_child_processes(setup, monkeypatch) -> None:
    monkeypatch.setenv('_ROS_WHEELS_BOOTSTRAP_COMPLETE', '1')
    monkeypatch.setenv('LD_LIBRARY_PATH', '/other/venv/lib')
    monkeypatch.setenv('PYTHONPATH', '/other')
    kept = setup.clean_environment()
    assert not {'_ROS_WHEELS_BOOTSTRAP_COMPLETE', 'LD_LIBRARY_PATH', 'PYTHONPATH'} & set(kept)


def test_a_failing_command_is_named(setup) -> None:
    with pytest.raises(setup.SetupError, match='This command failed, see above:\n    .*exit'):
        setup.run(sys.executable, '-c', 'exit(3)')


def test_a_second_run_of_make_setup_does_nothing() -> None:
    if_prepared = ROOT / '.venv' / '.stamps' / 'product'
    assert if_prepared.is_file(), 'run the tests with make test'
    reply = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, cwd=ROOT)
    assert reply.returncode == 0, reply.stderr
    steps = [line for line in reply.stdout.splitlines() if not line.startswith('[setup] ready')]
    assert len(steps) == 5 and all(line.endswith('nothing to do') for line in steps), steps


def test_the_environment_keeps_its_python(tmp_path: Path) -> None:
    """Without PYTHON=, make takes the interpreter that `.venv` was made with."""
    (tmp_path / 'Makefile').write_text((ROOT / 'Makefile').read_text())
    plain = {name: value for name, value in os.environ.items()
             if name not in ('MAKEFLAGS', 'MAKELEVEL', 'MFLAGS', 'PYTHON')}  # of `make test`

    def chosen(*words: str) -> str:
        line = subprocess.run(['make', '-n', 'setup', *words], capture_output=True, text=True,
                              cwd=tmp_path, check=True, env=plain).stdout
        return line.split()[0]

    assert chosen() == 'python3'
    interpreter = tmp_path / 'python3.99'
    interpreter.touch()
    (tmp_path / '.venv' / 'bin').mkdir(parents=True)
    (tmp_path / '.venv' / 'bin' / 'python').symlink_to(interpreter)
    assert chosen() == str(interpreter)
    assert chosen('PYTHON=python3.12') == 'python3.12'
