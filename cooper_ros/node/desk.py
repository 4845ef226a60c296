"""The desk where all requests arrive: checks them, finds their image, queues them.

Actions, services, topics and the live maps all come through here, so that a limit or an error
code means the same everywhere.
"""

from __future__ import annotations

import functools
import uuid
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Event
from cooper_ros.engine.question import clean_question
from cooper_ros.errors import BadOption, CooperError, NotReady
from cooper_ros.imaging.lens import Calibration
from cooper_ros.node.cameras import Camera, Frame
from cooper_ros.node.conversions import nanoseconds_of, picture_of
from cooper_ros.node.mailbox import Mailbox
from cooper_ros.node.messages import ASK
from cooper_ros.node.parameters import request_settings
from cooper_ros.node.requests import Request
from cooper_ros.node.supervisor import Supervisor


@dataclass(frozen=True)
class Wish:
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
    def from_message(cls, message: Any, kind: str = ASK, **overrides: Any) -> Wish:
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
class Ticket:
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


Listener = Callable[[Ticket, Event], None]


class Desk:
    """Takes requests in; lives as long as the node.

    Args:
        mailbox: brings events onto the executor.
        config: gives the settings of the moment.
        audience: hears the events of every request, before the request's own listener.
    """

    def __init__(self, mailbox: Mailbox, config: Callable[[], CooperConfig],
                 audience: Listener) -> None:
        self._mailbox, self._config, self._audience = mailbox, config, audience
        self.cameras: Mapping[str, Camera] = {}
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

    def take_in(self, wish: Wish, listener: Listener) -> Ticket:
        """Check and queue a request; ``listener`` hears its events on the executor.

        Raises:
            CooperError: why it is refused.
        """
        self.check_open()
        assert self.supervisor is not None
        config = self._config().replaced(**dict(wish.overrides))
        question = wish.question
        if wish.kind == ASK:
            question = clean_question(question, config.max_question_chars)
        frame, camera = self._frame(wish)
        lens = Calibration(focal=config.focal) if camera is None else camera.calibration(frame)
        config = config.replaced(focal=lens.focal)
        ticket = self._ticket(wish, question, config, frame, camera, lens, listener)
        self.supervisor.submit(ticket.request, config.queue_size)
        return ticket

    def _ticket(self, wish: Wish, question: str, config: CooperConfig, frame: Frame,
                camera: Camera | None, lens: Calibration, listener: Listener) -> Ticket:
        def hear(event: Event) -> None:  # on the supervisor's thread
            self._mailbox.post(self._audience, ticket, event)
            self._mailbox.post(listener, ticket, event)

        load = functools.partial(picture_of, frame.message, config.max_image_pixels)
        request = Request(uuid.uuid4().hex, wish.kind, question, request_settings(config), load,
                          hear, config.time_budget_s, wish.background)
        ticket = Ticket(request, frame.header, camera, lens, config.mode)
        return ticket

    def _frame(self, wish: Wish) -> tuple[Frame, Camera | None]:
        if wish.image is not None:
            return Frame(wish.image.header, 0, wish.image), None
        camera = self.camera(wish.camera)
        return (camera.at(wish.stamp_ns) if wish.stamp_ns else camera.newest()), camera

    def camera(self, name: str) -> Camera:
        """A camera by name, the first for an empty one.

        Raises:
            BadOption: no such camera.
        """
        if name in self.cameras:
            return self.cameras[name]
        if name:
            raise BadOption('unknown camera', value=name, remedy='see parameter cameras',
                            limit=', '.join(self.cameras) or 'none')
        return next(iter(self.cameras.values()))

    def cancel(self, ticket: Ticket, reason: CooperError) -> None:
        """Take a request back."""
        if self.supervisor is not None:
            self.supervisor.cancel(ticket.request, reason)

    def close(self, reason: CooperError) -> None:
        """Refuse new requests and take back all others."""
        self.active = False
        if self.supervisor is not None:
            self.supervisor.cancel_all(reason)


def _asked_stamp(stamp: Time) -> int:
    found = nanoseconds_of(stamp)
    if found < 0:
        raise BadOption('the stamp lies before 1970', value=f'{stamp.sec} s', limit='>= 0',
                        remedy='leave it at zero for the newest image')
    return found
