"""Who else may write engines is looked at before one of them runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support.engine_key import INTERFACE, engine_key
from typer.testing import CliRunner, Result

from cooper_ros.cli.engine import app
from cooper_ros.errors import BadOption, EngineMismatch, ErrorCode
from cooper_ros.runtime.engines import rights
from cooper_ros.runtime.engines.cache import DESCRIPTION, KERNELS, BuiltEngine, EngineCache
from cooper_ros.runtime.engines.leftovers import all_writers, graphs_writers
from cooper_ros.runtime.engines.rights import Who, who_writes

ME, MINE, ANOTHER = 1000, 1000, 4711


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """One engine in a folder that anyone may enter."""
    made = EngineCache(tmp_path / 'engines', 'cooper engine build M')
    store(made)
    made.folder.chmod(0o755)
    return made


def store(cache: EngineCache) -> Path:
    return cache.store(engine_key(), lambda: BuiltEngine(b'an engine', INTERFACE, {}))


def check(cache: EngineCache, fails: bool) -> str:
    result: Result = CliRunner().invoke(app, ['check', '--cache', str(cache.folder)])
    assert bool(result.exit_code) == fails, result.output
    return result.output


@pytest.mark.parametrize(('mode', 'owner', 'group', 'who'), [
    (0o755, ME, MINE, Who.NOBODY), (0o755, 0, ANOTHER, Who.NOBODY),
    (0o775, ME, MINE, Who.GROUP), (0o775, ME, 7, Who.GROUP), (0o775, 0, ANOTHER, Who.OTHERS),
    (0o755, ANOTHER, MINE, Who.OTHERS), (0o600, ANOTHER, MINE, Who.OTHERS),
    (0o777, ME, MINE, Who.ANYONE), (0o1777, 0, 0, Who.ANYONE), (0o602, ME, MINE, Who.ANYONE)])
def test_who_may_write(mode: int, owner: int, group: int, who: Who,
                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights.os, 'geteuid', lambda: ME)
    monkeypatch.setattr(rights.os, 'getegid', lambda: MINE)
    monkeypatch.setattr(rights.os, 'getgroups', lambda: [7])
    assert who_writes(stat.S_IFDIR | mode, owner, group) == who


@pytest.mark.parametrize('suffix', [None, '.engine', DESCRIPTION, KERNELS])
def test_what_anyone_may_write_is_refused_and_bad(cache: EngineCache, suffix: str | None) -> None:
    path = store(cache)
    path.with_suffix(KERNELS).write_bytes(b'kept while it ran')
    exposed = path.parent if suffix is None else path.with_suffix(suffix)
    assert cache.load(engine_key(), INTERFACE) == b'an engine'
    exposed.chmod(exposed.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(EngineMismatch) as caught:
        cache.load(engine_key(), INTERFACE)
    assert caught.value.code == ErrorCode.ENGINE_MISMATCH
    assert str(caught.value) == (
        f'ENGINE_MISMATCH: anyone may have put compiled engine {path.stem} here; got {exposed}, '
        'which anyone may write; allowed: files that only their users may write; remedy: run '
        f'`chmod -R go-w {cache.folder}`, then `cooper engine build M --force`')
    said = check(cache, fails=True)
    assert f'BAD {path.stem}: anyone may write {exposed}: run `chmod -R go-w' in said
    assert '0 engines are sound' in said and '1 may have been changed by others' in said
    assert 'damaged' not in said
    assert CliRunner().invoke(app, ['remove', '--stale', '--cache', str(cache.folder)]
                              ).exit_code == 0
    assert path.exists()  # rights are no damage
    exposed.chmod(exposed.stat().st_mode & ~stat.S_IWOTH)
    assert 'ok  ' in check(cache, fails=False)


@pytest.mark.parametrize('suffix', ['.engine', DESCRIPTION, KERNELS])
def test_files_that_anyone_may_write_are_made_again(cache: EngineCache, suffix: str) -> None:
    path = store(cache)
    path.with_suffix(suffix).touch()
    path.with_suffix(suffix).chmod(0o666)
    assert not cache.is_sound(engine_key())
    store(cache)
    assert cache.is_sound(engine_key()) and cache.writers([path.stem]).who == Who.NOBODY
    assert not path.with_suffix(KERNELS).exists()  # of the engine that was there


def test_nothing_is_built_where_nothing_would_be_loaded(cache: EngineCache) -> None:
    cache.folder.chmod(0o777)
    with pytest.raises(BadOption, match='anyone may write the folder of engines'):
        store(cache)
    done = CliRunner().invoke(app, ['build', 'models/cooper-nano', '--arch', 'SM89', '--cache',
                                    str(cache.folder)])
    assert isinstance(done.exception, BadOption) and 'chmod -R go-w' in str(done.exception)


def test_a_private_folder_keeps_its_files_private(cache: EngineCache) -> None:
    """A umask of 0 is no danger behind a closed door."""
    store(cache).chmod(0o666)
    cache.folder.chmod(0o700)
    assert cache.load(engine_key(), INTERFACE) == b'an engine'
    check(cache, fails=False)


def test_a_group_that_shares_the_folder_is_mentioned_only(cache: EngineCache) -> None:
    os.chown(cache.folder, -1, os.getegid())
    cache.folder.chmod(0o775)
    assert cache.load(engine_key(), INTERFACE) == b'an engine'
    said = check(cache, fails=False)
    assert f'the group of this user may write {cache.folder}: run `chmod' in said
    assert '1 engines are sound' in said


def test_another_owner_is_bad_and_answers_all_the_same(cache: EngineCache,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, 'who_writes', lambda *found: Who.OTHERS)
    said = check(cache, fails=True)
    assert 'another user may write' in said
    assert f'`chown` where {cache.folder} is not yours' in said
    assert cache.load(engine_key(), INTERFACE) == b'an engine'


def test_graphs_that_others_may_write_are_bad(cache: EngineCache) -> None:
    graphs = cache.folder / 'graphs' / '0123456789abcdef'
    graphs.mkdir(parents=True)
    graphs.chmod(0o777)
    for found in (graphs_writers(cache.folder, graphs.name), all_writers(cache.folder)):
        assert (found.who, found.path) == (Who.ANYONE, graphs)
    graphs.chmod(0o755)
    (graphs / 'flow.onnx').touch()
    (graphs / 'flow.onnx').chmod(0o666)
    assert all_writers(cache.folder).path == graphs / 'flow.onnx'
    assert cache.writers().who == Who.NOBODY
