"""What travels through the pipe between the node and its worker process. No ROS in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cooper_ros.errors import CooperError

ASK = 'ask'
DEVICE_LOST = 3  # exit status of a worker whose GPU has failed


@dataclass(frozen=True)
class Job:
    """One request, ready for the engine.

    Attributes:
        request_id: repeated in every event.
        kind: ``ask``, or the kind of the one map to draw.
        image: uint8 RGB ``[H, W, 3]``.
        question: plain text; empty unless the kind is ``ask``.
        changes: settings of ``CooperConfig`` for this request.
    """

    request_id: str
    kind: str
    image: np.ndarray
    question: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Cancel:
    """Take a job back; unknown ids are ignored."""

    request_id: str


@dataclass(frozen=True)
class Stop:
    """Finish and leave."""


@dataclass(frozen=True)
class Loaded:
    """The model is in memory; ``seconds`` is what that took."""

    seconds: float


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded; trying again would not help."""

    error: CooperError


@dataclass(frozen=True)
class Beat:
    """The worker lives, whatever its main thread is busy with."""
