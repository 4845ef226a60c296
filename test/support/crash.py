"""Die by SIGKILL at a chosen call: the crash test of everything that writes files."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, Callable

WATCHED = ('runtime/files.py', 'runtime/locks.py', 'runtime/engines/cache.py',
           'runtime/engines/build.py', 'runtime/graphs/bundle.py', 'pathlib.py',
           'pathlib/_local.py', 'pathlib/__init__.py', 'shutil.py')


class Countdown:
    """Counts calls into and out of C made by the files above; kills at number ``last``."""

    def __init__(self, last: int = -1) -> None:
        self.seen, self.last = 0, last

    def __call__(self, frame: Any, event: str, what: Any) -> None:
        if not event.startswith('c_') or not frame.f_code.co_filename.endswith(WATCHED):
            return
        if self.seen == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1


def moments(work: Callable[[], object]) -> int:
    """How many moments a piece of work has."""
    count = Countdown()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count.seen


def killed_at(moment: int, work: Callable[[], object]) -> int:
    """Do it in a process of its own that dies at a moment; returns how it ended."""
    child = os.fork()
    if child == 0:
        try:
            sys.setprofile(Countdown(moment))
            work()
        finally:
            os._exit(0)
    return -os.waitpid(child, 0)[1]
