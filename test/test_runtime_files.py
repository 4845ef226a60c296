"""Files and folders that appear whole or not at all; what the system refuses is in our words."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Callable

import pytest
import torch
from safetensors import SafetensorError
from support.crash import killed_at, moments
from support.tiny import tiny_config, tiny_runtime

from cooper_ros.errors import OutOfDisk
from cooper_ros.runtime import checkpoint, files, weights
from cooper_ros.runtime.checkpoint import save_model_folder
from cooper_ros.runtime.files import (
    PART,
    Unwritable,
    check_writable,
    discard,
    drafted,
    replace_folder,
    room,
    write_whole,
)
from cooper_ros.runtime.locks import locked
from cooper_ros.runtime.weights import save_tensors

OF_ENGINES = 'cooper engine remove --stale'


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def filled(folder: Path, content: str) -> Path:
    """A folder with two files of that content."""
    folder.mkdir(parents=True)
    for name in 'ab':
        (folder / name).write_text(content)
    return folder


def content(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in 'ab'] if folder.is_dir() else []


@pytest.mark.parametrize('flag', ['', '--out', '--cache'])
@pytest.mark.parametrize('action', [
    lambda place, flag: write_whole(place / 'a', b'1', flag),
    lambda place, flag: locked(place / 'a.lock', flag=flag).__enter__(),
    lambda place, flag: drafted(place / 'a', flag).__enter__(),
    lambda place, flag: discard(place / 'a', flag),
    lambda place, flag: check_writable(place / 'a', flag)])
def test_the_remedy_names_the_flag_of_its_caller(
        tmp_path: Path, action: Callable[[Path, str], object], flag: str) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(Unwritable) as caught:
        action(tmp_path / 'file', flag)
    wanted = 'change the rights, or name another folder' + f' with {flag}' * bool(flag)
    assert caught.value.remedy == wanted and str(tmp_path / 'file') in str(caught.value)


@pytest.mark.parametrize(('flag', 'remedy'), [
    ('', 'free some space, or name another folder'),
    ('--out', 'free some space, or name another folder with --out'),
    ('--cache', f'free some space (`{OF_ENGINES}` removes engines of no use), or name another '
                'folder with --cache')])
def test_only_engines_are_told_to_remove_engines(
        tmp_path: Path, flag: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, 'fsync', lambda handle: (_ for _ in ()).throw(
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OutOfDisk) as caught:
        write_whole(tmp_path / 'prompts.yaml', b'1', flag)
    assert caught.value.remedy == remedy
    with pytest.raises(OutOfDisk) as caught, room(tmp_path, 2**62, 'x'):
        pass
    assert OF_ENGINES not in caught.value.remedy


@pytest.mark.parametrize('place', ['file/model', 'file'])
def test_a_model_folder_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(Unwritable, match=f'{tmp_path}/file.*: (Not a directory|File exists)'):
        save_model_folder(tmp_path / place, tiny_config(), network={}, vae={})


def test_a_tokenizer_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    class Tokenizer:
        def save_pretrained(self, folder: str) -> None:
            (Path(folder) / 'tokenizer.json').write_text('half')
            raise PermissionError(errno.EACCES, 'no', folder)

    (tmp_path / 'tokenizer.json').write_text('old')
    with pytest.raises(Unwritable, match=f'got {tmp_path}: no; .*remedy: change the rights'):
        checkpoint._save_tokenizer(Tokenizer(), tmp_path)  # type: ignore[arg-type]
    assert names(tmp_path) == ['tokenizer.json']
    assert (tmp_path / 'tokenizer.json').read_text() == 'old'


@pytest.mark.parametrize('place', ['file/a', 'nowhere/a', 'folder'])
def test_tensors_that_cannot_be_written_are_named(tmp_path: Path, place: str) -> None:
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    with pytest.raises(Unwritable, match=f'got {tmp_path}/{place}: .+; remedy: change the rights'):
        save_tensors({'a': torch.zeros(2)}, tmp_path / place)
    assert names(tmp_path) == ['file', 'folder']


def test_what_the_library_makes_of_a_broken_disk_is_named(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise SafetensorError('Error while serializing: I/O error: broken (os error 5)')

    monkeypatch.setattr(weights, 'save_file', broken)
    with pytest.raises(Unwritable, match=f'got {tmp_path}/a: Error while.+os error 5'):
        save_tensors({'a': torch.zeros(2)}, tmp_path / 'a')
    assert not names(tmp_path)


def test_tensors_last_before_their_name_does(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    replace = os.replace
    monkeypatch.setattr(files.os, 'fsync', lambda handle: done.append(
        Path(os.readlink(f'/proc/self/fd/{handle}')).name))
    monkeypatch.setattr(weights.os, 'replace', lambda part, path: (
        done.append('named'), replace(part, path)))
    save_tensors({'a': torch.zeros(2)}, tmp_path / 'a')
    assert done == [f'a{PART}{os.getpid()}', 'named', tmp_path.name]


@pytest.mark.parametrize('before', [
    lambda target: None, lambda target: filled(target, 'old'), Path.touch,
    lambda target: target.symlink_to('nowhere')])
def test_a_draft_takes_the_place_of_whatever_was_there(
        tmp_path: Path, before: Callable[[Path], object]) -> None:
    before(tmp_path / 'x')
    filled(tmp_path / f'x{PART}old', 'older')  # of a process that was killed
    replace_folder(filled(tmp_path / 'draft', 'new'), tmp_path / 'x')
    assert content(tmp_path / 'x') == ['new', 'new'] and names(tmp_path) == ['x']


def test_what_was_there_comes_back_when_the_draft_cannot(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name == 'draft':
            raise OSError(errno.EIO, 'broken')
        return rename(path, target)

    filled(tmp_path / 'x', 'old')
    filled(tmp_path / 'draft', 'new')
    monkeypatch.setattr(Path, 'rename', refused)
    with pytest.raises(Unwritable, match='broken'):
        replace_folder(tmp_path / 'draft', tmp_path / 'x')
    assert content(tmp_path / 'x') == ['old', 'old'] and names(tmp_path) == ['draft', 'x']


def test_a_draft_that_is_given_up_changes_nothing(tmp_path: Path) -> None:
    filled(tmp_path / 'x[1]', 'old')
    filled(tmp_path / f'x[1]{PART}7', 'of a process that was killed')
    for other in (f'x[1].y{PART}7', f'x1{PART}7'):
        filled(tmp_path / other, 'of others')
    with pytest.raises(KeyError), drafted(tmp_path / 'x[1]') as draft:
        (draft / 'a').write_text('new')
        raise KeyError
    assert content(tmp_path / 'x[1]') == ['old', 'old']
    assert names(tmp_path) == sorted(['x[1]', f'x[1].y{PART}7', f'x1{PART}7'])


def test_a_killed_replacement_leaves_the_old_or_nothing_or_the_new(tmp_path: Path) -> None:
    """SIGKILL at random calls, each into what the last one left."""
    def work(place: Path = tmp_path / 'x') -> None:
        with locked(tmp_path / 'lock'), drafted(place) as draft:
            for name in 'ab':
                (draft / name).write_text('new')

    filled(tmp_path / 'counted', 'old')
    calls = moments(lambda: work(tmp_path / 'counted'))
    shutil.rmtree(tmp_path / 'counted')
    for moment in random.Random(0).sample(range(calls), min(calls, 40)):
        if not (tmp_path / 'x').exists():
            filled(tmp_path / 'x', 'old')
        assert killed_at(moment, work) == -signal.SIGKILL
        assert content(tmp_path / 'x') in (['old', 'old'], [], ['new', 'new'])
    work()
    assert content(tmp_path / 'x') == ['new', 'new'] and names(tmp_path) == ['lock', 'x']


def test_a_saved_model_folder_has_no_drafts(tmp_path: Path) -> None:
    from test_runtime_checkpoint import byte_tokenizer
    runtime = tiny_runtime()
    for _ in range(2):  # the second time over what is there
        save_model_folder(tmp_path / 'm', tiny_config(), network=runtime.network.state_dict(),
                          vae=runtime.vae.state_dict(), tokenizer=byte_tokenizer())
    assert 'tokenizer.json' in names(tmp_path / 'm')
    assert not list((tmp_path / 'm').glob(f'*{PART}*'))


def test_frames_last_before_they_take_the_place_of_older_ones(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cooper_ros.training import data
    done: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(files.os, 'fsync', lambda handle: done.append(
        Path(os.readlink(f'/proc/self/fd/{handle}')).name))
    monkeypatch.setattr(Path, 'rename', lambda path, target: (
        done.append(f'-> {target.name}'), rename(path, target))[1])
    place = tmp_path / f'train_0_1_0_v{data.EDITION}'
    filled(place, 'of an older form')
    assert len(data.frame_store(tmp_path, 'train', 0, 1, 0)) == 1
    assert {f'{name}.npy' for name in data.ARRAYS} <= set(done[:done.index(f'-> {place.name}')])
    assert 'a' not in names(place) and not list(tmp_path.glob('*.part*'))


def test_a_tokenizer_with_several_templates_is_saved_whole(tmp_path: Path) -> None:
    class Tokenizer:
        def save_pretrained(self, folder: str) -> None:
            (Path(folder) / 'more').mkdir()
            for name in ('tokenizer.json', 'more/one.jinja'):
                (Path(folder) / name).write_text(name)
    checkpoint._save_tokenizer(Tokenizer(), tmp_path)
    assert (tmp_path / 'more' / 'one.jinja').read_text() == 'more/one.jinja'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['more', 'tokenizer.json']
