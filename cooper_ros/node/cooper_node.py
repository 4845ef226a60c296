"""``cooper_node``: the program that runs the node.

ROS is imported inside :func:`main` only: the worker process imports this module again when it is
spawned, and needs none of it.
"""

from __future__ import annotations

import signal
import sys
import traceback
from typing import TYPE_CHECKING, Sequence

from cooper_ros.node.worker import DEFAULT_FACTORY

if TYPE_CHECKING:
    from cooper_ros.node.lifecycle import CooperNode


def main(args: Sequence[str] | None = None, engine_factory: str = DEFAULT_FACTORY) -> int:
    """Run until Ctrl-C or SIGTERM; returns the exit code."""
    import rclpy

    from cooper_ros.errors import CooperError
    from cooper_ros.node.lifecycle import CooperNode

    rclpy.init(args=None if args is None else list(args))
    try:
        node = CooperNode(engine_factory)
    except (CooperError, ValueError, rclpy.exceptions.ParameterException) as error:
        print(f'cooper_node cannot start: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    try:
        if node.config().autostart:
            node.autostart()
        _spin(node)
    except KeyboardInterrupt:
        pass  # Ctrl-C before or after the waiting
    finally:
        _hear_no_more()
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _hear_no_more() -> None:
    """Let a second Ctrl-C (people press twice, and launch passes it on) not spoil the leaving,
    which takes seconds at most. SIGTERM is at its default from here on."""
    import rclpy.signals

    rclpy.signals.uninstall_signal_handlers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _spin(node: CooperNode) -> None:
    """Serve until shutdown. A callback that fails (a client that left, a transition that is not
    allowed now) costs an entry in the log, not the node."""
    import rclpy
    from rclpy.executors import ExternalShutdownException

    from cooper_ros.node.spinning import serving

    with serving(node) as executor:
        while rclpy.ok():
            try:
                executor.spin()
            except (KeyboardInterrupt, ExternalShutdownException):
                _hear_no_more()  # the executor's own leaving must not be disturbed either
                return
            except Exception:
                if not rclpy.ok():  # the signal came between two waits, which rclpy then refuses
                    return
                node.get_logger().error(f'a callback failed:\n{traceback.format_exc()}')


if __name__ == '__main__':
    sys.exit(main())
