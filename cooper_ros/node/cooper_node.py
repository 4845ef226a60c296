"""``cooper_node``: the program that runs the node.

ROS is imported inside :func:`main` only: the worker process imports this module again when it is
spawned, and needs none of it.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Callable, Sequence

from cooper_ros.node.arguments import asks_for_help
from cooper_ros.node.worker import DEFAULT_FACTORY

if TYPE_CHECKING:
    from rclpy.executors import Executor

    from cooper_ros.node.lifecycle import CooperNode

HELP = """usage: cooper_node [--ros-args -p NAME:=VALUE ... -r FROM:=TO ... --params-file FILE]

A lifecycle node that answers spatial questions about camera images.

Its parameters, with defaults, ranges and meanings:
  cooper config                              all but `cameras`
  cooper config --format yaml > cooper.yaml  as a file for --params-file
  ros2 param describe /cooper NAME           one of them, of a running node
Topics, services and actions: docs/interfaces.md. With launch: cooper.launch.py --show-args."""
LOOK_S = 0.1  # how often the signals are looked at
FAREWELL_S = 1.5  # launch waits 5 s before it sends the next signal
DELIVERY_S = 0.3  # for results to leave, once they are there


def main(args: Sequence[str] | None = None, engine_factory: str = DEFAULT_FACTORY) -> int:
    """Run until Ctrl-C or SIGTERM; returns the exit code."""
    if asks_for_help(sys.argv[1:] if args is None else args):
        print(HELP)
        return 0
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from cooper_ros.errors import CooperError
    from cooper_ros.node.lifecycle import CooperNode

    rclpy.init(args=None if args is None else list(args),
               signal_handler_options=SignalHandlerOptions.NO)
    told = _listen_for_signals()
    try:
        node = CooperNode(engine_factory)
    except (CooperError, ValueError, rclpy.exceptions.ParameterException) as error:
        print(f'cooper_node cannot start: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    try:
        if node.config().autostart:
            node.autostart()
        _spin(node, told)
    finally:
        _hear_no_more()
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _listen_for_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set.

    The handlers of rclpy end all talking at once: whoever waits for an answer would wait for ever.
    """
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: told.set())
    return told


def _hear_no_more() -> None:
    """Ignore further Ctrl-C during shutdown; SIGTERM still ends what hangs.

    People press twice, and launch passes it on. Python's own handlers are gone before its process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _spin(node: CooperNode, told: threading.Event) -> None:
    """Serve until told to leave; then take all requests back, and let their ends go out."""
    from cooper_ros.node.spinning import serving

    with serving(node) as executor:
        _serve(node, executor, told.is_set)
        node.take_back()
        _serve(node, executor, _after(FAREWELL_S, node.is_idle))
        _serve(node, executor, _after(DELIVERY_S))


def _after(seconds: float, sooner: Callable[[], bool] = lambda: False) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: sooner() or time.monotonic() > end


def _serve(node: CooperNode, executor: Executor, over: Callable[[], bool]) -> None:
    """Serve until ``over``. A callback that fails (a client that left, a transition that is not
    allowed now) costs an entry in the log, not the node."""
    import rclpy
    from rclpy.executors import ExternalShutdownException

    while rclpy.ok() and not over():
        try:
            executor.spin_once(timeout_sec=LOOK_S)
        except ExternalShutdownException:
            return
        except Exception:
            if not rclpy.ok():  # shut down between two waits, which rclpy then refuses
                return
            node.get_logger().error(f'a callback failed:\n{traceback.format_exc()}')


if __name__ == '__main__':
    sys.exit(main())
