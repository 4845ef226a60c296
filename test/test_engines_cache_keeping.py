"""Sound engines outlive what is done in their folder; refusals of the disk are in our words."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from support.disk import small_files
from support.engine_key import INTERFACE, engine_key
from typer.testing import CliRunner, Result

from cooper_ros.cli import doctor as examining
from cooper_ros.cli.app import app as cooper
from cooper_ros.cli.engine import app
from cooper_ros.errors import BadOption, EngineBuild, EngineMismatch, ErrorCode, OutOfDisk
from cooper_ros.runtime import files
from cooper_ros.runtime.engines import build
from cooper_ros.runtime.engines import cache as caches
from cooper_ros.runtime.engines.cache import (
    DESCRIPTION,
    ENGINE,
    KERNELS,
    LOCK,
    BuiltEngine,
    EngineCache,
)
from cooper_ros.runtime.engines.flavour import RTX, STANDARD, Flavour
from cooper_ros.runtime.engines.key import BuildOptions, EngineKey
from cooper_ros.runtime.files import PART, Unwritable, discard, write_whole
from cooper_ros.runtime.locks import locked

OLD, NEW = b'an engine', b'another engine'


@pytest.fixture
def key() -> EngineKey:
    return engine_key()


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / 'engines')


def built(content: bytes = OLD, **more: Any) -> BuiltEngine:
    return BuiltEngine(content, INTERFACE, {'seconds': 1.0}, **more)


def refuse() -> BuiltEngine:
    raise EngineBuild('no')


def run(cache: EngineCache, *words: str, fails: bool = False) -> Result:
    result = CliRunner().invoke(app, [*words, '--cache', str(cache.folder)],
                                env={'COLUMNS': '200'})
    assert bool(result.exit_code) == fails, result.output
    return result


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != LOCK}


@pytest.mark.parametrize(('change', 'kept'), [
    ({}, True), ({'flavour': '{} by Torch-TensorRT', 'version': '{} by 2.13.0'}, True),
    ({'version': '10.3.0'}, False), ({'version': '10.3.0 by 2.13.0'}, False),
    ({'flavour': 'another'}, False)])
def test_stale_are_those_of_another_tensorrt_whatever_converts(
        cache: EngineCache, key: EngineKey, change: dict[str, str], kept: bool) -> None:
    changed = {name: text.format(getattr(key, name)) for name, text in change.items()}
    path = cache.store(replace(key, **changed), built)
    assert f'removed {int(not kept)} engines' in run(cache, 'remove', '--stale').output
    assert path.exists() == kept


def test_an_engine_that_is_just_being_finished_is_not_stale(
        cache: EngineCache, key: EngineKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder stops between engine and description until somebody waits for its lock."""
    stopped, seen = threading.Event(), threading.Event()
    write = caches.write_whole

    def slow(path: Path, content: bytes, flag: str) -> None:
        if path.suffix == DESCRIPTION:
            stopped.set()
            assert seen.wait(20)
        write(path, content, flag)

    monkeypatch.setattr(caches, 'write_whole', slow)
    builder = threading.Thread(target=lambda: cache.store(key, built))
    builder.start()
    assert stopped.wait(20)
    (entry,) = cache.entries()
    assert cache.fault(entry)  # as it looks without the lock
    monkeypatch.setattr('cooper_ros.cli.engine._waiting', lambda name: seen.set)
    assert 'removed 0 engines' in run(cache, 'remove', '--stale').output
    builder.join()
    assert cache.is_sound(key)
    assert cache.remove(key.name, lambda found: bool(cache.fault(found))) is None
    assert cache.remove(key.name) == len(OLD)


def test_checking_waits_for_a_builder_and_makes_no_file(cache: EngineCache, key: EngineKey
                                                        ) -> None:
    path, waited = cache.store(key, built), []
    (entry,) = cache.entries()
    path.with_suffix(DESCRIPTION).rename(cache.folder / 'aside')
    with path.with_suffix(LOCK).open('a') as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)

        def finish() -> None:
            (cache.folder / 'aside').rename(path.with_suffix(DESCRIPTION))
            waited.append(fcntl.flock(stream, fcntl.LOCK_UN))

        assert cache.check(entry, finish) == '' and len(waited) == 1
    path.with_suffix(LOCK).unlink()
    assert '1 engines are sound' in run(cache, 'check').output
    assert not path.with_suffix(LOCK).exists()


@pytest.mark.parametrize('failing', ['building', 'writing'])
def test_a_forced_build_that_fails_leaves_the_sound_engine(
        cache: EngineCache, key: EngineKey, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(key, built)
    if failing == 'writing':
        monkeypatch.setattr(files.os, 'fsync', lambda handle: (_ for _ in ()).throw(
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises((EngineBuild, OutOfDisk)):
        cache.store(key, refuse if failing == 'building' else lambda: built(NEW), force=True)
    monkeypatch.undo()
    assert cache.load(key, INTERFACE) == OLD
    cache.store(key, lambda: built(NEW), force=True)
    assert cache.load(key, INTERFACE) == NEW


def test_a_reader_waits_for_the_moment_between_engine_and_description(
        cache: EngineCache, key: EngineKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forced build stops between the two until a reader waits; both are sound engines."""
    cache.store(key, built)
    stopped, seen, write = threading.Event(), threading.Event(), caches.write_whole

    def slow(path: Path, content: bytes, flag: str) -> None:
        if path.suffix == DESCRIPTION:
            stopped.set()
            assert seen.wait(20)
        write(path, content, flag)

    def pause(seconds: float) -> None:
        seen.set()
        builder.join()

    monkeypatch.setattr(caches, 'write_whole', slow)
    monkeypatch.setattr(caches, 'time', SimpleNamespace(sleep=pause))
    builder = threading.Thread(target=lambda: cache.store(key, lambda: built(NEW), force=True))
    builder.start()
    assert stopped.wait(20)
    assert cache.load(key, INTERFACE) == NEW and seen.is_set()


def test_a_reader_does_not_wait_for_ever(cache: EngineCache, key: EngineKey,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    path, pauses = cache.store(key, built), list[float]()
    path.write_bytes(NEW)
    monkeypatch.setattr(caches, 'time', SimpleNamespace(sleep=pauses.append))
    with pytest.raises(EngineMismatch):
        cache.load(key, INTERFACE)
    assert not pauses  # nobody writes it
    with locked(path.with_suffix(LOCK)), pytest.raises(EngineMismatch):
        cache.load(key, INTERFACE)
    assert len(pauses) == caches.PAUSES and not cache._is_sound(key)
    assert len(pauses) == caches.PAUSES  # the builder itself waits for nobody


def test_all_is_hashed_before_anything_is_written(cache: EngineCache, key: EngineKey,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing 10 GB takes seconds, in which the engine would lie beside an old description."""
    done: list[str] = []
    hashed, write = caches.hashlib.sha256, caches.write_whole

    def note(content: bytes) -> object:
        done.append('hash')
        return hashed(content)

    monkeypatch.setattr(caches, 'hashlib', SimpleNamespace(sha256=note))
    monkeypatch.setattr(caches, 'write_whole', lambda path, *more: (
        done.append(path.suffix), write(path, *more)))
    cache.store(key, built)
    assert done == ['hash', ENGINE, DESCRIPTION]


def test_kernels_go_with_the_engine_that_they_were_compiled_of(cache: EngineCache, key: EngineKey
                                                               ) -> None:
    kernels = cache.store(key, built).with_suffix(KERNELS)
    kernels.write_bytes(b'of the old one')
    with pytest.raises(EngineBuild):
        cache.store(key, refuse, force=True)
    assert kernels.exists()
    cache.store(key, lambda: built(NEW), force=True)
    assert not kernels.exists() and cache.load(key, INTERFACE) == NEW


def test_a_sound_engine_needs_no_folder_that_can_be_written(
        cache: EngineCache, key: EngineKey, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache.store(key, built)

    def refused(*arguments: Any, **named: Any) -> None:
        raise Unwritable('a file cannot be written or removed', value=cache.folder)

    path.with_suffix(LOCK).unlink()
    monkeypatch.setattr(files.tempfile, 'TemporaryFile', refused)
    assert cache.store(key, refuse) == path and not path.with_suffix(LOCK).exists()
    for wanted, force in ((key, True), (replace(key, arch='SM86'), False)):
        with pytest.raises(Unwritable):  # before anything is built
            cache.store(wanted, refuse, force=force)
    assert cache.load(key, INTERFACE) == OLD


def test_timings_are_written_after_their_engine(cache: EngineCache, key: EngineKey) -> None:
    seen: list[bool] = []
    cache.store(key, lambda: built(afterwards=lambda: seen.append(cache.is_sound(key))))
    assert seen == [True]


@pytest.mark.parametrize(('action', 'words'), [
    (lambda place: write_whole(place / 'a.engine', b'1'), 'a.engine: Not a directory'),
    (lambda place: locked(place / 'a.lock').__enter__(), 'a file cannot be written or removed'),
    (lambda place: discard(place / 'a.engine'), 'a.engine: Not a directory')])
def test_what_the_system_refuses_has_path_and_remedy(
        tmp_path: Path, action: Callable[[Path], object], words: str) -> None:
    place = tmp_path / 'file'
    place.touch()
    with pytest.raises(BadOption, match=words) as caught:
        action(place)
    assert isinstance(caught.value, OSError) and type(caught.value) is Unwritable
    assert str(place) in str(caught.value) and 'name another folder' in caught.value.remedy


def test_a_limit_of_file_size_is_no_full_disk(tmp_path: Path) -> None:
    with small_files(1000), pytest.raises(OutOfDisk) as caught:
        write_whole(tmp_path / 'a.engine', bytes(5000))
    assert caught.value.code == ErrorCode.OUT_OF_DISK and not list(tmp_path.iterdir())
    assert 'a.engine is larger than a file may be; got 5,000 bytes needed; allowed: 1,000 bytes ' \
           '(ulimit -f); remedy: raise that limit' in str(caught.value)


@pytest.mark.parametrize('command', ['check', 'list', 'remove'])
def test_a_folder_that_is_not_there_is_named(cache: EngineCache, command: str) -> None:
    error = run(cache, command, fails=True).exception
    assert isinstance(error, BadOption) and f'got {cache.folder}; remedy' in str(error)
    cache.folder.touch()  # a file
    assert 'no folder of engines' in str(run(cache, command, fails=True).exception)


HOLDING = """
import sys
from pathlib import Path
from cooper_ros.runtime.locks import locked
with locked(Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.read()
"""


def test_what_killed_processes_left_is_shown_and_swept(cache: EngineCache, key: EngineKey) -> None:
    engine, graphs = cache.store(key, built), cache.folder / 'graphs'
    busy, whole = replace(key, graph='flow').name, '0123456789abcdef'
    for name in (whole, f'{whole}-2{PART}7'):
        (graphs / name).mkdir(parents=True)
        (graphs / name / 'vision.onnx').write_bytes(bytes(1 << 20))
    live = f'tensorrt-10.3.0-SM89.timings{PART}{os.getpid()}'
    for part in (f'{key.name}{ENGINE}{PART}7', f'fingerprints.json{PART}7', live,
                 f'tensorrt-10.3.0-SM89.timings{PART}{2**22 + 1}', f'{busy}{ENGINE}{PART}7'):
        (cache.folder / part).write_bytes(b'half')
    with subprocess.Popen([sys.executable, '-c', HOLDING, str(cache.folder / f'{busy}{LOCK}')],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b'held\n'
        said = run(cache, 'list').output
        assert whole in said and '1 engines, 0 MiB; 1 folders of graphs, 1 MiB' in said
        assert '4 leftovers of killed processes, 1.0 MiB' in said
        assert ('removed 0 engines, 1 folders of graphs and 4 leftovers, 2.0 MiB'
                in run(cache, 'remove', '--stale').output)  # graphs without a description
        assert names(cache.folder) == {engine.name, f'{key.name}{DESCRIPTION}', live,
                                       f'{busy}{ENGINE}{PART}7', 'graphs'}
        assert names(graphs) == set()
        holder.stdin.close()
    (graphs / whole).mkdir()
    assert ('removed 1 engines, 1 folders of graphs and 1 leftovers, 0.0 MiB'
            in run(cache, 'remove', '--all').output)
    assert names(cache.folder) == {live, 'graphs'} and names(graphs) == set()


@pytest.mark.parametrize('facts', [{'seconds': '[/red]'}, {'seconds': ':cat: [bold]'}])
def test_what_files_say_is_no_markup(cache: EngineCache, key: EngineKey, facts: dict) -> None:
    cache.store(key, lambda: BuiltEngine(OLD, INTERFACE, facts))
    assert f'{facts["seconds"]} s' in run(cache, 'list').output


def test_doctor_shows_a_path_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, 'examine', lambda config: [
        examining.Finding('model', examining.OK, 'm/c[/v2]', ':cat:')])
    monkeypatch.setattr(examining, 'memory_tables', lambda config: [
        ('m/c[/v2]', [('bf16', '[/red]', '', '')])])
    said = CliRunner().invoke(cooper, ['doctor'], env={'COLUMNS': '200'}).output
    assert said.count('m/c[/v2]') == 2 and ':cat:' in said and '[/red]' in said


class Config:
    """A TensorRT that keeps timings, and gives None or an error for damaged ones."""

    def __init__(self, damaged: object = None) -> None:
        self.damaged, self.known = damaged, None

    def create_timing_cache(self, content: bytes) -> object:
        if content == b'garbage' and isinstance(self.damaged, Exception):
            raise self.damaged
        return self.damaged if content == b'garbage' else SimpleNamespace(content=content)

    def set_timing_cache(self, cache: object, ignore: bool) -> bool:
        if cache is None:
            raise TypeError('set_timing_cache(): incompatible function arguments')
        self.known = cache.content
        return True

    def get_timing_cache(self) -> object:
        return SimpleNamespace(serialize=lambda: b'measured')


@pytest.mark.parametrize(('before', 'damaged', 'known'), [
    (lambda path: path.write_bytes(b'of before'), None, b'of before'),
    (lambda path: path.write_bytes(b'garbage'), None, b''),
    (lambda path: path.write_bytes(b'garbage'), RuntimeError('no'), b''),
    (lambda path: path.mkdir(), None, b''), (lambda path: None, None, b'')])
def test_damaged_timings_are_dropped(tmp_path: Path, before: Callable[[Path], object],
                                     damaged: object, known: bytes) -> None:
    path, config = tmp_path / 'a.timings', Config(damaged)
    before(path)
    flavour = Flavour(STANDARD, '10.3.0', None)
    build._remember_timings(flavour, config, path)
    assert config.known == known
    build._timings_writer(flavour, config, path)()
    assert path.read_bytes() == b'measured'


def test_timings_that_cannot_be_written_cost_a_line_in_the_log(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / 'file' / 'a.timings'
    path.parent.touch()
    build._timings_writer(Flavour(STANDARD, '10.3.0', None), Config(), path)()
    assert 'are of no use' in caplog.text and 'Not a directory' in caplog.text
    build._timings_writer(Flavour(RTX, '1.7', None), None, path)()  # measures nothing


@pytest.mark.parametrize(('words', 'workspace', 'remedy'), [
    ('no tactics within workspace limit', 1, 'give more with --workspace-mib; 0 leaves it'),
    ('no tactics within workspace limit', 0, 'needs less workspace'),
    ('OutOfMemory', 1, 'more --parts, needs less memory')])
def test_the_remedy_fits_the_cause(words: str, workspace: int, remedy: str) -> None:
    asked = SimpleNamespace(options=BuildOptions(workspace_mib=workspace), arch='SM89',
                            spec=SimpleNamespace(name='flow'))
    assert remedy in str(build._Build._refused(asked, words))
