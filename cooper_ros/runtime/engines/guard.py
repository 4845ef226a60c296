"""Calls that C++ makes to us, which no exception of Python may leave.

There it would be lost, or come back as another error. So what goes wrong in a call is remembered,
and so is Ctrl-C, until C++ has come to an end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any, Callable, Iterator


class Guard:
    """What has happened in calls of C++; see :func:`guarded`.

    Args:
        interrupted: whether Ctrl-C was heard.
    """

    def __init__(self, interrupted: Callable[[], bool]) -> None:
        self.interrupted = interrupted
        self.error: BaseException | None = None

    def call(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Call a function; whether C++ shall go on: not after an error, nor after Ctrl-C."""
        try:
            function(*arguments)
        except BaseException as error:  # raised again by guarded
            self.error = self.error or error
        return self.error is None and not self.interrupted()


@contextlib.contextmanager
def guarded() -> Iterator[Guard]:
    """Use around code that is C++; afterwards what was remembered is raised.

    Raises:
        KeyboardInterrupt: Ctrl-C was heard, whatever else went wrong.
        BaseException: the first that a call raised.
    """
    with _interrupts() as interrupted:
        guard = Guard(interrupted)
        try:
            yield guard
        finally:
            if guard.error is not None:  # whatever C++ has made of it
                raise guard.error


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Keep Ctrl-C back, where Python would raise it.

    It is read from the pipe that Python writes to when a signal comes: handlers run in the main
    thread alone, which may be waiting in C++ for threads that call us.
    """
    if threading.current_thread() is not threading.main_thread() or (
            signal.getsignal(signal.SIGINT) is not signal.default_int_handler):
        yield lambda: False
        return
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    heard = _heard(reader)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(before)
        stop = heard()
        for end in (reader, writer):
            os.close(end)
        if stop:
            raise KeyboardInterrupt


def _heard(reader: int) -> Callable[[], bool]:
    seen = set[int]()

    def heard() -> bool:
        with contextlib.suppress(BlockingIOError):
            seen.update(os.read(reader, 1 << 12))
        return signal.SIGINT in seen

    return heard
