"""The simulated camera as the demo sees it: pictures with the truth that belongs to them."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import Image
from std_msgs.msg import String

from cooper_ros.imaging.buffers import decode_depth, decode_image

KEPT = 20
PARTS = ('picture', 'depth', 'labels', 'questions')
NUMBER_TOLERANCE = 0.25
NUMBER = re.compile(r'[-+]?\d+(?:\.\d+)?')
OPTION = re.compile(r'\(([a-z])\)')


@dataclass(frozen=True)
class TrueQuestion:
    """A question about one picture, and what is true.

    Attributes:
        category: what it tests.
        kind: mcq (a letter), yes_no, number or number_int.
        question: as it is asked.
        answer: ground truth.
        unit: unit of a number, else empty.
        tools: maps that help.
    """

    category: str
    kind: str
    question: str
    answer: str
    unit: str
    tools: list[str]

    def judge(self, said: str) -> bool:
        """Tell whether an answer is right; lengths may be off by a quarter."""
        said, truth = said.strip().lower(), self.answer.strip().lower()
        if self.kind == 'mcq':
            letters = OPTION.findall(said) or [said.strip('.')]
            return letters[0] == truth
        if not self.kind.startswith('number'):
            return re.split(r'\W', said)[0] == truth
        error = self.error(said)
        return error is not None and error <= (NUMBER_TOLERANCE if self.kind == 'number' else 0.0)

    def error(self, said: str) -> float | None:
        """How far a number is from the truth, as a share of it; None where none was said."""
        found = NUMBER.search(said)
        truth = float(self.answer)
        return abs(float(found[0]) - truth) / (truth or 1.0) if found else None

    def chance(self) -> float:
        """Return the probability that a guess is right; 0 for numbers."""
        if self.kind == 'mcq':
            return 1 / max(1, len(set(OPTION.findall(self.question))))
        return 0.5 if self.kind == 'yes_no' else 0.0


@dataclass(frozen=True)
class View:
    """One instant: picture uint8 ``[H, W, 3]``, depth in metres ``[H, W]``, class ids, questions.
    """

    stamp_ns: int
    picture: np.ndarray
    depth_m: np.ndarray
    labels: np.ndarray
    questions: tuple[TrueQuestion, ...]

    def about(self, category: str) -> TrueQuestion | None:
        """Return the question of a category, if this view gives rise to one."""
        return next((one for one in self.questions if one.category == category), None)


class Views:
    """Puts together what arrives with the same stamp.

    Args:
        node: subscribes.
        camera: namespace of the camera.
    """

    def __init__(self, node: Node, camera: str) -> None:
        self._parts: OrderedDict[int, dict[str, Any]] = OrderedDict()
        for kind, topic, part in ((Image, 'image_raw', 'picture'), (Image, 'truth/depth', 'depth'),
                                  (Image, 'truth/segmentation', 'labels')):
            node.create_subscription(kind, f'{camera}/{topic}', self._keeper(part), 5)
        node.create_subscription(String, f'{camera}/truth/questions', self._keep_questions, 5)

    def _keeper(self, part: str) -> Any:
        return lambda message: self._keep(Time.from_msg(message.header.stamp).nanoseconds, part,
                                          message)

    def _keep_questions(self, message: String) -> None:
        content = json.loads(message.data)
        asked = tuple(TrueQuestion(**row) for row in content['questions'])
        self._keep(content['stamp_ns'], 'questions', asked)

    def _keep(self, stamp_ns: int, part: str, value: Any) -> None:
        self._parts.setdefault(stamp_ns, {})[part] = value
        while len(self._parts) > KEPT:
            self._parts.popitem(last=False)

    def newest(self) -> View | None:
        """Return the newest instant of which everything has arrived."""
        for stamp_ns in sorted(self._parts, reverse=True):
            parts = self._parts[stamp_ns]
            if all(part in parts for part in PARTS):
                return View(stamp_ns, decode_image(*fields(parts['picture'])),
                            decode_depth(*fields(parts['depth'])),
                            decode_image(*fields(parts['labels']))[..., 0], parts['questions'])
        return None


def fields(message: Image) -> tuple[Any, ...]:
    """Return what the decoders of :mod:`cooper_ros.imaging.buffers` take."""
    return (message.encoding, message.height, message.width, message.step, message.is_bigendian,
            message.data)
