"""What ``cooper ask`` leaves in its folder, and what it refuses before anything is loaded."""

from __future__ import annotations

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
from cooper_ros.engine.events import DepthMap


class GuessesTheLens:
    """An engine whose metres hold for a usual lens, unless it is told of the real one."""

    def __init__(self, known: bool) -> None:
        self.known, self.engine = known, tiny_engine(depth_range_m=(0.2, 8.0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def ask(self, *words: Any) -> Any:
        """Yield the answer alone."""
        end = list(self.engine.ask(*words, mode='maps', max_turn_tokens=4))[-1]
        yield replace(end, maps=tuple(replace(one, lens_known=self.known)
                                      if isinstance(one, DepthMap) else one for one in end.maps))


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
