"""What is asked, and about which pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence

import yaml

from cooper_ros.config import MODES
from cooper_ros.errors import BadData, BadOption, BadQuestion

DEFAULT_QUESTION = 'What is in front of the camera, and what is closest to it?'
JITTER_NS = 1_000_000  # cameras are never exactly on time
REMEDY = 'one question per line, or a JSON, JSONL or YAML list of {question, mode}'


@dataclass(frozen=True)
class Question:
    """One question; ``mode`` None takes the mode of the run."""

    text: str
    mode: str | None = None


@dataclass(frozen=True)
class Plan:
    """Which pictures are asked about.

    Attributes:
        rate: at most so many pictures per second of bag time are asked about; 0: all.
        every: ask about every Nth picture only.
        limit: stop after so many pictures; 0: never.
    """

    rate: float = field(default=1.0, metadata={
        'help': 'pictures asked about per second of bag time; 0 takes all'})
    every: int = field(default=1, metadata={'help': 'ask about every Nth picture only'})
    limit: int = field(default=0, metadata={'help': 'stop after so many pictures; 0: never'})

    def __post_init__(self) -> None:
        for name, low in (('rate', 0), ('every', 1), ('limit', 0)):
            if not low <= getattr(self, name) < 10**9:
                raise BadOption(f'--{name} is out of range', value=getattr(self, name),
                                limit=f'{low} or more')


class Picker:
    """Picks pictures as they come, by a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.taken = plan, 0
        self._last_ns: int | None = None

    def wants(self, index: int, bag_ns: int) -> bool:
        """Whether to ask about the picture of this number and bag stamp."""
        plan = self.plan
        if index % plan.every or self.finished:
            return False
        if plan.rate and self._last_ns is not None and bag_ns >= self._last_ns:
            return bag_ns - self._last_ns >= 1e9 / plan.rate - JITTER_NS
        return True

    def take(self, bag_ns: int) -> None:
        """Count a picture of this bag stamp as asked about."""
        self._last_ns = bag_ns
        self.taken += 1

    def takes(self, index: int, bag_ns: int) -> bool:
        """Whether to ask about a picture; counts it when so."""
        wanted = self.wants(index, bag_ns)
        if wanted:
            self.take(bag_ns)
        return wanted

    @property
    def finished(self) -> bool:
        """True when the limit is reached."""
        return bool(self.plan.limit) and self.taken >= self.plan.limit


def collect(texts: Sequence[str], file: Path | None) -> list[Question]:
    """Put the questions of the command line and of a file together.

    Raises:
        BadQuestion: one of them is empty.
        BadData: the file cannot be read.
    """
    questions = [_question(text, 'command line') for text in texts]
    return questions + (read_questions(file) if file else [])


def read_questions(file: Path) -> list[Question]:
    """Read a file of questions: text, JSON, JSONL or YAML by its suffix. ``#`` starts a comment.

    Raises:
        BadData: the file cannot be read or holds no question.
        BadQuestion: an entry is not a question.
    """
    try:
        text = file.read_text(encoding='utf-8')
        entries = _entries(text, file.suffix.lower())
    except (OSError, ValueError, yaml.YAMLError) as error:
        remedy = 'check the path' if isinstance(error, OSError) else REMEDY
        raise BadData('the question file cannot be read', value=f'{file}: {error}',
                      remedy=remedy) from error
    if not isinstance(entries, list) or not entries:
        raise BadData('the question file holds no list of questions', value=str(file),
                      remedy=REMEDY)
    return [_question(entry, f'{file}, entry {number}')
            for number, entry in enumerate(entries, start=1)]


def _entries(text: str, suffix: str) -> Any:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith('#')]
    if suffix == '.jsonl':
        return [json.loads(line) for line in lines]
    if suffix == '.json':
        return json.loads(text)
    return yaml.safe_load(text) if suffix in ('.yaml', '.yml') else lines


def _question(entry: object, place: str) -> Question:
    values = {'question': entry} if isinstance(entry, str) else entry
    if not isinstance(values, dict) or not isinstance(values.get('question'), str):
        raise BadQuestion('an entry is not a question', value=place, remedy=REMEDY)
    text, mode = values['question'].strip(), values.get('mode')
    if not text:
        raise BadQuestion('a question is empty', value=place, remedy='write one')
    if mode is not None and mode not in MODES:
        raise BadOption('the mode of a question is not a choice', value=f'{place}: {mode!r}',
                        limit=', '.join(MODES))
    return Question(text, mode)
