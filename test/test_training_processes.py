"""Two processes train what one does: gradients shared or everything in shards, and resumed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
import yaml
from model_folder import write_model_folder
from support.disk import small_files
from test_data_readers import cooper_tree, rgb, talk_row
from test_data_stream import draw_sets
from test_grpo_task import LikesLow, questions
from test_training_run import mixed_values, vae_settings

from cooper_ros.errors import BadCheckpoint, BadOption, OutOfDisk
from cooper_ros.model.packing import IGNORED
from cooper_ros.training import grpo_task, precision, sharding
from cooper_ros.training.checkpoints import run_weights
from cooper_ros.training.cli import make_task
from cooper_ros.training.processes import (
    average_gradients,
    is_first,
    joined,
    leave,
    mean_over_processes,
    part_of,
    share_of,
)
from cooper_ros.training.settings import Optim, TrainSettings
from cooper_ros.training.sharding import is_sharded
from cooper_ros.training.trainer import Trainer
from cooper_ros.training.typed import build
from cooper_ros.training.vae_task import VaeTask, class_loss

STAGES = ('amg', 'sft', 'grpo', 'joint', 'see')
SHARDED = ('amg', 'sft', 'grpo')
STEPS = 3
OPTIM = Optim(1e-3, warmup=1, eps=1e-4, bfloat16=False)


def settings(place: Path, stage: str, folder: str, **changes: Any) -> TrainSettings:
    """Both parts of a batch differ in size, so that a mean of means would be wrong."""
    if stage in ('joint', 'see'):
        return small_settings(place, stage, folder, **changes)
    task: dict[str, Any] = {'max_tokens': 700, 'valid': 1, 'preview': False}
    if stage == 'amg':
        task['sets'] = {'hypersim': {'place': str(place / 'hypersim'), 'weight': 0.5},
                        'ade20k': {'place': str(place / 'ade'), 'weight': 0.5}}
    elif stage == 'sft':
        task['sets'] = {'cooper': {'place': str(place / 'talk')}}
    else:
        task = {'rollout': {'group': 4, 'max_turns': 1, 'max_turn_tokens': 5},
                'valid_questions': 2, 'drawing': {'flow_points': 2, 'cfg_text': 1.0},
                'questions': str(place / 'questions')}
    task['recompute'] = changes.get('parallel') == 'fsdp'  # together, as for 7B
    return TrainSettings(stage, str(place / folder), steps=STEPS, batch=2, device='cpu',
                         start=str(place / 'model'), checkpoint_every=2, preview_every=STEPS,
                         optim=OPTIM, task=task, **changes)


def small_settings(place: Path, stage: str, folder: str, **changes: Any) -> TrainSettings:
    """Stages on scenes; three frames do not fall into equal parts."""
    recipes = {'draw': {'weight': 1, 'frames': 3}, 'auto': {'weight': 1, 'frames': 2},
               'text': {'weight': 1, 'frames': 3, 'questions': 2}}
    task: dict[str, Any] = {'vit_rule': [112, 112, 14]}
    task |= {'vocabulary': 400, 'recipes': recipes, 'point': 0.5, 'know': 1.0,
             'decode': {'depth': 1.0, 'segmentation': 1.0}} if stage == 'joint' else {}
    values = mixed_values(
        scenes(place), place / 'vae', place / folder, stage=stage, steps=STEPS, batch=4,
        device='cpu', preview_every=STEPS, task=task, optim=asdict(OPTIM), **changes)
    values['model']['llm'] |= {'num_layers': 6, 'num_heads': 6, 'num_kv_heads': 3,
                               'hidden_size': 96}  # words that point need them
    return build(TrainSettings, values)


def scenes(place: Path) -> dict[str, Any]:
    return {'folder': str(place / 'scenes'), 'seed': 0, 'train': 6, 'valid': 3, 'questions': 1}


def train(place: Path, stage: str, folder: str, until: int = STEPS, **changes: Any) -> Trainer:
    run = settings(place, stage, folder, **changes)
    trainer = Trainer(make_task(run), run)
    trainer.run(until)
    return trainer


def work(rank: int, place: Path, port: int) -> None:
    """One of two processes; all runs of the file, so that processes start once."""
    os.environ |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': '2',
                   'MASTER_ADDR': 'localhost', 'MASTER_PORT': str(port), 'TQDM_DISABLE': '1'}
    torch.set_num_threads(1)
    grpo_task.make_checker = lambda values: LikesLow()
    copies = seen_copies()
    with joined(torch.device('cpu')):
        for stage in STAGES:
            train(place, stage, f'{stage}_ddp')
        for stage in SHARDED:
            copies.clear()
            trainer = train(place, stage, f'{stage}_fsdp', parallel='fsdp')
            weights = trainer.ema.full_state(trainer.task.module)
            halves = trainer.ema.full_state(trainer.task.module, torch.bfloat16)
            torch.save((weights, halves, is_sharded(trainer.task.module), list(copies)),
                       place / f'{stage}_fsdp_{rank}.pt')
        train(place, 'amg', 'amg_grown', parallel='fsdp')  # begun by one process
        train(place, 'amg', 'amg_shrunk', until=2, parallel='fsdp')  # one will go on
        for until in (2, STEPS):
            train(place, 'grpo', 'grpo_stopped', until=until, parallel='fsdp')
        answers = [mean_over_processes([10 + 20 * rank, 0, rank]), list(share_of(4)),
                   averaged(rank), list(part_of(5)), belief(rank)]
        with pytest.raises(BadOption, match='multiple of 2 processes'):
            share_of(3)
        with pytest.raises(BadOption, match='at least one for each of 2 processes'):
            part_of(1)
        with pytest.raises(BadCheckpoint, match='not in shards'):
            train(place, 'amg', 'amg_ddp', parallel='fsdp')
        with pytest.raises(OutOfDisk, match='bytes needed.*10 bytes free'):
            save_where_the_first_sees_no_room(trainer)
        torch.save(answers, place / f'answers_{rank}.pt')
    leave()


def seen_copies() -> list[bool]:
    """Fills up with every whole copy of a network: whether autocast keeps weights meanwhile."""
    found, copied = list[bool](), sharding._copied

    def copy(*args: Any) -> Any:
        found.append(torch.is_autocast_cache_enabled())
        return copied(*args)
    sharding._copied = copy
    return found


def save_where_the_first_sees_no_room(trainer: Trainer) -> None:
    usage = shutil.disk_usage
    try:
        shutil.disk_usage = lambda path: usage(path)._replace(free=10 if is_first() else 10**18)
        trainer.save()
    finally:
        shutil.disk_usage = usage


def belief(part: int | slice) -> float:
    """What is missed in some of the pictures, of which one has many more pixels than the other."""
    classes = torch.full((2, 4, 4), IGNORED)
    classes[0, 0, 0], classes[1] = 3, 5
    colours = torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    chosen = slice(part, part + 1) if isinstance(part, int) else part
    return float(class_loss(colours[chosen], classes[chosen]))


def averaged(rank: int) -> list[Any]:
    """Gradients where both, one and no process used a weight."""
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    weights[0].grad = torch.tensor([1.0, 2.0]) + rank
    if rank:
        weights[1].grad = torch.tensor([4.0, 6.0])
    average_gradients(weights)
    return [None if weight.grad is None else weight.grad.tolist() for weight in weights]


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data, models, and the runs of two processes."""
    place = tmp_path_factory.mktemp('processes')
    write_model_folder(place / 'model')
    draw_sets(place)
    cooper_tree(place / 'talk', [talk_row(rgb()) for _ in range(4)], [])
    questions(place / 'questions')
    vae = VaeTask(vae_settings(scenes(place), place / 'vae'))
    vae.export(place / 'vae', vae.module.state_dict())
    with socket.socket() as free, pytest.MonkeyPatch.context() as patch:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
        free.close()
        patch.setenv('TQDM_DISABLE', '1')
        patch.setattr(grpo_task, 'make_checker', lambda values: LikesLow())
        train(place, 'amg', 'amg_grown', until=2, parallel='fsdp')
        torch.multiprocessing.spawn(work, (place, port), nprocs=2)
        yield place


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-4, msg=name)


@pytest.fixture(scope='module')
def alone(place: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Averaged weights after the same steps in one process."""
    runs = {stage: train(place, stage, f'{stage}_alone') for stage in STAGES}
    return {stage: run.ema.full_state(run.task.module) for stage, run in runs.items()}


@pytest.mark.parametrize('stage', STAGES)
def test_two_processes_equal_one(stage: str, place: Path, alone: dict) -> None:
    before = make_task(settings(place, stage, 'fresh')).module
    same(run_weights(place / f'{stage}_ddp'), alone[stage])
    assert max(float((value - alone[stage][name]).abs().max())
               for name, value in before.state_dict().items()) > 1e-3  # it did learn
    same_curves(place / f'{stage}_ddp', place / f'{stage}_alone')


def same_curves(*runs: Path) -> None:
    curves = [[json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
              for run in runs]
    for found, expected in zip(*curves, strict=True):
        numbers = {name: value for name, value in expected.items() if name != 'time'}
        assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-3,
                                                                        abs=1e-5)


@pytest.mark.parametrize('stage', SHARDED)
def test_two_shards_equal_one_network(stage: str, place: Path, alone: dict) -> None:
    weights, halves, sharded, copies = torch.load(place / f'{stage}_fsdp_0.pt')
    assert sharded
    same(weights, alone[stage])
    assert all(torch.equal(halves[name], value.bfloat16()) for name, value in weights.items())
    assert torch.load(place / f'{stage}_fsdp_1.pt')[:2] == ({}, {})  # the first has them
    # rollouts and questions need a whole network; losses, those of a validation too, do not
    assert copies == ([False] * STEPS + [True] if stage == 'grpo' else [])
    same(run_weights(place / f'{stage}_fsdp'), alone[stage])
    same_curves(place / f'{stage}_fsdp', place / f'{stage}_alone')


def test_a_sharded_run_goes_on_with_more_or_fewer_processes(place: Path, alone: dict) -> None:
    same(run_weights(place / 'amg_grown'), alone['amg'])
    assert [path.name for path in (place / 'amg_shrunk').glob('checkpoint*')] == [
        'checkpoint_0000002']
    (place / 'amg_shrunk' / 'checkpoint.part').mkdir()  # what a kill leaves behind
    trainer = train(place, 'amg', 'amg_shrunk')
    assert not is_sharded(trainer.task.module)
    same(trainer.ema.full_state(trainer.task.module), alone['amg'])


def test_a_sharded_run_goes_on_where_some_weights_never_had_a_gradient(place: Path,
                                                                       alone: dict) -> None:
    same(run_weights(place / 'grpo_stopped'), alone['grpo'])


def test_processes_share_means_and_batches(place: Path) -> None:
    first, second = (torch.load(place / f'answers_{rank}.pt') for rank in range(2))
    assert first[0] == second[0] == [20.0, 0.5, 0.5]  # 1 / 2, for one process has it all
    assert first[1] + second[1] == [0, 1, 2, 3]
    assert first[3] + second[3] == [0, 1, 2, 3, 4]
    assert first[2] == second[2] == [[1.5, 2.5], [2.0, 3.0], None]
    assert (first[4] + second[4]) / 2 == pytest.approx(belief(slice(None)), rel=1e-6)
    assert mean_over_processes([7, 0]) == [7.0, 1.0] and list(share_of(3)) == [0, 1, 2]


def test_a_validation_computes_as_training_does(place: Path, monkeypatch: pytest.MonkeyPatch
                                                ) -> None:
    monkeypatch.setattr(precision, 'has_bfloat16', lambda device: True)
    task, found = make_task(settings(place, 'amg', 'unused')), []
    monkeypatch.setattr(task, '_losses', lambda *given: found.append(
        torch.is_autocast_enabled('cpu')) or {'ce': 0, 'mse': 0})
    for wanted in (True, False):
        task.settings = replace(task.settings, optim=replace(OPTIM, bfloat16=wanted))
        task.validate()
    assert found == [True, True, False, False]  # one sample of each set


def test_a_damaged_shard_is_named(place: Path) -> None:
    shard = next((place / 'amg_fsdp').glob('checkpoint_*/*.distcp'))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(BadCheckpoint, match='damaged'):
        train(place, 'amg', 'amg_fsdp')
    shard.write_bytes(whole)


def test_a_full_disk_keeps_the_last_shards(place: Path) -> None:
    trainer = train(place, 'amg', 'amg_full', until=1, parallel='fsdp')
    trainer.step = 2
    with small_files(10_000), pytest.raises(OutOfDisk, match='no room .* checkpoint.*disk space'):
        trainer.save()
    assert [path.name for path in (place / 'amg_full').glob('checkpoint*')] == [
        'checkpoint_0000001']


def test_the_documented_command_trains_what_one_process_does(place: Path, tmp_path: Path) -> None:
    """`torchrun` on the command line, which makes the data too; noise has the spread of all."""
    task = {'crop': [32, 32], 'latent_noise': 0.3}
    runs = [vae_settings({**scenes(place), 'folder': str(tmp_path / 'scenes')}, tmp_path / name,
                         steps=2, device='cpu', optim=asdict(OPTIM), task=task)
            for name in ('two', 'one')]
    config = tmp_path / 'vae.yaml'
    config.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(runs[0])))))
    subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone',
                    '--nproc-per-node', '2', '-m', 'cooper_ros.cli', 'train', 'vae', '--config',
                    str(config), '--export', str(tmp_path / 'out')], check=True, timeout=300,
                   env=os.environ | {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1'})
    alone = Trainer(make_task(runs[1]), runs[1])
    alone.run()
    same(run_weights(tmp_path / 'two'), alone.ema.full_state(alone.task.module))
    assert (tmp_path / 'out' / 'ae.safetensors').is_file()


@pytest.mark.parametrize('count', (1, 2))
def test_one_of_several_leaves_without_the_end_of_python(count: int) -> None:
    """There gloo aborts now and then; what was said is not lost."""
    code = ('import atexit; from cooper_ros.training.processes import leave;'
            'atexit.register(print, "ended"); print("said"); leave()')
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                           env=os.environ | {'WORLD_SIZE': str(count)}, timeout=120)
    assert (found.returncode, found.stdout.split()) == (0, ['said', 'ended'][:3 - count])
