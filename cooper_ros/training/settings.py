"""Settings of one training run, read from YAML; unknown keys are refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

import yaml

from cooper_ros.errors import BadOption
from cooper_ros.training.typed import build, check_ranges

STAGES = ('vae', 'see', 'amg', 'sft', 'joint', 'grpo')
MIXED = ('amg', 'sft', 'joint')  # if no published sets are named
SCHEDULES = ('constant', 'cosine')
PARALLEL = ('ddp', 'fsdp')
DEVICES = ('auto', 'cpu', 'cuda')
TRACKERS = ('tensorboard', 'wandb', 'none')
LARGEST_SEED = 2**31 - 1  # times a million, and the step, still fits torch's 64 bits


@dataclass(frozen=True)
class Optim:
    """Optimiser, schedule and averaging (reference section 9.5).

    Attributes:
        learning_rate: peak, reached after ``warmup`` steps.
        warmup: steps of linear warm-up.
        schedule: ``constant`` as published, or ``cosine`` down to a hundredth of the peak.
        ema: decay of the averaged weights per step, which are the ones shipped.
        ema_ramp: lower it in the first steps, for weights that start from nothing; published: off.
        clip: largest norm of the whole gradient.
        weight_decay: of matrices and tables, not of norms and biases; 0 as published.
        muon: Muon instead of AdamW for the matrices inside blocks; learns from nothing in fewer
            steps.
        bfloat16: compute under bfloat16 autocast where the device has it (float32 on a CPU
            without it, where it would be many times slower); weights and optimiser stay float32.

    Raises:
        BadOption: a value is unknown or out of its range.
    """

    learning_rate: float = 5e-6
    warmup: int = 500
    schedule: str = 'constant'
    ema: float = 0.995
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15
    weight_decay: float = 0.0
    muon: bool = False
    bfloat16: bool = True
    ema_ramp: bool = True

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise BadOption('no such schedule', value=self.schedule, limit=', '.join(SCHEDULES))
        for name, fits, limit in (
                ('learning_rate', self.learning_rate > 0, '> 0'),
                ('warmup', self.warmup >= 0, '>= 0'), ('ema', 0 <= self.ema < 1, '0 <= ema < 1'),
                ('clip', self.clip > 0, '> 0'), ('eps', self.eps > 0, '> 0'),
                ('weight_decay', self.weight_decay >= 0, '>= 0'),
                ('betas', all(0 <= beta < 1 for beta in self.betas), '0 <= beta < 1')):
            if not fits:
                raise BadOption(f'{name} is out of range', value=getattr(self, name), limit=limit)


@dataclass(frozen=True)
class DataSettings:
    """Where samples come from.

    Attributes:
        folder: generated frames with their pictures, maps and questions, made once and cached.
        seed: seed of the scenes.
        train: number of training frames.
        valid: number of validation frames.
        questions: questions per category and frame; 0 for pictures only.
        canonical_focal: draw depth as a lens of this focal length would see it, in longest sides
            of the picture, so that what is drawn says nothing about the lens; the exported model
            scales its metres by that of the camera. 0: metres as they are.

    Raises:
        BadOption: a value is unknown or out of its range.
    """

    folder: str = 'runs/data'
    seed: int = 1
    train: int = 2000
    valid: int = 100
    questions: int = 8
    canonical_focal: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (('seed', 0), ('train', 1), ('valid', 1), ('questions', 0),
                            ('canonical_focal', 0)):
            if getattr(self, name) < least:
                raise BadOption(f'{name} is too small', value=getattr(self, name),
                                limit=f'>= {least}')


@dataclass(frozen=True)
class TrainSettings:
    """One run.

    Attributes:
        stage: which task is trained.
        folder: where checkpoints, logs and previews go.
        steps: optimiser steps.
        batch: samples (pictures, sequences, groups) per step, over all processes: the curve does
            not depend on their number. Nothing where recipes are mixed: each has its ``frames``.
        seed: seed of initial weights, order and noise.
        threads: CPU threads; 0 leaves the choice to torch.
        device: ``auto`` is the GPU of this process where there is one; ``cpu``; ``cuda``.
        parallel: what several processes share: ``ddp`` gradients only; ``fsdp`` weights,
            gradients and optimiser state too, in shards. Nothing with one process.
        shards: processes one sharded copy of the weights spans; 0 for all.
        start: model folder or run folder the weights come from; empty for fresh weights.
        vae: model folder (or VAE run) whose autoencoder is used, frozen.
        checkpoint_every: steps between checkpoints; a killed run loses at most these.
        preview_every: steps between validations with sample pictures.
        log_every: steps whose mean becomes one point of the curves.
        track: where curves and pictures go besides ``log.jsonl`` and ``previews``:
            ``tensorboard``, ``wandb`` (which must be installed) or ``none``.
        model: sizes, as in ``llm_config.json``, ``vit_config.json`` and the VAE's fields.
        task: settings of the stage itself.

    Raises:
        BadOption: a value is unknown or out of its range.
    """

    stage: str
    folder: str
    steps: int
    batch: int = 16
    seed: int = 1
    threads: int = 0
    device: str = 'auto'
    parallel: str = 'ddp'
    shards: int = 0
    start: str = ''
    vae: str = ''
    checkpoint_every: int = 200
    preview_every: int = 500
    log_every: int = 20
    track: str = 'tensorboard'
    optim: Optim = field(default_factory=Optim)
    data: DataSettings = field(default_factory=DataSettings)
    model: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise BadOption('no such stage', value=self.stage, limit=', '.join(STAGES))
        for name, value, known in (('device', self.device, DEVICES),
                                   ('tracker', self.track, TRACKERS),
                                   ('kind of parallel training', self.parallel, PARALLEL)):
            if value not in known:
                raise BadOption(f'no such {name}', value=value, limit=', '.join(known))
        if self.parallel == 'fsdp' and self.optim.muon:
            raise BadOption('Muon needs whole matrices', value='parallel: fsdp', limit='ddp',
                            remedy='set muon: false, or parallel: ddp')
        for name in ('steps', 'batch', 'checkpoint_every', 'preview_every', 'log_every'):
            if getattr(self, name) < 1:
                raise BadOption(f'{name} must be positive', value=getattr(self, name),
                                limit='>= 1')
        check_ranges(self, (('threads', self.threads >= 0, '>= 0'),
                            ('shards', self.shards >= 0, '>= 0'),
                            ('seed', 0 <= self.seed <= LARGEST_SEED, f'0 .. {LARGEST_SEED}')))

    @property
    def mixes(self) -> bool:
        """Whether recipes make the samples, each with ``frames`` of its own."""
        return self.stage in MIXED and 'sets' not in self.task


def load_settings(path: Path | str, changes: Mapping[str, Any] | None = None) -> TrainSettings:
    """Read a YAML file; ``changes`` (top-level names) win over it.

    Raises:
        BadOption: the file is missing or not a mapping, or a name or value is wrong.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadOption('cannot read the training settings', value=f'{path}: {error}') from error
    if not isinstance(values, dict):
        raise BadOption('training settings must be a mapping', value=str(path))
    return build(TrainSettings, {**values, **(changes or {})})
