"""Where all requests arrive: they are checked, their image is found, they are queued.

Actions, services, topics and the live maps all come through here, so that a limit or an error
code means the same everywhere.
"""

from __future__ import annotations

import functools
import traceback
import uuid
from dataclasses import dataclass
from typing import Any, Callable

from builtin_interfaces.msg import Time
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Event
from cooper_ros.engine.question import clean_question
from cooper_ros.errors import BadOption, CooperError, NotReady, as_cooper_error
from cooper_ros.imaging.lens import Calibration
from cooper_ros.node.cameras import Camera, Frame
from cooper_ros.node.conversions import nanoseconds_of, picture_of
from cooper_ros.node.executor_queue import ExecutorQueue
from cooper_ros.node.messages import ASK
from cooper_ros.node.parameters import request_settings
from cooper_ros.node.requests import Request
from cooper_ros.node.supervisor import Supervisor


@dataclass(frozen=True)
class RequestSpec:
    """What a caller wants, in plain values. Defaults mean: as the parameters say.

    Attributes:
        kind: ``ask``, ``depth`` or ``segmentation``.
        question: plain text, for ``ask``.
        camera: name of a camera; empty for the first.
        stamp_ns: time of the image to use; 0 for the newest.
        image: a picture to use instead of a camera's, or None.
        overrides: settings of ``CooperConfig`` for this request.
        background: whether it gives way to others.
    """

    kind: str = ASK
    question: str = ''
    camera: str = ''
    stamp_ns: int = 0
    image: CompressedImage | None = None
    overrides: tuple[tuple[str, Any], ...] = ()
    background: bool = False

    @classmethod
    def from_message(cls, message: Any, kind: str = ASK, **overrides: Any) -> RequestSpec:
        """Read the fields that the action and the services share.

        Raises:
            BadOption: a stamp before 1970.
        """
        settings: dict[str, Any] = {}
        if message.seed != -1:
            settings['seed'] = int(message.seed)
        if message.time_budget_s != 0:
            settings['time_budget_s'] = float(message.time_budget_s)
        settings.update(overrides)
        return cls(kind=kind, question=getattr(message, 'question', ''),
                   camera=message.camera,
                   stamp_ns=_asked_stamp(message.stamp),
                   image=message.image if message.use_image else None,
                   overrides=tuple(settings.items()))


@dataclass(frozen=True)
class AcceptedRequest:
    """A request that was taken in, with what its answer needs.

    Attributes:
        request: what the supervisor works on.
        header: stamp and frame_id of the image reasoned from.
        camera: the camera, or None for an image that came with the request.
        lens: what was known of its lens.
        mode: how the question is answered.
    """

    request: Request
    header: Header
    camera: Camera | None
    lens: Calibration
    mode: str


Listener = Callable[[AcceptedRequest, Event], None]


class RequestHandler:
    """Takes requests in; lives as long as the node.

    Args:
        queue: brings events onto the executor.
        config: gives the settings of the moment.
        audience: hears the events of every request, before the request's own listener.
    """

    def __init__(self, queue: ExecutorQueue, config: Callable[[], CooperConfig],
                 audience: Listener) -> None:
        self._queue, self._config, self._audience = queue, config, audience
        self.cameras: dict[str, Camera] = {}
        self.supervisor: Supervisor | None = None
        self.active = False
        self.refusal = ''  # why there is nothing to activate

    def check_open(self) -> None:
        """Raise what would refuse any request now.

        Raises:
            CooperError: not active, no engine, or too many requests wait.
        """
        if not self.active or self.supervisor is None:
            raise NotReady(self.refusal or 'the node is not active',
                           remedy='configure and activate it')
        self.supervisor.check_room(self._config().queue_size)

    def take_in(self, spec: RequestSpec, listener: Listener) -> AcceptedRequest:
        """Check and queue a request; ``listener`` hears its events on the executor.

        Raises:
            CooperError: why it is refused.
        """
        self.check_open()
        assert self.supervisor is not None
        config = self._config().replaced(**dict(spec.overrides))
        question = spec.question
        if spec.kind == ASK:
            question = clean_question(question, config.max_question_chars)
        frame, camera = self._frame(spec)
        lens = Calibration(focal=config.focal) if camera is None else camera.calibration(frame)
        config = config.replaced(focal=lens.focal)
        accepted = self._accepted(spec, question, config, frame, camera, lens, listener)
        self.supervisor.submit(accepted.request, config.queue_size)
        return accepted

    def _accepted(self, spec: RequestSpec, question: str, config: CooperConfig, frame: Frame,
                camera: Camera | None, lens: Calibration, listener: Listener) -> AcceptedRequest:
        def hear(event: Event) -> None:  # on the supervisor's thread
            self._queue.post(self._audience, accepted, event)
            self._queue.post(listener, accepted, event)

        load = functools.partial(picture_of, frame.message, config.max_image_pixels)
        request = Request(uuid.uuid4().hex, spec.kind, question, request_settings(config), load,
                          hear, config.time_budget_s, spec.background)
        accepted = AcceptedRequest(request, frame.header, camera, lens, config.mode)
        return accepted

    def _frame(self, spec: RequestSpec) -> tuple[Frame, Camera | None]:
        if spec.image is not None:
            return Frame(spec.image.header, 0, spec.image), None
        camera = self.camera(spec.camera)
        return (camera.at(spec.stamp_ns) if spec.stamp_ns else camera.newest()), camera

    def camera(self, name: str) -> Camera:
        """A camera by name, the first for an empty one.

        Raises:
            BadOption: no such camera.
        """
        if name in self.cameras:
            return self.cameras[name]
        if not name:
            return next(iter(self.cameras.values()))
        if '' in self.cameras:  # it is the only one then
            raise BadOption('unknown camera', value=name, limit='the only camera has no name',
                            remedy='leave the camera empty, or name it by parameter cameras')
        raise BadOption('unknown camera', value=name, remedy='see parameter cameras',
                        limit=', '.join(self.cameras))

    def cancel(self, accepted: AcceptedRequest, reason: CooperError) -> None:
        """Take a request back."""
        if self.supervisor is not None:
            self.supervisor.cancel(accepted.request, reason)

    def close(self, reason: CooperError) -> None:
        """Refuse new requests and take back all others."""
        self.active = False
        if self.supervisor is not None:
            self.supervisor.cancel_all(reason)


def refusal_of(error: Exception, node: Node) -> CooperError:
    """Name what kept a request out, for whoever waits; the log gets what nobody foresaw."""
    if not isinstance(error, CooperError):
        node.get_logger().error('a request could not be taken in:\n'
                                + ''.join(traceback.format_exception(error)))
    return as_cooper_error(error, 'the request could not be taken in')


def _asked_stamp(stamp: Time) -> int:
    found = nanoseconds_of(stamp)
    if found < 0:
        raise BadOption('the stamp lies before 1970', value=f'{stamp.sec} s', limit='>= 0',
                        remedy='leave it at zero for the newest image')
    return found
