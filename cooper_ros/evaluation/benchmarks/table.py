"""Rows of a VLMEvalKit table: tab-separated, pictures inside as base64 or beside as files."""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image

from cooper_ros.errors import BadData
from cooper_ros.imaging.resize import to_rgb

FIELD_LIMIT = 2**30  # pictures sit in cells
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
REFERENCE = 64  # a shorter image cell names the row whose picture it repeats


@dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
        index: its name in the table.
        cells: column -> text, as in the file.
    """

    index: str
    cells: dict[str, str]

    def get(self, column: str) -> str:
        """A cell without surrounding blanks; empty where the column is missing."""
        return (self.cells.get(column) or '').strip()


class Table:
    """A benchmark file, held in memory.

    Args:
        path: the ``.tsv``.
        columns: those that must be there.
        images: folder of picture files; None looks in ``images`` beside the table.

    Raises:
        BadData: unreadable, or a column is missing.
    """

    def __init__(self, path: Path, columns: Sequence[str], images: Path | None = None) -> None:
        self.path, self.images = path, images or path.parent / 'images'
        csv.field_size_limit(FIELD_LIMIT)
        try:
            with open(path, encoding='utf-8', newline='') as file:
                reader = csv.DictReader(file, delimiter='\t')
                found = list(reader.fieldnames or ())
                cells = list(reader)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BadData('the table cannot be read', value=f'{path}: {error}',
                          limit='a tab-separated file of VLMEvalKit') from error
        missing = [name for name in columns if name not in found]
        if missing:
            raise BadData('the table lacks columns', value=', '.join(missing),
                          limit=', '.join(columns), remedy=f'columns here: {", ".join(found)}')
        self.rows = [Row(row.get('index') or str(number), row)
                     for number, row in enumerate(cells)]
        self._by_index = {row.index: row for row in self.rows}

    def __len__(self) -> int:
        return len(self.rows)

    def pictures(self, row: Row) -> list[np.ndarray]:
        """The pictures of a row, in order, uint8 ``[H, W, 3]``.

        Raises:
            BadData: there is none, or one cannot be read.
        """
        cell = row.get('image')
        if 0 < len(cell) <= REFERENCE and cell in self._by_index:
            cell = self._by_index[cell].get('image')
        if cell:
            return [_decode(text, row.index) for text in _entries(cell)]
        names = [name for name in _entries(row.get('image_path')) if name]
        if not names:
            raise BadData('a row without picture', value=f'{self.path.name} row {row.index}')
        return [self._file(name, row.index) for name in names]

    def _file(self, name: str, index: str) -> np.ndarray:
        places = [folder / name for folder in (self.images, self.path.parent, Path('/'))]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise BadData('a picture is missing', value=f'row {index}: {name}',
                          limit=f'below {self.images}', remedy='name its folder with --images')
        try:
            with Image.open(place) as picture:
                return np.asarray(to_rgb(picture))
        except UNREADABLE as error:
            raise BadData('a picture cannot be read', value=f'{place}: {error}') from error


def _entries(cell: str) -> list[str]:
    """``a``, ``a, b`` or ``['a', 'b']`` to a list."""
    if cell.startswith('[') and cell.endswith(']'):
        try:
            return [str(entry).strip() for entry in ast.literal_eval(cell)]
        except (ValueError, SyntaxError):
            cell = cell[1:-1]
    return [entry.strip() for entry in cell.split(',')]


def _decode(text: str, index: str) -> np.ndarray:
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(to_rgb(picture))
    except (binascii.Error, *UNREADABLE) as error:
        raise BadData('a picture in the table cannot be read',
                      value=f'row {index}: {error}') from error
