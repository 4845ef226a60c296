"""``/diagnostics``: how the engine, the queue and the cameras are, once a second."""

from __future__ import annotations

import time
from typing import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.timer import Timer

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer, Failure
from cooper_ros.node.cameras import AHEAD_S, Camera
from cooper_ros.node.request_handler import AcceptedRequest, RequestHandler
from cooper_ros.node.supervisor import FAILED, LOADING, READY, Status

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE
SILENT_S = 5.0  # heartbeats come once a second
QUIET_S = 3.0  # the picture before may still be used, where the settings allow it
_LEVELS = {READY: OK, LOADING: WARN, FAILED: ERROR}


class Diagnostics:
    """Publishes for as long as the node lives, active or not."""

    def __init__(self, node: Node, handler: RequestHandler,
                 config: Callable[[], CooperConfig]) -> None:
        self._node, self._handler, self._config = node, handler, config
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)  # goes on while a simulation rests
        self._timer: Timer | None = None
        self._rate_hz = 0.0
        self._seen: dict[str, tuple[float, int]] = {}
        self.last: dict[str, str] = {}
        self.adjust()

    def note(self, accepted: AcceptedRequest, end: Answer | Failure) -> None:
        """Remember how the last request went."""
        self.last = {'last_kind': accepted.request.kind, 'last_code': str(end.error_code),
                     'last_queued_s': f'{accepted.request.queued_s():.3f}',
                     'last_total_s': f'{end.elapsed:.3f}'}
        if isinstance(end, Answer):
            spent = end.timings
            self.last |= {'last_read_s': f'{spent.read_s:.3f}',
                          'last_text_s': f'{spent.text_s:.3f}',
                          'last_draw_s': f'{spent.draw_s:.3f}'}

    def adjust(self) -> None:
        """Follow the parameter."""
        rate_hz = self._config().diagnostics_rate_hz
        if rate_hz == self._rate_hz:
            return
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        self._rate_hz = rate_hz
        if rate_hz > 0:
            self._timer = self._node.create_timer(1 / rate_hz, self._publish, clock=self._clock)

    def _publish(self) -> None:
        message = DiagnosticArray(status=[self._engine(), *map(self._camera,
                                                               self._handler.cameras.values())])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _engine(self) -> DiagnosticStatus:
        if self._handler.supervisor is None:
            wrong = self._handler.refusal
            return self._status('engine', ERROR if wrong else WARN, wrong or 'not configured', {})
        status = self._handler.supervisor.status()
        limit = self._config().queue_size
        doing = status.notice.preparing
        text = f'{status.state}, preparing {doing}' if doing and status.state == READY else (
            f'{status.state} {doing}' if doing else status.state)
        text += '' if self._handler.active else ', node not active'
        level = _LEVELS.get(status.state, WARN)
        if level == OK and status.waiting >= max(limit, 1):
            level, text = WARN, 'queue full'
        if level == OK and status.silent_s > SILENT_S:
            level, text = WARN, f'the worker has been silent for {status.silent_s:.0f} s'
        return self._status('engine', level, status.error or text, _engine_values(status)
                            | {'queue_size': str(limit)} | self.last)

    def _camera(self, camera: Camera) -> DiagnosticStatus:
        age = camera.age_s()
        level, text = self._sight(camera, age)
        values = {'images': str(camera.received), 'held': str(camera.held()),
                  'rate_hz': f'{self._rate(camera):.2f}',
                  'age_s': 'none' if age is None else f'{age:.3f}',
                  'transport': camera.heard or 'none',
                  'camera_info': 'yes' if camera.info else 'no',
                  'qos_conflicts': str(camera.qos_conflicts)}
        return self._status(f'camera {camera.name}'.rstrip(), level, text, values)

    def _sight(self, camera: Camera, age: float | None) -> tuple[bytes, str]:
        """Level and text; a publisher that does not fit matters while no other one serves."""
        limit, quiet = self._config().max_image_age_s, camera.quiet_s()
        if age is None:
            return STALE, 'no image yet' + (': a publisher offers an unfitting quality of service'
                                            if camera.qos_conflicts else '')
        if limit and age > limit:
            return STALE, f'newest image is {age:.1f} s old'
        if (ahead := camera.ahead_s()) > AHEAD_S:
            return WARN, f'stamps lie {ahead:.1f} s in the future; set the clocks'
        if trouble := camera.lens_trouble():
            return WARN, trouble
        return OK, 'receiving' if quiet < QUIET_S else f'no image for {quiet:.0f} s'

    def _rate(self, camera: Camera) -> float:
        now = time.monotonic()
        then, count = self._seen.get(camera.name, (now, camera.received))
        self._seen[camera.name] = now, camera.received
        return (camera.received - count) / (now - then) if now > then else 0.0

    def _status(self, task: str, level: bytes, text: str,
                values: dict[str, str]) -> DiagnosticStatus:
        name = self._node.get_fully_qualified_name().lstrip('/')
        return DiagnosticStatus(name=f'{name}: {task}', hardware_id=self._config().device,
                                level=level, message=text,
                                values=[KeyValue(key=k, value=v) for k, v in values.items()])


def _engine_values(status: Status) -> dict[str, str]:
    return {'state': status.state, 'worker_pid': str(status.pid),
            'restarts': str(status.restarts), 'waiting': str(status.waiting),
            'running': str(int(status.running)), 'served': str(status.served),
            'refused_busy': str(status.refused), 'load_s': f'{status.load_s:.2f}',
            'runtime': status.notice.runtime, 'preparing': status.notice.preparing,
            'runtime_choice': status.notice.choice}
