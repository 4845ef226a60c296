"""Files that are made once, however many processes and runs find them missing."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

from tqdm import tqdm

from cooper_ros.runtime.locks import locked
from cooper_ros.training.processes import first_before_others


def make_once(path: Path, is_there: Callable[[], bool], make: Callable[[], None]) -> None:
    """Make what is missing; whoever comes second waits for it and finds it.

    Args:
        path: names what is made, for the lock and for the message.
        is_there: whether it is complete.
        make: makes it; called by one process of one run.
    """
    with first_before_others():
        if is_there():  # takes no lock: the folder may be one that is only read
            return
        with one_maker(path):
            if not is_there():  # else it was made while we waited
                make()


@contextmanager
def one_maker(path: Path) -> Iterator[None]:
    """Keep other runs from making the same; wait, and say so, while one of them does.

    The lock is a hidden file beside ``path``, which stays. The kernel frees it when its holder
    ends, however it ends.

    Raises:
        OutOfDisk, Unwritable: the lock cannot be made.
    """
    def say() -> None:
        tqdm.write(f'waiting for another run that makes {path}', file=sys.stderr)
    with locked(path.with_name(f'.{path.name}.lock'), say):
        yield
