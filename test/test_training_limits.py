"""What training refuses at its start, in its own words, and what two runs share."""

from __future__ import annotations

import dataclasses
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
import yaml
from test_training_run import MODEL, exported_vae, mixed_values, vae_settings
from typer.testing import CliRunner

from cooper_ros.errors import BadCheckpoint, BadData, BadOption
from cooper_ros.scenes.edition import EDITION
from cooper_ros.training import data as frames
from cooper_ros.training.checkpoints import load_checkpoint, save_checkpoint
from cooper_ros.training.cli import app, run_stage
from cooper_ros.training.data import frame_store
from cooper_ros.training.kept_settings import check_settings, keep_settings
from cooper_ros.training.logs import RunLog
from cooper_ros.training.mixed_options import MixOptions, Recipe
from cooper_ros.training.mixed_task import MixedTask
from cooper_ros.training.once import one_maker
from cooper_ros.training.optimiser import make_optimiser
from cooper_ros.training.recipes import RECIPES, Source
from cooper_ros.training.see_task import SeeOptions
from cooper_ros.training.settings import Optim, TrainSettings, load_settings
from cooper_ros.training.sizes import Sizes, check_views, vae_sizes
from cooper_ros.training.task import whole_batch
from cooper_ros.training.trainer import Trainer
from cooper_ros.training.tree import Tree
from cooper_ros.training.typed import build
from cooper_ros.training.vae_task import VaeOptions, VaeTask

RULES = (128, 128, 16), (112, 112, 14)
VAE = {'ch': 32, 'ch_mult': [1, 1, 1, 1], 'num_res_blocks': 1}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {'folder': str(tmp_path_factory.mktemp('data')), 'seed': 0, 'train': 3, 'valid': 1,
            'questions': 0}


@pytest.fixture(scope='module')
def vae_folder(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_vae(data, tmp_path_factory.mktemp('vae'))


def test_one_run_makes_frames_and_another_waits_for_them(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f'train_0_2_0_v{EDITION}'
    said, stderr = (os.fdopen(end, mode, buffering=1)
                    for end, mode in zip(os.pipe(), ('r', 'w')))
    monkeypatch.setattr(sys, 'stderr', stderr)
    with ThreadPoolExecutor() as pool:
        with one_maker(path):
            second = pool.submit(frame_store, tmp_path, 'train', 0, 2, 0)
            second.add_done_callback(lambda _: stderr.write('it did not wait\n'))
            assert f'waiting for another run that makes {path}' in said.readline()
            frames._make(path, 'train', 0, 2, 0)
            made = (path / 'rgb.npy').stat().st_ino
        assert len(second.result()) == 2
    assert (path / 'rgb.npy').stat().st_ino == made
    monkeypatch.undo()
    stderr.close()
    said.close()


@pytest.mark.parametrize(('changes', 'words'), [
    ({'threads': -1}, 'threads is out of range; got -1; allowed: >= 0'),
    ({'seed': 2**63}, 'seed is out of range'), ({'seed': -1}, 'seed is out of range'),
    ({'shards': -1}, 'shards is out of range')])
def test_a_run_out_of_its_ranges_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        build(TrainSettings, {'stage': 'vae', 'folder': 'x', 'steps': 1, **changes})


def test_settings_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'x.yaml').write_bytes(bytes(range(256)))
    with pytest.raises(BadOption, match='cannot read the training settings; got .*x.yaml'):
        load_settings(tmp_path / 'x.yaml')


@pytest.mark.parametrize(('name', 'value'), [
    ('crop', [-8, -8]), ('crop', [64, 0]), ('crop', [0, 64]), ('kl', -1.0), ('classes', -1.0),
    ('latent_noise', -1.0), ('depth_focus', -1.0)])
def test_an_autoencoder_out_of_its_ranges_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadOption, match=f'task.{name} is out of range'):
        build(VaeOptions, {name: value}, 'task')


@pytest.mark.parametrize(('name', 'value'), [
    ('ch', 33), ('ch', 0), ('ch', -32), ('ch_mult', []), ('ch_mult', [1, 0]),
    ('ch_mult', [1] * 8), ('num_res_blocks', 0), ('z_channels', 0), ('scale_factor', 0.0),
    ('in_channels', 4)])
def test_sizes_of_an_autoencoder_out_of_their_ranges_are_refused(name: str, value: Any) -> None:
    with pytest.raises(BadOption, match=f'model.{name} is out of range'):
        vae_sizes({**VAE, name: value}, (0, 0))


@pytest.mark.parametrize('crop', [(33, 32), (32, 36), (104, 32), (32, 136)])
def test_crops_that_cannot_be_halved_or_cut_out_are_refused(crop: tuple[int, int]) -> None:
    assert vae_sizes(VAE, (96, 128)).downsample == 8
    with pytest.raises(BadOption, match='task.crop does not suit.*multiples of 8, up to .96, '):
        vae_sizes(VAE, crop)


@pytest.mark.parametrize(('name', 'value'), [
    ('vocabulary', -5), ('vit_rule', [0, 0, 0]), ('vit_rule', [-168, 168, 14]),
    ('vae_rule', [64, 128, 16]), ('vae_rule', [8, 8, 16]), ('init_std', -0.1),
    ('timestep_shift', 0.0), ('flow_points', 1), ('answer_weight', -1.0), ('ce_weight', -1.0),
    ('point', -1.0), ('decode', {'depth': -1.0}), ('latent_frames', -3)])
def test_a_mixture_out_of_its_ranges_is_refused(name: str, value: Any) -> None:
    recipes = {'direct': {'weight': 1, 'frames': 1}}
    with pytest.raises(BadOption, match=f'task.{name} is out of range'):
        build(MixOptions, {'recipes': recipes, name: value}, 'task')


@pytest.mark.parametrize(('name', 'value'), [
    ('picture_share', 1.5), ('depth_weight', -1.0), ('vit_rule', [168, 168, 0])])
def test_seeing_out_of_its_ranges_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadOption, match=f'task.{name} is out of range'):
        build(SeeOptions, {name: value}, 'task')


@pytest.mark.parametrize(('part', 'name', 'value'), [
    ('llm', 'num_heads', 3), ('llm', 'num_heads', 0), ('llm', 'num_heads', 32),
    ('llm', 'num_kv_heads', 3), ('llm', 'num_kv_heads', 0), ('llm', 'hidden_size', 30),
    ('llm', 'num_layers', 0), ('vit', 'num_layers', 0), ('vit', 'num_heads', 5),
    ('vit', 'patch_size', 0), ('vit', 'image_size', 14)])
def test_sizes_of_a_network_out_of_their_ranges_are_refused(part: str, name: str,
                                                            value: int) -> None:
    assert build(Sizes, MODEL, 'model')
    name_of = 'num_heads' if value == 30 else name  # which do not divide it
    with pytest.raises(BadOption, match=f'model.{part}.{name_of} is out of range'):
        build(Sizes, {**MODEL, part: {**MODEL[part], name: value}}, 'model')


@pytest.mark.parametrize(('rules', 'sizes', 'words'), [
    (((64, 64, 16), RULES[1]), {}, 'vae_rule resizes frames.*: 64 x 48; allowed: 128 x 96'),
    (((512, 512, 16), RULES[1]), {}, 'vae_rule resizes frames'),
    (RULES, {'max_latent_size': 7}, 'latent tokens.*got 128 x 96; allowed: .*16, up to 112'),
    (RULES, {'latent_patch_size': 3}, 'latent tokens.*multiples of 24'),
    ((RULES[0], (168, 168, 14)), {}, 'vision tokens.*got 168 x 126; allowed: .*14, up to 112'),
    ((RULES[0], (112, 112, 16)), {}, 'vision tokens.*multiples of 14')])
def test_pictures_that_do_not_suit_the_network_are_refused(rules: Any, sizes: dict[str, int],
                                                           words: str) -> None:
    check_views(build(Sizes, MODEL).config(1), *RULES, coded=True)
    with pytest.raises(BadOption, match=words):
        check_views(build(Sizes, {**MODEL, **sizes}).config(1), *rules, coded=True)


def test_a_rule_that_resizes_what_is_coded_is_refused(data: dict[str, Any], vae_folder: Path,
                                                      tmp_path: Path) -> None:
    values = mixed_values(data, vae_folder, tmp_path)
    values['task']['vae_rule'] = [64, 64, 16]
    with pytest.raises(BadOption, match='task.vae_rule resizes frames'):
        MixedTask(build(TrainSettings, values))


@pytest.mark.parametrize('name', ['direct', 'auto', 'probe'])
def test_a_recipe_without_questions_is_refused(name: str, data: dict[str, Any], vae_folder: Path,
                                               tmp_path: Path) -> None:
    values = mixed_values(data, vae_folder, tmp_path)
    values['task']['recipes'] = {name: {'weight': 1, 'frames': 1}}
    with pytest.raises(BadData, match=f'recipe {name} has no frame it can use; .*questions: 0; '
                                      'allowed: .*; remedy: raise data.questions'):
        MixedTask(build(TrainSettings, values))


def test_a_scarce_recipe_learns_from_the_first_frames_alone(
        data: dict[str, Any], vae_folder: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    values = mixed_values(data, vae_folder, tmp_path)
    values['task']['recipes'] = {'draw': {'weight': 1, 'frames': 1, 'only_first': 2},
                                 'describe': {'weight': 1, 'frames': 1}}
    task, seen = MixedTask(build(TrainSettings, values)), {'draw': set(), 'describe': set()}

    def watched(name: str, plain: Callable[..., Tree], source: Source, frame: int,
                *rest: Any) -> Tree:
        seen[name].add(frame)
        return plain(source, frame, *rest)

    for name in seen:
        monkeypatch.setitem(RECIPES, name, dataclasses.replace(
            RECIPES[name], tree=partial(watched, name, RECIPES[name].tree)))
        for step in range(1, 7):
            task.batch(task.train, name, step, torch.Generator())
    assert seen == {'draw': {0, 1}, 'describe': {0, 1, 2}}


def test_a_negative_number_of_frames_is_refused() -> None:
    with pytest.raises(BadOption, match='task.recipes.only_first.*-1; allowed: >= 0'):
        Recipe(1.0, 1, only_first=-1)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(BadData, match='there is nothing to train on.*remedy'):
        whole_batch(0, 2, 0, 1)


def test_a_network_that_rests_wholly_is_refused() -> None:
    network = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(BadOption, match='no weight is left to train.*task.freeze'):
        make_optimiser(network, Optim())


@pytest.mark.parametrize(('content', 'model', 'words'), [
    (None, VAE, 'there is no autoencoder; got .*remedy'),
    (b'nothing', VAE, 'ae.safetensors is damaged; got .*remedy'),
    ('whole', {**VAE, 'ch': 64}, r'do not fit; got decoder.*remedy: .*`task.vae` names')])
def test_an_autoencoder_that_is_not_there_is_no_start(
        content: bytes | str | None, model: dict[str, Any], words: str, data: dict[str, Any],
        vae_folder: Path, tmp_path: Path) -> None:
    if content is not None:
        whole = (vae_folder / 'ae.safetensors').read_bytes()
        (tmp_path / 'ae.safetensors').write_bytes(whole if content == 'whole' else content)
    task = {'vae': str(tmp_path), 'crop': [32, 32]}
    with pytest.raises(BadCheckpoint, match=words):
        VaeTask(vae_settings(data, tmp_path / 'run', model=model, task=task))


def config(data: dict[str, Any], place: Path, **changes: Any) -> Path:
    """A training file of a run of two steps, or with changes."""
    settings = vae_settings(data, place / 'run', steps=2, track='none', **changes)
    values = yaml.safe_load(yaml.dump(dataclasses.asdict(settings)).replace('!!python/tuple', ''))
    (place / 'x.yaml').write_text(yaml.safe_dump(values))
    return place / 'x.yaml'


def test_a_run_goes_on_with_its_own_settings_or_says_so(data: dict[str, Any],
                                                        tmp_path: Path) -> None:
    kept, first = tmp_path / 'run' / 'settings.json', config(data, tmp_path)
    run_stage('vae', first, steps=1)
    own = load_settings(first)
    pace = {'steps': 9, 'threads': 1, 'log_every': 1, 'checkpoint_every': 1, 'preview_every': 50}
    check_settings(kept.parent, dataclasses.replace(own, **pace))
    other = {'optim': {'learning_rate': 1e-4}, 'task': {'crop': [32, 32], 'kl': 0.5}}
    with pytest.raises(BadCheckpoint, match='begun with other settings; '
                       r'got .*optim.learning_rate 0.0001.*task.kl 0.5; '
                       r'allowed: .*optim.learning_rate 0.002.*task.kl not set; '
                       'remedy: name another folder.*settings.json.*--changed-settings'):
        run_stage('vae', config(data, tmp_path, **other))
    run_stage('vae', config(data, tmp_path, **other), changed=True)
    check_settings(kept.parent, load_settings(tmp_path / 'x.yaml'))
    with pytest.raises(BadCheckpoint, match='got .*task.kl not set; allowed: .*task.kl 0.5'):
        check_settings(kept.parent, own)
    kept.write_text('{')
    with pytest.raises(BadCheckpoint, match='settings of this run cannot be read'):
        check_settings(kept.parent, own)
    kept.unlink()  # as in a run of an older version
    check_settings(kept.parent, own)


@pytest.mark.parametrize(('task', 'changes', 'words'), [
    ({}, {'task': {'flow_points': 3}}, ''), ({}, {'batch': 3}, ''),
    ({'own_maps': 2}, {'task': {'flow_points': 3}}, 'got task.flow_points 3; allowed: .* 2'),
    ({'sets': {}}, {'batch': 3}, 'got batch 3; allowed: batch 2')])
def test_what_a_run_does_not_learn_from_may_change(task: dict[str, Any], changes: dict[str, Any],
                                                   words: str, tmp_path: Path) -> None:
    """Flow points are those of the export, unless the maps of the traces are drawn with them; a
    mixture has frames instead of a batch."""
    def run(batch: int = 2, **more: Any) -> TrainSettings:
        return TrainSettings('joint', str(tmp_path), 9, batch,
                             task={'flow_points': 2, **task, **more.get('task', {})})
    keep_settings(tmp_path, run())
    (tmp_path / 'checkpoint.pt').touch()  # it has begun
    if not words:
        check_settings(tmp_path, run(**changes))
        return
    with pytest.raises(BadCheckpoint, match=f'begun with other settings; {words}'):
        check_settings(tmp_path, run(**changes))


@pytest.mark.parametrize(('stage', 'words'), [
    ('see', 'stage see makes no model folder; got --export; remedy: name its run folder as .eyes'),
    ('joint', 'a model folder needs an autoencoder; got vae: ""; remedy: train stage vae first')])
def test_an_export_that_cannot_be_made_is_refused_before_the_run(
        stage: str, words: str, tmp_path: Path) -> None:
    values = {'stage': stage, 'folder': str(tmp_path / 'run'), 'steps': 1,
              'data': {'folder': str(tmp_path / 'data'), 'train': 1, 'valid': 1},
              'task': {'recipes': {'direct': {'weight': 1, 'frames': 1}}} if stage == 'joint'
              else {}}
    (tmp_path / 'x.yaml').write_text(yaml.safe_dump(values))
    with pytest.raises(BadOption, match=words):
        run_stage(stage, tmp_path / 'x.yaml', export=str(tmp_path / 'out'))
    assert [path.name for path in tmp_path.iterdir()] == ['x.yaml']  # not even frames were drawn


def test_a_step_has_the_frames_of_its_recipe(data: dict[str, Any], vae_folder: Path,
                                             tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                             ) -> None:
    """The bar counts them; the `batch` of a mixture is nothing."""
    values = mixed_values(data, vae_folder, tmp_path, track='none', steps=5, batch=16)
    values['task']['recipes'] = {'draw': {'weight': 1, 'frames': 1},
                                 'describe': {'weight': 1, 'frames': 3}}
    task, told = MixedTask(build(TrainSettings, values)), list[int]()
    plain = RunLog.step
    monkeypatch.setattr(RunLog, 'step', lambda self, step, found, samples: told.append(samples)
                        or plain(self, step, found, samples))
    Trainer(task, task.settings).run()
    assert told == [len(task.ahead(step).batch.labels) for step in range(1, 6)]
    assert set(told) == {1, 3}


def test_a_checkpoint_of_an_older_version_is_gone_on_from(data: dict[str, Any],
                                                          tmp_path: Path) -> None:
    """Which had the names of the averaged weights in it; nothing reads them."""
    settings = vae_settings(data, tmp_path)
    Trainer(VaeTask(settings), settings).run(until=1)
    state = load_checkpoint(tmp_path)
    assert set(state) == {'step', 'model', 'ema', 'optimiser'}
    save_checkpoint(tmp_path, {**state, 'ema_names': list(state['ema'])})
    assert Trainer(VaeTask(settings), settings).step == 1


def test_changed_settings_of_the_optimiser_hold(data: dict[str, Any], tmp_path: Path) -> None:
    """A checkpoint brings weights and moments; how they move is said by the file of today."""
    settings = vae_settings(data, tmp_path)
    Trainer(VaeTask(settings), settings).run(until=1)
    optim = Optim(betas=(0.5, 0.6), eps=1e-3, weight_decay=0.25)
    changed = dataclasses.replace(settings, optim=optim)
    trainer = Trainer(VaeTask(changed), changed)
    assert trainer.step == 1
    groups = trainer.optimiser.param_groups
    assert [group['weight_decay'] for group in groups] == [0.25, 0.0]
    assert all(group['eps'] == 1e-3 and group['betas'] == (0.5, 0.6) for group in groups)


def test_what_a_run_that_never_began_was_given_does_not_bind(data: dict[str, Any],
                                                             tmp_path: Path) -> None:
    keep_settings(tmp_path, vae_settings(data, tmp_path, batch=1))
    check_settings(tmp_path, vae_settings(data, tmp_path))


@pytest.mark.parametrize('changes', [{'model': {**VAE, 'ch': 64}},
                                     {'task': {'crop': [32, 32], 'decoder_only': True}}])
def test_a_checkpoint_of_another_network_is_refused(changes: dict[str, Any],
                                                    data: dict[str, Any], tmp_path: Path) -> None:
    first, second = vae_settings(data, tmp_path), vae_settings(data, tmp_path, **changes)
    Trainer(VaeTask(first), first).save()
    with pytest.raises(BadCheckpoint, match='of another network or other trained weights; got .*'
                                            'remedy: name another folder'):
        Trainer(VaeTask(second), second)


def test_fewer_steps_than_none_are_refused() -> None:
    done = CliRunner().invoke(app, ['vae', '--config', 'x.yaml', '--steps', '-4'])
    assert done.exit_code == 2 and '--steps' in done.output
