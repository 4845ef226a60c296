"""What ``cooper ask`` leaves in its folder, and what it refuses before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_maker import picture
from PIL import Image
from support.tiny import tiny_engine

from cooper_ros.cli.app import main
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, DepthMap
from cooper_ros.errors import BadOption
from cooper_ros.replay.pictures import holds_answer, write_pictures


class GuessesTheLens:
    """An engine whose metres hold for a usual lens, unless it is told of the real one."""

    def __init__(self, known: bool) -> None:
        self.known, self.engine = known, tiny_engine(depth_range_m=(0.2, 8.0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def ask(self, *words: Any) -> Any:
        """Yield the answer alone."""
        end = list(self.engine.ask(*words, mode='maps', max_turn_tokens=4))[-1]
        maps = tuple(replace(one, lens_known=self.known) if isinstance(one, DepthMap) else one
                     for one in end.maps)
        yield replace(end, maps=maps, complete=True, error_code=0)  # whatever it wrote so briefly


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(0)).save(tmp_path / 'photo.png')
    return tmp_path / 'photo.png'


@pytest.mark.parametrize('known', [False, True])
def test_metres_are_written_only_where_the_lens_is_known(
        photo: Path, known: bool, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr('cooper_ros.cli.show.load_engine', lambda *words: GuessesTheLens(known))
    with pytest.raises(SystemExit, match='0'):
        main(['ask', 'photo.png', 'How far?', '--out', 'out'])
    said = capsys.readouterr().out
    assert (photo.parent / 'out' / 'depth_m.npy').exists() is known
    assert np.load('out/relative_depth.npy').size
    assert ('no metres are written' in said and '--focal' in said) is not known


@pytest.mark.parametrize(('out', 'fault'), [
    ('photo.png', 'File exists'), ('photo.png/out', 'Not a directory'),
    ('/proc/x', 'No such file or directory')])
def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(
        photo: Path, out: str, fault: str, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(CooperEngine, 'from_pretrained', lambda *words: 1 / 0)
    with pytest.raises(SystemExit, match='2'):
        main(['ask', 'photo.png', 'How far?', '--out', out])
    said = capsys.readouterr().err
    assert said.startswith('cooper: BAD_OPTION: the output folder cannot be used; got ')
    assert f'{out}: {fault}; allowed: ' in said and 'another --out' in said


@pytest.mark.parametrize('record', ['{"mine": 1}', '[]', '{"question": "a", "answer": "b"}', '{',
                                    '\xff', 'null'])
def test_an_answer_of_somebody_else_and_what_lies_beside_it_stay(
        photo: Path, record: str, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    folder = photo.parent / 'theirs'
    folder.mkdir()
    (folder / 'answer.json').write_text(record, encoding='latin-1')
    (folder / 'labels.png').write_text('of somebody')
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(CooperEngine, 'from_pretrained', lambda *words: 1 / 0)
    with pytest.raises(SystemExit, match='2'):
        main(['ask', 'photo.png', 'How far?', '--out', 'theirs'])
    said = capsys.readouterr().err
    assert 'no answer of cooper ask, and is not replaced; got theirs/answer.json' in said
    with pytest.raises(BadOption, match='another --out, or move it away'):
        write_pictures(folder, picture(0), '?', Answer('1', 0.0, 'yes', 'yes', (), 1.0))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_an_answer_of_ours_is_replaced_whichever_version_wrote_it(tmp_path: Path) -> None:
    answer = Answer('1', 0.0, 'yes', 'yes', (), 1.0)
    write_pictures(tmp_path, picture(0), 'First?', answer)
    record, maps = tmp_path / 'answer.json', tmp_path / 'labels.png'
    record.write_text(json.dumps({**json.loads(record.read_text()), 'of later': 1}))
    maps.write_text('of the first answer')
    assert holds_answer(tmp_path)
    write_pictures(tmp_path, picture(0), 'Second?', answer)
    assert json.loads(record.read_text())['question'] == 'Second?' and not maps.exists()
    record.write_text('')  # as a full disk leaves it
    maps.write_text('of somebody')
    write_pictures(tmp_path, picture(0), 'Third?', answer)
    assert json.loads(record.read_text())['question'] == 'Third?' and maps.exists()
