"""Sharded checkpoints: every process writes its part, any number of processes reads them.

torch.distributed.checkpoint writes a folder; here it is made under a temporary name and renamed
when it is complete, so that the newest complete one always stays.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import state_dict as dcp_state
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from cooper_ros.errors import BadCheckpoint, BadData, CooperError, OutOfDisk
from cooper_ros.runtime.files import room
from cooper_ros.training.processes import from_first, is_first, wait_for_all
from cooper_ros.training.sharding import local

PATTERN = 'checkpoint_[0-9]*'
PART = 'checkpoint.part'
REMEDY = 'free disk space and start the same command again'
MOMENTS = 'optimiser.state.'  # in names of what a checkpoint holds; then weight, '.', moment
SOME_MOMENTS = dcp_state.StateDictOptions(strict=False)  # those that are not given are not there


def newest_shards(folder: Path) -> Path | None:
    """The newest complete sharded checkpoint of a run, or None."""
    complete = [path for path in folder.glob(PATTERN) if (path / '.metadata').is_file()]
    return max(complete, default=None)


def save_shards(folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer,
                averages: dict[str, Tensor], step: int) -> None:
    """Write everything needed to go on; all processes call this together.

    The previous checkpoint goes when the new one is complete: there must be room for both.

    Raises:
        OutOfDisk: there is no room, which is seen before a byte is written, or the disk fills up
            meanwhile; the previous checkpoint is untouched.
        BadData: it is not writable; likewise.
    """
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / PART, ignore_errors=True)
    wait_for_all()
    state = _state_to_save(module, optimiser, averages, step)
    _check_room(folder, state)
    try:
        with room(folder, 0, PART, REMEDY):  # 0: all go on, or they wait for one that does not
            _save(state, folder / PART)
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


def _check_room(folder: Path, state: dict[str, Any]) -> None:
    """Refuse what cannot fit. The first process looks, and all take its word: one that stopped
    alone would keep the others waiting.

    Raises:
        OutOfDisk: naming the bytes needed and free.
    """
    needed, free = map(int, from_first(
        f'{bytes_of(state)} {shutil.disk_usage(folder).free}').split())
    if free < needed:
        raise OutOfDisk('no room on disk for the checkpoint', value=f'{needed:,} bytes needed',
                        limit=f'{free:,} bytes free in {folder}', remedy=REMEDY)


def bytes_of(state: Any) -> int:
    """Bytes of all tensors in plain containers, those that share memory counted once; shards
    count as the whole tensor."""
    return sum({_memory(tensor): tensor.nbytes for tensor in _tensors(state)}.values())


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return local(tensor).data_ptr(), tensor.shape, tensor.stride()


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, (dict, list)):
        for part in state.values() if isinstance(state, dict) else state:
            yield from _tensors(part)


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

    One that holds no averages, for they were the weights, gives the weights to those wanted now.
    Weights without moments in it, for they never had a gradient, have none afterwards.

    Returns:
        the step it was written at.

    Raises:
        BadCheckpoint: it is damaged, or of another network or other trained weights.
    """
    try:
        stored = _stored(path)
        averaged = any(name.startswith('ema.') for name in stored)
        state = _state(module, optimiser, averages if averaged else {}, 0)
        _read_into(state, path, stored)
    except (dcp.api.CheckpointException, Exception) as error:  # that one is no Exception
        raise BadCheckpoint('the training checkpoint does not fit or is damaged',
                            value=f'{path}: {_first_line(error)}',
                            remedy='delete the run folder and start again') from error
    dcp_state.set_model_state_dict(module, state['model'])
    dcp_state.set_optimizer_state_dict(module, optimiser, state['optimiser'],
                                       options=SOME_MOMENTS)
    for name, value in {} if averaged else module.named_parameters():
        if name in averages:
            averages[name].copy_(value.detach())
    return int(state['step'])


def _read_into(state: dict[str, Any], path: Path, stored: dict[str, Any]) -> None:
    """Fill a state, and take the moments out that the checkpoint has not; all else must be there.

    Raises:
        ValueError: a weight is to train that did not.
        Exception: torch's, of what is damaged or missing.
    """
    known = {name.removeprefix(MOMENTS).rpartition('.')[0] for name in stored
             if name.startswith(MOMENTS)}
    moments, trained = state['optimiser']['state'], _trained(state)
    state['optimiser']['state'] = {name: moments[name] for name in moments if name in known}
    dcp.load(state, checkpoint_id=path)
    if not trained <= _trained(state):
        raise ValueError('other weights trained')


def _trained(state: dict[str, Any]) -> set[str]:
    return {name for group in state['optimiser']['param_groups'] for name in group['params']}


def averaged_weights(path: Path) -> dict[str, Tensor]:
    """Averaged weights of a sharded checkpoint, whole, the untrained ones as they are."""
    empty: dict[str, Any] = {name: torch.empty(entry.size, dtype=entry.properties.dtype)
                             for name, entry in _stored(path).items()
                             if isinstance(entry, TensorStorageMetadata)
                             and name.split('.')[0] in ('model', 'ema')}
    dcp.load(empty, checkpoint_id=path, no_dist=True)
    found: dict[str, Tensor] = {}
    for part in ('model.', 'ema.'):  # the averages win
        found |= {name.removeprefix(part): value for name, value in empty.items()
                  if name.startswith(part)}
    return found


def _stored(path: Path) -> dict[str, Any]:
    """What a checkpoint says of every tensor it holds."""
    return dcp.FileSystemReader(path).read_metadata().state_dict_metadata


def _state_to_save(module: nn.Module, optimiser: torch.optim.Optimizer,
                   averages: dict[str, Tensor], step: int) -> dict[str, Any]:
    untouched = not optimiser.state
    state = _state(module, optimiser, averages, step)
    if untouched:  # torch took a step without gradients, to have moments to show
        optimiser.state.clear()
        state['optimiser']['state'] = {}
    return state


def _state(module: nn.Module, optimiser: torch.optim.Optimizer, averages: dict[str, Tensor],
           step: int) -> dict[str, Any]:
    return {'model': dcp_state.get_model_state_dict(module),
            'optimiser': dcp_state.get_optimizer_state_dict(module, optimiser),
            **({'ema': averages} if averages else {}), 'step': torch.tensor(step)}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
