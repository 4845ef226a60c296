"""What the demo leaves to look at: a sheet per question and a summary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import cv2
import numpy as np
from PIL import Image as Picture

from cooper_ros.engine.answers import spoken
from cooper_ros.engine.events import Label
from cooper_ros.imaging.buffers import decode_depth, decode_image
from cooper_ros.imaging.colours import colourise
from cooper_ros.imaging.sheet import Panel, Passage, sheet
from cooper_ros.imaging.views import depth_view, label_picture, overlay, unlabelled
from cooper_ros.node.demo.views import NUMBER_TOLERANCE, TrueQuestion, View, fields
from cooper_ros.scenes.palette import paint


@dataclass(frozen=True)
class Asked:
    """One question of the demo with all that came back.

    Attributes:
        view: what the camera saw, and the truth.
        question: as asked, with the true answer.
        mode: how it was asked.
        result: SpatialReason.Result.
        wall_s: seconds from sending the goal to having the result, in the asking process.
    """

    view: View
    question: TrueQuestion
    mode: str
    result: Any
    wall_s: float

    @property
    def said(self) -> str:
        """The short answer, or the whole one where none was marked, or the error; one line."""
        result = self.result
        return one_line(result.short_answer or result.answer or result.error_msg)

    @property
    def right(self) -> bool:
        """Whether the answer agrees with the truth."""
        return not self.result.error_code and self.question.judge(self.said)

    def truth(self) -> str:
        """The true answer with its unit."""
        return f'{self.question.answer} {self.question.unit}'.strip()

    def verdict(self) -> str:
        """For people: right or wrong, and how far off a length is."""
        word = 'right' if self.right else 'wrong'
        error = self.question.error(self.said) if self.question.kind == 'number' else None
        if error is None or self.result.error_code:
            return word
        return f'{word}, {error:.0%} off where {NUMBER_TOLERANCE:.0%} is allowed'

    def depth_error(self) -> float | None:
        """AbsRel of the drawn metres against the true depth, as drawn, not aligned; or None."""
        if not self.result.depth.data:
            return None
        metres = decode_depth(*fields(self.result.depth))
        truth = cv2.resize(self.view.depth_m, metres.shape[::-1], interpolation=cv2.INTER_NEAREST)
        known = np.isfinite(metres) & np.isfinite(truth)
        return float(np.mean(np.abs(metres[known] - truth[known]) / truth[known]))

    def times(self) -> str:
        """Where the seconds went."""
        spent = self.result.timings
        return (f'{self.wall_s:.1f} s from question to answer: waiting {spent.queued_s:.1f}, '
                f'reading {spent.read_s:.1f}, writing {spent.text_s:.1f} '
                f'({spent.text_tokens} tokens), drawing {spent.draw_s:.1f} '
                f'({spent.flow_steps} flow steps)')


def one_line(text: str) -> str:
    """Return text that cannot disturb a terminal or a table."""
    shown = ''.join(letter if letter.isprintable() else ' ' for letter in text)
    return ' '.join(shown.split())


def write_sheet(path: Path, asked: Asked, footer: str) -> None:
    """Draw camera, maps, truth, question, reasoning and answer on one picture."""
    picture = asked.view.picture
    panels = [Panel(picture, f'simulated camera, {picture.shape[1]} x {picture.shape[0]}'),
              *_depth_panels(asked), *_segmentation_panels(asked)]
    drawn = sheet(panels, _passages(asked), title='cooper_ros: a question over ROS 2',
                  footer=footer)
    Picture.fromarray(drawn).save(path)


def _depth_panels(asked: Asked) -> list[Panel]:
    """Drawn and true depth in the same colours for the same metres: those of the room, of which
    the range of the network is several times as long."""
    result = asked.result
    true, low, high = depth_view(asked.view.depth_m)
    truth = Panel(true, 'depth, true', bar=(f'{low:.1f} m', f'{high:.1f} m'))
    if not result.relative_depth.data:
        return [truth]
    if not result.depth.data:
        relative = np.frombuffer(result.relative_depth.data, '<f4').reshape(
            result.relative_depth.height, result.relative_depth.width)
        return [Panel(colourise(relative), 'relative depth, drawn', bar=('near', 'far')), truth]
    drawn, _, _ = depth_view(decode_depth(*fields(result.depth)), low, high)
    caption = f'depth, drawn; AbsRel {asked.depth_error():.2f}'
    return [Panel(drawn, caption, bar=truth.bar), truth]


def _segmentation_panels(asked: Asked) -> list[Panel]:
    result = asked.result
    truth = Panel(paint(asked.view.labels), 'segmentation, true')
    if not result.segmentation.data:
        return [truth]
    mask = decode_image(*fields(result.segmentation))[..., 0]
    legend = [Label(one.id, one.name, (one.red, one.green, one.blue), one.pixels)
              for one in result.legend.labels]
    named = sorted(legend, key=lambda one: -one.pixels) if result.legend.named else []
    key = [*unlabelled(mask), *named]  # no label first: a long key is cut off
    return [Panel(overlay(asked.view.picture, mask, legend), 'segmentation over the camera'),
            Panel(label_picture(mask, legend), 'segmentation, drawn', legend=key), truth]


def _passages(asked: Asked) -> list[Passage]:
    result = asked.result
    said = spoken(result.answer) or result.error_msg
    return [Passage('question', f'{asked.question.question}   (mode {asked.mode})'),
            Passage('reasoning', '\n'.join(result.reasoning)),
            Passage(f'answer, certainty {result.confidence:.2f}', said, strong=True),
            Passage('truth', f'{asked.truth()}: the answer is {asked.verdict()}', strong=True),
            Passage('time', asked.times())]


def score(asked: Sequence[Asked]) -> str:
    """Say how many answers are right, and what that is worth."""
    right, luck = sum(one.right for one in asked), sum(one.question.chance() for one in asked)
    return (f'{right} of {len(asked)} answers are right; guessing would get {luck:.1f}. Lengths '
            'count as right within a quarter. So few questions say little about the model.')


def summary(asked: Sequence[Asked], facts: str) -> str:
    """Return the whole demo as Markdown."""
    rows = '\n'.join(f'| {one.question.question} | {one.mode} | {_cell(one.said)} | {one.truth()} '
                     f'| {one.verdict()} | {one.wall_s:.1f} |' for one in asked)
    errors = [error for error in (one.depth_error() for one in asked) if error is not None]
    depth = ('\n\nDrawn metres against the simulated truth, not aligned: AbsRel '
             f'{np.mean(errors):.2f}, mean of {len(errors)} maps.' if errors else '')
    return (f'# Demo\n\n{score(asked)}\n\n{facts}\n\n| question | mode | answer | truth | verdict '
            f'| seconds |\n|---|---|---|---|---|---|\n{rows}{depth}\n')


def _cell(text: str) -> str:
    return text.replace('|', '/')
