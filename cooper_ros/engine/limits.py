"""Stopping: a cancel token and a deadline, asked before every token, flow step and piece of
context."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from cooper_ros.errors import Canceled, DeadlineExceeded


class CancelToken:
    """A flag that any thread may raise; the engine stops within one token, one flow step or
    one piece of context (a text, a picture)."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def cancel(self) -> None:
        """Ask the request to stop."""
        self._flag.set()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._flag.is_set()


@dataclass
class Limits:
    """The stop conditions of one request.

    Attributes:
        budget_s: seconds the request may take, 0 for no limit.
        cancel: the caller's token, if there is one.
    """

    budget_s: float = 0.0
    cancel: CancelToken | None = None
    _start: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Seconds since the request was taken up."""
        return time.monotonic() - self._start

    def check(self) -> None:
        """Stop here if the request must not go on.

        Raises:
            Canceled: the caller took the request back.
            DeadlineExceeded: the time budget is used up.
        """
        if self.cancel is not None and self.cancel.cancelled:
            raise Canceled('the request was cancelled')
        if self.budget_s and self.elapsed() > self.budget_s:
            raise DeadlineExceeded('the time budget is used up', value=f'{self.elapsed():.2f} s',
                                   limit=f'{self.budget_s:g} s',
                                   remedy='raise time_budget_s, or ask in mode direct')
