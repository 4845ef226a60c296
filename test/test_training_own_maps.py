"""Traces over maps that the network itself has drawn, and exports part of the way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training_run import exported_vae, mixed_values

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.imaging.colours import colourise
from cooper_ros.imaging.resize import ImageTransform, normalise
from cooper_ros.training import mixed_task, own_maps
from cooper_ros.training.folder import load_vae
from cooper_ros.training.mixed_task import MixedTask
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.starting import START_NAME
from cooper_ros.training.typed import build
from cooper_ros.training.vae_task import DEPTH, LABELS, RGB


@pytest.fixture(scope='module')
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run that draws, with three rooms."""
    data = {'folder': str(tmp_path_factory.mktemp('data')), 'seed': 0, 'train': 3, 'valid': 1,
            'questions': 0}
    vae = exported_vae(data, tmp_path_factory.mktemp('vae'))
    values = mixed_values(data, vae, tmp_path_factory.mktemp('first'))
    values['task']['recipes'] = {'draw': {'weight': 1, 'frames': 1}}
    return values


@pytest.fixture(scope='module')
def start(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder to go on from."""
    folder, task = tmp_path_factory.mktemp('start'), MixedTask(build(TrainSettings, values))
    torch.manual_seed(0)
    weights = {name: value + 0.05 * torch.randn_like(value)
               for name, value in task.module.state_dict().items()}
    task.export(folder, weights)
    return folder


def task_of(values: dict[str, Any], folder: Path, start: Path | str, **changes: Any) -> MixedTask:
    task = {**values['task'], 'tokenizer': str(start), **changes}
    return MixedTask(build(TrainSettings, {**values, 'folder': str(folder), 'start': str(start),
                                           'task': task}))


def test_traces_show_what_the_start_draws(values: dict[str, Any], start: Path, tmp_path: Path
                                          ) -> None:
    task, truth = (task_of(values, tmp_path / str(count), start, own_maps=count)
                   for count in (2, 0))
    rgb, rule = np.array(task.train.store.rgb[1]), ImageTransform(*task.options.vit_rule)
    engine = CooperEngine.from_pretrained(start)
    for kind, view in ((DEPTH, colourise(engine.estimate_depth(rgb).relative)),
                       (LABELS, engine.segment(rgb).rgb)):
        shown, wanted = task.train.cache.pixels(1, kind), normalise(rule.pixels(view))
        assert np.abs(shown.numpy() - wanted).mean() < 0.02  # the engine's weights are bfloat16
        assert not torch.equal(shown, truth.train.cache.pixels(1, kind))
        assert torch.equal(task.train.cache.pixels(2, kind), truth.train.cache.pixels(2, kind))
        assert torch.equal(task.train.cache.latent(1, kind), truth.train.cache.latent(1, kind))
    assert torch.equal(task.train.cache.pixels(1, RGB), truth.train.cache.pixels(1, RGB))
    assert len(task.valid.cache.own) == 1


def test_a_run_that_goes_on_keeps_its_own_maps(
        values: dict[str, Any], start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
        ) -> None:
    """An export may have replaced the start, and a stopped run may have drawn but some."""
    place = tmp_path / 'start'
    shutil.copytree(start, place)
    first = task_of(values, tmp_path / 'run', place, own_maps=3)
    kept = np.array(first.train.cache.own)
    (path,) = Path(first.train.store.folder).glob('own_*_3_*.npy')
    part = path.rename(path.with_suffix('.part.npy'))
    np.load(part, mmap_mode='r+')[2] = 0  # never drawn
    (tmp_path / 'run' / 'checkpoint.pt').touch()  # it has begun
    (place / 'ema.safetensors').unlink()
    drawn: list[np.ndarray] = []
    plain = own_maps._drawn
    monkeypatch.setattr(own_maps, '_drawn', lambda *rest: drawn.append(plain(*rest)) or drawn[-1])
    again = task_of(values, tmp_path / 'run', place, own_maps=3)
    assert len(drawn) == 2 and np.array_equal(again.train.cache.own, kept)


def test_an_export_stands_part_of_the_way(values: dict[str, Any], start: Path, tmp_path: Path
                                          ) -> None:
    task = task_of(values, tmp_path, start, learned=0.25)
    before = load_file(tmp_path / START_NAME)
    task.export(tmp_path / 'out', {name: value + 1 for name, value in before.items()})
    after = load_file(tmp_path / 'out' / 'ema.safetensors')
    for name, value in after.items():
        torch.testing.assert_close(value.float(), before[name] + 0.25, atol=0.02, rtol=0.02)


@pytest.mark.parametrize('changes', [{'own_maps': 1}, {'learned': 0.5}])
def test_both_need_a_start(values: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
                           ) -> None:
    with pytest.raises(BadOption, match='learned and own_maps need a network to start from'):
        MixedTask(build(TrainSettings, {**values, 'folder': str(tmp_path),
                                        'task': {**values['task'], **changes}}))


def test_own_maps_need_something_that_reads_maps(values: dict[str, Any], start: Path,
                                                 tmp_path: Path) -> None:
    recipes = {'describe': {'weight': 1, 'frames': 1}}
    with pytest.raises(BadOption, match='own_maps needs a recipe that reads maps; got describe'):
        task_of(values, tmp_path, start, own_maps=1, recipes=recipes)


def test_own_maps_are_drawn_on_the_device_that_trains(
        values: dict[str, Any], start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
        ) -> None:
    """And nothing is moved for it: the loss decodes with the same autoencoder. (``meta`` stands
    for a GPU; what would be drawn there is not asked for.)"""
    seen: list[tuple[CooperEngine, Any]] = []
    monkeypatch.setattr(mixed_task, 'training_device', lambda wanted: torch.device('meta'))
    monkeypatch.setattr(MixedTask, '_autoencoder', lambda self: load_vae(Path(self.settings.vae)))
    monkeypatch.setattr(mixed_task, 'own_maps', lambda store, engine, weights, *rest:
                        seen.append((engine, weights)) or np.zeros((1, 2, 4, 4, 3), np.uint8))
    task = task_of(values, tmp_path, start, own_maps=1)
    assert len(seen) == 2  # training and validation
    for engine, (network, vae) in seen:
        assert {value.device.type for value in network.parameters()} == {'meta'}
        assert vae is task.vae and {value.device.type for value in vae.parameters()} == {'cpu'}
        assert engine.parts.runtime.device.type == 'meta'


def test_how_far_an_export_goes_may_be_chosen_after_training(
        values: dict[str, Any], start: Path, tmp_path: Path) -> None:
    """Also where the run has exported in the place of its start before."""
    place, run = tmp_path / 'start', tmp_path / 'run'
    shutil.copytree(start, place)
    first = task_of(values, run, place)
    before = {name: value.clone() for name, value in first.module.state_dict().items()}
    trained = {name: value + 1 for name, value in before.items()}
    (run / 'checkpoint.pt').touch()  # it has begun
    first.export(place, trained)
    task_of(values, run, place, learned=0.5).export(tmp_path / 'out', trained)
    for name, value in load_file(tmp_path / 'out' / 'ema.safetensors').items():
        torch.testing.assert_close(value.float(), before[name] + 0.5, atol=0.02, rtol=0.02)


def test_a_run_that_kept_no_start_does_not_take_a_trained_one(
        values: dict[str, Any], start: Path, tmp_path: Path) -> None:
    """Such as one of an older version, whose start may have been replaced by its own export."""
    (tmp_path / 'checkpoint.pt').touch()
    with pytest.raises(BadCheckpoint, match='did not keep the weights that it set out from; got .*'
                       'start.safetensors; .*; remedy: set task.learned to 1'):
        task_of(values, tmp_path, start, learned=0.5)
    assert task_of(values, tmp_path, start).module  # it goes on all the same
    assert not (tmp_path / START_NAME).exists()


def test_a_start_of_weights_alone_has_the_rest_in_the_base(
        values: dict[str, Any], start: Path, tmp_path: Path) -> None:
    bare = tmp_path / 'bare'
    bare.mkdir()
    shutil.copy(start / 'ema.safetensors', bare)
    task = {**values['task'], 'tokenizer': str(start)}
    settings = build(TrainSettings, {**values, 'folder': str(tmp_path / 'run'), 'task': task,
                                     'start': str(bare), 'vae': str(start)})
    wanted = load_file(start / 'ema.safetensors')
    assert all(torch.equal(value, wanted[name].float())
               for name, value in MixedTask(settings).module.state_dict().items())
