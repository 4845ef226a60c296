"""What the engine says while it works: typed, picklable events and the maps they carry."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cooper_ros.imaging.lens import Calibration
from cooper_ros.imaging.segmentation import Label

DEPTH = 'depth'
SEGMENTATION = 'segmentation'


@dataclass(frozen=True)
class DepthMap:
    """A drawn depth map.

    Attributes:
        relative: float32 ``[H, W]`` in 0..1, linear in distance along the optical axis,
            0 near and 1 far (reference section 8.1). Never metres.
        metres: float32 ``[H, W]`` along optical Z (REP-118), or None while no scale is known.
        range_m: the (near, far) metres that relative 0 and 1 stand for, or None.
        colour: uint8 ``[H, W, 3]`` Spectral view, red near, violet far; what the model is shown.
        lens_known: False where metres hold for the lens that the checkpoint draws for, and nobody
            said that the picture came through such a one.
    """

    relative: np.ndarray
    metres: np.ndarray | None
    range_m: tuple[float, float] | None
    colour: np.ndarray
    kind: str = DEPTH
    lens_known: bool = True

    @property
    def vouched_metres(self) -> np.ndarray | None:
        """Metres for a topic that promises them: None while scale or lens are unknown."""
        return self.metres if self.lens_known else None

    def metres_behind(self, lens: Calibration) -> np.ndarray | None:
        """Vouched metres behind a camera's lens, or None while no scale is known.

        A camera whose info is broken gets none, unless its focal length is given: a scale learnt
        for a lens says nothing about it. Nor does one whose lens is needed and not known.
        """
        return self.vouched_metres if lens.has_scale else None


@dataclass(frozen=True)
class SegmentationMap:
    """A drawn segmentation.

    Attributes:
        rgb: uint8 ``[H, W, 3]`` as drawn.
        labels: uint8 ``[H, W]``, ids of the legend, 255 where no label fits.
        legend: the labels that occur.
        named: True when ids are classes of the checkpoint's palette, False when they are
            colour regions without names.
    """

    rgb: np.ndarray
    labels: np.ndarray
    legend: tuple[Label, ...]
    named: bool
    kind: str = SEGMENTATION


Map = DepthMap | SegmentationMap


@dataclass(frozen=True)
class Event:
    """Something happened. ``elapsed`` is seconds since it was asked, waiting included."""

    request_id: str
    elapsed: float


@dataclass(frozen=True)
class TextDelta(Event):
    """New text of a reasoning turn (turns count from 1)."""

    turn: int
    text: str


@dataclass(frozen=True)
class Loading(Event):
    """Weights that only drawing needs are being read, once, because something shall be drawn.

    Attributes:
        fraction: how much of them is in memory, 0..1; 0 before the first, 1 when all are.
        resident: bytes of weights that are in memory now.
    """

    fraction: float
    resident: int

    def __str__(self) -> str:
        """One line for a log."""
        return (f'loading the weights for drawing: {self.fraction:.0%}, '
                f'{self.resident / 2**20:,.1f} MiB of weights in memory')


@dataclass(frozen=True)
class MapStarted(Event):
    """The model has asked for a map; ``steps`` network evaluations follow."""

    turn: int
    kind: str
    steps: int


@dataclass(frozen=True)
class MapStep(Event):
    """One flow step of the map under way is done (steps count from 1)."""

    turn: int
    kind: str
    step: int
    steps: int


@dataclass(frozen=True)
class MapFinished(Event):
    """A map is drawn and decoded."""

    turn: int
    map: Map


@dataclass(frozen=True)
class Timings:
    """Where the seconds went, and how much was done."""

    total_s: float = 0.0
    read_s: float = 0.0
    text_s: float = 0.0
    draw_s: float = 0.0
    read_tokens: int = 0
    reused_tokens: int = 0
    text_tokens: int = 0
    flow_steps: int = 0


@dataclass(frozen=True)
class Answer(Event):
    """The end of a request that has something to say.

    Attributes:
        text: content of the last answer block, or the best there is.
        short: the boxed part, stripped (``B``, ``yes``, ``1.4``); all of it where none is boxed.
        reasoning: every turn, in order.
        confidence: geometric mean probability of the answer turn's tokens, 0..1. It measures
            the model's own certainty, not truth.
        maps: the maps drawn for this request, in order.
        complete: False when a limit cut the request short and this is the best so far.
        error_code: NONE, or why it is incomplete (DEADLINE, CANCELED, NO_ANSWER).
        error_msg: the message that belongs to the code.
    """

    text: str
    short: str
    reasoning: tuple[str, ...]
    confidence: float
    maps: tuple[Map, ...] = ()
    timings: Timings = field(default_factory=Timings)
    complete: bool = True
    error_code: int = 0
    error_msg: str = ''


@dataclass(frozen=True)
class Failure(Event):
    """The end of a request that has nothing to say; nothing else is lost."""

    error_code: int
    error_msg: str
