"""One picture that tells a whole request: panels with captions, question, reasoning, answer."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cooper_ros.imaging.colours import SPECTRAL_U8
from cooper_ros.imaging.segmentation import UNLABELED, Label
from cooper_ros.imaging.views import CHEQUERS

PAPER, CARD, INK, FAINT, ACCENT = '#f4f5f7', '#ffffff', '#1d2430', '#68727f', '#2f6fd0'
MARGIN, GAP, CAPTION, BODY, TITLE = 32, 20, 17, 17, 26
KEY_LIMIT = 8  # legend entries shown under a panel


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet.

    Attributes:
        picture: uint8 ``[H, W, 3]`` RGB.
        caption: what it shows, one line.
        bar: texts at the near and the far end of a depth colour bar, or None.
        legend: labels whose colours are explained below the picture.
    """

    picture: np.ndarray
    caption: str
    bar: tuple[str, str] | None = None
    legend: Sequence[Label] = ()


@dataclass(frozen=True)
class Passage:
    """A heading and its text, wrapped to the width of the sheet."""

    heading: str
    text: str
    strong: bool = False


def sheet(panels: Sequence[Panel], passages: Sequence[Passage] = (), *, title: str = '',
          footer: str = '', columns: int = 3, width: int = 1440) -> np.ndarray:
    """Draw a sheet.

    Args:
        panels: pictures, row by row; enlarged or reduced to one common width.
        passages: text below them, for instance question, reasoning and answer.
        title: first line; left out when empty.
        footer: last line in small type, for instance model, hardware, precision, size, seed.
        columns: panels per row at most.
        width: of the sheet, pixels.

    Returns:
        uint8 ``[H, width, 3]`` RGB.
    """
    columns = max(1, min(columns, len(panels)))
    page = _Page(width)
    if title:
        page.line(title, TITLE, INK, after=18)
    cell = (width - 2 * MARGIN - GAP * (columns - 1)) // columns
    for start in range(0, len(panels), columns):
        _draw_row(page, panels[start:start + columns], cell)
    for passage in passages:
        _draw_passage(page, passage)
    if footer:
        page.paragraph(footer, CAPTION - 3, FAINT)
    return page.finished()


class _Page:
    """A strip of paper that grows downwards while it is drawn on."""

    def __init__(self, width: int) -> None:
        self.width, self.y = width, MARGIN
        self.image = Image.new('RGB', (width, 64), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def reserve(self, height: int) -> None:
        """Make sure that so many rows below ``y`` exist."""
        if self.y + height > self.image.height:
            grown = Image.new('RGB', (self.width, (self.y + height) * 2), PAPER)
            grown.paste(self.image)
            self.image, self.draw = grown, ImageDraw.Draw(grown)

    def line(self, text: str, size: int, colour: str, *, x: int = MARGIN, after: int = 0) -> None:
        """One line of text, then move down."""
        self.reserve(size * 2 + after)
        self.draw.text((x, self.y), text, font=_font(size), fill=colour)
        self.y += round(size * 1.45) + after

    def paragraph(self, text: str, size: int, colour: str, *, x: int = MARGIN) -> None:
        """Text wrapped at the right margin; its own line breaks are kept."""
        for part in text.splitlines() or ['']:
            for line in wrapped(part, size, self.width - MARGIN - x):
                self.line(line, size, colour, x=x)

    def finished(self) -> np.ndarray:
        """What has been drawn, with a margin below."""
        self.reserve(MARGIN)
        return np.array(self.image.crop((0, 0, self.width, self.y + MARGIN - 8)))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface; nothing needs to be installed."""
    return ImageFont.load_default(size)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Break one line of text into lines of at most ``width`` pixels, words too long included."""
    font, lines, line = _font(size), [], ''

    def fits(words: str) -> bool:  # a letter takes a pixel at least; long words are not measured
        return len(words) <= width and font.getlength(words) <= width

    for word in text.split(' '):
        candidate = f'{line} {word}' if line else word
        if fits(candidate):
            line = candidate
            continue
        if line:
            lines.append(line)
        while len(word) > 1 and not fits(word):
            most = min(len(word), max(1, width))
            kept = max(1, bisect.bisect_right(range(most + 1), width,
                                              key=lambda n: font.getlength(word[:n])) - 1)
            lines.append(word[:kept])
            word = word[kept:]
        line = word
    return lines + [line]


def _draw_row(page: _Page, panels: Sequence[Panel], cell: int) -> None:
    """Panels side by side on white cards of equal height."""
    pictures = [_fitted(panel.picture, cell - 2) for panel in panels]
    rows = max(picture.height for picture in pictures)
    extras = max(_extra_height(panel, cell) for panel in panels)
    height = rows + 2 + round(CAPTION * 2.1) + extras
    page.reserve(height + GAP)
    for place, (panel, picture) in enumerate(zip(panels, pictures)):
        left = MARGIN + place * (cell + GAP)
        box = (left, page.y, left + cell - 1, page.y + height - 1)
        page.draw.rounded_rectangle(box, radius=8, fill=CARD, outline='#dde1e7')
        page.image.paste(picture, (left + 1, page.y + 1))
        text_y = page.y + rows + 10
        caption = wrapped(panel.caption, CAPTION, cell - 24)[0]
        page.draw.text((left + 12, text_y), caption, font=_font(CAPTION), fill=INK)
        _draw_extra(page.draw, panel, (left + 12, text_y + round(CAPTION * 1.5)), cell - 24)
    page.y += height + GAP


def _fitted(picture: np.ndarray, width: int) -> Image.Image:
    """Scaled to a width, or to twice that height if it is a tall one; enlarged pictures keep
    their pixels visible but soft."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    scale = min(width / image.width, 2 * width / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _extra_height(panel: Panel, cell: int) -> int:
    bar = 38 if panel.bar else 0
    return bar + len(_legend_lines(panel, cell - 24)) * 24 + (6 if panel.legend else 0)


def _draw_extra(draw: ImageDraw.ImageDraw, panel: Panel, at: tuple[int, int],
                width: int) -> None:
    x, y = at
    if panel.bar:
        _draw_bar(draw, panel.bar, x, y, width)
        y += 38
    for line in _legend_lines(panel, width):
        for offset, entry in line:
            _draw_key(draw, entry, x + offset, y + 3)
            draw.text((x + offset + 19, y), entry.name, font=_font(14), fill=FAINT)
        y += 24


def _draw_key(draw: ImageDraw.ImageDraw, entry: Label, x: int, y: int) -> None:
    """The colour of a legend entry, or the pattern of what has no label."""
    if entry.id == UNLABELED:
        for number in range(9):
            left, top = x + number % 3 * 5, y + number // 3 * 5
            draw.rectangle((left, top, left + 4, top + 4), fill=(CHEQUERS[number % 2],) * 3)
        return
    draw.rounded_rectangle((x, y, x + 13, y + 13), radius=3, fill=tuple(entry.rgb),
                           outline='#9aa3ad')


def _draw_bar(draw: ImageDraw.ImageDraw, ends: tuple[str, str], x: int, y: int,
              width: int) -> None:
    """The colour scale with a text under each end."""
    for column in range(width):
        colour = tuple(SPECTRAL_U8[column * 256 // width].tolist())
        draw.line((x + column, y + 4, x + column, y + 13), fill=colour)
    font = _font(14)
    draw.text((x, y + 17), ends[0], font=font, fill=FAINT)
    draw.text((x + width - font.getlength(ends[1]), y + 17), ends[1], font=font, fill=FAINT)


def _legend_lines(panel: Panel, width: int) -> list[list[tuple[int, Label]]]:
    """Legend entries with their x offsets, broken into lines."""
    lines: list[list[tuple[int, Label]]] = []
    offset = width + 1
    for entry in panel.legend[:KEY_LIMIT]:
        length = round(19 + _font(14).getlength(entry.name) + 16)
        if offset + length > width:
            lines.append([])
            offset = 0
        lines[-1].append((offset, entry))
        offset += length
    return lines


def _draw_passage(page: _Page, passage: Passage) -> None:
    page.line(passage.heading.upper(), 13, ACCENT)
    page.paragraph(passage.text, BODY + 3 if passage.strong else BODY, INK)
    page.y += 12
