"""Rows of a VLMEvalKit table: tab-separated, pictures inside as base64 or beside as files."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image, ImageOps

from cooper_ros.errors import BadData
from cooper_ros.evaluation.benchmarks.records import read_records
from cooper_ros.imaging.resize import to_rgb

SHOWN = 200  # characters of a name in a message
DIGITS = 16  # of the name of a picture
REFERENCE = 64  # a shorter image cell names the row whose picture it repeats
_COMMA = re.compile('(?<!;base64),')  # not the one inside a data URL
_DATA_URL = re.compile('^data:[^,]*;base64,')


@dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
        index: its name in the table; ``#3`` for the third row if it has none.
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
        BadData: unreadable, a quote does not close, a column is missing, or two rows have one
            name.
    """

    def __init__(self, path: Path, columns: Sequence[str], images: Path | None = None) -> None:
        self.path, self.images = path, images or path.parent / 'images'
        found, *cells = _read(path)
        missing = [name for name in columns if name not in found]
        if missing:
            raise BadData('the table lacks columns', value=', '.join(missing),
                          limit=', '.join(columns), remedy=f'columns here: {", ".join(found)}')
        rows = [dict(zip(found, row)) for row in cells]
        self.rows = [Row(name, row) for name, row in zip(_names(found, rows), rows)]
        self._by_index: dict[str, Row] = {}
        for row in self.rows:
            if self._by_index.setdefault(row.index, row) is not row:
                raise BadData('two rows of the table have the same index',
                              value=f'{path}: {row.index}', limit='every index once',
                              remedy='number the rows anew')

    def __len__(self) -> int:
        return len(self.rows)

    def check(self, row: Row) -> None:
        """Refuse a row without pictures, before anything is decoded.

        Raises:
            BadData: there is none, or a file is missing.
        """
        if not self._encoded(row):
            self._files(row)

    def pictures(self, row: Row) -> list[np.ndarray]:
        """The pictures of a row, in order, uint8 ``[H, W, 3]``.

        Raises:
            BadData: there is none, or one cannot be read.
        """
        cell = self._encoded(row)
        if cell:
            return [_decode(text, row.index) for text in _entries(cell)]
        return [_picture(place, str(place)) for place in self._files(row)]

    def picture_name(self, row: Row) -> str:
        """The same for rows with the same pictures, whatever their order; nothing is decoded."""
        cell = self._encoded(row)
        shown = {_bare(text) for text in _entries(cell)} if cell else {
            Path(name).as_posix() for name in _entries(row.get('image_path')) if name}
        if not shown:
            return f'row {row.index}'
        return hashlib.sha256('\n'.join(sorted(shown)).encode()).hexdigest()[:DIGITS]

    def _encoded(self, row: Row) -> str:
        """The cell with the pictures themselves, its own or that of the row it names."""
        cell = row.get('image')
        if 0 < len(cell) <= REFERENCE and cell in self._by_index:
            return self._by_index[cell].get('image')
        return cell

    def _files(self, row: Row) -> list[Path]:
        names = [name for name in _entries(row.get('image_path')) if name]
        if not names:
            raise BadData('a row without picture', value=f'{self.path.name} row {row.index}')
        return [self._file(name, row.index) for name in names]

    def _file(self, name: str, index: str) -> Path:
        places = [folder / name for folder in (self.images, self.path.parent, Path('/'))]
        place = next((place for place in places if _is_file(place)), None)
        if place is None:
            raise BadData('a picture is missing', value=f'row {index}: {name[:SHOWN]}',
                          limit=f'below {self.images}', remedy='name its folder with --images')
        return place


def _read(path: Path) -> list[list[str]]:
    """Header and rows."""
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            return list(read_records(file))
    except BadData as error:
        raise BadData(error.what, value=f'{path}: {error.value}', limit=error.limit,
                      remedy=error.remedy) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadData('the table cannot be read', value=f'{path}: {error}',
                      limit='a tab-separated file of VLMEvalKit') from error


def _names(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> list[str]:
    """Index of every row; where it is blank, a mark that none begins with and the row's number."""
    if 'index' not in columns:
        return [str(place) for place in range(len(rows))]
    given = [(row.get('index') or '').strip() for row in rows]
    mark = '#'
    while any(name.startswith(mark) for name in given):
        mark += '#'
    return [name or f'{mark}{place}' for place, name in enumerate(given, start=1)]


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:  # a name too long, or a folder that nobody may look into
        return False


def _entries(cell: str) -> list[str]:
    """``a``, ``a, b`` or ``['a', 'b']`` to a list."""
    if cell.startswith('[') and cell.endswith(']'):
        try:
            return [str(entry).strip() for entry in ast.literal_eval(cell)]
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            cell = cell[1:-1]
    return [entry.strip() for entry in _COMMA.split(cell)]


def _bare(text: str) -> str:
    """Base64 without blanks and the head of a data URL."""
    return ''.join(_DATA_URL.sub('', text).split())


def _decode(text: str, index: str) -> np.ndarray:
    try:
        data = base64.b64decode(_bare(text), validate=True)
    except ValueError as error:
        raise BadData('a picture in the table cannot be read',
                      value=f'row {index}: {error}') from error
    return _picture(io.BytesIO(data), f'in the table, row {index}')


def _picture(source: Path | io.BytesIO, name: str) -> np.ndarray:
    try:
        with Image.open(source) as picture:
            return np.asarray(to_rgb(ImageOps.exif_transpose(picture)))
    except Exception as error:  # decoders fail in many ways, see imaging/compressed.py
        raise BadData('a picture cannot be read', value=f'{name}: {error}') from error
