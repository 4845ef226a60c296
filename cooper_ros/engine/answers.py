"""Tags of a reasoning turn, and the answer inside it. Survives malformed output.

The grammar is plain text (reference section 0.2): ``<think>``, ``<depth-estimation>``,
``<segmentation>`` and ``<answer>`` with their closing forms. The first three searches are those of
the published loop; the extraction is the recommendation of section 7.3: last answer block, in it
the last ``\\boxed{...}`` with balanced braces, else the block, else the whole turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cooper_ros.engine.events import DEPTH, SEGMENTATION

ANSWER_START = '<answer>'  # where the model is put that answers without thinking
_CALLS = ((DEPTH, re.compile(r'<depth-estimation>.*?</depth-estimation>', re.DOTALL)),
          (SEGMENTATION, re.compile(r'<segmentation>.*?</segmentation>', re.DOTALL)))
_ANSWER = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)
_OPEN_ANSWER = re.compile(r'<answer>(.*)\Z', re.DOTALL)
_THINK = re.compile(r'<think>.*?(?:</think>|\Z)', re.DOTALL)
_TAGS = re.compile(r'</?(?:think|answer|depth-estimation|segmentation)>')
_BOX = '\\boxed{'


@dataclass(frozen=True)
class ToolCall:
    """A request for a map inside a turn.

    Attributes:
        kind: ``depth`` or ``segmentation``; depth wins when both are present.
        rest: the turn without the matched tag string, for the text-free guidance branch.
    """

    kind: str
    rest: str


def find_tool_call(turn: str) -> ToolCall | None:
    """Return the map that a turn asks for, if any."""
    for kind, pattern in _CALLS:
        match = pattern.search(turn)
        if match:
            return ToolCall(kind, turn.replace(match.group(0), ''))
    return None


def has_answer(turn: str) -> bool:
    """Whether a turn holds a complete answer block."""
    return _ANSWER.search(turn) is not None


def says_answer(turn: str) -> bool:
    """Whether a turn that a limit cut off had come to its answer: a complete block, or a closed
    box that is no part of the thinking."""
    unclosed = _OPEN_ANSWER.search(turn)
    said = unclosed.group(1) if unclosed else _THINK.sub('', turn)
    start = said.rfind(_BOX)
    return has_answer(turn) or start >= 0 and _box_end(said, start) < len(said)


def answer_text(turn: str) -> str:
    """Return the last answer block, or the best text there is, without tags.

    An unclosed block counts. Without any block the thinking is left out, unless there is nothing
    but thinking.
    """
    blocks = _ANSWER.findall(turn)
    if blocks:
        return _strip_tags(blocks[-1])
    unclosed = _OPEN_ANSWER.search(turn)
    if unclosed:
        return _strip_tags(unclosed.group(1))
    return _strip_tags(_THINK.sub('', turn)) or _strip_tags(turn)


def short_answer(turn: str) -> str:
    """Return the boxed part of the answer, stripped of ``$``, spaces and outer parentheses."""
    text = answer_text(turn)
    boxed = _last_box(text)
    return _clean(text if boxed is None else boxed)


def spoken(text: str) -> str:
    r"""An answer as it is said aloud: what stands in boxes, without them.

    >>> spoken(r'It is $\boxed{2}$ m.')
    'It is 2 m.'
    """
    while (start := text.rfind(_BOX)) >= 0:
        inside = _last_box(text) or ''
        before, after = text[:start], text[start + len(_BOX) + len(inside) + 1:]
        text = before.removesuffix('$') + inside + after.removeprefix('$')
    return text.strip()


def _strip_tags(text: str) -> str:
    return _TAGS.sub('', text).strip()


def _last_box(text: str) -> str | None:
    start = text.rfind(_BOX)
    if start < 0:
        return None
    # Never closed: what follows is still the best guess.
    return text[start + len(_BOX):_box_end(text, start)]


def _box_end(text: str, start: int) -> int:
    """Place of the brace that closes a box; the length of the text where none does."""
    depth = 1
    for position in range(start + len(_BOX), len(text)):
        depth += {'{': 1, '}': -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


def _clean(text: str) -> str:
    text = text.strip().strip('$').strip()
    ends, begin, end = _closed_at(text), 0, len(text)
    while ends.get(begin) == end - 1:  # so it is not in `(a) or (b)`
        begin, end = begin + 1, end - 1
        while begin < end and text[begin].isspace():
            begin += 1
        while begin < end and text[end - 1].isspace():
            end -= 1
    return text[begin:end]


def _closed_at(text: str) -> dict[int, int]:
    """Places of brackets that are closed, and where; each kind for itself."""
    ends: dict[int, int] = {}
    for left, right in ('{}', '()'):
        still_open: list[int] = []
        for place, letter in enumerate(text):
            if letter == left:
                still_open.append(place)
            elif letter == right and still_open:
                ends[still_open.pop()] = place
    return ends
