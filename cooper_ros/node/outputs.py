"""What the node publishes: maps, views, camera info and answers. Nothing is made unasked.

Relative depth and metres never share a topic: ``relative_depth`` is 0..1 and says so, and
``depth/image`` (REP-118) stays silent while no scale is known.
"""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String

from cooper_interfaces.msg import Legend, SpatialAnswer
from cooper_ros.engine.answers import spoken
from cooper_ros.engine.events import Answer, DepthMap, Failure, Map, SegmentationMap
from cooper_ros.errors import BadCameraInfo, NoScale
from cooper_ros.imaging.lens import Calibration
from cooper_ros.imaging.views import overlay
from cooper_ros.node.cameras import Camera
from cooper_ros.node.conversions import (
    colour_message,
    depth_message,
    legend_message,
    mask_message,
    scaled_camera_info,
    timings_message,
)
from cooper_ros.node.qos import DEEP
from cooper_ros.node.request_handler import AcceptedRequest
from cooper_ros.replay import topics

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class MapOutputs:
    """The map topics of one camera.

    Args:
        node: owns the publishers, which speak while it is active.
        camera: gives the name.
    """

    def __init__(self, node: LifecycleNode, camera: Camera) -> None:
        self._node = node
        prefix = f'~/{camera.name}/' if camera.name else '~/'
        other = {topics.DEPTH_INFO: (CameraInfo, 5), topics.LEGEND: (Legend, _LATCHED)}
        self._publishers: dict[str, Any] = {}
        for name in (*topics.DEPTH_TOPICS, *topics.SEGMENTATION_TOPICS):
            kind, quality = other.get(name, (Image, 5))
            self._publishers[name] = node.create_lifecycle_publisher(kind, prefix + name, quality)

    def wanted(self, names: tuple[str, ...]) -> bool:
        """Whether somebody listens to one of these topics."""
        return any(self._publishers[name].get_subscription_count() for name in names)

    def publish(self, header: Header, drawn: Map, picture: np.ndarray | None,
                lens: Calibration) -> None:
        """Publish one map and its views."""
        if isinstance(drawn, DepthMap):
            self._depth(header, drawn, lens)
        else:
            self._segmentation(header, drawn, picture)

    def _depth(self, header: Header, drawn: DepthMap, lens: Calibration) -> None:
        self._send(topics.RELATIVE_DEPTH, lambda: depth_message(header, drawn.relative))
        self._send(topics.RELATIVE_DEPTH_COLORED, lambda: colour_message(header, drawn.colour))
        metres, info = drawn.metres_behind(lens), lens.info
        if metres is None:
            if self.wanted(topics.METRIC_TOPICS):  # who listens there would wait for ever
                self._node.get_logger().warning(f'{topics.DEPTH} stays silent: {no_scale(lens)}',
                                                throttle_duration_sec=60.0)
            return
        self._send(topics.DEPTH, lambda: depth_message(header, metres))
        if info is not None:
            self._send(topics.DEPTH_INFO,
                       lambda: scaled_camera_info(info, header, metres.shape))

    def _segmentation(self, header: Header, drawn: SegmentationMap,
                      picture: np.ndarray | None) -> None:
        self._send(topics.MASK, lambda: mask_message(header, drawn.labels))
        self._send(topics.MASK_COLORED, lambda: colour_message(header, drawn.rgb))
        if picture is not None:
            self._send(topics.OVERLAY, lambda: colour_message(
                header, overlay(picture, drawn.labels, drawn.legend)))
        self._publishers[topics.LEGEND].publish(legend_message(header, drawn))

    def _send(self, name: str, make: Callable[[], Any]) -> None:
        if self._publishers[name].get_subscription_count():
            self._publishers[name].publish(make())

    def destroy(self) -> None:
        """Take the topics away."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)


def no_scale(lens: Calibration) -> NoScale | BadCameraInfo:
    """Why there are no metres, and what to do."""
    if not lens.has_scale:
        return BadCameraInfo('no scale is known behind this lens',
                             value=lens.error.removeprefix(f'{BadCameraInfo.code.name}: '),
                             remedy='calibrate the camera, or set focal')
    if not lens.focal:
        return NoScale('no scale is known without the lens', value='no camera_info', remedy=
                       'publish camera_info, or set focal; else depth_min_m and depth_max_m')
    return NoScale('no scale is known for this model', remedy='set depth_min_m and depth_max_m')


class AnswerOutputs:
    """The answer topics of the node.

    They speak for as long as it lives, active or not: a refusal is an answer too.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._full = node.create_publisher(SpatialAnswer, f'~/{topics.ANSWER}', DEEP)
        self._text = node.create_publisher(String, f'~/{topics.ANSWER_TEXT}', DEEP)

    def publish(self, message: SpatialAnswer) -> None:
        """Publish an answer with all that belongs to it."""
        self._full.publish(message)

    def publish_text(self, message: SpatialAnswer) -> None:
        """Publish the words to say; an error as its message, which begins with its code."""
        text = spoken(message.answer) if message.complete else message.error_msg
        self._text.publish(String(data=text))


def answer_message(accepted: AcceptedRequest, end: Answer | Failure) -> SpatialAnswer:
    """The message of an ended question, with or without an answer."""
    request, camera = accepted.request, accepted.camera
    message = SpatialAnswer(header=accepted.header, request_id=request.id, mode=accepted.mode,
                            camera=camera.name if camera else '', question=request.question,
                            error_code=int(end.error_code), error_msg=end.error_msg)
    message.timings.queued_s = float(request.queued_s())
    if isinstance(end, Answer):
        message.answer, message.short_answer = end.text, end.short
        message.reasoning, message.confidence = list(end.reasoning), float(end.confidence)
        message.timings = timings_message(end.timings, request.queued_s())
        message.complete = bool(end.complete)
    return message
