"""An executor that is gone before the context that it waits on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from rclpy import executors
from rclpy.node import Node


@contextmanager
def serving(node: Node) -> Iterator[executors.SingleThreadedExecutor]:
    """Lend an executor that serves one node.

    It lets go of its guard conditions on leaving. Left to the garbage collector they may be
    destroyed in any order, and ``Executor.__del__`` then complains of an invalid handle.
    """
    executor = executors.SingleThreadedExecutor()
    try:
        executor.add_node(node)
        yield executor
    finally:
        executor.shutdown()
