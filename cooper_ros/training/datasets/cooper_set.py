"""COOPER_Train_Set: interleaved conversations and questions (reference sections 10.2, 11.1)."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cooper_ros.errors import BadData
from cooper_ros.imaging.resize import to_rgb
from cooper_ros.runtime.folders import files, files_named
from cooper_ros.training.datasets.damage import decoding, listed_at
from cooper_ros.training.datasets.draw import open_rgb
from cooper_ros.training.datasets.json_lines import JsonLines
from cooper_ros.training.datasets.layouts import require_folder
from cooper_ros.training.datasets.samples import FLAGS, RlSample, TalkItem, TalkSample

SFT_FILE, RL_FILE = 'Interleaved_SFT.jsonl', 'RL_data.jsonl'
PUBLISHED_SFT = 6901
PARTS = 'COOPER_Train_Set.tar.gz.part.*'
JOIN = f'cat {PARTS} | tar xz'
TEXT = 'text that is not empty'


def find_file(place: Path, name: str) -> Path:
    """The file itself, or the one of that name anywhere below a folder, links followed.

    Raises:
        BadData: it is not there; when only the downloaded parts are, the message says how to
            join them.
    """
    require_folder(place)
    if place.is_file():
        return place
    found = files_named(place, name)
    if found:
        return found[0]
    parts = any(fnmatch(path.name, PARTS) for path in files(place))
    remedy = f'cd {place} && {JOIN}' if parts else (
        'download the data set Starrrrrry/COOPER_Train_Set and unpack it')
    raise BadData(f'{name} is missing', value=str(place), remedy=remedy)


class TalkSet:
    """Stage-2 conversations. Rows keep the order of the file."""

    def __init__(self, place: Path) -> None:
        self.lines = JsonLines(find_file(place, SFT_FILE))

    def __len__(self) -> int:
        return len(self.lines)

    def sample(self, index: int) -> TalkSample:
        """One conversation.

        Raises:
            BadData: the row breaks the schema, naming file, line and item.
        """
        where, row = self.lines.where(index), self.lines.row(index)
        entries = row.get('interleaved_reason')
        if not isinstance(entries, list) or not entries:
            raise BadData('no interleaved_reason list', value=where)
        items = tuple(_item(entry, f'{where} item {number}')
                      for number, entry in enumerate(entries))
        if not any(item.need_loss for item in items):
            raise BadData('nothing to learn: no text has need_loss', value=where)
        return TalkSample(str(row.get('data_id', index)), items)


def _item(entry: Any, where: str) -> TalkItem:
    if not isinstance(entry, dict) or not isinstance(entry.get('value'), str):
        raise BadData('an item needs type and value', value=where)
    if entry.get('type') != 'text':  # anything else is a picture, as published
        return TalkItem(image=decode_image(entry['value'], where))
    if not _is_unicode(entry['value']):
        raise BadData('half a character in a text', value=where, limit='Unicode text')
    # The published flag is the string "true"; a JSON true means the same.
    return TalkItem(text=entry['value'], need_loss=entry.get('need_loss') in ('true', True))


def decode_image(text: str, where: str) -> np.ndarray:
    """Base64, with or without a data-URL prefix, to uint8 ``[H, W, 3]``.

    Raises:
        BadData: not base64, or not a picture.
    """
    with decoding(where, 'not a base64 picture', remedy=''):
        bare = ''.join((text.partition('base64,')[2] or text).split())  # lines may be broken
        data = base64.b64decode(bare, validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(to_rgb(picture))


class RlSet:
    """Questions for GRPO.

    Args:
        place: ``RL_data.jsonl`` or a folder that holds it.
        image_root: folder of the pictures; None looks beside the file and in ``images``.
    """

    def __init__(self, place: Path, image_root: Path | None = None) -> None:
        path = find_file(place, RL_FILE)
        self.lines = JsonLines(path)
        self.roots = ([image_root] if image_root else
                      [path.parent, path.parent / 'images', path.parent.parent])
        self._first: dict[str, int] = {}  # data id -> its first row
        for index in range(len(self.lines)):
            self._first.setdefault(self._id(index), index)

    def __len__(self) -> int:
        return len(self.lines)

    def sample(self, index: int) -> RlSample:
        """One question.

        Raises:
            BadData: the row breaks the schema, its data id is that of an earlier row, or its
                picture cannot be read; all name file and line.
        """
        where, row = self.lines.where(index), self.lines.row(index)
        _check_question(row, where)
        data_id = self._id(index)
        first = self._first[data_id]
        if first != index:  # flags and logs know a question by its id alone
            raise BadData('two rows have one data_id', value=f'{where}: {data_id}',
                          limit=f'one row; the first is {self.lines.where(first)}',
                          remedy='give the second another one')
        picture = self._picture(row['image'], where)
        return RlSample(data_id, row['question'], str(row['answer']), np.asarray(picture),
                        row.get('flag', 'boundary'),  # as published: no flag, no exploration term
                        row.get('category', ''))

    def pictures(self) -> list[str]:
        """The name of the picture of every row; empty for what names none."""
        return [str(self._field(index, 'image', '')) for index in range(len(self))]

    def _field(self, index: int, name: str, default: object) -> object:
        """A field of a row; empty for what is no row, which is named when it is read."""
        try:
            return self.lines.row(index).get(name, default)
        except BadData:
            return ''

    def _id(self, index: int) -> str:
        return str(self._field(index, 'data_id', index))

    def _picture(self, name: str, where: str) -> Image.Image:
        for root in self.roots:
            if os.path.isfile(root / name):  # Path.is_file raises for names that are too long
                with listed_at(where):
                    return open_rgb(root / name)
        raise BadData('the picture of a question is missing', value=f'{where}: {name[:200]}',
                      limit=', '.join(map(str, self.roots)), remedy='give its folder: --images')


def _check_question(row: dict[str, Any], where: str) -> None:
    """Compare a row with the table in docs/training.md."""
    missing = [key for key in ('question', 'answer', 'image') if key not in row]
    if missing:
        raise BadData('row without ' + ', '.join(missing), value=where)
    answer, data_id = row['answer'], row.get('data_id', 0)
    for key, fits, limit in (
            ('question', _is_text(row['question']), TEXT),
            ('answer', _is_text(answer) or _is_number(answer), f'{TEXT}, or a finite number'),
            ('image', _is_text(row['image']), TEXT),
            ('data_id', _is_text(data_id) or type(data_id) is int, f'{TEXT}, or a whole number'),
            ('category', isinstance(row.get('category', ''), str), 'text')):
        if not fits:
            raise BadData(f'the {key} of a row has the wrong form', limit=limit,
                          value=f'{where}: {json.dumps(row[key])[:200]}')
    flag = row.get('flag', 'boundary')
    if flag not in FLAGS:
        raise BadData('unknown flag', value=f'{where}: {flag!r}', limit=', '.join(FLAGS))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and _is_unicode(value)


def _is_unicode(text: str) -> bool:
    """Whether no character is half of one, as JSON can write it: no tokenizer reads that."""
    return not any('\ud800' <= character <= '\udfff' for character in text)


def _is_number(value: Any) -> bool:
    return type(value) is int or isinstance(value, float) and math.isfinite(value)
