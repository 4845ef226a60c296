"""Sharded checkpoints: every process writes its part, any number of processes reads them.

torch.distributed.checkpoint writes a folder; here it is made under a temporary name and renamed
when it is complete, so that the newest complete one always stays.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import state_dict as dcp_state
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from cooper_ros.errors import BadCheckpoint, BadData, CooperError, OutOfDisk
from cooper_ros.runtime.files import room
from cooper_ros.training.processes import is_first, wait_for_all

PATTERN = 'checkpoint_[0-9]*'
PART = 'checkpoint.part'
REMEDY = 'free disk space and start the same command again'


def newest_shards(folder: Path) -> Path | None:
    """The newest complete sharded checkpoint of a run, or None."""
    complete = [path for path in folder.glob(PATTERN) if (path / '.metadata').is_file()]
    return max(complete, default=None)


def save_shards(folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer,
                averages: dict[str, Tensor], step: int) -> None:
    """Write everything needed to go on; all processes call this together.

    Raises:
        OutOfDisk: the disk is full; the previous checkpoint is untouched.
        BadData: it is not writable; likewise.
    """
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / PART, ignore_errors=True)
    wait_for_all()
    try:
        with room(folder, 0, PART, REMEDY):  # 0: all go on, or they wait for one that does not
            _save(_state(module, optimiser, averages, step), folder / PART)
    except (OutOfDisk, OSError, RuntimeError, dcp.api.CheckpointException) as error:
        if is_first():
            shutil.rmtree(folder / PART, ignore_errors=True)
        raise _unwritten(folder, error) from error
    if is_first():
        old = list(folder.glob(PATTERN))
        (folder / PART).rename(folder / f'checkpoint_{step:07d}')
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
    wait_for_all()


def _save(state: dict[str, Any], path: Path) -> None:
    """Write, and raise what failed as the system said it, not as torch sums it up."""
    failed: BaseException | None = None
    try:
        dcp.save(state, checkpoint_id=path)
    except dcp.api.CheckpointException as error:
        failed = next((cause for cause, _ in error.failures.values()), error)
    if failed is not None:  # raised up there it would forget its own cause
        raise failed


def _unwritten(folder: Path, error: BaseException) -> CooperError:
    if isinstance(error, OutOfDisk):
        return OutOfDisk('no room on disk for the checkpoint', value=str(folder), remedy=REMEDY)
    return BadData('the checkpoint cannot be written', value=f'{folder}: {_first_line(error)}',
                   remedy=REMEDY)


def load_shards(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer,
                averages: dict[str, Tensor]) -> int:
    """Put a checkpoint into a network, an optimiser and averages, sharded in any way or not.

    Returns:
        the step it was written at.

    Raises:
        BadCheckpoint: it is damaged or of another network.
    """
    state = _state(module, optimiser, averages, 0)
    try:
        dcp.load(state, checkpoint_id=path)
    except (dcp.api.CheckpointException, OSError, RuntimeError, KeyError) as error:
        raise BadCheckpoint('the training checkpoint does not fit or is damaged',
                            value=f'{path}: {_first_line(error)}',
                            remedy='delete the run folder and start again') from error
    dcp_state.set_model_state_dict(module, state['model'])
    dcp_state.set_optimizer_state_dict(module, optimiser, state['optimiser'])
    return int(state['step'])


def averaged_weights(path: Path) -> dict[str, Tensor]:
    """Averaged weights of a sharded checkpoint, whole, the untrained ones as they are."""
    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    empty: dict[str, Any] = {name: torch.empty(entry.size, dtype=entry.properties.dtype)
                             for name, entry in stored.items()
                             if isinstance(entry, TensorStorageMetadata)
                             and name.split('.')[0] in ('model', 'ema')}
    dcp.load(empty, checkpoint_id=path, no_dist=True)
    found: dict[str, Tensor] = {}
    for part in ('model.', 'ema.'):  # the averages win
        found |= {name.removeprefix(part): value for name, value in empty.items()
                  if name.startswith(part)}
    return found


def _state(module: nn.Module, optimiser: torch.optim.Optimizer, averages: dict[str, Tensor],
           step: int) -> dict[str, Any]:
    return {'model': dcp_state.get_model_state_dict(module),
            'optimiser': dcp_state.get_optimizer_state_dict(module, optimiser),
            'ema': averages, 'step': torch.tensor(step)}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
