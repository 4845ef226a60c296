"""``cooper quantize`` on a disk without room: an error with its number, and nothing is left."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from model_folder import write_model_folder
from support.disk import small_files

from cooper_ros.cli import main
from cooper_ros.runtime import quantise

REMEDY = 'remedy: free some space, or name another folder'


@pytest.fixture(scope='module')
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp('plain') / 'tiny')


def refused(plain: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(['quantize', str(plain), '--out', str(out)])
    said = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and said.startswith('cooper: OUT_OF_DISK: ')
    assert not list(out.parent.glob('*'))
    return said


def test_weights_that_do_not_fit(plain: Path, tmp_path: Path,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    with small_files(50_000):
        said = refused(plain, tmp_path / 'deep' / 'q', capsys)
    assert 'is larger than a file may be' in said and '50,000 bytes (ulimit -f)' in said


def test_a_disk_that_is_full_when_the_rest_is_copied(plain: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(quantise.shutil, 'copy2', copy)
    said = refused(plain, tmp_path / 'q', capsys)
    assert f'no room on disk for {tmp_path / "q"}; got' in said
    assert said.endswith(f'{REMEDY} with --out')


def test_what_cannot_fit_is_not_begun(plain: Path, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str],
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: shutil._ntuple_diskusage(9, 8, 1))
    monkeypatch.setattr(quantise, '_write_weights', None)  # never called
    said = refused(plain, tmp_path / 'q', capsys)
    assert 'no room on disk for ' in said and 'allowed: 1 bytes free' in said
    assert said.endswith(f'{REMEDY} with --out')
