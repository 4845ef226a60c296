"""From any thread onto the executor, in order."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Callable

from rclpy.node import Node


class ExecutorQueue:
    """Calls posted by other threads run one after the other on the node's executor.

    ``Executor.create_task`` would run the newest first; a queue behind a guard condition keeps
    the order in which the engine spoke.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._bell = node.create_guard_condition(self._drain)
        self._open, self._lock = True, threading.Lock()

    def post(self, call: Callable[..., None], *args: Any) -> None:
        """Run ``call(*args)`` on the executor, soon; once it is closed, never."""
        with self._lock:
            if self._open:
                self._calls.append((call, args))
                self._bell.trigger()

    @property
    def waiting(self) -> int:
        """Calls that have not run yet."""
        return len(self._calls)

    def close(self) -> None:
        """Stop listening; what is posted later is dropped."""
        with self._lock:
            self._open = False
        self._node.destroy_guard_condition(self._bell)

    def _drain(self) -> None:
        while self._calls:
            call, args = self._calls.popleft()
            try:
                call(*args)
            except Exception as error:  # one bad message must not stop the others
                self._node.get_logger().error(f'{call.__qualname__} failed: {error!r}')
