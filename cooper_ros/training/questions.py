"""Where GRPO's questions come from: our scenes, or RL_data.jsonl; with flags from a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Mapping, Protocol

import numpy as np

from cooper_ros.errors import BadData
from cooper_ros.scenes.questions import CATEGORIES
from cooper_ros.training.data import FrameStore
from cooper_ros.training.datasets.json_lines import JsonLines
from cooper_ros.training.datasets.samples import FLAGS, RlSample


class Questions(Protocol):
    """A list of questions; entry ``i`` is the same every time."""

    def __len__(self) -> int:
        """How many."""

    def sample(self, index: int) -> RlSample:
        """One of them."""


@dataclass(frozen=True)
class SceneQuestions:
    """The questions of a store of generated frames.

    Attributes:
        store: the frames.
        name: split and first seed; data ids are ``name/frame/number``.
        categories: which ones; empty for all.
    """

    store: FrameStore
    name: str
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        places = [(frame, number) for frame, asked in enumerate(self.store.questions)
                  for number, question in enumerate(asked)
                  if question['category'] in (self.categories or CATEGORIES)]
        object.__setattr__(self, '_places', places)

    def __len__(self) -> int:
        return len(self._places)  # type: ignore[attr-defined]

    def sample(self, index: int) -> RlSample:
        """See :class:`Questions`."""
        frame, number = self._places[index]  # type: ignore[attr-defined]
        asked = self.store.questions[frame][number]
        return RlSample(f'{self.name}/{frame}/{number}', asked['question'], asked['answer'],
                        np.array(self.store.rgb[frame]))


@dataclass(frozen=True)
class Flagged:
    """Questions with the flags of a file; what the file does not name keeps its own."""

    questions: Questions
    flags: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.questions)

    def sample(self, index: int) -> RlSample:
        """See :class:`Questions`."""
        row = self.questions.sample(index)
        return replace(row, flag=self.flags.get(row.data_id, row.flag))


@dataclass(frozen=True)
class Span:
    """Some questions of a list: those from ``first`` up to, not including, ``end``."""

    questions: Questions
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    def sample(self, index: int) -> RlSample:
        """See :class:`Questions`."""
        return self.questions.sample(self.first + index)


def read_flags(path: Path) -> dict[str, str]:
    """What ``cooper data flags`` wrote: data id -> flag.

    Raises:
        BadData: a row is broken.
    """
    lines, flags = JsonLines(path), {}
    for index in range(len(lines)):
        row = lines.row(index)
        if row.get('flag') not in FLAGS or 'data_id' not in row:
            raise BadData('not a row of flags', value=lines.where(index),
                          limit='{"data_id": ..., "flag": "positive|negative|boundary"}')
        flags[str(row['data_id'])] = row['flag']
    return flags


def flag_line(data_id: str, flag: str, with_tools: float, without: float) -> str:
    """One row of a flag file."""
    return json.dumps({'data_id': data_id, 'flag': flag, 'with_tools': round(with_tools, 4),
                       'without_tools': round(without, 4)}) + '\n'
