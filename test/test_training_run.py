"""Training: trees equal single conversations and the engine's own reading; runs survive kills."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.disk import small_files

from cooper_ros.errors import BadCheckpoint, BadData, BadOption, CooperError, OutOfDisk
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import TextItem
from cooper_ros.model.training_forward import forward_train
from cooper_ros.runtime.deferred import is_drawing
from cooper_ros.runtime.torch_runtime import TorchRuntime
from cooper_ros.training import logs
from cooper_ros.training.cli import run_stage
from cooper_ros.training.data import frame_store
from cooper_ros.training.logs import RunLog
from cooper_ros.training.mixed_task import MixedTask
from cooper_ros.training.placing import place, place_code
from cooper_ros.training.recipes import RECIPES
from cooper_ros.training.settings import TrainSettings, load_settings
from cooper_ros.training.starting import copy_experts
from cooper_ros.training.task import batch_indices, step_generator
from cooper_ros.training.tokenizer import build_tokenizer
from cooper_ros.training.trainer import Trainer, learning_rate
from cooper_ros.training.tree import Tree, forward_trees, pack_trees
from cooper_ros.training.typed import build
from cooper_ros.training.vae_task import VaeTask, picture, rescaled

OPTIM = {'learning_rate': 2e-3, 'warmup': 2, 'schedule': 'cosine', 'ema': 0.9, 'eps': 1e-8,
         'bfloat16': False}
RECIPE = {'frames': 2, 'questions': 2}
MODEL = {'llm': {'hidden_size': 32, 'intermediate_size': 48, 'num_layers': 2, 'num_heads': 4,
                 'num_kv_heads': 2},
         'vit': {'hidden_size': 32, 'intermediate_size': 48, 'num_layers': 1, 'num_heads': 2,
                 'patch_size': 14, 'image_size': 112},
         'max_latent_size': 8, 'vit_side': 8}


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Sixteen training scenes on disk, shared by all tests of the file."""
    return {'folder': str(tmp_path_factory.mktemp('data')), 'seed': 0, 'train': 16, 'valid': 4,
            'questions': 1}


@pytest.fixture(scope='module')
def vae_folder(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_vae(data, tmp_path_factory.mktemp('vae'))


def exported_vae(data: dict[str, Any], folder: Path) -> Path:
    """An autoencoder that has not trained, as a run leaves it."""
    task = VaeTask(vae_settings(data, folder / 'run'))
    task.export(folder, task.module.state_dict())
    return folder


def vae_settings(data: dict[str, Any], folder: Path, **changes: Any) -> TrainSettings:
    values = {'stage': 'vae', 'folder': str(folder), 'steps': 6, 'batch': 2, 'optim': OPTIM,
              'checkpoint_every': 2, 'preview_every': 100,
              'data': {**data, 'questions': 0},
              'model': {'ch': 32, 'ch_mult': [1, 1, 1, 1], 'num_res_blocks': 1},
              'task': {'crop': [32, 32]}, **changes}
    return build(TrainSettings, values)


def mixed_values(data: dict[str, Any], vae: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return {'stage': 'joint', 'folder': str(folder), 'vae': str(vae), 'steps': 6, 'batch': 2,
            'optim': OPTIM, 'checkpoint_every': 2, 'preview_every': 100, 'data': data,
            'model': copy.deepcopy(MODEL),  # some tests change theirs
            'task': {'vocabulary': 400, 'recipes': {
                name: {'weight': 1.0, **RECIPE} for name in RECIPES}}, **changes}


@pytest.fixture(scope='module')
def task(data: dict[str, Any], vae_folder: Path, tmp_path_factory: pytest.TempPathFactory
         ) -> MixedTask:
    """A tiny task with noisy weights, so that every part matters."""
    values = mixed_values(data, vae_folder, tmp_path_factory.mktemp('task'))
    task = MixedTask(build(TrainSettings, values))
    torch.manual_seed(0)
    for parameter in task.module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return task


@pytest.mark.parametrize('name', list(RECIPES))
def test_a_tree_is_its_conversations(task: MixedTask, name: str) -> None:
    """Losses and gradients of a batch of trees equal those of every branch on its own."""
    frames = task.train.usable[name][:2]
    trees = [RECIPES[name].tree(task.train, frame, 3, step_generator(0, 1)) for frame in frames]
    batch, branch = pack_trees(trees, task.config, task.specials, generator=step_generator(0, 2))
    together = forward_trees(task.module, batch, branch)
    dense = forward_train(task.module, batch)
    torch.testing.assert_close(together.ce, dense.ce, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.mse, dense.mse, atol=1e-4, rtol=1e-4)
    if any(isinstance(item, TextItem) and item.loss for item in trees[0].items):
        alone = [single_ce(task, Tree(tree.prefix, (part,)))
                 for tree in trees for part in tree.branches]
        torch.testing.assert_close(together.ce.sum(), torch.stack(alone).sum(), rtol=1e-4,
                                   atol=1e-3)


def test_a_sketch_is_drawn_from_what_the_tower_sees_alone(task: MixedTask) -> None:
    tree = RECIPES['sketch'].tree(task.train, 0, 1, step_generator(0, 1))
    direct = RECIPES['direct'].tree(task.train, 0, 1, step_generator(0, 1))
    assert [type(item) for item in tree.prefix] == [type(item) for item in direct.prefix]
    latents = [item for item in tree.items if hasattr(item, 'latent')]
    assert len(latents) == 2 and all(item.loss for item in latents)


def test_copies_of_a_noised_map_are_drawn_as_if_each_were_the_only_one(task: MixedTask) -> None:
    tree = RECIPES['draw'].tree(task.train, 0, 2, step_generator(0, 1))
    batch, branch = pack_trees([tree], task.config, task.specials, generator=step_generator(0, 2))
    tokens = batch.latents.shape[1] // 5  # the picture, then two depth maps, then two of labels
    noise, times = batch.noise.clone(), batch.times.clone()
    noise[:, 2 * tokens:3 * tokens], times[:, 2] = noise[:, tokens:2 * tokens], times[:, 1]
    same = dataclasses.replace(batch, noise=noise, times=times)
    first, second, *labels = forward_trees(task.module, same, branch).mse[0].split(tokens)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(*labels)


def single_ce(task: MixedTask, tree: Tree) -> torch.Tensor:
    batch, _ = pack_trees([tree], task.config, task.specials, generator=step_generator(0, 3))
    return forward_train(task.module, batch).ce.sum()


def test_training_reads_what_the_engine_reads(task: MixedTask) -> None:
    """The loss of an interleaved trace equals the log-probabilities the runtime's cache gives."""
    frame = task.train.usable['auto'][0]
    tree = RECIPES['auto'].tree(task.train, frame, 1, step_generator(0, 1))
    part = tuple(item for item in tree.branches[0] if not (
        hasattr(item, 'latent') and item.loss))  # the noised map is never written to the cache
    expected = single_ce(task, Tree(tree.prefix, (part,)))
    runtime = TorchRuntime(task.module, task.vae, specials=task.specials,
                           vocabulary=task.config.llm.vocab_size)
    session = runtime.session(rows=1, capacity=1024)
    total = 0.0
    for item in (*tree.prefix, *part):
        if isinstance(item, TextItem):
            total += read_text(session, item, task) if item.loss else 0.0
            session.append_text(0, item.ids)
        elif hasattr(item, 'pixels'):
            session.append_vision(0, runtime.encode_vision(item.pixels))
        else:
            session.append_latents(0, runtime.embed_latents(item.latent))
    task.module.train()
    assert total == pytest.approx(float(expected.detach()), rel=1e-4)


def read_text(session: Any, item: TextItem, task: MixedTask) -> float:
    """Minus log-probability of a turn, token by token, leaving the cache as it was."""
    cursor, total = session.cursor(0), 0.0
    for fed, wanted in zip((task.specials.bos, *item.ids), (*item.ids, task.specials.eos)):
        total -= float(torch.log_softmax(session.step(0, fed).double(), -1)[wanted])
    session.rewind(0, cursor)
    return total


def test_two_steps_reduce_the_loss(data: dict[str, Any], vae_folder: Path,
                                   tmp_path: Path) -> None:
    task = MixedTask(build(TrainSettings, mixed_values(data, vae_folder, tmp_path)))
    before = task.validate()[0]
    Trainer(task, task.settings).run()
    after = task.validate()[0]
    assert sum(after.values()) < sum(before.values())


def test_a_frozen_understanding_keeps_every_bit(data: dict[str, Any], vae_folder: Path,
                                                tmp_path: Path) -> None:
    values = mixed_values(data, vae_folder, tmp_path, steps=2)
    values['task'] |= {'freeze_und': True, 'recipes': {
        name: {'weight': 1.0, **RECIPE} for name in ('draw', 'auto')}}
    task = MixedTask(build(TrainSettings, values))
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    Trainer(task, task.settings).run()
    moved = {name for name, value in task.module.state_dict().items()
             if not torch.equal(value, before[name])}
    assert {'llm2vae.weight', 'language_model.model.norm_moe_gen.weight'} <= moved
    assert all(is_drawing(name) for name in moved)


def test_a_frozen_name_that_fits_nothing_is_refused(data: dict[str, Any], vae_folder: Path,
                                                    tmp_path: Path) -> None:
    values = mixed_values(data, vae_folder, tmp_path)
    values['task']['freeze'] = ['eyes']
    with pytest.raises(BadOption, match='no weight begins like this; got .*eyes'):
        MixedTask(build(TrainSettings, values))


@pytest.mark.parametrize(('changes', 'error', 'words'), [
    ({'vae': ''}, BadOption, 'need an autoencoder; got auto, draw, maps, sketch; remedy'),
    ({'vae': 'nowhere'}, BadCheckpoint, 'there is no autoencoder'),
    ({'model': {}}, BadOption, 'model is incomplete; .*needs llm, vit, max_latent_size, vit_side'),
    ({'model': {**MODEL, 'latent_patch_size': 1, 'max_latent_size': 16},
      'start': 'models/cooper-nano'},
     BadCheckpoint, 'to start from do not fit; got connector.fc1.bias .192,.; allowed: .32,.')])
def test_what_does_not_go_together_is_refused(
        changes: dict[str, Any], error: type[CooperError], words: str, data: dict[str, Any],
        vae_folder: Path, tmp_path: Path) -> None:
    values = {**mixed_values(data, vae_folder, tmp_path), **changes}
    with pytest.raises(error, match=words):
        MixedTask(build(TrainSettings, values))


@pytest.mark.parametrize('stage', ['vae', 'joint'])
def test_a_resumed_run_is_the_uninterrupted_one(stage: str, data: dict[str, Any],
                                                vae_folder: Path, tmp_path: Path) -> None:
    whole, halves = (start(stage, data, vae_folder, tmp_path / name) for name in ('one', 'two'))
    whole.run()
    halves.run(3)
    (tmp_path / 'two' / 'log.jsonl').open('a').write('{"step": 4, "lo')  # cut off by the kill
    (tmp_path / 'two' / 'checkpoint.pt.part').write_bytes(b'half a checkpoint')
    again = start(stage, data, vae_folder, tmp_path / 'two')
    assert again.step == 3
    again.run()
    for name, value in whole.task.module.state_dict().items():
        torch.testing.assert_close(value, again.task.module.state_dict()[name], rtol=0, atol=0)
    for name, value in whole.ema.weights.items():
        torch.testing.assert_close(value, again.ema.weights[name], rtol=0, atol=0)
    assert curve(tmp_path / 'two') == curve(tmp_path / 'one')


def curve(folder: Path) -> list[dict[str, float]]:
    """The lines of training steps, without what the clock says."""
    lines = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    found = [{name: value for name, value in line.items() if name != 'time'}
             for line in lines if 'gradient_norm' in line]
    assert [line['step'] for line in found] == [4, 6]  # a mean of four steps, one of the rest
    return found


@pytest.mark.parametrize('moment', ['save', '_validate'])
def test_what_is_killed_between_log_and_checkpoint_comes_again(
        moment: str, data: dict[str, Any], vae_folder: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = (start('vae', data, vae_folder, tmp_path / name) for name in ('one', 'two'))
    whole.run()

    def die(*given: object) -> None:
        if cut.step == 6:
            raise KeyboardInterrupt
        getattr(Trainer, moment)(cut, *given)
    monkeypatch.setattr(cut, moment, die)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    start('vae', data, vae_folder, tmp_path / 'two').run()
    assert curve(tmp_path / 'two') == curve(tmp_path / 'one')
    ends = [(tmp_path / name / 'log.jsonl').read_text().count('valid_') for name in ('one', 'two')]
    assert ends[0] == ends[1] > 0


def start(stage: str, data: dict[str, Any], vae: Path, folder: Path) -> Trainer:
    if stage == 'vae':
        settings = vae_settings(data, folder, log_every=4)
        return Trainer(VaeTask(settings), settings)
    settings = build(TrainSettings, mixed_values(data, vae, folder, log_every=4))
    return Trainer(MixedTask(settings), settings)


def test_kill_nine_loses_one_interval(data: dict[str, Any], vae_folder: Path,
                                      tmp_path: Path) -> None:
    """The real command, killed for real, goes on where its last checkpoint was."""
    values = dataclasses.asdict(vae_settings(data, tmp_path / 'run', steps=100000))
    config = tmp_path / 'vae.yaml'
    config.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
    command = [sys.executable, '-m', 'cooper_ros.cli', 'train', 'vae', '--config', str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {
        'OMP_NUM_THREADS': '1'})
    deadline = time.monotonic() + 120
    while not (tmp_path / 'run' / 'checkpoint.pt').exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(BadOption, match='another run trains in this folder; got .+/run: process '
                       f'{process.pid}; remedy: wait for it, stop it .`kill {process.pid}`.'):
        run_stage('vae', config, steps=1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_stage('vae', config, steps=1)  # the folder is free, and beyond step 1 already
    settings = vae_settings(data, tmp_path / 'run', steps=100000)
    trainer = Trainer(VaeTask(settings), settings)
    assert trainer.step > 0 and trainer.step % 2 == 0
    trainer.run(trainer.step + 1)


def test_a_loss_that_is_not_finite_stops_the_run(data: dict[str, Any], tmp_path: Path) -> None:
    settings = vae_settings(data, tmp_path)
    trainer = Trainer(VaeTask(settings), settings)
    trainer.run(2)
    before = (tmp_path / 'checkpoint.pt').read_bytes()
    trainer.task.module.decoder.conv_out.bias.data.fill_(float('nan'))
    with pytest.raises(BadData, match=r'not finite; got step 3: loss nan, l1 nan.*gradient_norm.*'
                                      'checkpoint is of step 2, and may be spoilt already'):
        trainer.run(3)
    assert (tmp_path / 'checkpoint.pt').read_bytes() == before
    assert Trainer(VaeTask(settings), settings).step == 2


def test_a_full_disk_keeps_the_last_checkpoint(data: dict[str, Any], tmp_path: Path) -> None:
    """Writing fails where it does on a full disk: in the kernel, in the middle of a file."""
    settings = vae_settings(data, tmp_path)
    trainer = Trainer(VaeTask(settings), settings)
    trainer.save()
    before = (tmp_path / 'checkpoint.pt').read_bytes()
    trainer.step = 3
    with small_files(50_000), pytest.raises(OutOfDisk, match=r'checkpoint.pt .*; got [\d,]+ '
                                            'bytes needed; .*remedy: ') as full:
        trainer.save()
    assert 'enforce' not in str(full.value)  # torch's own words
    assert (tmp_path / 'checkpoint.pt').read_bytes() == before
    assert [path.name for path in tmp_path.glob('checkpoint*')] == ['checkpoint.pt']


def test_a_run_without_a_bar_logs_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                               ) -> None:
    monkeypatch.setattr(logs, 'tqdm', functools.partial(logs.tqdm, disable=True))
    with RunLog(tmp_path, 0, 3, every=2) as log:
        for step in range(1, 4):
            log.step(step, {'loss': float(step)}, 2)
    lines = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    assert [(line['step'], line['loss']) for line in lines] == [(2, 1.5), (3, 3.0)]


def test_a_full_disk_costs_no_line_of_the_log(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, 9) as log:
        for step in range(1, 9):
            log.line(step, {'loss': 1.0})
    before = (tmp_path / 'log.jsonl').read_text()
    with small_files(100), pytest.raises(BadData, match='log cannot be written'):
        RunLog(tmp_path, 8, 9)
    assert (tmp_path / 'log.jsonl').read_text() == before


@pytest.mark.parametrize('line', [b'\xff\xfe', b'[]', b'5', b'{"step": null}',
                                  b'{"step": Infinity}', b'[' * 5000])
def test_a_strange_line_of_the_log_costs_that_line_alone(tmp_path: Path, line: bytes) -> None:
    with RunLog(tmp_path, 0, 9) as log:
        log.line(1, {'loss': 1.0})
    with open(tmp_path / 'log.jsonl', 'ab') as file:
        file.write(line + b'\n')
    (tmp_path / 'log_sums.json').write_text('[[1, [{"loss": "a"}, {"loss": 1}]]]')
    with RunLog(tmp_path, 1, 9, every=2) as log:
        log.step(2, {'loss': 3.0}, 1)
    lines = [json.loads(text) for text in (tmp_path / 'log.jsonl').read_text().splitlines()]
    assert [(entry['step'], entry['loss']) for entry in lines] == [(1, 1.0), (2, 3.0)]


@pytest.mark.parametrize('name', ['rgb.npy', 'questions.jsonl'])
@pytest.mark.parametrize('content', [b'', b'{"x'])
def test_damaged_frames_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    store = frame_store(tmp_path, 'train', 0, 1, 1)
    (store.folder / name).write_bytes(content)
    if name == 'questions.jsonl' and not content:
        assert frame_store(tmp_path, 'train', 0, 1, 1).questions == []
        return
    with pytest.raises(BadData, match='frames are damaged; got .*delete that folder'):
        frame_store(tmp_path, 'train', 0, 1, 1).questions  # noqa: B018


def test_rescaling_keeps_the_pictures(data: dict[str, Any], tmp_path: Path) -> None:
    task = VaeTask(vae_settings(data, tmp_path))
    pixels = torch.stack([picture(task.valid, 0, kind) for kind in range(3)])
    with torch.no_grad():
        before = task.module.decode(task.module.encode(pixels))
        std = task._latent_std()
        task.module.load_state_dict(rescaled(task.module, std))
        after = task.module.decode(task.module.encode(pixels))
        spread = task._latent_std() * task.module.config.scale_factor
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(spread, torch.ones_like(spread), atol=1e-3, rtol=1e-3)


def test_experts_are_copied(task: MixedTask) -> None:
    import copy
    network = copy.deepcopy(task.module)
    copy_experts(network)
    state = network.state_dict()
    pairs = [name for name in state if '_moe_gen' in name]
    assert pairs and all(torch.equal(state[name], state[name.replace('_moe_gen', '')])
                         for name in pairs)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=['Cs'])))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


TOKENIZER = build_tokenizer(['the red box is 1.83 m away', '<think>red ball</think>'] * 4, 300)


def test_digits_stay_single() -> None:
    assert len(TOKENIZER.encode('1.83', add_special_tokens=False)) == 4


@hypothesis_settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 9))
def test_every_pass_takes_every_sample_once(count: int, batch: int, seed: int) -> None:
    steps = 2 * count
    drawn = torch.cat([batch_indices(count, batch, seed, step) for step in range(1, steps + 1)])
    assert len(drawn) == steps * batch
    for number in range(len(drawn) // count):
        assert sorted(drawn[number * count:(number + 1) * count].tolist()) == list(range(count))


def test_the_learning_rate_rises_and_falls(data: dict[str, Any], tmp_path: Path) -> None:
    optim = vae_settings(data, tmp_path).optim
    rates = [learning_rate(step, 10, optim) for step in range(1, 11)]
    assert rates[1] == optim.learning_rate == max(rates)
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.02 * rates[1]


@pytest.mark.parametrize(('text', 'message'), [
    ('stage: cooking\nfolder: x\nsteps: 1', 'cooking'),
    ('stage: vae\nfolder: x\nsteps: 0', 'steps'),
    ('stage: vae\nfolder: x\nsteps: 1\nspeed: 3', 'speed'), ('- a', 'mapping'),
    ('stage: vae', 'TrainSettings is incomplete; got stage; allowed: needs folder, steps too'),
    ('stage: vae\nfolder: x\nsteps: ten', "steps has the wrong type; got 'ten'; allowed: int"),
    ('stage: vae\nfolder: x\nsteps: true', 'steps has the wrong type; got True'),
    ('stage: vae\nfolder: 7\nsteps: 1', 'folder has the wrong type; got 7; allowed: str'),
    ('stage: vae\nfolder: x\nsteps: 1\ndata: 5', 'data must be a mapping; got 5'),
    ('stage: vae\nfolder: x\nsteps: 1\ndata: {train: 0}', 'train is too small'),
    ('stage: vae\nfolder: x\nsteps: 1\noptim: {learning_rate: .nan}',
     'optim.learning_rate has the wrong type; got nan; allowed: a finite number'),
    ('stage: vae\nfolder: x\nsteps: 1\noptim: {learning_rate: fast}', "got 'fast'"),
    ('stage: vae\nfolder: x\nsteps: 1\noptim: {betas: [0.9]}', r'optim.betas .* got \[0.9\]'),
    ('stage: vae\nfolder: x\nsteps: 1\noptim: {betas: [0.9, 1.0]}', 'betas is out of range'),
    ('stage: vae\nfolder: x\nsteps: 1\noptim: {schedule: steep}', 'schedule')])
def test_wrong_settings_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'x.yaml'
    path.write_text(text)
    with pytest.raises(BadOption, match=message):
        load_settings(path)


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / 'x.yaml'
    path.write_text('stage: vae\nfolder: x\nsteps: 1\noptim: {learning_rate: 1e-4, clip: 2}')
    optim = load_settings(path).optim
    assert (optim.learning_rate, optim.clip) == (1e-4, 2.0) and isinstance(optim.clip, float)


@pytest.mark.parametrize('path', sorted(Path('config/train').glob('*.yaml')), ids=str)
def test_shipped_settings_are_readable(path: Path) -> None:
    assert load_settings(path).steps > 0


def test_a_placed_start_attends_to_the_same_place(task: MixedTask) -> None:
    """Heads that read the place code see the same place of another block, however far apart."""
    network = Cooper(dataclasses.replace(task.config, llm=dataclasses.replace(
        task.config.llm, hidden_size=192, num_heads=6, num_kv_heads=2))).initialise(0.07)
    place(network)
    table = network.vit_pos_embed.pos_embed
    attention = network.language_model.model.layers[-1].self_attn
    head = network.config.llm.head_dim
    query, key = (F.normalize(F.linear(table, projection.weight[:head]), dim=-1)
                  for projection in (attention.q_proj, attention.k_proj))
    assert torch.equal((query @ key.T).argmax(-1), torch.arange(len(table)))


def test_a_placed_start_keeps_places_free_of_content(task: MixedTask) -> None:
    network = Cooper(task.config).initialise(0.07)
    place(network)
    directions, _ = place_code(network.vit_pos_embed.pos_embed)
    content = [network.connector.fc2.weight, network.vae2llm.weight,
               network.language_model.model.embed_tokens.weight.T,
               network.language_model.model.layers[0].mlp.down_proj.weight]
    assert max(float((directions @ weight).abs().max()) for weight in content) < 1e-5
