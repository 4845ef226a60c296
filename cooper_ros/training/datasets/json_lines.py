"""Random access to large JSON-lines files: only line offsets stay in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cooper_ros.errors import BadData
from cooper_ros.training.datasets.damage import JSON_ERRORS


class JsonLines:
    """A file of JSON objects, one per line; blank lines do not count.

    Raises:
        BadData: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: list[int] = []
        self._numbers: list[int] = []
        try:
            with open(path, 'rb') as file:
                self._index(file)
        except OSError as error:
            raise BadData('the file cannot be read', value=f'{path}: {error}') from error

    def _index(self, file: Any) -> None:
        place = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                self._offsets.append(place)
                self._numbers.append(number)
            place += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def where(self, index: int) -> str:
        """``file:line`` of a row, for messages."""
        return f'{self.path.name}:{self._numbers[index]}'

    def row(self, index: int) -> dict[str, Any]:
        """One row.

        Raises:
            BadData: not a JSON object, naming file and line.
        """
        with open(self.path, 'rb') as file:
            file.seek(self._offsets[index])
            line = file.readline()
        try:
            row = json.loads(line)
        except JSON_ERRORS as error:
            raise BadData('not a JSON line', value=f'{self.where(index)}: {error}',
                          remedy='the download was cut short: fetch the file again') from error
        if not isinstance(row, dict):
            raise BadData('not a JSON object', value=self.where(index))
        return row
