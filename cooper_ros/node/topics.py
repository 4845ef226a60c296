"""Plain text in and out, and maps drawn at a set rate."""

from __future__ import annotations

import functools
from typing import Callable, Mapping

from rclpy.lifecycle import LifecycleNode
from rclpy.timer import Timer
from std_msgs.msg import String

from cooper_interfaces.msg import SpatialAnswer
from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import DEPTH, SEGMENTATION, Answer, Event, Failure
from cooper_ros.errors import ErrorCode
from cooper_ros.node.cameras import Frame
from cooper_ros.node.outputs import AnswerOutputs, MapOutputs, answer_message
from cooper_ros.node.qos import DEEP
from cooper_ros.node.request_handler import (
    AcceptedRequest,
    RequestHandler,
    RequestSpec,
    refusal_of,
)
from cooper_ros.replay.topics import DEPTH_TOPICS, QUESTION, SEGMENTATION_TOPICS


class QuestionTopic:
    """``~/question`` in, ``~/answer_text`` out: for recordings and simple robots.

    Listens for as long as the node lives; answers NOT_READY while it is not active.
    """

    def __init__(self, node: LifecycleNode, handler: RequestHandler, answers: AnswerOutputs
                 ) -> None:
        self._node, self._handler, self._answers = node, handler, answers
        node.create_subscription(String, f'~/{QUESTION}', self._ask, DEEP)

    def _ask(self, message: String) -> None:
        try:
            self._handler.take_in(RequestSpec(question=message.data), self._hear)
        except Exception as error:  # whoever asked must hear of it
            reason = refusal_of(error, self._node)
            self._node.get_logger().warning(f'question refused: {reason}',
                                            throttle_duration_sec=1.0)
            refused = SpatialAnswer(question=message.data, error_code=int(reason.code),
                                    error_msg=str(reason))
            self._answers.publish(refused)
            self._answers.publish_text(refused)

    def _hear(self, accepted: AcceptedRequest, event: Event) -> None:
        if isinstance(event, Answer | Failure):
            self._answers.publish_text(answer_message(accepted, event))


class LiveMaps:
    """Draws maps of the newest image at ``map_rate_hz``, while somebody listens.

    Questions go first: nothing is drawn while a request runs or waits, and a map that is being
    drawn gives way within a flow step.
    """

    def __init__(self, node: LifecycleNode, handler: RequestHandler,
                 config: Callable[[], CooperConfig], outputs: Mapping[str, MapOutputs]) -> None:
        self._node, self._handler, self._config = node, handler, config
        self._outputs = outputs
        self._timer: Timer | None = None
        self._rate_hz = 0.0
        self._turn = 0
        self._drawn: dict[tuple[str, str], Frame] = {}

    def adjust(self) -> None:
        """Follow the parameter."""
        rate_hz = self._config().map_rate_hz
        if rate_hz == self._rate_hz:
            return
        self.destroy()
        self._rate_hz = rate_hz
        if rate_hz > 0:
            self._timer = self._node.create_timer(1 / rate_hz, self._tick)

    def _tick(self) -> None:
        supervisor = self._handler.supervisor
        if supervisor is None or supervisor.queue.everything():
            return
        wanted = [(name, kind) for name, outputs in self._outputs.items()
                  for kind, topics in ((DEPTH, DEPTH_TOPICS), (SEGMENTATION, SEGMENTATION_TOPICS))
                  if outputs.wanted(topics)]
        if wanted and self._handler.active:
            self._turn += 1
            self._draw(*wanted[self._turn % len(wanted)])

    def _draw(self, name: str, kind: str) -> None:
        try:
            frame = self._handler.camera(name).newest()
            # The same image gives the same map; its stamp does not tell, where it never changes.
            if self._drawn.get((name, kind)) is not frame:
                self._handler.take_in(RequestSpec(kind=kind, camera=name, background=True),
                                      functools.partial(self._heard, name))
                self._drawn[name, kind] = frame
        except Exception as error:
            self._warn(str(refusal_of(error, self._node)))

    def _heard(self, name: str, accepted: AcceptedRequest, event: Event) -> None:
        if not isinstance(event, Answer | Failure) or not event.error_code:
            return
        self._drawn.pop((name, accepted.request.kind), None)  # to be tried again
        if event.error_code != ErrorCode.CANCELED:
            self._warn(event.error_msg)

    def _warn(self, reason: str) -> None:
        self._node.get_logger().warning(f'no live map: {reason}', throttle_duration_sec=10.0)

    def destroy(self) -> None:
        """Stop drawing."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        self._rate_hz = 0.0
        self._drawn.clear()  # it keeps images
