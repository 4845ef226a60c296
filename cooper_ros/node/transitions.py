"""A lifecycle transition that is not allowed now is answered with no.

rclpy raises instead of answering, and whoever asked (a lifecycle manager, `ros2 lifecycle set`)
waits for ever; rclcpp answers ``success: false``, and so do we.
"""

from __future__ import annotations

from typing import Any, Callable

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode


def answer_wrong_transitions(node: LifecycleNode) -> None:
    """Wrap the node's own ``~/change_state``."""
    for service in node.services:
        if service.srv_type is ChangeState:
            service.callback = _answering(node, service.callback)


def _answering(node: LifecycleNode, change: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def answer(request: ChangeState.Request,
               response: ChangeState.Response) -> ChangeState.Response:
        try:
            return change(request, response)
        except Exception as error:  # RCLError lives in a private module of rclpy
            node.get_logger().error(f'transition refused: {" ".join(str(error).split())}')
            return ChangeState.Response(success=False)
    return answer
