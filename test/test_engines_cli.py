"""``cooper engine``: built, listed, checked and removed from the command line."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from model_folder import write_model_folder
from support.exported import redescribe, tiny_bundle
from typer.testing import CliRunner, Result

from cooper_ros.cli import engine as commands
from cooper_ros.cli.engine import app
from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.runtime import files, prepare
from cooper_ros.runtime.engines import plan
from cooper_ros.runtime.engines.plan import model_fingerprint
from cooper_ros.runtime.files import Unwritable
from cooper_ros.runtime.graphs.bundle import bundle_name
from cooper_ros.runtime.graphs.spec import PRECISIONS
from cooper_ros.runtime.place import DTYPES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp('model'))


@pytest.fixture
def cache(tmp_path: Path, checkpoint: Path) -> Path:
    """An engine folder that already holds the exported graphs, which take long to make."""
    folder = tmp_path / 'engines'
    folder.mkdir()
    model = model_fingerprint([checkpoint], folder / 'fingerprints.json')
    target = folder / 'graphs' / bundle_name(model, 'fp32')
    shutil.copytree(tiny_bundle().folder, target)
    redescribe(target, model=model)
    return folder


def run(*words: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert bool(result.exit_code) == fails, result.output
    return result


def build(checkpoint: Path, cache: Path, *words: str) -> str:
    return run('build', checkpoint, '--cache', cache, '--precision', 'fp32', '--context', 64,
               '--graph', 'latents', *words).output


@pytest.mark.parametrize('command', ['build', 'export'])
def test_a_cache_that_cannot_be_written_is_found_before_the_checkpoint_is_read(
        command: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object, **named: object) -> str:
        raise AssertionError('read')
    monkeypatch.setattr(plan, 'model_fingerprint', read)
    (tmp_path / 'file').touch()
    words = ['--arch', 'SM89'] if command == 'build' else []
    refused = run(command, checkpoint, '--cache', tmp_path / 'file' / 'engines', *words,
                  fails=True).exception
    assert isinstance(refused, Unwritable) and 'another folder with --cache' in str(refused)


def test_from_building_to_removing(checkpoint: Path, cache: Path) -> None:
    said = build(checkpoint, cache, '--arch', 'sm_86', '--arch', '89', '--arch', 'SM89')
    assert '2 engines with tensorrt-rtx' in said and 'latents SM86: done' in said
    engines = sorted(cache.glob('*.engine'))
    assert [path.name.rpartition('-')[0] for path in engines] == ['latents-fp32-SM86',
                                                                 'latents-fp32-SM89']
    listed = run('list', '--cache', cache).output
    assert all(path.stem in listed for path in engines) and '2 engines' in listed
    checked = run('check', '--cache', cache).output  # the graphs too
    assert checked.count('ok  ') == 3 and '2 engines are sound, and 1 folders' in checked
    engines[0].write_bytes(engines[0].read_bytes()[:-1])
    bad = run('check', '--cache', cache, fails=True).output
    assert f'BAD {engines[0].stem}: ENGINE_MISMATCH' in bad and 'not the file that was' in bad
    assert 'removed 1 engines' in run('remove', '--stale', '--cache', cache).output
    assert list(cache.glob('*.engine')) == engines[1:]
    another = engines[1].with_stem(engines[1].stem[:-16] + 'f' * 16)
    shutil.copy(engines[1], another)
    described = json.loads(engines[1].with_suffix('.json').read_text())
    another.with_suffix('.json').write_text(json.dumps(described | {'sha256': None}))
    bad = run('check', '--cache', cache, fails=True).output
    assert f'BAD {another.stem}: no readable description' in bad
    assert f'ok  {engines[1].stem}' in bad
    assert another.stem in run('list', '--cache', cache).output
    assert 'removed 1 engines' in run('remove', '--stale', '--cache', cache).output
    assert 'removed 1 engines' in run('remove', engines[1].stem, '--cache', cache).output
    assert list(cache.glob('*.engine')) == []


def test_checking_goes_on_behind_an_engine_that_may_not_be_read(
        checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(checkpoint, cache, '--arch', 'SM86', '--arch', 'SM89')
    closed, other = sorted(cache.glob('*.engine'))
    read = Path.read_bytes

    def reading(path: Path) -> bytes:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path)

    monkeypatch.setattr(Path, 'read_bytes', reading)
    said = run('check', '--cache', cache, fails=True).output
    assert f'BAD {closed.stem}: ENGINE_MISMATCH' in said and 'got Permission denied' in said
    assert f'ok  {other.stem}' in said and '1 damaged' in said


def test_a_dry_run_only_tells_the_cost(checkpoint: Path, cache: Path) -> None:
    said = build(checkpoint, cache, '--arch', 'SM89', '--dry-run')
    assert '1 engines' in said and 'MiB on disk' in said and 'host memory' in said
    assert not list(cache.glob('*.engine'))


def test_wrong_words_are_named(checkpoint: Path, cache: Path) -> None:
    for words, expected in ((['build', checkpoint, '--arch', 'SM87'], 'SM87; allowed: SM75'),
                            (['build', checkpoint], 'no GPU here to build for'),
                            (['remove'], 'name the engines to remove'),
                            (['remove', 'nothing'], 'got nothing; allowed: ')):
        error = run(*words, '--cache', cache, fails=True).exception
        assert isinstance(error, BadOption) and expected in str(error)


@pytest.mark.parametrize(('words', 'expected'), [
    (['--context', '3000000000'], '--context is too large; got 3000000000; allowed: at most 2'),
    (['--context', '9' * 20], '--context is too large'),
    (['--workspace-mib', '99999999999999'], 'allowed: at most 1048576'),
    (['--side', '5'], '--side is too small for this network; got 5; allowed: at least '),
    (['--graph', 'latent'], 'there is no such graph; got latent; allowed: vision, understand, '),
    (['--parts', '99'], 'cannot be cut into so many parts')])
def test_sizes_are_refused_before_anything_is_exported(checkpoint: Path, tmp_path: Path,
                                                       words: list[str], expected: str) -> None:
    error = run('build', checkpoint, '--arch', 'SM89', '--cache', tmp_path / 'engines', *words,
                fails=True).exception
    assert isinstance(error, BadOption) and expected in str(error)
    assert not (tmp_path / 'engines').exists()


@pytest.mark.parametrize('command', ['build', 'export'])
@pytest.mark.parametrize(('folder', 'precision', 'expected'), [
    (None, 'int7', 'BAD_OPTION: unknown precision; got int7; allowed: fp32, fp16, bf16'),
    ('none', 'fp32', 'BAD_CHECKPOINT: there is no such model folder; got none; allowed: a f')])
def test_no_folder_is_made_for_what_cannot_be_exported(
        command: str, folder: str | None, precision: str, expected: str, checkpoint: Path,
        tmp_path: Path) -> None:
    words = ['--arch', 'SM89'] if command == 'build' else []
    error = run(command, folder or checkpoint, '--precision', precision, *words, '--cache',
                tmp_path / 'engines', fails=True).exception
    assert str(error).startswith(expected) and not (tmp_path / 'engines').exists()


@pytest.mark.parametrize('command', ['build', 'export'])
def test_a_cache_that_cannot_be_written_serves_what_is_there(
        command: str, checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **named: object) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    words = ['--arch', 'SM89', '--graph', 'latents', '--context', 64] * (command == 'build')
    words = [command, checkpoint, '--cache', cache, '--precision', 'fp32', *words]
    run(*words)
    for path in cache.rglob('*.lock'):
        path.unlink()
    monkeypatch.setattr(files.tempfile, 'TemporaryFile', refused)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob('*')}
    run(*words)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob('*')} == before
    for more in (['--force'], ['--arch', 'SM86'] * (command == 'build')):
        if more:
            error = run(*words, *more, fails=True).exception
            assert isinstance(error, Unwritable) and os.strerror(errno.EROFS) in str(error)


def test_turing_has_no_bfloat16(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    for words in (['--arch', 'SM89', '--arch', '75'], ['--arch', 'SM75', '--dry-run']):
        error = run('build', checkpoint, '--cache', tmp_path / 'none', *words, fails=True
                    ).exception
        assert isinstance(error, BadOption) and not (tmp_path / 'none').exists()
        assert str(error).startswith(
            'BAD_OPTION: this architecture does not compute in bfloat16; got SM75; allowed: SM80 '
            'or newer for bf16; remedy: build with --precision fp16')
    assert '1 engines' in build(checkpoint, cache, '--arch', 'SM75', '--dry-run')


def test_weights_that_change_while_engines_are_made_of_modules_leave_none(
        checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch-TensorRT starts from modules, whose numbers may still lie in the files."""
    def changed(folders: list[Path], store: Path, model: str) -> None:
        assert (folders, store) == ([checkpoint], cache) and len(model) == 64
        raise BadCheckpoint('the checkpoint changed while it was exported')

    order: list[str] = []
    monkeypatch.setattr(commands, 'check_converter', lambda name: order.append(name))
    monkeypatch.setattr(prepare, 'modules_of', lambda *named: order.append('read') or {
        'latents': None})
    monkeypatch.setattr(prepare, 'check_unchanged', changed)
    monkeypatch.setattr(plan, 'build_engine', lambda *named, **more: order.append('built'))
    error = run('build', checkpoint, '--cache', cache, '--precision', 'fp32', '--context', 64,
                '--graph', 'latents', '--arch', 'SM89', '--converter', 'torch_tensorrt',
                fails=True).exception
    assert isinstance(error, BadCheckpoint) and order == ['torch_tensorrt', 'read', 'built']
    assert not list(cache.glob('*.engine'))


def test_help_teaches() -> None:
    assert 'remove --stale' in run('--help').output
    assert 'No GPU is needed' in run('build', '--help').output


def test_boards_look_for_engines_in_the_precision_that_the_page_builds() -> None:
    settings = yaml.safe_load((ROOT / 'config' / 'cooper_jetson.yaml').read_text())
    dtype = DTYPES[settings['/**']['ros__parameters']['dtype']]
    page = (ROOT / 'docs' / 'jetson.md').read_text() + run('build', '--help').output
    named = re.findall(r'cooper engine (?:build|export)\b[^\n`]* --precision (\w+)', page)
    assert len(named) >= 3 and {PRECISIONS[name] for name in named} == {dtype}
