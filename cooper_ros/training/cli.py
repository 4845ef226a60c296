"""``cooper train STAGE``: trains, resumes and exports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Callable, Optional

import torch
import typer
from tqdm import tqdm

from cooper_ros.errors import BadOption
from cooper_ros.training.kept_settings import check_settings
from cooper_ros.training.precision import spoken
from cooper_ros.training.processes import is_first, joined, leave, training_device, wait_for_all
from cooper_ros.training.settings import STAGES, TrainSettings, load_settings
from cooper_ros.training.sole_run import sole_run
from cooper_ros.training.task import Task, require_export
from cooper_ros.training.trainer import Trainer

HELP = """Train a checkpoint, one stage at a time. The same commands train 7B and nano; only the
YAML differs. A run that was stopped, by whatever, goes on when the same command is given again.

\b
  cooper train vae   --config config/train/nano_vae.yaml     the autoencoder
  cooper train joint --config config/train/nano_joint.yaml   drawing and reasoning together
  cooper train curves runs/nano/joint --out curves.png       a picture of its log
"""
app = typer.Typer(name='train', help=HELP, no_args_is_help=True, rich_markup_mode=None,
                  add_completion=False, pretty_exceptions_enable=False)
Config = Annotated[Path, typer.Option(help='settings of the run, see config/train')]
Steps = Annotated[int, typer.Option(min=0, help='stop after this step; the schedule stays that of '
                                    'the whole run; 0: run to the end')]
Export = Annotated[str, typer.Option(help='model folder to write the averaged weights to when '
                                     'the run is over')]
Changed = Annotated[bool, typer.Option('--changed-settings', help='go on with a run under other '
                                       'settings than it was begun with')]


def make_task(settings: TrainSettings) -> Task:
    """The task of a stage, with its data opened and its weights in place."""
    if settings.stage == 'vae':
        from cooper_ros.training.vae_task import VaeTask
        return VaeTask(settings)
    if settings.stage == 'see':
        from cooper_ros.training.see_task import SeeTask
        return SeeTask(settings)
    if settings.stage == 'grpo':
        from cooper_ros.training.grpo_task import GrpoTask
        return GrpoTask(settings)
    if settings.mixes:
        from cooper_ros.training.mixed_task import MixedTask
        return MixedTask(settings)
    from cooper_ros.training.corpus_task import CorpusTask
    return CorpusTask(settings)


def run_stage(stage: str, config: Path, steps: int = 0, export: str = '',
              changed: bool = False) -> None:
    """Train one stage to its end (or to ``steps``), then export.

    Raises:
        BadOption: the YAML is for another stage, another run trains in its folder, or the stage
            has nothing to export.
        BadCheckpoint: the run was begun with other settings, and not ``changed`` on purpose.
    """
    settings = load_settings(config)
    if settings.stage != stage:
        raise BadOption('the settings are for another stage', value=settings.stage, limit=stage)
    if export:
        require_export(settings)
    if not changed:
        check_settings(Path(settings.folder), settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = training_device(settings.device)
    with joined(device), sole_run(Path(settings.folder)):
        task = make_task(settings)
        trainer = Trainer(task, settings)
        if is_first():
            tqdm.write(f'{device.type}, computing in {spoken(device, settings.optim.bfloat16)}',
                       file=sys.stderr)
        trainer.run(steps or None)
        weights = trainer.ema.full_state(task.module, _rounded(settings)) if export else {}
        if export and is_first():
            task.export(Path(export), weights)
        wait_for_all()


def _rounded(settings: TrainSettings) -> torch.dtype | None:
    """What shards are rounded to for an export, which holds bfloat16; None if the weights are yet
    to be mixed with those of the start."""
    return torch.bfloat16 if settings.task.get('learned', 1) == 1 else None


def _command(stage: str) -> Callable[..., None]:
    def run(config: Config, steps: Steps = 0, export: Export = '',
            changed: Changed = False) -> None:
        run_stage(stage, config, steps, export, changed)
        leave()
    run.__doc__ = f'Run stage {stage}.'
    return run


for _stage in STAGES:
    app.command(_stage)(_command(_stage))


@app.command()
def curves(
        runs: Annotated[list[Path], typer.Argument(help='folders of runs, or their logs')],
        out: Annotated[Path, typer.Option(help='picture to write: .png, .svg or .pdf')] = Path(
            'curves.png'),
        number: Annotated[Optional[list[str]], typer.Option(
            help='draw this number only; may be repeated')] = None) -> None:
    """Draw the curves of runs, one panel for every number, also while they train.

    Example: `cooper train curves runs/nano/base runs/nano/stage1 --number loss`
    """
    from cooper_ros.training.curve_sheet import draw_curves
    draw_curves(runs, out, number or ())
    print(f'wrote {out}')
