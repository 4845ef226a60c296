"""Camera input: subscriptions, a ring buffer of past images, camera info, and their troubles."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Sequence

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import (
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
    qos_profile_sensor_data,
)
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadCameraInfo, NoImage, StaleImage
from cooper_ros.imaging.lens import (
    Calibration,
    Lenses,
    calibration_of,
    check_camera_info,
    misfit_of,
)
from cooper_ros.node.conversions import nanoseconds_of, size_of

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

NANO = 1_000_000_000
AHEAD_S = 1.0  # stamps this far in the future say nothing about age
LOOK_S = 1.0  # how often a camera looks whether raw images arrive
RAW_S = 2.0  # so long after a raw image by the node's clock, more of them are expected


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
        clock: seconds of this machine, whatever the node's clock says.
    """

    def __init__(self, node: Node, name: str, config: Callable[[], CooperConfig],
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self._node, self._config, self._clock = name, node, config, clock
        self._frames: deque[Frame] = deque()
        self.info: CameraInfo | None = None
        self.info_error = ''
        self._lenses = Lenses()
        self.received = 0
        self.heard = ''  # how the last image came: raw or compressed
        self._last_arrival = 0.0
        self._last_raw_ns: int | None = None
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
        quality = _quality(self._config(), kind)
        self._subscriptions[kind] = self._node.create_subscription(
            kind, topic, callback, quality, event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._conflict(topic, quality)))

    def _look(self) -> None:
        """Listen to compressed images while no raw ones arrive.

        Who publishes both encodes pictures only for listeners; nobody needs them twice. A
        publisher of raw ones alone says nothing: it may be idle, or of a quality that does not
        fit.
        """
        raw, listens = self._raw_arrives(), CompressedImage in self._subscriptions
        if raw and listens:
            self._node.destroy_subscription(self._subscriptions.pop(CompressedImage))
        elif not raw and not listens:
            self._listen(CompressedImage, self._compressed(), self._on_image)

    def _raw_arrives(self) -> bool:
        if self._last_raw_ns is None:
            return False
        since = self._node.get_clock().now().nanoseconds - self._last_raw_ns
        return 0 <= since <= RAW_S * NANO  # a clock that jumped back says nothing

    def _compressed(self) -> str:
        """``<image>/compressed`` follows a remap of ``image``, unless it is remapped itself."""
        own = f'{self._prefix}image/compressed'
        plain = self._node.resolve_topic_name(own, only_expand=True)
        found = self._node.resolve_topic_name(own)
        return found if found != plain else f'{self._topic}/compressed'

    def _conflict(self, topic: str, ours: QoSProfile) -> Callable[[Any], None]:
        def report(event: Any) -> None:
            self.qos_conflicts += 1
            policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
            offers = [getattr(info.qos_profile, policy, None)
                      for info in self._node.get_publishers_info_by_topic(topic)]
            self._node.get_logger().warning(
                f'a publisher of {topic} offers a quality of service that does not fit ours: '
                f'{_misfit(policy, offers, getattr(ours, policy, None))}')
        return report

    def _on_image(self, message: Image | CompressedImage) -> None:
        now = self._node.get_clock().now().nanoseconds
        stamp = nanoseconds_of(message.header.stamp)
        stamp = stamp if stamp > 0 else now
        self.received += 1
        self._last_arrival = self._clock()
        self.heard = 'raw' if isinstance(message, Image) else 'compressed'
        self._last_raw_ns = now if self.heard == 'raw' else self._last_raw_ns
        self._keep(Frame(message.header, stamp, message))
        while len(self._frames) > self._config().buffer_images:
            self._frames.popleft()

    def _keep(self, frame: Frame) -> None:
        """Hold an image, one per stamp."""
        number = next((number for number, one in enumerate(self._frames)
                       if one.stamp_ns == frame.stamp_ns), None)
        if number is None:
            self._frames.append(frame)
        elif type(frame.message) is type(self._frames[number].message):
            del self._frames[number]  # a clip begins anew, or a camera always gives one stamp
            self._frames.append(frame)
        elif isinstance(frame.message, Image):  # by both transports: the one as it was taken
            self._frames[number] = frame

    def _on_info(self, message: CameraInfo) -> None:
        self._lenses.hear(nanoseconds_of(message.header.stamp), message,
                          self._config().buffer_images)
        try:
            check_camera_info(message)
            self.info, self.info_error = message, ''
        except BadCameraInfo as error:
            self.info, self.info_error = None, str(error)
            self._node.get_logger().warning(f'{self.name or "camera"}: {error}; no metric depth',
                                            throttle_duration_sec=10.0)

    def calibration(self, frame: Frame) -> Calibration:
        """What is known of the lens a picture came through."""
        found = calibration_of(self._lenses.at(frame.stamp_ns), self._topic,
                               size_of(frame.message), self._config().focal)
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
            return self.quiet_s()
        return -self.ahead_s()

    def quiet_s(self) -> float:
        """Seconds since the last image came."""
        return self._clock() - self._last_arrival

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
        self._lenses.forget()

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


def _words(value: Any) -> str:
    """A policy as people write it: best effort."""
    return str(getattr(value, 'name', value)).lower().replace('_', ' ')


def _misfit(policy: str, offers: Sequence[Any], asked: Any) -> str:
    """What is offered, what is asked for, and what to do."""
    others = sorted({_words(offer) for offer in offers} - {_words(asked)})
    setting = 'set image_reliable to false, or ' if policy == 'reliability' else ''
    return (f'{policy} {" or ".join(others) or "unknown"}, where {_words(asked)} is asked for; '
            f'its messages do not arrive. Remedy: {setting}change the publisher')


def _quality(config: CooperConfig, kind: type) -> QoSProfile:
    """Best effort fits every publisher; reliable fits reliable ones only.

    Camera info is small and comes again: whoever wants pictures reliably must not lose the lens.
    """
    if kind is CameraInfo or not config.image_reliable:
        return qos_profile_sensor_data
    return QoSProfile(depth=qos_profile_sensor_data.depth, reliability=ReliabilityPolicy.RELIABLE)
