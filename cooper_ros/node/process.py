"""A handle on the worker process: start, talk, notice its death, end it. No ROS in here."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import socket
import struct
import time
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Iterator

from cooper_ros.config import CooperConfig
from cooper_ros.errors import EngineLost
from cooper_ros.node import worker
from cooper_ros.node.messages import DEVICE_LOST, Beat, Stop

SILENCE_S = 60.0  # heartbeats come from their own thread: only a stuck interpreter stays silent
FAREWELL_S = 2.0
KILL_S = 20.0  # a driver that hangs in the kernel keeps even a killed process


class EngineProcess:
    """One life of the worker. A context manager: leaving it ends the process for certain."""

    def __init__(self, factory: str, config: CooperConfig, wake: Connection) -> None:
        context = multiprocessing.get_context('spawn')  # CUDA and threads do not survive a fork
        self._pipe, theirs = context.Pipe()
        _limit_waits(self._pipe, SILENCE_S)
        self._wake = wake
        self._process = context.Process(target=worker.run, args=(theirs, factory, config),
                                        name='cooper_engine', daemon=True)
        with _unheard(worker.GROUP_SIGNALS):
            self._process.start()
        # At the end of a program multiprocessing asks by SIGTERM, which it ignores, and waits.
        atexit.register(self._process.kill)
        theirs.close()
        self._heard = time.monotonic()

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid or 0

    @property
    def silent_s(self) -> float:
        """Seconds since the worker was heard; it beats once a second."""
        return time.monotonic() - self._heard

    def send(self, message: object) -> None:
        """Send to the worker.

        Raises:
            EngineLost: it is gone, or takes nothing in.
        """
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._lost(error) from error

    def receive(self, timeout_s: float) -> Any:
        """The next message, or None after ``timeout_s`` or a wake-up.

        Raises:
            EngineLost: the worker died, or is silent for too long.
        """
        ready = wait([self._pipe, self._wake, self._process.sentinel], timeout_s)
        while self._wake.poll():
            self._wake.recv_bytes()
        if self._pipe in ready:
            return self._read()
        if self._process.sentinel in ready:
            raise self._lost()
        if self.silent_s > SILENCE_S:
            raise _hangs()
        return None

    def _read(self) -> Any:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._lost(error) from error
        self._heard = time.monotonic()
        return None if isinstance(message, Beat) else message

    def _lost(self, error: Exception | None = None) -> EngineLost:
        if isinstance(error, BlockingIOError):  # the pipe waited for as long as it may
            return _hangs()
        self._process.join(FAREWELL_S)
        code = self._process.exitcode
        why = ', the GPU has failed (see the log)' if code == DEVICE_LOST else ''
        return EngineLost('the worker process died', value=f'exit code {code}{why}',
                          remedy='it is started again; -9 often means that memory ran out')

    def __enter__(self) -> EngineProcess:
        """Nothing to do: it runs already."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Ask it to leave, then make it.

        Raises:
            EngineLost: it cannot even be killed, and still holds the device.
        """
        if exc[0] is None:
            self._ask_to_leave()
        self._process.kill()
        self._process.join(KILL_S)
        atexit.unregister(self._process.kill)
        self._pipe.close()
        if self._process.exitcode is None:
            raise EngineLost('the worker process cannot be killed', value=f'process {self.pid}',
                             limit=f'{KILL_S:g} s', remedy='the GPU driver holds it; restart '
                             'the machine if it does not go away')
        self._process.close()

    def _ask_to_leave(self) -> None:
        try:
            self._pipe.send(Stop())
            self._process.join(FAREWELL_S)
        except OSError:
            pass  # it is gone already, or hangs


def _hangs() -> EngineLost:
    return EngineLost('the worker process hangs', value=f'silent for {SILENCE_S:g} s')


@contextmanager
def _unheard(numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Start processes that do not hear signals until they ask to; this thread does later."""
    resource_tracker.ensure_running()  # where a start has to start it, it unblocks them again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _limit_waits(pipe: Connection, seconds: float) -> None:
    """Make reads and writes that get stuck in the middle of a message fail after a while."""
    limit = struct.pack('ll', int(seconds), 0)
    with socket.socket(fileno=os.dup(pipe.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
