"""Checkpoints that survive kill -9 and a full disk: the newest complete one always stays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from cooper_ros.errors import BadCheckpoint, BadData
from cooper_ros.runtime.files import room
from cooper_ros.training.shards import REMEDY, averaged_weights, bytes_of, newest_shards

NAME = 'checkpoint.pt'


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state under a temporary name, flush it to the disk, then rename it into place.

    Raises:
        OutOfDisk: the disk is full; the previous checkpoint is untouched.
        BadData: it is not writable; likewise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f'{NAME}.part'
    try:
        with room(folder, bytes_of(state), NAME, REMEDY):
            with open(temporary, 'wb') as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / NAME)
    except (OSError, RuntimeError) as error:
        raise BadData('the checkpoint cannot be written', value=f'{folder}: {error}',
                      remedy=REMEDY) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint of a run, or None if there is none yet.

    Raises:
        BadCheckpoint: the file is there but unreadable.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
        raise BadCheckpoint('the training checkpoint is damaged', value=str(path),
                            remedy='delete the run folder and start again') from error


def has_begun(folder: Path) -> bool:
    """Whether a run has a checkpoint to go on from."""
    return (folder / NAME).exists() or newest_shards(folder) is not None


def run_weights(folder: Path) -> dict[str, torch.Tensor] | None:
    """Averaged weights of a run folder's newest checkpoint, or None if it is not a run folder."""
    shards = newest_shards(folder)
    if shards is not None:
        return averaged_weights(shards)
    state = load_checkpoint(folder)
    return None if state is None else state['ema']
