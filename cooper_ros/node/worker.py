"""The child process: one engine, fed through a pipe. No ROS in here.

Three threads: the main one runs the engine, one reads the pipe (so that a cancel is seen while
the engine computes), one sends heartbeats. When the node dies, the pipe ends and the child leaves
at once: no orphan keeps the GPU.
"""

from __future__ import annotations

import importlib
import inspect
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Iterator

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Event, Failure, TextDelta
from cooper_ros.engine.limits import CancelToken
from cooper_ros.errors import ErrorCode, as_cooper_error
from cooper_ros.node.messages import ASK, DEVICE_LOST, Beat, Cancel, Job, Loaded, LoadFailed, Stop

DEFAULT_FACTORY = 'cooper_ros.engine.engine:CooperEngine.from_pretrained'
# Ctrl-C, `timeout` and systemd mean the whole group. The node ends us, once all are answered.
GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
BEAT_S = 1.0
TEXT_EVERY_S = 0.05  # a client sees 20 pieces of text a second at most; reader queues are short


def run(pipe: Connection, factory: str, config: CooperConfig) -> None:
    """Load the engine and serve jobs until told to stop; the target of the child process.

    Args:
        pipe: the child's end.
        factory: ``module:name`` of a callable ``(folder, config) -> engine``; where it takes
            ``tell`` too, what it says there is sent to the node.
        config: settings to load with.
    """
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)  # blocked while we were started
    Worker(pipe).run(factory, config)


class Worker:
    """The child's side of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._send_lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._tokens: dict[str, CancelToken] = {}

    def run(self, factory: str, config: CooperConfig) -> None:
        """Load, then work off jobs in order."""
        for loop in (self._read, self._beat):
            threading.Thread(target=loop, daemon=True).start()
        engine = self._load(factory, config)
        if engine is None:
            return
        while (job := self._jobs.get()) is not None:
            for event in merge_text(events_of(engine, job, self._tokens[job.request_id])):
                _leave_if_lost(engine, event)
                self._send(event)
            del self._tokens[job.request_id]

    def _load(self, factory: str, config: CooperConfig) -> Any:
        start = time.monotonic()
        try:
            make = resolve(factory)
            hears = {'tell': self._send} if 'tell' in inspect.signature(make).parameters else {}
            engine = make(config.model_path, config, **hears)
        except Exception as error:  # whatever it is, the node must be able to say it
            self._send(LoadFailed(as_cooper_error(error, 'the model could not be loaded')))
            return None
        self._send(Loaded(time.monotonic() - start))
        return engine

    def _read(self) -> None:
        try:
            while not isinstance(message := self._pipe.recv(), Stop):
                self._take(message)
        except (EOFError, OSError):
            os._exit(1)  # the node is gone; a computing main thread could not be interrupted
        self._jobs.put(None)

    def _take(self, message: Job | Cancel) -> None:
        if isinstance(message, Cancel):
            token = self._tokens.get(message.request_id)
            if token is not None:
                token.cancel()
            return
        self._tokens[message.request_id] = CancelToken()
        self._jobs.put(message)

    def _beat(self) -> None:
        while True:
            self._send(Beat())
            time.sleep(BEAT_S)

    def _send(self, message: object) -> None:
        with self._send_lock:
            try:
                self._pipe.send(message)
            except OSError:
                os._exit(1)


def _leave_if_lost(engine: Any, event: Event) -> None:
    """End the process with its device: every later request would fail too, in a new one it may
    not. The node tells whoever asked."""
    if isinstance(event, Failure) and event.error_code == ErrorCode.INTERNAL and getattr(
            engine, 'device_lost', lambda: False)():
        print(event.error_msg, file=sys.stderr, flush=True)
        os._exit(DEVICE_LOST)


def resolve(path: str) -> Any:
    """Import ``module:name`` or ``module:Class.method``."""
    module, _, name = path.partition(':')
    found = importlib.import_module(module)
    for part in name.split('.'):
        found = getattr(found, part)
    return found


def events_of(engine: Any, job: Job, token: CancelToken) -> Iterator[Event]:
    """The events of one job; always ends with one ``Answer`` or ``Failure``, never raises."""
    start = time.monotonic()
    try:
        if job.kind == ASK:
            yield from engine.ask(job.image, job.question, request_id=job.request_id,
                                  cancel=token, **job.changes)
        else:
            yield from engine.draw(job.image, job.kind, request_id=job.request_id, cancel=token,
                                   **job.changes)
    except Exception as error:
        known = as_cooper_error(error, 'the request failed')
        yield Failure(job.request_id, time.monotonic() - start, int(known.code), str(known))


def merge_text(events: Iterator[Event], every_s: float = TEXT_EVERY_S) -> Iterator[Event]:
    """Join text that comes faster than ``every_s``; nothing is lost and order is kept."""
    waiting: TextDelta | None = None
    last = -every_s
    for event in events:
        if isinstance(event, TextDelta) and waiting is not None and waiting.turn == event.turn:
            waiting = replace(event, text=waiting.text + event.text)
        else:
            if waiting is not None:
                yield waiting
            waiting = event if isinstance(event, TextDelta) else None
        if waiting is None:
            yield event
        elif event.elapsed - last >= every_s:
            last = event.elapsed
            yield waiting
            waiting = None
    if waiting is not None:
        yield waiting
