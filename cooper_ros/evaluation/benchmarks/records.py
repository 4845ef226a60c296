"""Records of tab-separated text, those with stray quotes too.

A cell in quotes may hold line ends. A quote that is only part of a text would do the same to the
rows below it, so a record of several lines must not hold a line that looks like a row itself.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from typing import Iterable, Iterator

from cooper_ros.errors import BadData

FIELD_LIMIT = 2**30  # pictures sit in cells
_QUOTED = re.compile('"((?:[^"]|"")*)"')


def read_records(lines: Iterable[str]) -> Iterator[list[str]]:
    """Cells of the header, then of every record; blank lines are passed over.

    Args:
        lines: of the file, with their ends.

    Raises:
        BadData: a quote does not close, naming its line.
        csv.Error: what the csv module refuses.
    """
    csv.field_size_limit(FIELD_LIMIT)
    left = deque(lines)  # every line is let go once it is read: tables are large
    total, header = len(left), _record(left, 0, 1) if left else []
    yield header
    while left:
        cells = _record(left, len(header), total - len(left) + 1)
        if cells:
            yield cells


def _record(left: deque[str], width: int, number: int) -> list[str]:
    """Take the next record off the lines that are left."""
    lines: list[str] = []
    cells = next(csv.reader(_joined(left, width, lines), delimiter='\t'), [])
    columns = lines[0].count('\t') + 1
    # too few cells in a line with all its tabs: a quote opens in one cell and closes in another
    if lines[-1] and not len(cells) < width <= columns:
        for _ in lines:
            left.popleft()
        return cells
    if columns < width or (len(left) > 1 and left[1].strip() and not _is_row(left[1], width)):
        raise BadData('a quote in the table does not close', value=f'line {number}',
                      limit='"" for a quote inside a cell in quotes',
                      remedy='double the quote, or remove it')
    return _unquoted(left.popleft())


def _joined(left: Iterable[str], width: int, taken: list[str]) -> Iterator[str]:
    """Lines for as long as they can belong to one record; ``taken`` ends with an empty one.

    Args:
        left: the lines; the first is always given.
        width: columns of the table.
        taken: collects what was given.
    """
    tabs = 0
    for line in left:
        tabs += line.count('\t')
        if taken and tabs >= width and _is_row(line, width):
            break
        taken.append(line)
        yield line
    taken.append('')


def _is_row(line: str, width: int) -> bool:
    return line.count('\t') + 1 >= width


def _unquoted(line: str) -> list[str]:
    """Cells of one line; a quote is an ordinary character, except around a whole cell."""
    cells = next(csv.reader([line], delimiter='\t', quoting=csv.QUOTE_NONE), [])
    whole = (_QUOTED.fullmatch(cell) for cell in cells)
    return [cell if found is None else found[1].replace('""', '"')
            for cell, found in zip(cells, whole)]
