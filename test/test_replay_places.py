"""What an earlier run or somebody else left in the folder is not lost by surprise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cooper_ros.errors import BadOption
from cooper_ros.replay.places import (
    check_beside,
    check_output,
    clear_beside,
    make_folder,
    mark,
)


@pytest.mark.parametrize('name', ['summary.json', 'summary.md', 'sheets/0000.png'])
def test_the_files_of_somebody_are_in_the_way(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('my own')
    with pytest.raises(BadOption, match='the output exists.*--overwrite'):
        check_beside(tmp_path, overwrite=False)
    if 'summary' in name:
        with pytest.raises(BadOption, match='no summary of cooper replay, and is not replaced'):
            check_beside(tmp_path, overwrite=True)


def test_overwrite_takes_ours_away_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / 'summary.json').write_text(json.dumps({'bag': 'x', 'seed': 0}, indent=2))
    (tmp_path / 'summary.md').write_text('# Replay of x\n')
    (tmp_path / 'sheets').mkdir()
    for name in ('sheets/0000.png', 'sheets/0007.png', 'sheets/10000.png', 'sheets/cat.png',
                 'notes.md'):
        (tmp_path / name).write_text('')
    check_beside(tmp_path, overwrite=True)
    clear_beside(tmp_path)
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob('*') if file.is_file()}
    assert left == {'notes.md', 'sheets/cat.png'}


def test_a_marked_folder_is_ours_whatever_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match='no bag of answers'):
        check_output(tmp_path, overwrite=True)
    mark(tmp_path)
    check_output(tmp_path, overwrite=True)
    with pytest.raises(BadOption, match='the output exists'):
        check_output(tmp_path, overwrite=False)


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / 'deep' / 'out')
    assert not list((tmp_path / 'deep' / 'out').iterdir())


@pytest.mark.parametrize(('out', 'fault'), [
    ('/proc/x', 'No such file or directory'), ('file', 'File exists'), ('file/out', 'Not a dir'),
    ('/proc', 'No such file or directory')])
def test_where_nothing_can_be_written_is_said(tmp_path: Path, out: str, fault: str) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(BadOption, match=f'cannot be used; got .*{out}: {fault}.*another --out'):
        make_folder(tmp_path / out)
