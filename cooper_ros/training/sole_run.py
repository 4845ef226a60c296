"""One run for a folder: two would write over each other's log and checkpoints.

Workers outlive a `torchrun` that is killed, so the same command again may meet its own past.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Iterator

from cooper_ros.errors import BadOption
from cooper_ros.training.processes import from_first, is_first

NAME = 'run.lock'


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Hold the folder of a run until the end; all processes of the run enter together.

    The kernel gives the lock back when its holder ends, however it ends. It belongs to the
    process alone: helpers that were forked and live on hold nothing.

    Raises:
        BadOption: another run trains in this folder.
    """
    with ExitStack() as stack:
        holder = from_first(_take(folder, stack) if is_first() else '')
        if holder:
            raise BadOption('another run trains in this folder',
                            value=f'{folder}: process {holder}',
                            remedy=f'wait for it, stop it (`kill {holder}`), or name another '
                                   'folder')
        yield


def _take(folder: Path, stack: ExitStack) -> str:
    """Take the lock; returns the number of the process that has it already, else nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = stack.enter_context((folder / NAME).open('a+', encoding='utf-8'))
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        return _holder(stream)
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return ''


def _holder(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read().strip() or 'unknown'
