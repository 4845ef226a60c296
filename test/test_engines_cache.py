"""Compiled engines are trusted only when they are proved to be the ones wanted."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest
from support.crash import killed_at, moments
from support.exported import tiny_bundle

from cooper_ros.errors import EngineMismatch, ErrorCode
from cooper_ros.runtime.engines import cache as caches
from cooper_ros.runtime.engines import plan as plans
from cooper_ros.runtime.engines.cache import (
    DESCRIPTION,
    ENGINE,
    KERNELS,
    LOCK,
    BuiltEngine,
    EngineCache,
)
from cooper_ros.runtime.engines.flavour import require_flavour
from cooper_ros.runtime.engines.key import BuildOptions, EngineKey
from cooper_ros.runtime.engines.plan import Plan, model_fingerprint
from cooper_ros.runtime.files import PART
from cooper_ros.runtime.graphs.digest import sealed

REBUILD = 'cooper engine build models/nano --arch SM89'
GRAPH, ARCH = 'latents', 'SM89'  # the quickest real engine there is


@pytest.fixture(scope='module')
def plan() -> Plan:
    return Plan(tiny_bundle(), require_flavour(), context=64)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / 'engines', REBUILD)


def build(plan: Plan, cache: EngineCache, arch: str = ARCH, **more: bool) -> Path:
    (job,) = plan.jobs([arch], [GRAPH])
    return plan.build(job, cache, **more)


def load(plan: Plan, cache: EngineCache, arch: str = ARCH) -> bytes:
    key = plan.key(GRAPH, arch)
    return cache.load(key, plan.bundle.specs()[GRAPH].interface('fp32'))


def refused(plan: Plan, cache: EngineCache, *words: str) -> str:
    """The message of a refusal, which always has the code and the command to run."""
    with pytest.raises(EngineMismatch) as caught:
        load(plan, cache)
    message = str(caught.value)
    assert caught.value.code == ErrorCode.ENGINE_MISMATCH
    assert message.startswith('ENGINE_MISMATCH: ')
    assert message.endswith(f'remedy: run `{REBUILD}`')
    assert all(word in message for word in words), message
    return message


def test_a_stored_engine_is_loaded_and_built_once(plan: Plan, cache: EngineCache) -> None:
    path = build(plan, cache)
    assert load(plan, cache) == path.read_bytes()
    before = path.stat().st_mtime_ns
    build(plan, cache)
    assert path.stat().st_mtime_ns == before
    build(plan, cache, force=True)
    assert path.stat().st_mtime_ns > before
    assert path.parent.stat().st_mode & 0o777 == 0o700
    (entry,) = cache.entries()
    assert entry.key == plan.key(GRAPH, ARCH) and cache.check(entry) == ''
    assert entry.facts['seconds'] > 0 and entry.facts['limits'] == plan.limits.to_dict()


def replaced(path: Path) -> Path:
    path.unlink()
    return path


def describe(path: Path, **changes: Any) -> None:
    """Change parts of a description; those of its key by ``key={...}``."""
    path = path.with_suffix(DESCRIPTION)
    described = json.loads(path.read_text())
    changes['key'] = described['key'] | changes.get('key', {})
    path.write_text(json.dumps(described | changes))


def reseal(path: Path, **changes: Any) -> None:
    """As :func:`describe`, as if it had been written so."""
    describe(path, **changes)
    path = path.with_suffix(DESCRIPTION)
    path.write_text(sealed(json.loads(path.read_text()), caches.SEAL))


@pytest.mark.parametrize(('damage', 'words'), [
    (lambda path: path.write_bytes(path.read_bytes()[:-100]), ('not the file that was', 'bytes')),
    (lambda path: path.write_bytes(path.read_bytes()[:-9] + b'tampered!'), ('is damaged',)),
    (lambda path: path.write_bytes(b''), ('not the file that was written', 'got 0 bytes')),
    (lambda path: path.unlink(), ('no compiled engine for graph latents', 'fp32 for SM89')),
    (lambda path: path.with_suffix(DESCRIPTION).unlink(), ('no compiled engine',)),
    (lambda path: path.with_suffix(DESCRIPTION).write_text('{"key":'),
     ('description of compiled engine', 'JSONDecodeError')),
    (lambda path: path.with_suffix(DESCRIPTION).write_text('[]'), ('TypeError',)),
    (lambda path: path.with_suffix(DESCRIPTION).write_text('[' * 100_000), ('RecursionError',)),
    (lambda path: replaced(path).mkdir(), ('got no regular file',)),
    (lambda path: (replaced(path) / 'deep').mkdir(parents=True), ('got no regular file',)),
    (lambda path: replaced(path).symlink_to('/dev/zero'), ('got no regular file',)),
    (lambda path: replaced(path).symlink_to('nowhere'), ('got no regular file',)),
    (lambda path: os.mkfifo(replaced(path)), ('got no regular file',)),
    (lambda path: replaced(path.with_suffix(DESCRIPTION)).mkdir(), ('OSError',)),
    (lambda path: os.mkfifo(replaced(path.with_suffix(DESCRIPTION))), ('OSError',)),
    *((lambda path, changes=changes: describe(path, **changes),
       ('description of compiled engine', 'got TypeError')) for changes in (
        {'sha256': 5}, {'sha256': None}, {'bytes': '5'}, {'bytes': True}, {'interface': 5},
        {'interface': None}, {'interface': [['a']]}, {'interface': [5]}, {'facts': None},
        {'key': {'model': 5}}, {'key': {'format': '1'}})),
    *((lambda path, changes=changes: describe(path, **changes),
       ('description of compiled engine', 'got what it says was changed')) for changes in (
        {'facts': {'limits': {}}}, {'seal': 'f' * 64}, {'seal': None}, {'more': 1},
        {'key': {'gpu': 'another'}})),
], ids=['truncated', 'tampered', 'emptied', 'gone', 'undescribed', 'half described', 'no table',
        'nested', 'a folder', 'a full folder', 'an endless link', 'a dead link', 'a pipe',
        'described by a folder', 'described by a pipe', 'a number for a digest', 'no digest',
        'a text for a size', 'a truth for a size', 'a number for an interface', 'no interface',
        'rows too short', 'rows of numbers', 'no facts', 'a number for a model',
        'a text for a format', 'other limits', 'another seal', 'no seal', 'something more',
        'another GPU'])
def test_damaged_engines_are_refused_and_built_again(
        plan: Plan, cache: EngineCache, damage: Callable[[Path], object],
        words: tuple[str, ...]) -> None:
    path = build(plan, cache)
    damage(path)
    refused(plan, cache, *words)
    assert all(cache.check(entry) for entry in cache.entries())
    build(plan, cache)
    assert load(plan, cache) == path.read_bytes()


def test_an_engine_of_an_older_version_is_named_and_stale(
        plan: Plan, cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no seal; its name is not the one that is looked for."""
    (job,) = plan.jobs([ARCH], [GRAPH])
    old = dataclasses.replace(job.key, format=job.key.format - 1)
    path = cache.store(old, lambda: BuiltEngine(b'an engine', job.spec.interface('fp32'), {}))
    described = json.loads(path.with_suffix(DESCRIPTION).read_text())
    del described[caches.SEAL]
    path.with_suffix(DESCRIPTION).write_text(json.dumps(described))
    (entry,) = cache.entries()
    assert entry.key == old
    assert cache.check(entry) == (f'of another version: format {old.format}, not '
                                  f'{job.key.format}; it is never used')
    refused(plan, cache, f'got format {old.format}, not {job.key.format}')
    assert cache.remove(entry.name, lambda found: bool(cache.fault(found)))


def test_an_engine_of_another_gpu_is_refused_under_any_name(plan: Plan,
                                                            cache: EngineCache) -> None:
    foreign = build(plan, cache, 'SM86')
    refused(plan, cache, 'got arch SM86, not SM89')
    name = plan.key(GRAPH, ARCH).name
    for suffix in (ENGINE, DESCRIPTION):  # someone renames it to what is looked for
        foreign.with_suffix(suffix).rename(cache.folder / f'{name}{suffix}')
    refused(plan, cache, 'built for something else; got arch SM86, not SM89')
    (entry,) = cache.entries()
    assert 'belongs to another engine' in cache.check(entry)


@pytest.mark.parametrize('change', [
    {'version': '10.3.0'}, {'flavour': 'tensorrt'}, {'model': 'f' * 64}, {'precision': 'bf16'},
    {'gpu': 'NVIDIA Thor'}, {'profiles': 'e' * 64}, {'options': 'd' * 64}])
def test_every_part_of_the_key_counts(plan: Plan, cache: EngineCache,
                                      change: dict[str, str]) -> None:
    path = build(plan, cache)
    reseal(path, key=change)
    ((name, value),) = change.items()
    refused(plan, cache, f'{name} {value[:12] if len(value) == 64 else value}, not ')


def test_an_engine_with_other_shapes_is_refused(plan: Plan, cache: EngineCache) -> None:
    path = build(plan, cache)
    described = json.loads(path.with_suffix(DESCRIPTION).read_text())
    described['interface'][0][2] = [-1, 128]
    reseal(path, interface=described['interface'])
    refused(plan, cache, 'has other inputs or outputs', 'got x [-1, 128] float32',
            'allowed: x [-1, 64] float32')
    (entry,) = cache.entries()
    assert 'has other inputs or outputs' in cache.check(entry)
    build(plan, cache)
    assert load(plan, cache) == path.read_bytes()


def test_an_engine_that_may_not_be_read_is_refused(plan: Plan, cache: EngineCache,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = build(plan, cache), Path.read_bytes
    with monkeypatch.context() as patch:
        def read(file: Path) -> bytes:
            if file == path:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return real(file)

        patch.setattr(Path, 'read_bytes', read)
        check_unreadable(plan, cache)
    if os.geteuid():  # root reads everything
        path.chmod(0)
        check_unreadable(plan, cache)
    build(plan, cache)
    assert load(plan, cache) == path.read_bytes()


def check_unreadable(plan: Plan, cache: EngineCache) -> None:
    refused(plan, cache, 'cannot be read; got Permission denied; allowed: a file that can be read')
    (entry,) = cache.entries()
    assert 'cannot be read' in cache.check(entry)


def test_engines_that_vanish_meanwhile_are_not_listed(plan: Plan, cache: EngineCache,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    path, parsed = build(plan, cache), caches._parsed

    def removed(description: Path) -> dict[str, Any]:
        path.unlink()
        return parsed(description)

    monkeypatch.setattr(caches, '_parsed', removed)
    assert list(cache.entries()) == []


def test_a_folder_of_others_keeps_its_rights(plan: Plan, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    build(plan, EngineCache(tmp_path, REBUILD))
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_keys_follow_what_they_are_made_of(plan: Plan) -> None:
    other = dataclasses.replace
    plans = [plan, other(plan, context=300), other(plan, side=64),
             other(plan, options=BuildOptions(workspace_mib=64)),
             other(plan, options=BuildOptions(weight_streaming=True)),
             other(plan, options=BuildOptions(decode_profile=True)),
             other(plan, flavour=other(plan.flavour, version='1.6')),
             other(plan, bundle=other(plan.bundle, model='0' * 64))]
    keys = [one.key('understand', arch) for one in plans for arch in ('SM86', 'SM89')]
    assert len({key.name for key in keys}) == len(set(keys)) == 16
    assert EngineKey.from_dict(dataclasses.asdict(keys[0])) == keys[0]


def test_two_boards_of_one_name_are_told_apart(plan: Plan, monkeypatch: pytest.MonkeyPatch
                                               ) -> None:
    """torch calls the GPU of an Orin NX and of an AGX Orin the same."""
    def key(processors: int) -> EngineKey:
        found = SimpleNamespace(multi_processor_count=processors)
        monkeypatch.setattr(plans.torch.cuda, 'get_device_properties', lambda device: found)
        return plan.key('understand', 'SM87')

    monkeypatch.setattr(plans, 'gpu_name', lambda flavour: 'Orin')
    monkeypatch.setattr(plans.torch.cuda, 'current_device', lambda: 0)
    assert key(8).differences(key(16)) == ['gpu Orin, 8 SMs, not Orin, 16 SMs']


TWO = """
import sys
from pathlib import Path
from cooper_ros.runtime.engines import cache
from cooper_ros.runtime.engines.flavour import require_flavour
from cooper_ros.runtime.engines.plan import Plan
from cooper_ros.runtime.graphs.bundle import Bundle

plan, told = Plan(Bundle.load(Path({bundle!r})), require_flavour(), context=64), []
(job,) = plan.jobs([{arch!r}], [{graph!r}])
print('ready', flush=True)
sys.stdin.readline()
plan.build(job, cache.EngineCache(Path({folder!r})), told=lambda *what: told.append(what))
print('built' if told else 'found', flush=True)
"""


def test_two_processes_build_once(plan: Plan, cache: EngineCache) -> None:
    code = TWO.format(bundle=str(plan.bundle.folder), arch=ARCH, graph=GRAPH,
                      folder=str(cache.folder))
    children = [subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, text=True,
                                 stdout=subprocess.PIPE) for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == 'ready\n'
    for child in children:  # both begin when both are ready
        child.stdin.write('go\n')
        child.stdin.flush()
    assert sorted(child.communicate()[0] for child in children) == ['built\n', 'found\n']
    assert [child.returncode for child in children] == [0, 0]
    assert load(plan, cache)


def test_sigkill_at_random_moments(plan: Plan, cache: EngineCache, tmp_path: Path) -> None:
    """Real builds, each killed at a random call, each in the folder the last one left."""
    counted = EngineCache(tmp_path / 'counted', REBUILD)
    build(plan, counted)  # the first build in a place takes a few calls more than those after it
    shutil.rmtree(counted.folder)
    calls = moments(lambda: build(plan, counted))
    for moment in random.Random(4).sample(range(calls), 15):
        assert killed_at(moment, lambda: build(plan, cache)) == -signal.SIGKILL
        usable = [entry for entry in cache.entries() if not cache.check(entry)]
        if usable:  # the kill came after the last rename
            assert load(plan, cache)
            shutil.rmtree(cache.folder)
        else:
            refused(plan, cache)
    path = build(plan, cache)
    assert load(plan, cache) == path.read_bytes()
    assert not [path for path in cache.folder.iterdir() if PART in path.name]


KILLED = """
import os, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from cooper_ros.runtime import files
from cooper_ros.runtime.engines import cache
from cooper_ros.runtime.engines.flavour import require_flavour
from cooper_ros.runtime.engines.plan import Plan
from cooper_ros.runtime.graphs.bundle import Bundle

def stop(*_):
    print('here', flush=True)
    sys.stdin.read()

def told(phase, fraction):
    if {moment!r} == 'compiling' and fraction > 0.3:
        stop()

real_sync, real_write = os.fsync, cache.write_whole
if {moment!r} == 'writing':
    files.os.fsync = lambda handle: (
        stop() if list(Path({folder!r}).glob('*.part-*')) else real_sync(handle))
if {moment!r} == 'describing':
    cache.write_whole = lambda path, *more: (
        stop() if path.suffix == '.json' else real_write(path, *more))
plan = Plan(Bundle.load(Path({bundle!r})), require_flavour(), context=64)
(job,) = plan.jobs([{arch!r}], [{graph!r}])
plan.build(job, cache.EngineCache(Path({folder!r})), told=told)
"""


@pytest.mark.parametrize('moment', ['compiling', 'writing', 'describing'])
def test_a_killed_build_leaves_nothing_that_is_trusted(plan: Plan, cache: EngineCache,
                                                       moment: str) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), moment=moment, arch=ARCH,
                         bundle=str(plan.bundle.folder), graph=GRAPH, folder=str(cache.folder))
    child = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, text=True,
                             stdout=subprocess.PIPE)
    assert child.stdout.readline() == 'here\n'
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdin.close()
    child.stdout.close()
    refused(plan, cache, 'no compiled engine for graph latents')
    assert all(cache.check(entry) for entry in cache.entries())
    left = [path.name for path in cache.folder.iterdir() if PART in path.name]
    assert bool(left) == (moment == 'writing')
    path = build(plan, cache)  # the lock died with its holder, and the rest is swept up
    assert load(plan, cache) == path.read_bytes()
    assert not [path for path in cache.folder.iterdir() if PART in path.name]


def test_removing_frees_the_disk(plan: Plan, cache: EngineCache) -> None:
    path = build(plan, cache)
    size = path.stat().st_size
    path.with_suffix(KERNELS).write_bytes(b'compiled while it ran')
    assert cache.remove(path.stem) == size
    assert list(cache.entries()) == []  # and the lock stays: others may be waiting for it
    assert list(cache.folder.iterdir()) == [path.with_suffix(LOCK)]
    refused(plan, cache, 'no compiled engine')


def test_a_checkpoint_is_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    folder, base = tmp_path / 'model', tmp_path / 'base'
    for place, name, text in ((folder, 'ema.safetensors', 'a'), (base, 'ae.safetensors', 'b'),
                              (base, 'ema.safetensors', 'hidden'), (folder, 'notes.txt', 'n')):
        place.mkdir(exist_ok=True)
        (place / name).write_text(text)
    read: list[str] = []

    def fingerprint() -> str:
        return model_fingerprint([folder, base], tmp_path / 'known.json',
                                 lambda path: read.append(path.name))

    first = fingerprint()
    assert read == ['ae.safetensors', 'ema.safetensors']
    assert fingerprint() == first and len(read) == 2
    (folder / 'notes.txt').write_text('other')
    assert fingerprint() == first
    (folder / 'ema.safetensors').write_text('A')
    os.utime(folder / 'ema.safetensors', ns=(1, 1))
    assert fingerprint() != first and read[2:] == ['ema.safetensors']


@pytest.mark.parametrize('name', ['tokenizer.json', 'tokenizer_config.json', 'vocab.json',
                                  'merges.txt', 'added_tokens.json', 'cooper.json',
                                  'model.safetensors.index.json'])
def test_what_graphs_keep_of_a_folder_is_part_of_its_fingerprint(tmp_path: Path,
                                                                 name: str) -> None:
    def fingerprint() -> str:
        return model_fingerprint([tmp_path], tmp_path / 'known.json')

    (tmp_path / 'ema.safetensors').write_text('a')
    found = [fingerprint()]
    for text in ('one', 'other one'):
        (tmp_path / name).write_text(text)
        found.append(fingerprint())
    assert len(set(found)) == 3


def test_other_weights_of_the_same_size_and_time_are_noticed(tmp_path: Path) -> None:
    """What ``cp -p`` and ``rsync -t`` leave."""
    weights, other = tmp_path / 'ema.safetensors', tmp_path / 'other'
    weights.write_text('a')
    first = model_fingerprint([tmp_path], tmp_path / 'known.json')
    other.write_text('b')
    shutil.copystat(weights, other)
    shutil.copy2(other, weights)
    assert model_fingerprint([tmp_path], tmp_path / 'known.json') != first


def test_digests_that_were_changed_are_not_trusted(tmp_path: Path) -> None:
    """Else old weights answer for new ones."""
    memo, read = tmp_path / 'known.json', list[Path]()
    (tmp_path / 'ema.safetensors').write_text('a')
    first = model_fingerprint([tmp_path], memo)
    (digest,) = json.loads(memo.read_text())['files'].values()
    memo.write_text(memo.read_text().replace(digest, 'f' * 64))
    assert model_fingerprint([tmp_path], memo, read.append) == first and len(read) == 1
    assert model_fingerprint([tmp_path], memo, read.append) == first and len(read) == 1


def test_a_digest_of_a_file_that_changed_meanwhile_is_not_kept(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, read = tmp_path / 'ema.safetensors', list[Path]()
    weights.write_text('a')

    def digest(path: Path) -> str:
        weights.write_text('longer')
        return 'half of each'

    with monkeypatch.context() as patch:
        patch.setattr(plans, 'file_digest', digest)
        first = model_fingerprint([tmp_path], tmp_path / 'known.json')
    assert not (tmp_path / 'known.json').exists()
    assert model_fingerprint([tmp_path], tmp_path / 'known.json', read.append) != first and read


@pytest.mark.parametrize('memo', ['', '[]', '{"a": 5}', '[' * 100_000])
def test_digests_that_cannot_be_kept_are_done_without(tmp_path: Path, memo: str,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of somebody else, a full disk, a damaged file: the checkpoint is sound."""
    folder, read = tmp_path / 'model', list[Path]()
    folder.mkdir()
    (folder / 'ema.safetensors').write_text('a')
    first = model_fingerprint([folder], tmp_path / 'known.json')
    before = (tmp_path / 'known.json').stat().st_mtime_ns
    blocked = tmp_path / 'blocked.json'
    blocked.with_suffix('.lock').mkdir()  # opening it for writing fails, for root too
    blocked.write_text(memo)
    assert model_fingerprint([folder], blocked) == first and blocked.read_text() == memo
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: shutil._ntuple_diskusage(9, 9, 0))
    assert model_fingerprint([folder], tmp_path / 'other.json') == first
    assert not (tmp_path / 'other.json').exists()
    assert model_fingerprint([folder], tmp_path / 'known.json', read.append) == first
    assert not read and (tmp_path / 'known.json').stat().st_mtime_ns == before
