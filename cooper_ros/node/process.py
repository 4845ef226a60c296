"""A handle on the worker process: start, talk, notice its death, end it. No ROS in here."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection, wait
from typing import Any

from cooper_ros.config import CooperConfig
from cooper_ros.errors import EngineLost
from cooper_ros.node import worker
from cooper_ros.node.messages import DEVICE_LOST, Beat, Stop

SILENCE_S = 60.0  # heartbeats come from their own thread: only a stuck interpreter stays silent
FAREWELL_S = 2.0


class EngineProcess:
    """One life of the worker. A context manager: leaving it ends the process for certain."""

    def __init__(self, factory: str, config: CooperConfig, wake: Connection) -> None:
        context = multiprocessing.get_context('spawn')  # CUDA and threads do not survive a fork
        self._pipe, theirs = context.Pipe()
        self._wake = wake
        self._process = context.Process(target=worker.run, args=(theirs, factory, config),
                                        name='cooper_engine', daemon=True)
        self._process.start()
        theirs.close()
        self._heard = time.monotonic()

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid or 0

    def send(self, message: object) -> None:
        """Send to the worker.

        Raises:
            EngineLost: it is gone.
        """
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._lost() from error

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
        if time.monotonic() - self._heard > SILENCE_S:
            raise EngineLost('the worker process hangs', value=f'silent for {SILENCE_S:g} s')
        return None

    def _read(self) -> Any:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        self._heard = time.monotonic()
        return None if isinstance(message, Beat) else message

    def _lost(self) -> EngineLost:
        self._process.join(FAREWELL_S)
        code = self._process.exitcode
        why = ', the GPU has failed (see the log)' if code == DEVICE_LOST else ''
        return EngineLost('the worker process died', value=f'exit code {code}{why}',
                          remedy='it is started again; -9 often means that memory ran out')

    def __enter__(self) -> EngineProcess:
        """Nothing to do: it runs already."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Ask it to leave, then make it."""
        try:
            self._pipe.send(Stop())
            self._process.join(FAREWELL_S if exc[0] is None else 0)
        except OSError:
            pass  # it is gone already
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process.close()
