"""Answers as pictures people can look at: a sheet per question, and the maps as PNG files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from cooper_ros.engine.events import Answer, DepthMap, Failure, Map, SegmentationMap
from cooper_ros.errors import BadOption
from cooper_ros.imaging.sheet import Panel, Passage, sheet
from cooper_ros.imaging.views import overlay

MAX_REASONING_CHARS = 1500
RECORD = 'answer.json'
_KEYS = {'question', 'answer', 'short', 'confidence', 'reasoning', 'complete', 'error_msg'}
_MAPS = ('depth_colored.png', 'relative_depth.npy', 'depth_m.npy', 'segmentation.png',
         'labels.png', 'overlay.png')


def write_sheet(path: Path, rgb: np.ndarray, question: str, end: Answer | Failure,
                footer: str = '', title: str = '') -> Path:
    """Draw camera picture, maps, overlay, question, reasoning and answer on one PNG.

    Args:
        path: file to write; its folder is made.
        rgb: uint8 ``[H, W, 3]``, the picture asked about.
        question: as asked.
        end: the Answer or Failure.
        footer: model, hardware, precision and seed.
        title: first line.
    """
    panels = [Panel(rgb, f'camera, {rgb.shape[1]} x {rgb.shape[0]}')]
    for drawn in end.maps if isinstance(end, Answer) else ():
        panels += _panels(rgb, drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = sheet(panels, _passages(question, end), title=title, footer=footer,
                    columns=2 if len(panels) == 4 else 3)
    Image.fromarray(picture).save(path, optimize=False)
    return path


def write_pictures(folder: Path, rgb: np.ndarray, question: str, answer: Answer,
                   footer: str = '') -> list[Path]:
    """Write the sheet, every map and the answer as JSON into a folder.

    Maps of an earlier answer there are removed: they would seem to belong to this one.
    ``relative_depth.npy`` holds float32 0..1 (not metres); ``labels.png`` the label ids.
    ``depth_m.npy`` is left out where metres hold for a usual lens only.

    Returns:
        the files written.

    Raises:
        BadOption: as :func:`holds_answer`.
    """
    if holds_answer(folder):  # else the folder and what has such a name are not ours
        for name in _MAPS:
            (folder / name).unlink(missing_ok=True)
    files = [write_sheet(folder / 'sheet.png', rgb, question, answer, footer)]
    for drawn in answer.maps:
        files += (_write_depth(folder, drawn) if isinstance(drawn, DepthMap)
                  else _write_segmentation(folder, rgb, drawn))
    record = folder / RECORD
    record.write_text(json.dumps({
        'question': question, 'answer': answer.text, 'short': answer.short,
        'confidence': answer.confidence, 'reasoning': list(answer.reasoning),
        'complete': answer.complete, 'error_msg': answer.error_msg}, indent=2,
        ensure_ascii=False) + '\n', encoding='utf-8')
    return [*files, record]


def holds_answer(folder: Path) -> bool:
    """Whether an earlier answer of ours lies in a folder.

    Raises:
        BadOption: a record of somebody else lies there, which would be overwritten.
    """
    record = folder / RECORD
    if not record.exists() or not record.stat().st_size:  # an empty one is no loss
        return False
    try:
        said = json.loads(record.read_bytes())
    except (OSError, ValueError):
        said = None
    if not isinstance(said, dict) or not said.keys() >= _KEYS:
        raise BadOption('the output is no answer of cooper ask, and is not replaced',
                        value=str(record), remedy='give another --out, or move it away yourself')
    return True


def _panels(rgb: np.ndarray, drawn: Map) -> list[Panel]:
    if isinstance(drawn, DepthMap):
        ends = ('near', 'far') if drawn.range_m is None else tuple(
            f'{metres:.3g} m' for metres in drawn.range_m)
        what = 'relative depth' if drawn.metres is None else (
            'depth' if drawn.lens_known else 'depth for a usual lens')
        return [Panel(drawn.colour, f'{what}, as drawn', bar=(ends[0], ends[1]))]
    legend = drawn.legend if drawn.named else ()
    return [Panel(drawn.rgb, 'segmentation, as drawn', legend=legend),
            Panel(overlay(rgb, drawn.labels, drawn.legend), 'segmentation over the camera')]


def _passages(question: str, end: Answer | Failure) -> list[Passage]:
    if not isinstance(end, Answer):
        return [Passage('question', question), Passage('no answer', end.error_msg, strong=True)]
    reasoning = '\n'.join(end.reasoning)
    if len(reasoning) > MAX_REASONING_CHARS:
        reasoning = reasoning[:MAX_REASONING_CHARS] + ' ...'
    cut = [] if end.complete else [Passage('cut short', end.error_msg)]
    return [Passage('question', question), Passage('reasoning', reasoning),
            Passage(f'answer, certainty {end.confidence:.2f}', end.text, strong=True), *cut]


def _write_depth(folder: Path, drawn: DepthMap) -> list[Path]:
    files = [_png(folder / 'depth_colored.png', drawn.colour), folder / 'relative_depth.npy']
    np.save(files[1], drawn.relative)
    if drawn.vouched_metres is not None:
        files.append(folder / 'depth_m.npy')
        np.save(files[2], drawn.vouched_metres)
    return files


def _write_segmentation(folder: Path, rgb: np.ndarray, drawn: SegmentationMap) -> list[Path]:
    return [_png(folder / 'segmentation.png', drawn.rgb),
            _png(folder / 'labels.png', drawn.labels),
            _png(folder / 'overlay.png', overlay(rgb, drawn.labels, drawn.legend))]


def _png(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path
