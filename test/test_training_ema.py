"""Averaged weights: the published average, and the one that catches up with fresh weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cooper_ros.training.ema import Ema
from cooper_ros.training.settings import Optim, TrainSettings
from cooper_ros.training.trainer import Trainer


class Walk:
    """A task whose one weight goes down by the learning rate at every step."""

    def __init__(self) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.module.weight, 2.0)

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
