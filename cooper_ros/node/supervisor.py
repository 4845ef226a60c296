"""Keeps one worker process alive and feeds it requests, on a thread of its own. No ROS in here.

A request that kills its worker fails with ENGINE_LOST, the waiting ones stay and are served by
the next worker. Too many deaths within a minute, or a model that cannot be loaded, end the
supervision: state ``failed``, and every request is refused with the reason.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Callable

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer, Event, Failure, Loading
from cooper_ros.engine.notices import Notice
from cooper_ros.errors import (
    Canceled,
    CooperError,
    DeadlineExceeded,
    EngineLost,
    ErrorCode,
    NotReady,
    as_cooper_error,
)
from cooper_ros.node.messages import Cancel, Loaded, LoadFailed
from cooper_ros.node.process import EngineProcess
from cooper_ros.node.requests import Request, RequestQueue

LOADING, READY, FAILED, STOPPED = 'loading', 'ready', 'failed', 'stopped'
PREPARING = 'preparing'  # loading, while graphs or engines are made
WINDOW_S = 60.0
LOOK_S = 1.0  # how often an idle supervisor looks at the heartbeat
GRACE_S = 120.0  # one flow step of a large network on a slow machine; then the worker hangs
# A caller hears of its end that long after its time or its cancel, whatever the worker does;
# starting, stopping and writing to a worker may hold it longer.
REPLY_S = 10.0


@dataclass(frozen=True)
class Status:
    """A snapshot for diagnostics."""

    state: str
    restarts: int
    waiting: int
    running: bool
    served: int
    refused: int
    pid: int
    load_s: float
    error: str
    notice: Notice = Notice()
    silent_s: float = 0.0  # since the worker's last heartbeat, as far as one is expected


class Supervisor:
    """Runs requests one after the other through a worker process.

    Args:
        factory: import path of what makes the engine.
        config: settings to load with.
        say: called with (``info`` or ``error``, text) for the log.
        after: another supervisor that must have let go of the device first.
        grace_s: seconds a stopped request may still take before its worker is killed.
    """

    def __init__(self, factory: str, config: CooperConfig, say: Callable[[str, str], None],
                 after: Supervisor | None = None, grace_s: float = GRACE_S) -> None:
        self._factory, self._config, self._say = factory, config, say
        self._after, self._grace_s = after, grace_s
        self.queue = RequestQueue()
        self._wake_receiver, self._wake_sender = multiprocessing.Pipe(duplex=False)
        self._wake_lock = threading.Lock()
        self._losses: deque[float] = deque()
        self._state, self._error = LOADING, None
        self._restarts = self._served = self._pid = 0
        self._load_s = 0.0
        self._notice = Notice()
        self._process: EngineProcess | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name='engine_supervisor', daemon=True)
        self._thread.start()

    # what other threads call

    def status(self) -> Status:
        """How things are."""
        preparing = self._state == LOADING and self._notice.preparing
        process = self._process
        return Status(PREPARING if preparing else self._state, self._restarts, len(self.queue),
                      self.queue.running is not None, self._served, self.queue.refused,
                      self._pid, self._load_s, str(self._error or ''), self._notice,
                      process.silent_s if process else 0.0)

    def check_room(self, limit: int) -> None:
        """Raise what :meth:`submit` would raise.

        Raises:
            Busy: ``limit`` requests wait already.
            CooperError: why there is no engine.
        """
        if self._state in (FAILED, STOPPED):
            # One error for all callers: with their frames it would keep their requests.
            raise (self._error or NotReady('the engine is stopped')).with_traceback(None)
        self.queue.check_room(limit)

    def submit(self, request: Request, limit: int) -> None:
        """Queue a request; its listener hears of it. What runs in the background gives way.

        Raises:
            CooperError: as :meth:`check_room`.
        """
        self.check_room(limit)
        for other in () if request.background else self.queue.everything():
            if other.background:
                self.cancel(other, Canceled('a request goes first'))
        self.queue.put(request)
        self._ring()
        if self._state in (FAILED, STOPPED):  # it ended between the check and the put
            self._clear()

    def cancel(self, request: Request, reason: CooperError) -> None:
        """Take a request back; its listener hears the end."""
        request.reason = request.reason or reason
        self._ring()

    def cancel_all(self, reason: CooperError) -> None:
        """Take all requests back."""
        for request in self.queue.everything():
            self.cancel(request, reason)

    def stop(self) -> None:
        """Begin to end it; does not wait."""
        self._stopping = True
        self._ring()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until the worker is gone; whether it is."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _ring(self) -> None:
        if self._thread.is_alive():  # without a reader the pipe would fill up
            with self._wake_lock:
                self._wake_sender.send_bytes(b'!')

    # what happens on the supervisor's thread

    def _run(self) -> None:
        try:
            if self._after is not None:
                while not self._after.join(LOOK_S):
                    self.queue.sweep(loading=True)
                self._after = None
            while not self._stopping:
                self._one_life()
            self._state, self._error = STOPPED, NotReady('the engine was stopped')
        except Exception as error:  # nobody else would hear of it
            self._give_up(error)
        self._clear()

    def _clear(self) -> None:
        self.cancel_all(self._error or NotReady('the engine is stopped'))
        self.queue.sweep(loading=False)

    def _give_up(self, error: Exception) -> None:
        error = as_cooper_error(error, 'the supervisor failed')
        self._state, self._error = FAILED, error
        self._say('error', f'the engine is given up: {error}')

    def _one_life(self) -> None:
        try:
            with EngineProcess(self._factory, self._config, self._wake_receiver) as process:
                self._state, self._pid, self._notice = LOADING, process.pid, Notice()
                self._process = process
                self._load(process)
                while not self._stopping:
                    self._serve_next(process)
        except EngineLost as lost:
            self._pid = 0
            self._count_loss(lost)
        finally:
            self._process = None

    def _count_loss(self, lost: EngineLost) -> None:
        """Deaths while loading are counted for ever: they would happen again."""
        now = time.monotonic()
        while self._state == READY and self._losses and now - self._losses[0] > WINDOW_S:
            self._losses.popleft()
        self._losses.append(now)
        if len(self._losses) > self._config.worker_restarts:
            raise EngineLost('the worker process died too often', value=lost.value,
                             limit=f'worker_restarts {self._config.worker_restarts}',
                             remedy='look at the log, then clean up and configure again')
        self._restarts += 1
        self._say('error', f'{lost}; starting it again')

    def _load(self, process: EngineProcess) -> None:
        latest = time.monotonic() + self._config.load_timeout_s
        while not self._stopping:
            message = self._listen(process)
            if isinstance(message, LoadFailed):
                raise message.error
            if isinstance(message, Loaded):
                self._state, self._load_s = READY, message.seconds
                self._say('info', f'model loaded in {message.seconds:.1f} s')
                return
            if self._notice.preparing:  # building takes what it takes
                latest = time.monotonic() + self._config.load_timeout_s
            if time.monotonic() > latest:
                raise NotReady('the model did not load in time', remedy='raise load_timeout_s',
                               limit=f'load_timeout_s {self._config.load_timeout_s:g}')

    def _listen(self, process: EngineProcess) -> object | None:
        """One message or none; meanwhile waiting requests may end."""
        timeout = max(0.0, min(LOOK_S, self.queue.next_deadline_s()))
        message = process.receive(timeout)
        if isinstance(message, Notice):
            self._note(message)
        self.queue.sweep(loading=self._state == LOADING)
        return message

    def _note(self, notice: Notice) -> None:
        self._notice = notice
        if notice.text:
            self._say('error' if notice.error else 'info', notice.text)

    def _serve_next(self, process: EngineProcess) -> None:
        request = self.queue.take()
        if request is None:
            self._listen(process)
            return
        try:
            self._serve(process, request)
            self._served += 1
        except Exception as error:
            request.fail(as_cooper_error(error, 'the supervisor failed'))
            if isinstance(error, EngineLost) or not isinstance(error, CooperError):
                raise
        finally:
            self.queue.release()

    def _serve(self, process: EngineProcess, request: Request) -> None:
        if request.reason is not None:  # taken back while the one before it ended
            raise request.reason
        process.send(request.job())
        told, over = False, time.monotonic() + request.left_s()
        message: object | None = None
        while not isinstance(message, Answer | Failure):  # the worker is free for another one
            if request.reason is not None and not told:
                process.send(Cancel(request.id))
                told, over = True, time.monotonic()
            if self._stopping:
                raise request.reason or NotReady('the engine was stopped')
            if time.monotonic() > over + REPLY_S:
                request.fail(request.reason or _no_answer(request))
            if time.monotonic() > over + self._patience_s():
                raise EngineLost('the worker does not stop', limit=f'{self._patience_s():g} s')
            message = self._listen(process)
            if isinstance(message, Loading):
                self._say('info', str(message))
            if isinstance(message, Event):
                request.emit(_with_reason(message, request))

    def _patience_s(self) -> float:
        """Seconds a stopped request may take; another runtime may just be loading before it."""
        loads = self._config.load_timeout_s if self._notice.preparing else 0.0
        return max(self._grace_s, loads)


def _no_answer(request: Request) -> DeadlineExceeded:
    return DeadlineExceeded('the engine did not stop when the time was up',
                            value=f'{request.budget_s + REPLY_S:g} s',
                            limit=f'{request.budget_s:g} s', remedy='see /diagnostics')


def _with_reason(event: Event, request: Request) -> Event:
    """The engine knows only that it was cancelled; the node knows why."""
    reason = request.reason
    if (reason is None or not isinstance(event, Answer | Failure)
            or event.error_code != ErrorCode.CANCELED or reason.code == ErrorCode.CANCELED):
        return event
    return Failure(event.request_id, event.elapsed, int(reason.code), str(reason))
