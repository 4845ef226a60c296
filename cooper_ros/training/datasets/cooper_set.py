"""COOPER_Train_Set: interleaved conversations and questions (reference sections 10.2, 11.1)."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cooper_ros.errors import BadData
from cooper_ros.imaging.resize import to_rgb
from cooper_ros.training.datasets.damage import decoding
from cooper_ros.training.datasets.draw import open_rgb
from cooper_ros.training.datasets.json_lines import JsonLines
from cooper_ros.training.datasets.layouts import require_folder
from cooper_ros.training.datasets.samples import FLAGS, RlSample, TalkItem, TalkSample

SFT_FILE, RL_FILE = 'Interleaved_SFT.jsonl', 'RL_data.jsonl'
PUBLISHED_SFT = 6901
PARTS = 'COOPER_Train_Set.tar.gz.part.*'
JOIN = f'cat {PARTS} | tar xz'


def find_file(place: Path, name: str) -> Path:
    """The file itself, or the one of that name anywhere below a folder.

    Raises:
        BadData: it is not there; when only the downloaded parts are, the message says how to
            join them.
    """
    require_folder(place)
    if place.is_file():
        return place
    found = sorted(place.rglob(name))
    if found:
        return found[0]
    remedy = f'cd {place} && {JOIN}' if any(place.rglob(PARTS)) else (
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
    # The published flag is the string "true"; a JSON true means the same.
    return TalkItem(text=entry['value'], need_loss=entry.get('need_loss') in ('true', True))


def decode_image(text: str, where: str) -> np.ndarray:
    """Base64, with or without a data-URL prefix, to uint8 ``[H, W, 3]``.

    Raises:
        BadData: not base64, or not a picture.
    """
    with decoding(where, 'not a base64 picture', remedy=''):
        data = base64.b64decode(text.partition('base64,')[2] or text, validate=True)
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

    def __len__(self) -> int:
        return len(self.lines)

    def sample(self, index: int) -> RlSample:
        """One question.

        Raises:
            BadData: a key, the picture or a legal flag is missing.
        """
        where, row = self.lines.where(index), self.lines.row(index)
        missing = [key for key in ('question', 'answer', 'image') if key not in row]
        if missing:
            raise BadData('row without ' + ', '.join(missing), value=where)
        flag = row.get('flag', 'boundary')  # as published: no flag, no exploration term
        if flag not in FLAGS:
            raise BadData('unknown flag', value=f'{where}: {flag!r}', limit=', '.join(FLAGS))
        return RlSample(str(row.get('data_id', index)), str(row['question']), str(row['answer']),
                        np.asarray(self._picture(row['image'], where)), flag,
                        str(row.get('category', '')))

    def _picture(self, name: Any, where: str) -> Image.Image:
        for root in self.roots:
            if os.path.isfile(root / str(name)):  # Path.is_file raises for names that are too long
                return open_rgb(root / str(name))
        raise BadData('the picture of a question is missing', value=f'{where}: {str(name)[:200]}',
                      limit=', '.join(map(str, self.roots)), remedy='give its folder: --images')
