"""The training loop. It knows nothing of the stage it trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Mapping

import torch
from torch import nn

from cooper_ros.errors import BadCheckpoint, BadData
from cooper_ros.training.checkpoints import load_checkpoint, save_checkpoint
from cooper_ros.training.ema import Ema
from cooper_ros.training.kept_settings import keep_settings
from cooper_ros.training.logs import Log, open_log
from cooper_ros.training.optimiser import make_optimiser
from cooper_ros.training.precision import mixed, sampled_in
from cooper_ros.training.processes import (
    average_gradients,
    is_first,
    mean_values,
    training_device,
)
from cooper_ros.training.settings import Optim, TrainSettings
from cooper_ros.training.sharding import gathered, is_sharded, shard_network, whole
from cooper_ros.training.shards import load_shards, newest_shards, save_shards
from cooper_ros.training.task import Task, step_generator

FLOOR = 0.01  # of the peak learning rate, where the cosine ends


def learning_rate(step: int, steps: int, optim: Optim) -> float:
    """Learning rate of optimiser step ``step`` (from 1) of ``steps``."""
    rate = optim.learning_rate * min(1.0, step / max(1, optim.warmup))
    if optim.schedule == 'constant' or step <= optim.warmup:
        return rate
    done = (step - optim.warmup) / max(1, steps - optim.warmup)
    return rate * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """Runs a task to its last step, from its newest checkpoint if it has one."""

    def __init__(self, task: Task, settings: TrainSettings) -> None:
        self.task, self.settings = task, settings
        self.folder = Path(settings.folder)
        self.device = training_device(settings.device)
        task.module.to(self.device)
        if settings.parallel == 'fsdp':
            shard_network(task.module, self.device, settings.shards)
        self.parameters = [p for p in task.module.parameters() if p.requires_grad]
        self.optimiser = make_optimiser(task.module, settings.optim)
        self.ema = Ema(task.module, settings.optim.ema, settings.optim.ema_ramp)
        self.step = 0
        self._resume()
        self.saved = self.step

    def run(self, until: int | None = None) -> None:
        """Train up to ``until`` (default: all steps), saving, logging and validating on the way.

        Raises:
            BadData: the loss is not finite. The last checkpoint stays as it was written.
            OutOfDisk: the disk is full; likewise.
        """
        settings = self.settings
        last = min(until or settings.steps, settings.steps)
        with open_log(settings, self.step) as log:
            while self.step < last:
                self.step += 1
                log.step(self.step, self._one_step(), self.task.samples(self.step))
                final = self.step == last
                if final or self.step % settings.preview_every == 0:
                    self._validate(log)  # before the checkpoint: what is killed here comes again
                if final or self.step % settings.checkpoint_every == 0:
                    log.keep(self.step)
                    self.save()

    def save(self) -> None:
        """Write everything needed to go on as if nothing had happened."""
        if is_first():
            keep_settings(self.folder, self.settings)
        if self.settings.parallel == 'fsdp' or newest_shards(self.folder):
            save_shards(self.folder, self.task.module, self.optimiser, self.ema.weights,
                        self.step)
        elif is_first():
            save_checkpoint(self.folder, {
                'step': self.step, 'model': self.task.module.state_dict(),
                'ema': self.ema.full_state(self.task.module),
                'optimiser': self.optimiser.state_dict()})
        self.saved = self.step

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if any; its weights and moments, our settings."""
        wanted = [{name: value for name, value in group.items() if name != 'params'}
                  for group in self.optimiser.param_groups]
        self._load()
        for group, values in zip(self.optimiser.param_groups, wanted, strict=True):
            group.update(values)  # loading put those of the checkpoint there

    def _load(self) -> None:
        shards = newest_shards(self.folder)
        if shards is not None:
            self.step = load_shards(shards, self.task.module, self.optimiser, self.ema.weights)
            return
        state = load_checkpoint(self.folder)
        if state is None:
            return
        if self.settings.parallel == 'fsdp':
            raise BadCheckpoint('the checkpoint of this run is not in shards', value=self.folder,
                                remedy='go on with parallel: ddp, or train into a new folder')
        try:
            self._take(state)
        except Exception as error:  # it may hold anything
            raise BadCheckpoint(
                'the checkpoint of this run is of another network or other trained weights',
                value=f'{self.folder}: {_last_line(error)}',
                remedy='name another folder, or go on with the settings of the run') from error

    def _take(self, state: Mapping[str, Any]) -> None:
        self.step = state['step']
        self.task.module.load_state_dict(state['model'], strict=True)
        for name, value in self.ema.weights.items():
            value.copy_(state['ema'][name])
        self.optimiser.load_state_dict(state['optimiser'])

    def _one_step(self) -> dict[str, float]:
        settings = self.settings
        rate = learning_rate(self.step, settings.steps, settings.optim)
        for group in self.optimiser.param_groups:
            group['lr'] = rate
        self.task.module.train()
        with mixed(self.device, settings.optim.bfloat16, sharded=is_sharded(self.task.module)):
            losses = self.task.loss(self.step, step_generator(settings.seed, self.step))
        if losses['loss'].requires_grad:
            losses['loss'].backward()
        if not is_sharded(self.task.module):
            average_gradients(self.parameters)
        norm = whole(nn.utils.clip_grad_norm_(self.parameters, settings.optim.clip))
        values = mean_values({**losses, 'gradient_norm': norm})
        self._check(values)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.ema.update(self.task.module, self.step)
        return {**values, 'learning_rate': rate}

    def _check(self, values: Mapping[str, float]) -> None:
        """Stop before the step is taken; every process sees the same numbers."""
        if not (math.isfinite(values['loss']) and math.isfinite(values['gradient_norm'])):
            terms = ', '.join(f'{name} {value:.4g}' for name, value in values.items())
            raise BadData('the loss or its gradient is not finite',
                          value=f'step {self.step}: {terms}',
                          remedy=f'lower the learning rate; {self._left()}')

    def _left(self) -> str:
        """What there is to go on from after a loss that is not finite."""
        if not self.saved:
            return 'there is no checkpoint yet'
        return (f'the last checkpoint is of step {self.saved}, and may be spoilt already if the '
                'loss grew before: see log.jsonl')

    def _validate(self, log: Log) -> None:
        module = self.task.module.eval()
        dtype = sampled_in(self.device, self.settings.optim.bfloat16)
        with torch.no_grad(), self.ema.swapped(module), gathered(module, dtype):
            scores, pictures = self.task.validate()
        log.line(self.step, scores)
        log.pictures(self.step, pictures)


def _last_line(error: Exception) -> str:
    """The last line of an error of torch, which names the cause."""
    return (str(error).strip().splitlines() or [''])[-1].strip()[:200]
