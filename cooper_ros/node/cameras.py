"""Camera input: subscriptions, a ring buffer of past images, camera info, and their troubles."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadCameraInfo, NoImage, StaleImage
from cooper_ros.imaging.lens import Calibration, calibration_of, check_camera_info, misfit_of
from cooper_ros.node.conversions import nanoseconds_of, size_of

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

NANO = 1_000_000_000
AHEAD_S = 1.0  # stamps this far in the future say nothing about age
LOOK_S = 1.0  # how often a camera looks whether raw images are published


@dataclass(frozen=True)
class Frame:
    """One camera message as it came.

    Attributes:
        header: stamp and frame_id, copied into everything made from it.
        stamp_ns: the header's stamp, or the time of arrival where the driver sets none
            above zero.
        message: not decoded; that happens for a question only.
    """

    header: Header
    stamp_ns: int
    message: Image | CompressedImage


class Camera:
    """One camera of the node.

    Args:
        node: creates the subscriptions.
        name: empty for the only camera; topics are ``image`` or ``<name>/image``.
        config: gives the settings of the moment.
    """

    def __init__(self, node: Node, name: str, config: Callable[[], CooperConfig]) -> None:
        self.name, self._node, self._config = name, node, config
        self._frames: deque[Frame] = deque()
        self.info: CameraInfo | None = None
        self.info_error = ''
        self._infos: dict[int, CameraInfo] = {}  # usable ones by stamp, the oldest first
        self.received = 0
        self.last_arrival = 0.0
        self.qos_conflicts = 0
        self._prefix = f'{name}/' if name else ''
        self._topic = node.resolve_topic_name(f'{self._prefix}image')
        self._subscriptions: dict[type, Any] = {}
        self._timer: Timer | None = None
        self._subscribe(config().image_transport)

    def _subscribe(self, transport: str) -> None:
        self._listen(CameraInfo, f'{self._prefix}camera_info', self._on_info)
        if transport != 'compressed':
            self._listen(Image, self._topic, self._on_image)
        if transport == 'compressed':
            self._listen(CompressedImage, self._compressed(), self._on_image)
        if transport == 'both':
            self._look()
            self._timer = self._node.create_timer(
                LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _listen(self, kind: type, topic: str, callback: Callable[[Any], None]) -> None:
        self._subscriptions[kind] = self._node.create_subscription(
            kind, topic, callback, _quality(self._config(), kind),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._conflict(topic)))

    def _look(self) -> None:
        """Listen to compressed images while nobody publishes raw ones.

        Who publishes both encodes pictures only for listeners; nobody needs them twice.
        """
        raw, listens = self._node.count_publishers(self._topic), CompressedImage in (
            self._subscriptions)
        if raw and listens:
            self._node.destroy_subscription(self._subscriptions.pop(CompressedImage))
        elif not raw and not listens:
            self._listen(CompressedImage, self._compressed(), self._on_image)

    def _compressed(self) -> str:
        """``<image>/compressed`` follows a remap of ``image``, unless it is remapped itself."""
        own = f'{self._prefix}image/compressed'
        plain = self._node.resolve_topic_name(own, only_expand=True)
        found = self._node.resolve_topic_name(own)
        return found if found != plain else f'{self._topic}/compressed'

    def _conflict(self, topic: str) -> Callable[[Any], None]:
        def report(event: Any) -> None:
            self.qos_conflicts += 1
            self._node.get_logger().warning(
                f'a publisher of {topic} offers a quality of service that does not fit ours '
                f'({self._config().image_reliable=}); its messages do not arrive. '
                'Remedy: parameter image_reliable, or the publisher')
        return report

    def _on_image(self, message: Image | CompressedImage) -> None:
        now = self._node.get_clock().now().nanoseconds
        stamp = nanoseconds_of(message.header.stamp)
        stamp = stamp if stamp > 0 else now
        self.received += 1
        self.last_arrival = time.monotonic()
        held = [number for number, one in enumerate(self._frames) if one.stamp_ns == stamp]
        if not held:
            self._frames.append(Frame(message.header, stamp, message))
        elif isinstance(message, Image) or isinstance(
                self._frames[held[-1]].message, CompressedImage):
            # The newer one of a camera that always gives the same stamp; of the same image by
            # both transports, the one as it was taken.
            self._frames[held[-1]] = Frame(message.header, stamp, message)
        while len(self._frames) > self._config().buffer_images:
            self._frames.popleft()

    def _on_info(self, message: CameraInfo) -> None:
        try:
            check_camera_info(message)
            self.info, self.info_error = message, ''
            self._infos[nanoseconds_of(message.header.stamp)] = message
            while len(self._infos) > self._config().buffer_images:
                del self._infos[next(iter(self._infos))]
        except BadCameraInfo as error:
            self.info, self.info_error = None, str(error)
            self._node.get_logger().warning(f'{self.name or "camera"}: {error}; no metric depth',
                                            throttle_duration_sec=10.0)

    def calibration(self, frame: Frame) -> Calibration:
        """What is known of the lens a picture came through: what was said with it, for lenses
        zoom, else what was said last."""
        info, usual = self._infos.get(frame.stamp_ns, self.info), self._config().focal
        if info is None:
            return Calibration(error=self.info_error, focal=usual)
        found = calibration_of(info, self._topic, size_of(frame.message), usual)
        if found.error:
            self._node.get_logger().warning(f'{self.name or "camera"}: {found.error}; no metric '
                                            'depth', throttle_duration_sec=10.0)
        return found

    def lens_trouble(self) -> str:
        """What is wrong with the camera info, empty while nothing is."""
        if self.info is None or not self._frames:
            return self.info_error
        return misfit_of(self.info, size_of(self._frames[-1].message))

    def age_s(self) -> float | None:
        """Age of the newest image by the node's clock, None without one.

        Where its stamp lies in the future, it is the time since it came: such a stamp would look
        fresh long after the camera died.
        """
        if not self._frames:
            return None
        if self.ahead_s() > AHEAD_S:
            return time.monotonic() - self.last_arrival
        return -self.ahead_s()

    def ahead_s(self) -> float:
        """Seconds by which the stamp of the newest image lies in the future."""
        now = self._node.get_clock().now().nanoseconds
        return (self._frames[-1].stamp_ns - now) / NANO if self._frames else 0.0

    def held(self) -> int:
        """Images in the buffer."""
        return len(self._frames)

    def clear(self) -> None:
        """Forget all images, as after a jump of the clock."""
        self._frames.clear()
        self._infos.clear()

    def newest(self) -> Frame:
        """The image that came last.

        Raises:
            NoImage: none came yet.
            StaleImage: it is older than ``max_image_age_s``.
        """
        age = self.age_s()
        if age is None:
            raise NoImage('no image has arrived', value=self.name or 'image', remedy='check the '
                          'topic name, the quality of service and that the camera runs')
        limit = self._config().max_image_age_s
        if limit and age > limit:
            raise StaleImage('the newest image is too old', value=f'{age:.2f} s',
                             limit=f'max_image_age_s {limit:g}', remedy='check the camera; for '
                             'recordings set use_sim_time, or max_image_age_s to 0')
        return self._frames[-1]

    def at(self, stamp_ns: int) -> Frame:
        """The image taken at a time.

        Raises:
            NoImage: none within ``stamp_tolerance_s``; the message names what is held.
        """
        tolerance = self._config().stamp_tolerance_s
        best = min(self._frames, key=lambda frame: abs(frame.stamp_ns - stamp_ns), default=None)
        if best is not None and abs(best.stamp_ns - stamp_ns) <= tolerance * NANO:
            return best
        raise NoImage('no image of that time', value=f'{stamp_ns / NANO:.3f} s',
                      limit=f'{self._span()} +- {tolerance:g} s',
                      remedy='ask sooner, or raise buffer_images')

    def _span(self) -> str:
        if not self._frames:
            return 'none held'
        first = min(frame.stamp_ns for frame in self._frames) / NANO
        last = max(frame.stamp_ns for frame in self._frames) / NANO
        return f'{first:.3f} .. {last:.3f} s'

    def destroy(self) -> None:
        """Unsubscribe."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions = {}


def _quality(config: CooperConfig, kind: type) -> QoSProfile:
    """Best effort fits every publisher; reliable fits reliable ones only.

    Camera info is small and comes again: whoever wants pictures reliably must not lose the lens.
    """
    if kind is CameraInfo or not config.image_reliable:
        return qos_profile_sensor_data
    return QoSProfile(depth=qos_profile_sensor_data.depth, reliability=ReliabilityPolicy.RELIABLE)
