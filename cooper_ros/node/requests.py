"""Requests that wait for the engine: a bounded queue with deadlines. No ROS in here."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

from cooper_ros.engine.events import Answer, Event, Failure
from cooper_ros.errors import Busy, CooperError, DeadlineExceeded, NotReady, as_cooper_error
from cooper_ros.node.messages import Job


@dataclass(eq=False)
class Request:
    """One request on its way through the node.

    Attributes:
        id: made up by the node; the same in every message about it.
        kind: ``ask``, ``depth`` or ``segmentation``.
        question: plain text.
        changes: settings of ``CooperConfig`` for this request.
        load_image: makes the picture; called away from the executor, just before it is needed.
        listener: hears every event, on the supervisor's thread.
        budget_s: seconds from arrival to the end, waiting included; 0 for no limit.
        background: whether it takes up no room, and gives way to others.
        picture: uint8 RGB ``[H, W, 3]`` once it was loaded.
        taken: when the engine took it up (monotonic), None while it waits.
        reason: why it shall stop, None while it shall not.
    """

    id: str
    kind: str
    question: str
    changes: dict[str, Any]
    load_image: Callable[[], np.ndarray]
    listener: Callable[[Event], None]
    budget_s: float = 0.0
    background: bool = False
    arrived: float = field(default_factory=time.monotonic)
    picture: np.ndarray | None = None
    taken: float | None = None
    reason: CooperError | None = None
    ended: bool = False

    def left_s(self) -> float:
        """Seconds left of the budget, infinite without one."""
        if not self.budget_s:
            return float('inf')
        return self.arrived + self.budget_s - time.monotonic()

    def queued_s(self) -> float:
        """Seconds it waited, or has waited so far."""
        return (self.taken or time.monotonic()) - self.arrived

    def job(self) -> Job:
        """Load the picture and make what the engine is sent.

        Raises:
            CooperError: the picture cannot be used.
        """
        self.taken = time.monotonic()
        try:
            self.picture = self.load_image()
        except Exception as error:  # one odd picture must not cost the others their engine
            raise as_cooper_error(error, 'the picture could not be loaded') from error
        budget = max(round(self.left_s(), 3), 1e-3) if self.budget_s else 0.0
        changes = {**self.changes, 'time_budget_s': budget}
        return Job(self.id, self.kind, self.picture, self.question, changes)

    def emit(self, event: Event) -> None:
        """Pass an event on; after the end nothing more."""
        if self.ended:
            return
        self.ended = isinstance(event, Answer | Failure)
        self.listener(event)

    def fail(self, error: CooperError) -> None:
        """End it without an answer."""
        elapsed = time.monotonic() - self.taken if self.taken else 0.0
        self.emit(Failure(self.id, elapsed, int(error.code), str(error)))


class RequestQueue:
    """First come, first served; ``limit`` may wait beside the one that runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Request] = deque()
        self.running: Request | None = None
        self.refused = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def check_room(self, limit: int) -> None:
        """Refuse when ``limit`` requests wait already.

        Raises:
            Busy: naming the queue length.
        """
        with self._lock:
            at_work = [self.running] if self.running else []
            counted = sum(not request.background for request in (*at_work, *self._waiting))
            if counted > limit:
                self.refused += 1
                raise Busy('the queue is full', value=f'{len(self._waiting)} waiting',
                           limit=f'queue_size {limit}', remedy='ask again later')

    def put(self, request: Request) -> None:
        """Add to the end."""
        with self._lock:
            self._waiting.append(request)

    def take(self) -> Request | None:
        """The next one, marked as running; None if none waits."""
        with self._lock:
            self.running = self._waiting.popleft() if self._waiting else None
            return self.running

    def release(self) -> None:
        """The running one has ended."""
        with self._lock:
            self.running = None

    def everything(self) -> list[Request]:
        """The running one, if any, and all that wait."""
        with self._lock:
            return ([self.running] if self.running else []) + list(self._waiting)

    def next_deadline_s(self) -> float:
        """Seconds until the first waiting request runs out of time."""
        with self._lock:
            return min((request.left_s() for request in self._waiting), default=float('inf'))

    def sweep(self, loading: bool) -> None:
        """End waiting requests that were taken back or ran out of time."""
        with self._lock:
            over = [item for item in self._waiting if item.reason or item.left_s() <= 0]
            for request in over:
                self._waiting.remove(request)
        for request in over:  # outside the lock: listeners may come back with new requests
            request.fail(request.reason or _too_late(request, loading))


def _too_late(request: Request, loading: bool) -> CooperError:
    value, limit = f'{request.queued_s():.1f} s', f'{request.budget_s:g} s'
    if loading:
        return NotReady('the model is still loading', value=value, limit=limit,
                        remedy='wait until /diagnostics says ready')
    return DeadlineExceeded('the time budget ran out in the queue', value=value, limit=limit,
                            remedy='raise time_budget_s or ask less often')
