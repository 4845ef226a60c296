"""What to publish when a recording goes onto topics; the publishing itself needs ROS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from cooper_ros.errors import BadOption
from cooper_ros.replay.questions import Plan, Question


@dataclass(frozen=True)
class Live:
    """What to publish.

    Attributes:
        bag: file or folder.
        topic: picture topic that questions are about; None takes the only one.
        questions: published as text with the pictures that the plan takes.
        plan: which pictures.
        question_topic: where the node listens for text.
        speed: times real time.
        loop: start over at the end.
        wait_s: seconds to wait for somebody who listens before the first message.
    """

    bag: Path
    topic: str | None = None
    questions: Sequence[Question] = ()
    plan: Plan = Plan()
    question_topic: str | None = None
    speed: float = 1.0
    loop: bool = False
    wait_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.speed <= 1000:
            raise BadOption('--speed is out of range', value=self.speed, limit='0.01 .. 1000')
