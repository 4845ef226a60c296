"""Where curves go, and what the progress bar says."""

from __future__ import annotations

import re
import shutil
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cooper_ros.errors import BadOption
from cooper_ros.training import logs
from cooper_ros.training.curves import NoCurves, open_curves
from cooper_ros.training.logs import RunLog, open_log
from cooper_ros.training.settings import TrainSettings

PICTURE = np.zeros((4, 6, 3), np.uint8)


def settings(folder: Path, track: str) -> TrainSettings:
    return TrainSettings('joint', str(folder), steps=3, log_every=1, track=track)


def test_wandb_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(BadOption, match='W&B is not installed.*pip install wandb'):
        open_log(settings(tmp_path, 'wandb'), 0)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a stand-in for W&B is told, which needs a server."""
    told: list[Any] = []
    run = SimpleNamespace(log=lambda values, step: told.append((step, values)),
                          finish=lambda: told.append('finished'))
    module = ModuleType('wandb')
    module.__spec__ = ModuleSpec('wandb', None)
    module.init = lambda **values: told.append(values) or run
    module.Image = lambda pixels: pixels.shape
    monkeypatch.setitem(sys.modules, 'wandb', module)
    return told


def test_wandb_gets_numbers_and_pictures(tmp_path: Path, told: list[Any],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    with open_log(settings(tmp_path / 'nano' / 'joint', 'wandb'), 0) as log:
        log.step(1, {'loss': 2.0}, 4)
        log.pictures(1, {'maps': PICTURE})
    assert told[0]['name'] == 'nano-joint' and told[0]['config']['steps'] == 3
    assert told[1:] == [(1, {'loss': 2.0}), (1, {'maps': PICTURE.shape}), 'finished']
    monkeypatch.setattr(sys.modules['wandb'], 'init', lambda **values: [][0])
    with pytest.raises(BadOption, match='W&B does not start.*WANDB_MODE=offline'):
        open_curves('wandb', tmp_path, 0, {})


def test_a_run_folder_is_one_run_of_wandb(tmp_path: Path, told: list[Any]) -> None:
    """Not one begun anew in its place, nor one of that name elsewhere."""
    place, other = (tmp_path / machine / 'nano' / 'joint' for machine in ('one', 'two'))
    for folder in (place, place, other):
        open_log(settings(folder, 'wandb'), 0).__exit__(None, None, None)
    shutil.rmtree(place)
    open_log(settings(place, 'wandb'), 0).__exit__(None, None, None)
    first, resumed, elsewhere, anew = (values for values in told if values != 'finished')
    assert first['id'] == resumed['id'] and first['resume'] == 'allow'
    assert len({values['id'] for values in (first, elsewhere, anew)}) == 3
    assert {values['name'] for values in told if values != 'finished'} == {'nano-joint'}


def test_a_run_of_an_older_version_keeps_its_curves_at_wandb(tmp_path: Path, told: list[Any]
                                                             ) -> None:
    """Its id was its name."""
    (tmp_path / 'nano' / 'joint' / 'wandb').mkdir(parents=True)
    open_curves('wandb', tmp_path / 'nano' / 'joint', 0, {})
    assert told[0]['id'] == 'nano-joint'


def test_none_leaves_no_curves(tmp_path: Path) -> None:
    with open_log(settings(tmp_path, 'none'), 0) as log:
        log.step(1, {'loss': 2.0}, 4)
    assert [path.name for path in tmp_path.iterdir()] == ['log.jsonl']
    with pytest.raises(BadOption, match='no such tracker; got paper'):
        settings(tmp_path, 'paper')


def test_the_bar_tells_speed_and_time_left(tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    with RunLog(tmp_path, 0, 9, every=1, curves=NoCurves()) as log:
        for step in (1, 2):
            log.step(step, {'loss': 2.0}, 4)
    said = capsys.readouterr().err
    assert re.search(r'2/9 \[\d+:\d+<\d+:\d+,.*step/?s?.*loss=2\.0000, samples/s=(?!0\.0)\d',
                     said), said


def test_the_bar_counts_the_samples_of_every_step(tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of a mixture have different numbers of frames: 12 and 3 in 5 s are 3.0 a second."""
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    clock = iter([100.0, 103.0, 105.0])
    monkeypatch.setattr(logs, 'time', SimpleNamespace(monotonic=lambda: next(clock),
                                                      time=time.time))
    with RunLog(tmp_path, 7, 9, every=1, curves=NoCurves()) as log:
        for step, samples in ((8, 12), (9, 3)):
            log.step(step, {'loss': 2.0}, samples)
    assert 'samples/s=3.0' in capsys.readouterr().err
