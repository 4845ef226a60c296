"""Exported graphs on disk: whole, proved, made again when damaged; and what a full disk does."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import pickle
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from model_folder import write_model_folder
from support.crash import killed_at, moments
from support.exported import exported_runtime, redescribe, tiny_bundle
from typer.testing import CliRunner

from cooper_ros.cli.engine import app
from cooper_ros.errors import BadCheckpoint, BadOption, EngineBuild, ErrorCode, NotReady, OutOfDisk
from cooper_ros.runtime import files
from cooper_ros.runtime.engines.leftovers import graphs_writers
from cooper_ros.runtime.engines.rights import Who
from cooper_ros.runtime.files import PART, room, write_whole
from cooper_ros.runtime.graphs import bundle as bundles
from cooper_ros.runtime.graphs.answers import ANSWERS
from cooper_ros.runtime.graphs.bundle import Bundle, bundle_name, export_bundle
from cooper_ros.runtime.onnx_runtime import load_onnx_runtime

GPU_CHECK = Path(__file__).parents[1] / 'benchmarks' / 'gpu_check.py'
DAMAGES = {
    'tampered': lambda folder: _tamper(folder / 'latents.onnx.data'),
    'cut short': lambda folder: os.truncate(folder / 'flow.onnx.data', 100),
    'gone': lambda folder: (folder / 'words.safetensors').unlink(),
    'undescribed': lambda folder: (folder / 'bundle.json').write_text('{'),
    'described without names': lambda folder: redescribe(folder, files=[]),
    'changed': lambda folder: _change(folder, vocabulary=70),
    'of another checkpoint': lambda folder: redescribe(folder, model='f' * 64),
}


def _change(folder: Path, **values: Any) -> None:
    path = folder / 'bundle.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _tamper(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # the size stays
    path.write_bytes(content)


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Graphs of the tiny network, copied where they would be exported again; names are kept."""
    made: list[str] = []

    def copied(spec: Any, module: Any, path: Path, *more: Any) -> Path:
        made.append(spec.name)
        for suffix in ('', '.data'):
            shutil.copy(f'{tiny_bundle().graph(spec.name)}{suffix}', f'{path}{suffix}')
        return path

    tiny_bundle()
    monkeypatch.setattr(bundles, 'export_graph', copied)
    return made


@pytest.fixture
def copy(tmp_path: Path) -> Bundle:
    """A bundle that a test may spoil."""
    return Bundle.load(Path(shutil.copytree(tiny_bundle().folder, tmp_path / 'copy')))


def export(folder: Path, **more: Any) -> Bundle:
    runtime = exported_runtime()
    return export_bundle(runtime.network, runtime.vae, folder, specials=runtime.specials,
                         vocabulary=runtime.vocabulary, precision='fp32', **more)


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_engine_build_exports_a_damaged_bundle_again(
        tmp_path: Path, quick_export: list[str], damage: Callable[[Path], None]) -> None:
    checkpoint, cache = write_model_folder(tmp_path / 'model'), tmp_path / 'cache'
    words = ['build', str(checkpoint), '--cache', str(cache), '--precision', 'fp32', '--graph',
             'latents', '--context', '64', '--arch', 'SM89', '--dry-run']
    assert CliRunner().invoke(app, words).exit_code == 0 and len(quick_export) == 6
    assert CliRunner().invoke(app, words).exit_code == 0 and len(quick_export) == 6
    (folder,) = (path for path in (cache / 'graphs').iterdir() if path.is_dir())
    damage(folder)
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0 and 'exporting again' in again.output, again.output
    assert len(quick_export) == 12
    Bundle.load(folder).prove()


def test_graphs_that_anyone_may_write_are_exported_again(tmp_path: Path,
                                                         quick_export: list[str]) -> None:
    """With them goes what the network has said, which engines are proved against."""
    checkpoint, cache = write_model_folder(tmp_path / 'model'), tmp_path / 'cache'
    words = ['export', str(checkpoint), '--precision', 'fp32', '--cache', str(cache)]
    assert CliRunner().invoke(app, words).exit_code == 0
    (folder,) = (path for path in (cache / 'graphs').iterdir() if path.is_dir())
    cache.chmod(0o755)
    for exposed in (folder, folder / 'flow.onnx', folder / 'bundle.json'):
        quick_export.clear()
        (folder / ANSWERS).write_bytes(b'said by anyone')
        exposed.chmod(exposed.stat().st_mode | 0o002)
        done = CliRunner().invoke(app, words)
        assert f'anyone may write {exposed}; exporting again' in done.output.replace('\n', '')
        assert done.exit_code == 0 and len(quick_export) == 6 and not (folder / ANSWERS).exists()
        assert graphs_writers(cache, folder.name).who == Who.NOBODY
        assert CliRunner().invoke(app, words).exit_code == 0 and len(quick_export) == 6
    (cache / 'graphs').chmod(0o777)
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, BadOption) and len(quick_export) == 6
    assert str(refused).startswith('BAD_OPTION: anyone may write the folder of graphs; got '
                                   f'{cache}/graphs; allowed: ')


@pytest.mark.parametrize('change', [
    lambda weights: weights.write_bytes(bytes(weights.stat().st_size)),
    lambda weights: shutil.copystat(weights, _swapped(weights)), Path.unlink],
    ids=['in place', 'by another of the same times', 'gone'])
def test_weights_that_change_during_an_export_leave_no_graphs(
        tmp_path: Path, quick_export: list[str], change: Callable[[Path], object],
        monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read one by one, so graphs would be a mixture under the fingerprint of the old."""
    checkpoint, cache = write_model_folder(tmp_path / 'model'), tmp_path / 'cache'
    weights, copied = checkpoint / 'ema.safetensors', bundles.export_graph

    def exported(spec: Any, *more: Any) -> Path:
        if spec.name == 'flow':
            change(weights)
        return copied(spec, *more)

    monkeypatch.setattr(bundles, 'export_graph', exported)
    done = CliRunner().invoke(app, ['export', str(checkpoint), '--precision', 'fp32', '--cache',
                                    str(cache)])
    if not isinstance(done.exception, BadCheckpoint):
        raise done.exception
    assert str(done.exception).startswith(
        f'BAD_CHECKPOINT: the checkpoint changed while it was exported; got {checkpoint}; ')
    assert not [path for path in (cache / 'graphs').iterdir() if path.suffix != '.lock']


def _swapped(weights: Path) -> Path:
    """Other weights under the same name; what is returned has that name."""
    other = weights.with_name('other')
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    shutil.copystat(weights, other)
    return other.rename(weights)


def test_progress_is_told_and_what_a_killed_export_left_is_gone(
        tmp_path: Path, quick_export: list[str]) -> None:
    told: list[tuple[Any, ...]] = []
    (tmp_path / f'tiny{PART}1' / 'left').mkdir(parents=True)
    export(tmp_path / 'tiny', progress=lambda *what: told.append(what))
    assert told == [(name, n, 6) for n, name in enumerate((*quick_export, ''))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['tiny', 'tiny.lock']


@pytest.mark.parametrize('change', [
    {'specials': {'bos': 66, 'eos': 65, 'start_of_image': 258, 'end_of_image': 259}},
    {'vocabulary': 70}, {'model': 'f' * 64}, {'precision': ['fp32']}, {'parts': '1'},
    {'files': {'x' * 5000: [1, 'a']}}, {'files': {'flow.onnx': [float('inf'), 'a']}}])
def test_a_changed_description_is_refused(copy: Bundle, change: dict[str, Any]) -> None:
    """No graph holds marker ids or the vocabulary: a probe would find nothing wrong."""
    path = copy.folder / 'bundle.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadCheckpoint, match=f'description of exported graphs was changed; got '
                       f'{path}; allowed: the SHA-256 in it; remedy: run `cooper engine build`'):
        Bundle.load(copy.folder)


@pytest.mark.parametrize('content', ['[' * 200_000, '[]', 'null', '{}', '', '{"sha256": 1}'])
def test_what_is_no_description_is_no_bundle(copy: Bundle, content: str) -> None:
    (copy.folder / 'bundle.json').write_text(content)
    with pytest.raises(BadCheckpoint, match='no exported graphs here|was changed'):
        Bundle.load(copy.folder)


@pytest.mark.parametrize('change', [{'model': 'f' * 64}, {'precision': 'bf16'}, {'parts': 2}])
def test_graphs_of_something_else_are_not_those_looked_for(
        copy: Bundle, change: dict[str, Any]) -> None:
    """Sound in themselves, but in the place of others."""
    place = copy.folder.parent
    copy.folder.rename(place / bundle_name(copy.model, 'fp32'))
    assert Bundle.find(place, copy.model, 'fp32').model == copy.model
    redescribe(place / bundle_name(copy.model, 'fp32'), **change)
    with pytest.raises(BadCheckpoint, match='these graphs are of something else; got checkpoint '
                       f'.+; allowed: checkpoint {copy.model[:12]}, fp32, 1 part'):
        Bundle.find(place, copy.model, 'fp32')


@pytest.mark.parametrize('lie', [Path.touch, lambda path: path.symlink_to('nowhere')])
def test_graphs_are_exported_where_a_file_or_a_link_lies(
        tmp_path: Path, quick_export: list[str], lie: Callable[[Path], None]) -> None:
    lie(tmp_path / 'graphs')
    (tmp_path / f'graphs{PART}1').touch()
    export(tmp_path / 'graphs').prove()
    assert len(quick_export) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ['graphs', 'graphs.lock']


def test_a_pipe_is_no_description(copy: Bundle) -> None:
    (copy.folder / 'bundle.json').unlink()
    os.mkfifo(copy.folder / 'bundle.json')  # whoever opens it waits for a writer
    with pytest.raises(BadCheckpoint, match=f'no exported graphs here; got {copy.folder}'):
        Bundle.load(copy.folder)


def test_a_changed_byte_is_found_before_use(copy: Bundle, quick_export: list[str],
                                            tmp_path: Path) -> None:
    copy.prove()
    _tamper(copy.folder / 'latents.onnx.data')
    with pytest.raises(BadCheckpoint, match='graphs are damaged; got latents.onnx.data; allowed: '
                       'the SHA-256 in bundle.json; remedy: run `cooper engine build`, which'):
        Bundle.load(copy.folder).prove()
    runner = load_onnx_runtime(copy, threads=1).runner
    with pytest.raises(BadCheckpoint, match='latents.onnx.data'):
        runner.run('latents', {}, {})
    copy.prove_graph('vision')
    _tamper(copy.folder / 'words.safetensors')
    with pytest.raises(BadCheckpoint, match='got words.safetensors'):
        copy.words()


def test_only_damaged_graphs_are_exported_again(tmp_path: Path, quick_export: list[str]) -> None:
    first = export(tmp_path / 'x')
    assert len(quick_export) == 6 and export(tmp_path / 'x') == first and len(quick_export) == 6
    _tamper(first.folder / 'flow.onnx')
    export(tmp_path / 'x').prove()
    assert len(quick_export) == 12


def test_content_is_on_disk_before_the_name(tmp_path: Path, quick_export: list[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        done.append(Path(os.readlink(f'/proc/self/fd/{handle}')).name)
        sync(handle)

    def renamed(path: Path, target: Path) -> Path:
        done.append(f'-> {target.name}')
        return rename(path, target)

    monkeypatch.setattr(files.os, 'fsync', synced)
    monkeypatch.setattr(Path, 'rename', renamed)
    made = export(tmp_path / 'new')
    at = done.index('-> new')
    assert set(done[:at]) >= {path.name for path in made.folder.iterdir()}
    assert done[at - 1].startswith(f'new{PART}') and done[at + 1] == tmp_path.name


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / 'latents.engine'
    target.write_bytes(b'old')
    full = tmp_path / f'latents.engine{PART}{os.getpid()}'
    full.symlink_to('/dev/full')  # the kernel's own full disk
    with pytest.raises(OutOfDisk) as caught:
        write_whole(target, bytes(5000))
    assert caught.value.code == ErrorCode.OUT_OF_DISK == 308
    message = str(caught.value)
    assert message.startswith('OUT_OF_DISK: no room on disk for latents.engine; got 5,000 bytes '
                              'needed; allowed: ') and f'bytes free in {tmp_path}' in message
    assert 'remedy: free some space' in message
    assert [path.name for path in tmp_path.iterdir()] == ['latents.engine']
    assert target.read_bytes() == b'old'
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_what_cannot_fit_is_not_begun(tmp_path: Path, quick_export: list[str],
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f'new{PART}1').mkdir()  # what a killed export left may be the room it needs
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(OutOfDisk, match='no room on disk for exported graphs; got .* needed; '
                                        'allowed: 1 bytes free.*cooper engine remove --stale'):
        export(tmp_path / 'new')
    assert not quick_export and [path.name for path in tmp_path.iterdir()] == ['new.lock']


def test_a_disk_that_fills_up_meanwhile_leaves_no_draft(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(spec: Any, module: Any, path: Path, *more: Any) -> Path:
        path.write_bytes(b'half a graph')
        try:
            raise OSError(errno.ENOSPC, 'No space left on device')
        except OSError as error:
            raise EngineBuild('could not be exported') from error

    monkeypatch.setattr(bundles, 'export_graph', full)
    with pytest.raises(OutOfDisk, match='exported graphs'):
        export(tmp_path / 'new')
    assert [path.name for path in tmp_path.iterdir()] == ['new.lock']
    with pytest.raises(PermissionError), room(tmp_path, 1, 'x'):  # and nothing else is renamed
        raise PermissionError(errno.EACCES, 'no')


@pytest.mark.parametrize('package', ['onnx', 'onnxscript'])
def test_without_the_exporter_it_says_what_to_install(tmp_path: Path, package: str,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_model_folder(tmp_path / 'model')
    monkeypatch.setitem(sys.modules, package, None)
    done = CliRunner().invoke(app, ['export', str(checkpoint), '--precision', 'fp32', '--cache',
                                    str(tmp_path / 'cache')])
    assert isinstance(done.exception, NotReady) and not list(tmp_path.glob('cache/graphs/*.onnx'))
    assert str(done.exception).startswith('NOT_READY: graphs cannot be exported here; got import')
    assert 'remedy: pip install -r requirements/graphs.txt' in str(done.exception)


def test_the_proof_on_a_gpu_finds_graphs_that_were_copied_to_it(
        tmp_path: Path, quick_export: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, cache = write_model_folder(tmp_path / 'model'), tmp_path / 'cache'
    words = ['export', str(checkpoint), '--precision', 'fp32', '--cache', str(cache)]
    assert CliRunner().invoke(app, words).exit_code == 0 and len(quick_export) == 6
    spec = importlib.util.spec_from_file_location('gpu_check', GPU_CHECK)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'gpu_check', script)
    monkeypatch.syspath_prepend(str(GPU_CHECK.parent))
    spec.loader.exec_module(script)
    found: list[Bundle] = []

    def load(bundle: Bundle) -> None:
        found.append(bundle)
        raise NotReady('far enough')

    monkeypatch.setattr(script, 'load_onnx_runtime', load)
    monkeypatch.setattr(script.doctor, 'facts', lambda: ())
    monkeypatch.setattr(script, 'measures', lambda *arguments: None)
    assert script.main(['--model', str(checkpoint), '--runtime', 'onnx', '--cache',
                        str(cache)]) == 1
    assert len(quick_export) == 6 and found[0].folder.parent == cache / 'graphs'


def test_a_killed_export_is_never_trusted(tmp_path: Path, quick_export: list[str]) -> None:
    """SIGKILL at random calls of a real export process, each into what the last one left."""
    folder = tmp_path / 'new'
    calls = moments(lambda: export(tmp_path / 'counted'))
    chosen = random.Random(4).sample(range(calls), 12)
    for moment in chosen:
        assert killed_at(moment, lambda: export(folder)) == -signal.SIGKILL
        try:
            found = Bundle.load(folder)
        except BadCheckpoint:
            continue
        found.prove()
        shutil.rmtree(folder)
    export(folder).prove()
    assert sorted(path.name for path in tmp_path.glob('new*')) == ['new', 'new.lock']
