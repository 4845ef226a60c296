"""The action ``~/reason``: ask, watch, cancel.

A goal is rejected at once when the node is not active or the queue is full; ROS carries no reason
with a rejection, so the log says why. A goal ends as SUCCEEDED exactly when ``error_code`` is
NONE, as CANCELED when its cancel was honoured, and as ABORTED with a code otherwise, with the
best answer so far if there is one.
"""

from __future__ import annotations

from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.task import Future

from cooper_interfaces.action import SpatialReason
from cooper_ros.engine.events import (
    Answer,
    Event,
    Failure,
    MapFinished,
    MapStarted,
    MapStep,
    TextDelta,
)
from cooper_ros.errors import Canceled, CooperError, ErrorCode
from cooper_ros.node.conversions import map_message
from cooper_ros.node.filling import fill_answer, fill_error, fill_maps
from cooper_ros.node.qos import DEEP
from cooper_ros.node.request_handler import (
    AcceptedRequest,
    RequestHandler,
    RequestSpec,
    refusal_of,
)

_RESULT_KEPT_S = 10  # results hold maps: the default of 15 minutes would fill the memory
_FEEDBACK = QoSProfile(depth=100)
_KINDS = {TextDelta: SpatialReason.Feedback.TEXT, MapStarted: SpatialReason.Feedback.MAP_STARTED,
          MapStep: SpatialReason.Feedback.MAP_STEP,
          MapFinished: SpatialReason.Feedback.MAP_FINISHED}


class ReasonServer:
    """Serves the action for as long as the node lives; refuses while it is not active."""

    def __init__(self, node: LifecycleNode, handler: RequestHandler) -> None:
        self._node, self._handler = node, handler
        self._goals: dict[bytes, Future] = {}
        self._under_way: dict[bytes, AcceptedRequest] = {}
        self._server = ActionServer(
            node, SpatialReason, '~/reason', self._execute, goal_callback=self._admit,
            handle_accepted_callback=self._accepted, cancel_callback=self._cancel,
            callback_group=ReentrantCallbackGroup(), feedback_pub_qos_profile=_FEEDBACK,
            goal_service_qos_profile=DEEP, result_service_qos_profile=DEEP,
            cancel_service_qos_profile=DEEP, result_timeout=_RESULT_KEPT_S)

    def _admit(self, goal: SpatialReason.Goal) -> GoalResponse:
        try:
            self._handler.check_open()
        except CooperError as error:
            self._node.get_logger().warning(f'goal rejected: {error}',
                                            throttle_duration_sec=1.0)
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _accepted(self, handle: ServerGoalHandle) -> None:
        """Queue it now: the room that was found for it must not go to another."""
        key = bytes(handle.goal_id.uuid)
        future = self._goals[key] = Future()
        try:
            spec = spec_of(handle.request)
            self._under_way[key] = self._handler.take_in(
                spec, lambda accepted, event: self._hear(handle, future, accepted, event))
        except Exception as error:  # it is accepted already, and must come to an end
            future.set_result((None, refusal_of(error, self._node)))
        handle.execute()

    def _hear(self, handle: ServerGoalHandle, future: Future, accepted: AcceptedRequest,
              event: Event) -> None:
        if isinstance(event, Answer | Failure):
            future.set_result((accepted, event))
        elif handle.is_active and type(event) in _KINDS:  # loading is for the log
            handle.publish_feedback(feedback_of(event, accepted, handle.request.map_feedback))

    def _cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        accepted = self._under_way.get(bytes(handle.goal_id.uuid))
        if accepted is not None:
            self._handler.cancel(accepted, Canceled('the client cancelled the goal'))
        return CancelResponse.ACCEPT

    async def _execute(self, handle: ServerGoalHandle) -> SpatialReason.Result:
        key = bytes(handle.goal_id.uuid)
        if handle.is_active:
            handle.publish_feedback(SpatialReason.Feedback(kind=SpatialReason.Feedback.ACCEPTED))
        accepted, end = await self._goals[key]
        self._goals.pop(key, None)
        self._under_way.pop(key, None)
        result = SpatialReason.Result()
        if isinstance(end, CooperError):
            fill_error(result, end)
        else:
            fill_maps(fill_answer(result, accepted, end), accepted, end)
        _conclude(handle, result.error_code)
        return result


def _conclude(handle: ServerGoalHandle, code: int) -> None:
    if code == ErrorCode.NONE:
        handle.succeed()
    elif code == ErrorCode.CANCELED and handle.is_cancel_requested:
        handle.canceled()
    else:
        handle.abort()


def spec_of(goal: SpatialReason.Goal) -> RequestSpec:
    """Read a goal; fields at their defaults leave the choice to the parameters."""
    chosen: dict[str, Any] = {'mode': goal.mode, 'max_turns': int(goal.max_turns),
                              'flow_points': int(goal.flow_points)}
    return RequestSpec.from_message(
        goal, **{name: value for name, value in chosen.items() if value})


def feedback_of(event: Event, accepted: AcceptedRequest, with_maps: bool
                ) -> SpatialReason.Feedback:
    """One event as feedback."""
    message = SpatialReason.Feedback(kind=_KINDS[type(event)], turn=int(event.turn),
                                     elapsed_s=float(event.elapsed))
    message.text = getattr(event, 'text', '')
    message.map_kind = getattr(event, 'kind', '')
    message.step, message.steps = getattr(event, 'step', 0), getattr(event, 'steps', 0)
    if isinstance(event, MapFinished):
        message.map_kind = event.map.kind
        if with_maps:
            message.map = map_message(accepted.header, event.map)
    return message
