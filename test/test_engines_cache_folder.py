"""What is looked at in the folder of engines: names of ours, whatever else lies there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest
from support.engine_key import INTERFACE, engine_key
from support.exported import tiny_bundle
from typer.testing import CliRunner, Result

from cooper_ros.cli.engine import app
from cooper_ros.errors import BadOption, ErrorCode
from cooper_ros.runtime.engines.cache import (
    DESCRIPTION,
    ENGINE,
    LOCK,
    SEAL,
    BuiltEngine,
    EngineCache,
)
from cooper_ros.runtime.engines.key import EngineKey
from cooper_ros.runtime.files import PART, Unwritable
from cooper_ros.runtime.graphs import bundle as bundles
from cooper_ros.runtime.graphs.bundle import Bundle, bundle_name
from cooper_ros.runtime.graphs.digest import sealed
from cooper_ros.runtime.locks import locked

ROOT = Path(__file__).parents[1]
FOREIGN = ('report.part-1.zip', 'my.engine', 'my.json', 'notes.json.part-7', 'a.timings.part-7',
           'latents-fp32-SM89-0123.engine', 'graphs/thesis/fig1.csv', 'graphs/x.part-1/a.txt',
           'graphs/0123456789abcdef-x/a.txt', 'graphs/0123456789abcdef.part-1.zip')


@pytest.fixture
def key() -> EngineKey:
    return engine_key()


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / 'engines')


@pytest.fixture
def graphs(cache: EngineCache) -> Path:
    """Sound graphs in their place."""
    bundle = tiny_bundle()
    return Path(shutil.copytree(bundle.folder, cache.folder / 'graphs' / bundle_name(
        bundle.model, bundle.precision, bundle.parts)))


def store(cache: EngineCache, key: EngineKey) -> Path:
    return cache.store(key, lambda: BuiltEngine(b'an engine', INTERFACE, {'seconds': 1.0}))


def run(cache: EngineCache, *words: str, fails: bool = False) -> Result:
    result = CliRunner().invoke(app, [*words, '--cache', str(cache.folder)],
                                env={'COLUMNS': '200'})
    assert bool(result.exit_code) == fails, result.output
    return result


@pytest.mark.parametrize('how', ['--stale', '--all'])
def test_files_of_others_are_left_alone(cache: EngineCache, key: EngineKey, how: str) -> None:
    for name in FOREIGN:
        path = cache.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('of somebody else')
    assert '0 engines, 0 MiB; 0 folders of graphs, 0 MiB\n' in run(cache, 'list').output
    assert '0 engines are sound, and 0 folders' in run(cache, 'check').output
    nothing = 'removed 0 engines, 0 folders of graphs and 0 leftovers'
    assert nothing in run(cache, 'remove', how).output
    engine = store(cache, replace(key, version='0.1'))  # stale
    left = cache.folder / f'{key.name}{ENGINE}{PART}7'
    left.touch()
    foreign = cache.folder / f'{engine.name}-notes{PART}7.zip'  # begins like one of ours
    foreign.touch()
    assert 'removed 1 engines, 0 folders of graphs and 1 leftovers' in run(
        cache, 'remove', how).output
    assert not engine.exists() and not left.exists() and foreign.exists()
    assert all((cache.folder / name).read_text() == 'of somebody else' for name in FOREIGN)
    error = run(cache, 'remove', 'my', fails=True).exception
    assert isinstance(error, BadOption) and 'got my; allowed: there are none' in str(error)


@pytest.mark.parametrize('how', ['--stale', '--all', ''])
def test_a_description_without_its_engine_is_named_and_removed(
        cache: EngineCache, key: EngineKey, how: str) -> None:
    path = store(cache, key)
    path.unlink()
    said = run(cache, 'check', fails=True).output
    assert f'BAD {key.name}: the engine is gone' in said and '1 damaged' in said
    assert key.name in run(cache, 'list').output
    (entry,) = cache.entries()
    assert entry.key is None  # so nobody takes it for an engine
    assert 'removed 1 engines' in run(cache, 'remove', how or key.name).output
    assert not path.with_suffix(DESCRIPTION).exists()
    assert '0 engines are sound' in run(cache, 'check').output


@pytest.mark.parametrize('block', [os.mkfifo, Path.mkdir, lambda path: path.symlink_to('nowhere')],
                         ids=['a pipe', 'a folder', 'a dead link'])
def test_what_is_no_lock_keeps_no_other_from_being_removed(
        cache: EngineCache, key: EngineKey, block: Callable[[Path], object]) -> None:
    paths = sorted(store(cache, replace(key, graph=name, version='0.1')) for name in 'abc')
    for path in paths[:2]:
        path.with_suffix(LOCK).unlink()
        block(path.with_suffix(LOCK))
    for how in ('--stale', '--all'):
        result = run(cache, 'remove', how, fails=True)
        assert [path.exists() for path in paths] == [True, True, False]
        message = (f'BAD_OPTION: a lock is no regular file; got {paths[1].with_suffix(LOCK)}; '
                   'allowed: files that `cooper` made, or none of this name; remedy: remove what')
        assert str(result.exception).startswith(message)
        assert ('cooper: BAD_OPTION: a lock is no regular file; got '
                f'{paths[0].with_suffix(LOCK)}; allowed') in result.stderr
    assert 'removed 0 engines' in result.output and not (cache.folder / 'nowhere').exists()


def test_a_lock_is_refused_with_its_code(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f'a{LOCK}')
    with pytest.raises(Unwritable) as caught:
        locked(tmp_path / f'a{LOCK}').__enter__()
    assert caught.value.code == ErrorCode.BAD_OPTION
    with locked(tmp_path / f'b{LOCK}'):
        assert (tmp_path / f'b{LOCK}').is_file()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('name', ['latents.onnx', 'vision.onnx.data', 'words.safetensors'])
def test_damaged_graphs_are_found_and_removed(cache: EngineCache, graphs: Path, name: str) -> None:
    said = run(cache, 'check').output
    assert f'ok  {graphs.name}\n' in said and 'sound, and 1 folders of graphs' in said
    assert 'removed 0 engines, 0 folders of graphs' in run(cache, 'remove', '--stale').output
    flip(graphs / name)
    said = run(cache, 'check', fails=True).output
    assert f'BAD {graphs.name}: BAD_CHECKPOINT: exported graphs are damaged; got {name}' in said
    assert 'sound, and 0 folders of graphs' in said and '1 damaged' in said
    assert 'removed 0 engines, 1 folders of graphs' in run(cache, 'remove', '--stale').output
    assert not graphs.exists()


def test_graphs_of_another_version_are_stale(cache: EngineCache, graphs: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, 'FORMAT', bundles.FORMAT + 1)
    assert 'graphs are of another version' in run(cache, 'check', fails=True).output
    assert 'removed 0 engines, 1 folders of graphs' in run(cache, 'remove', '--stale').output
    assert not graphs.exists()


@pytest.mark.parametrize('refusing', ['rename', 'unlink'])
def test_graphs_that_cannot_be_removed_stay_whole(
        cache: EngineCache, graphs: Path, refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a read-only folder, whose graphs lie in a folder that may be written."""
    def refuse(path: Path, *more: object, **named: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    if refusing == 'rename':
        monkeypatch.setattr(Path, 'rename', refuse)
    else:
        (graphs.parent / f'{graphs.name}{PART}old').touch()
        monkeypatch.setattr(Path, 'unlink', refuse)
    error = run(cache, 'remove', '--all', fails=True).exception
    monkeypatch.undo()
    assert isinstance(error, Unwritable) and 'Permission denied' in str(error)
    Bundle.load(graphs).prove()


@pytest.mark.parametrize('closed', ['', 'graphs'])
def test_a_closed_folder_is_not_an_empty_one(
        cache: EngineCache, key: EngineKey, graphs: Path, closed: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    store(cache, key)
    real = os.scandir

    def scan(path: object = '.') -> object:
        if Path(str(path)) == cache.folder / closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, 'scandir', scan)
    message = (f'BAD_OPTION: a folder cannot be read; got {cache.folder / closed}: Permission '
               'denied; allowed: folders that this user may read; remedy: change the rights')
    for words in (['list'], ['check'], ['remove', key.name]):
        done = run(cache, *words, fails=True)
        assert str(done.exception).startswith(message)
        assert (key.name in done.output or 'removed 1 engines' in done.output) == bool(closed)


def test_letters_that_a_terminal_obeys_are_written_out(cache: EngineCache, key: EngineKey
                                                       ) -> None:
    hostile = 'a\x1b[2J\nb'
    named = replace(key, gpu=hostile, model='\x1b]0;' + 'm' * 60)
    cache.store(named, lambda: BuiltEngine(b'1', INTERFACE, {'seconds': hostile}))
    path = store(cache, replace(key, interface='\x1b'))
    assert 'SM89' in path.name
    for command, fails in (('list', False), ('check', True)):
        said = run(cache, command, fails=fails).output
        assert '\x1b' not in said and all(key.graph in line or 'engines' in line
                                          for line in said.splitlines() if 'b s' in line)
    assert 'a\\x1b[2J\\nb' in run(cache, 'list').output


@pytest.mark.parametrize('command', ['list', 'check'])
def test_nothing_that_files_say_stops_the_output(cache: EngineCache, key: EngineKey, command: str
                                                 ) -> None:
    """Half a character in a description, and a terminal that knows ASCII alone."""
    path = store(cache, replace(key, gpu='\ud800', model='\ud801' * 64))
    described = json.loads(path.with_suffix(DESCRIPTION).read_text())
    described['interface'][0][0] = '\ud801'
    path.with_suffix(DESCRIPTION).write_text(sealed(described, SEAL))
    place = {'LC_ALL': 'POSIX', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'COLUMNS': '90'}
    done = subprocess.run(
        [sys.executable, '-m', 'cooper_ros.cli', 'engine', command, '--cache', cache.folder],
        env=os.environ | place, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == (command == 'check'), done.stderr
    assert key.graph in done.stdout.decode() and not done.stderr
    assert b'\\ud801' in done.stdout
