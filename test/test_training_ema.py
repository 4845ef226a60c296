"""Averaged weights: the published average, and the one that catches up with fresh weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cooper_ros.errors import OutOfDisk
from cooper_ros.training.checkpoints import run_weights
from cooper_ros.training.ema import Ema
from cooper_ros.training.settings import Optim, TrainSettings
from cooper_ros.training.shards import bytes_of
from cooper_ros.training.trainer import Trainer


class Walk:
    """A task whose one weight goes down by the learning rate at every step."""

    def __init__(self) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.module.weight, 2.0)

    def samples(self, step: int) -> int:
        return 1

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {'loss': self.module.weight.sum()}

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        return {}, {}


@pytest.mark.parametrize('ramp', [False, True])
def test_the_average_of_a_few_steps(ramp: bool, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Published: the decay is the same at every step, from the loaded weights on."""
    monkeypatch.setenv('TQDM_DISABLE', '1')
    optim = replace(Optim(0.1, warmup=0, ema=0.9, bfloat16=False), ema_ramp=ramp)
    trainer = Trainer(Walk(), TrainSettings('vae', str(tmp_path), steps=4, track='none',
                                            optim=optim))
    trainer.run()
    # 2.0 averaged with 1.9, 1.8, 1.7 and 1.6: a tenth of each, or 9 of the first 11 parts
    wanted = 1.64995 if ramp else 1.90951
    assert float(trainer.ema.weights['weight']) == pytest.approx(wanted, abs=1e-5)


def test_the_ramp_is_the_default_of_an_average() -> None:
    module = nn.Linear(1, 1, bias=False)
    average = Ema(module, 0.9)
    before = float(module.weight.detach())
    nn.init.constant_(module.weight, before + 1)
    average.update(module, 1)
    assert float(average.weights['weight']) == pytest.approx(before + 9 / 11)


def test_a_module_computes_with_averages_and_gets_its_weights_back() -> None:
    module = nn.Linear(2, 1, bias=False)
    average = Ema(module, 0.9)
    before = average.weights['weight'].clone()
    nn.init.constant_(module.weight, 7.0)
    with average.swapped(module):
        assert torch.equal(module.weight, before)
    assert module.weight.tolist() == [[7.0, 7.0]]
    assert torch.equal(average.weights['weight'], before)


def walk(folder: Path, ema: float, parallel: str) -> Trainer:
    """Without a ramp, for the average to be far from the weight."""
    optim = Optim(0.1, warmup=0, ema=ema, bfloat16=False, ema_ramp=False)
    return Trainer(Walk(), TrainSettings('vae', str(folder), steps=4, track='none', optim=optim,
                                         parallel=parallel))


@pytest.mark.parametrize('parallel', ['ddp', 'fsdp'])
def test_without_decay_no_average_is_kept(parallel: str, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TQDM_DISABLE', '1')
    trainer = walk(tmp_path, 0.0, parallel)
    trainer.run(2)
    assert trainer.ema.weights == {}
    last = trainer.task.module.weight.detach()
    assert torch.equal(trainer.ema.full_state(trainer.task.module)['weight'], last)
    assert torch.equal(run_weights(tmp_path)['weight'], last)
    assert torch.equal(walk(tmp_path, 0.0, parallel).task.module.weight, last)
    averaging = walk(tmp_path, 0.9, parallel)  # with changed settings: it begins here
    assert averaging.step == 2 and torch.equal(averaging.ema.weights['weight'], last)
    averaging.run(3)  # and older checkpoints hold an average that nobody asks for
    assert not torch.equal(run_weights(tmp_path)['weight'], averaging.task.module.weight)
    again = walk(tmp_path, 0.0, parallel)
    assert again.step == 3 and torch.equal(again.task.module.weight,
                                           averaging.task.module.weight)


@pytest.mark.parametrize('parallel', ['ddp', 'fsdp'])
def test_a_checkpoint_without_room_is_not_begun(parallel: str, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = walk(tmp_path, 0.0, parallel)
    trainer.save()
    names, usage = sorted(tmp_path.iterdir()), shutil.disk_usage
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(path)._replace(free=3))
    with pytest.raises(OutOfDisk, match='no room .*checkpoint.* bytes needed.* 3 bytes free'):
        trainer.save()
    assert sorted(tmp_path.iterdir()) == names


def test_what_a_checkpoint_holds_twice_is_written_once() -> None:
    weight, other = torch.zeros(5), torch.zeros(2, 3)
    assert bytes_of({'model': {'w': weight}, 'ema': {'w': weight}, 'list': [other, 3]}) == 44
