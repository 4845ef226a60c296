"""A question with its answer and the reasoning traces that lead to it.

The turn grammar is the published one: a tool turn is ``<think>..</think>`` and then one
``<depth-estimation>`` or ``<segmentation>`` element; the last turn is ``<think>..</think>`` and
``<answer>..</answer>``; the answer itself stands in ``\\boxed{}``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cooper_ros.errors import BadOption
from cooper_ros.scenes.scene import FloatArray, Scene
from cooper_ros.scenes.truth import ObjectTruth

DEPTH, SEGMENTATION = 'depth', 'segmentation'
STYLES = ('direct', 'text', 'interleaved', 'maps')
KINDS = ('mcq', 'yes_no', 'number', 'number_int', 'exact')

_TAG = {DEPTH: '<depth-estimation>depth of the scene</depth-estimation>',
        SEGMENTATION: '<segmentation>objects of the scene</segmentation>'}
_REASON = {DEPTH: 'this needs depth.', SEGMENTATION: 'this needs the objects.'}

MIN_SHARE = 0.005  # of the picture: about 60 pixels of 128x96, enough to tell a shape
MAX_HIDDEN = 0.6


@dataclass(frozen=True)
class Trace:
    """The assistant's side of one conversation; tool i draws after turn i, none after the last."""

    style: str
    turns: tuple[str, ...]
    tools: tuple[str, ...]


@dataclass(frozen=True)
class QuestionAnswer:
    """One question.

    Attributes:
        category: one of ``CATEGORIES``.
        kind: mcq (answer is a letter), yes_no, number or number_int; exact where it is an option
            in words, see :mod:`..phrasing`.
        question: what is asked, options included.
        answer: short ground truth, as it should stand in the box.
        unit: unit of a number, else empty.
        facts: the intermediate truths a reasoner would state.
        tools: maps that help, in order; empty where the picture alone is enough.
    """

    category: str
    kind: str
    question: str
    answer: str
    unit: str
    facts: str
    tools: tuple[str, ...]

    def trace(self, style: str) -> Trace:
        """Return the reasoning trace of one style.

        Raises:
            BadOption: unknown style.
        """
        boxed = f'<answer>\\boxed{{{self.answer}}}</answer>'
        final = f'<think>{self.facts}</think>{boxed}'
        if style == 'direct':
            return Trace(style, (boxed,), ())
        tools = {'text': (), 'interleaved': self.tools, 'maps': (DEPTH, SEGMENTATION)}.get(style)
        if tools is None:
            raise BadOption('unknown trace style', value=style, limit=', '.join(STYLES))
        turns = tuple(f'<think>{_REASON[tool]}</think>{_TAG[tool]}' for tool in tools)
        return Trace(style, (*turns, final), tools)

    @property
    def concluded(self) -> QuestionAnswer:
        """The same with thoughts that state what they come to, the words behind the last colon."""
        return replace(self, facts=self.facts.rsplit(': ', 1)[-1])

    @property
    def traces(self) -> tuple[Trace, ...]:
        """All styles, in the order of ``STYLES``."""
        return tuple(self.trace(style) for style in STYLES)


@dataclass(frozen=True)
class View:
    """What a question may be about.

    Attributes:
        scene: the scene.
        truths: all its objects.
        width, height: of the picture, pixels.
        named: those that may be named: the only one of its colour and shape, well visible,
            centre inside the picture.
    """

    scene: Scene
    truths: tuple[ObjectTruth, ...]
    width: int
    height: int
    named: tuple[ObjectTruth, ...]

    @classmethod
    def of(cls, scene: Scene, truths: tuple[ObjectTruth, ...], width: int, height: int) -> View:
        """Choose the objects that can be named without doubt in a picture of this size."""
        names = [truth.name for truth in truths]
        k = scene.camera.intrinsics(width, height)
        named = tuple(truth for truth in truths if names.count(truth.name) == 1
                      and truth.share >= MIN_SHARE and truth.hidden <= MAX_HIDDEN
                      and _inside(truth, k, width, height))
        return cls(scene, truths, width, height, named)

    @property
    def whole(self) -> tuple[ObjectTruth, ...]:
        """The named objects that show nearly all of themselves: fit to be measured."""
        return tuple(truth for truth in self.named if not truth.cut and truth.hidden <= 0.35)


def _inside(truth: ObjectTruth, k: FloatArray, width: int, height: int) -> bool:
    x, y, z = truth.position
    if z <= 0:
        return False
    u, v = k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
    return 0 <= u < width and 0 <= v < height


@dataclass(frozen=True)
class Draft:
    """A question before it is filed under its category."""

    kind: str
    question: str
    answer: str
    unit: str
    facts: str
    tools: tuple[str, ...]
