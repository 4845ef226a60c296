"""Where GRPO's questions come from: our scenes, or RL_data.jsonl; with flags from a file."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Protocol, Sequence

import numpy as np
from tqdm import tqdm

from cooper_ros.errors import BadData
from cooper_ros.scenes.questions import CATEGORIES
from cooper_ros.training.data import FrameStore
from cooper_ros.training.datasets.cooper_set import RlSet
from cooper_ros.training.datasets.json_lines import JsonLines
from cooper_ros.training.datasets.samples import FLAGS, RlSample
from cooper_ros.training.processes import is_first

LINE_BEGIN = b'{"data_id": '  # of every row of a flag file
FEW = 0.2  # share of the questions with a flag below which most of a run explores nothing


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
        name: split and first seed; data ids are ``name/frame/category/hash of the question``, so
            that no id ever means another question.
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
        frame, asked = self._asked(index)
        return RlSample(self.data_id(index), asked['question'], asked['answer'],
                        np.array(self.store.rgb[frame]), category=asked['category'])

    def data_id(self, index: int) -> str:
        """Id of one of them, without its picture."""
        frame, asked = self._asked(index)
        digest = hashlib.sha256(asked['question'].encode()).hexdigest()[:8]
        return f'{self.name}/{frame}/{asked["category"]}/{digest}'

    def _asked(self, index: int) -> tuple[int, dict[str, Any]]:
        frame, number = self._places[index]  # type: ignore[attr-defined]
        return frame, self.store.questions[frame][number]


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
class Chosen:
    """Some questions of a list, by their places in it."""

    questions: Questions
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def sample(self, index: int) -> RlSample:
        """See :class:`Questions`."""
        return self.questions.sample(self.places[index])


def scattered(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` places of a list of ``count``: one of each of as many equal parts of it.

    The first questions would be about one or two rooms. Places at equal distances might all be of
    one category, for every room is asked about nearly the same ones in the same order.
    """
    edges = np.linspace(0, count, min(wanted, count) + 1).astype(int)
    return np.random.default_rng(0).integers(edges[:-1], edges[1:]).tolist()


def hold_out(questions: Questions, pictures: Sequence[str], count: int) -> tuple[Chosen, Chosen]:
    """The last ``count`` questions, at most half of them, apart from those to train on.

    Others about their pictures do not train either, unless that would cost more than a quarter.

    Args:
        questions: all of them.
        pictures: name of the picture of each.
        count: how many do not train.

    Returns:
        questions to train on, and the last ones.
    """
    first = len(questions) - min(count, len(questions) // 2)
    seen = set(pictures[first:])
    others = [place for place in range(first) if pictures[place] not in seen]
    return (Chosen(questions, others if len(others) >= 0.75 * first else range(first)),
            Chosen(questions, range(first, len(questions))))


def asking_order(questions: Questions) -> Sequence[int]:
    """Places of a list in the order in which flags are measured, however many are.

    Questions about scenes are shuffled, for the first ones are all about a few rooms; those of a
    file stay as they are. A larger limit goes on where a smaller one ended, so not `scattered`.
    """
    if isinstance(questions, SceneQuestions):
        return np.random.default_rng(0).permutation(len(questions)).tolist()
    return range(len(questions))


def with_flags(questions: Questions, path: Path, only: bool = False) -> Flagged:
    """Questions with the flags of a file; says how many it names.

    Args:
        questions: all of them.
        path: what ``cooper data flags`` wrote.
        only: leave the others out.

    Raises:
        BadData: a row is broken, or the file names none of the questions.
    """
    flags, ids = read_flags(path), _ids(questions)
    named = [place for place, name in enumerate(ids) if name in flags]
    if not named:
        raise BadData('the flag file is of other questions',
                      value=f'{path}: {next(iter(flags), "no flags")}',
                      limit=f'such as {ids[0]}' if ids else 'at least one question',
                      remedy='run cooper data flags on the questions of this training file: see '
                             'Flags in docs/training.md')
    if is_first():
        tqdm.write(_how_many(len(named), len(ids), only), file=sys.stderr)
    return Flagged(Chosen(questions, named) if only else questions, flags)


def _how_many(named: int, count: int, only: bool) -> str:
    text = f'flags: {named} of {count} questions have one ({100 * named / count:.0f} %)'
    if only:
        return f'{text}; the others do not train'
    few = named < FEW * count
    return text + ('; the others have no exploration reward, unless their rows have flags: '
                   'task.flagged_only leaves them out' if few else '')


def _ids(questions: Questions) -> list[str]:
    """Data ids in order; pictures of files stay unread."""
    if isinstance(questions, Chosen):
        ids = _ids(questions.questions)
        return [ids[place] for place in questions.places]
    if isinstance(questions, RlSet):
        rows = (questions.lines.row(index) for index in range(len(questions)))
        return [str(row.get('data_id', index)) for index, row in enumerate(rows)]
    if isinstance(questions, SceneQuestions):
        return [questions.data_id(index) for index in range(len(questions))]
    return [questions.sample(index).data_id for index in range(len(questions))]


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


def flag_line(data_id: str, flag: str, with_tools: float, without: float,
              made: Mapping[str, Any]) -> str:
    """One row of a flag file; ``made`` says how it was measured."""
    return json.dumps({'data_id': data_id, 'flag': flag, 'with_tools': round(with_tools, 4),
                       'without_tools': round(without, 4), **made}) + '\n'
