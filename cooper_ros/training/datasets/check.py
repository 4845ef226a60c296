"""What is missing or broken in a downloaded data set, before training finds out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
from tqdm import tqdm

from cooper_ros.errors import BadData
from cooper_ros.training.datasets.catalogue import COOPER, KINDS, draw_kind
from cooper_ros.training.datasets.cooper_set import (
    PUBLISHED_SFT,
    RL_FILE,
    SFT_FILE,
    RlSet,
    TalkSet,
)
from cooper_ros.training.datasets.damage import listed_at
from cooper_ros.training.datasets.draw import DEPTH, DrawKind, read_pair
from cooper_ros.training.datasets.samples import Pair

SHOWN = 5  # examples of each kind of problem


@dataclass
class Report:
    """The outcome of one check.

    Attributes:
        kind: which set.
        place: where it was looked for.
        counts: what was found, name -> number, in order.
        notes: things worth knowing that are no fault.
        problems: kind of problem -> places.
        remedy: what to do when something is wrong.
    """

    kind: str
    place: Path
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    remedy: str = ''

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def problem(self, error: BadData) -> None:
        """File an error under what went wrong."""
        self.problems.setdefault(error.what, []).append(str(error.value))

    def lines(self) -> list[str]:
        """The report as text."""
        found = ', '.join(f'{count} {name}' for name, count in self.counts.items())
        rows = [f'{self.kind} in {self.place}: {found or "nothing found"}']
        rows += [f'note: {note}' for note in self.notes]
        for what, places in self.problems.items():
            rows.append(f'problem: {what} ({len(places)})')
            rows += [f'  {place}' for place in places[:SHOWN]]
            if len(places) > SHOWN:
                rows.append(f'  and {len(places) - SHOWN} more')
        return [*rows, f'remedy: {self.remedy}'] if self.problems and self.remedy else rows


def check(kind: str, place: Path, images: Path | None = None, limit: int = 0,
          workers: int = 4, part: bool = False) -> Report:
    """Look for every file of a set and decode it.

    Args:
        kind: a name of the catalogue.
        place: folder or list.
        images: picture folder of the GRPO questions, where it is elsewhere.
        limit: decode only so many, evenly spread; 0 decodes all.
        workers: threads that decode.
        part: a part of the set is meant: scenes and pictures of which there is nothing are noted.

    Raises:
        BadData: unknown kind, or no such folder.
    """
    if kind not in KINDS:
        raise BadData('unknown data set', value=kind, limit=', '.join(KINDS))
    if kind == COOPER:
        return _check_cooper(place, images, limit, workers)
    return _check_draw(draw_kind(kind), place, limit, workers, part)


def _check_draw(kind: DrawKind, place: Path, limit: int, workers: int, part: bool) -> Report:
    found = kind.search(place)
    report = Report(kind.name, place, {'pairs': len(found.pairs)}, remedy=kind.remedy,
                    problems=found.problems)
    if not found.pairs:
        report.problems.setdefault('no picture with its target', []).append(str(place))
    elif found.absent:
        _add_absent(report, found.absent, part)
    if len(found.pairs) != kind.published:
        report.notes.append(f'the published list has {kind.published} pairs')
    chosen = [found.pairs[index] for index in spread(len(found.pairs), limit)]
    decoded = _decode(report, chosen, lambda pair: _try_pair(kind, pair), workers)
    report.counts['decoded'] = decoded
    return report


def _add_absent(report: Report, absent: dict[str, list[str]], part: bool) -> None:
    if part:
        report.notes += [f'{what}: {len(places)}, as a part is meant'
                         for what, places in absent.items()]
        return
    report.problems.update(absent)
    report.remedy += '; or say --part, if a part of the set is meant'


def _try_pair(kind: DrawKind, pair: Pair) -> None:
    _, target = read_pair(kind, pair)
    if kind.kind == DEPTH and not np.asarray(target).any():
        with listed_at(pair.listed):
            raise BadData('depth is 0 everywhere', value=pair.inside(pair.target))


def _check_cooper(place: Path, images: Path | None, limit: int, workers: int) -> Report:
    report = Report(COOPER, place, remedy='see the messages above; the set is '
                    'Starrrrrry/COOPER_Train_Set on Hugging Face')
    readers = {SFT_FILE: TalkSet, RL_FILE: lambda path: RlSet(path, images)}
    if place.is_file():
        if place.name not in readers:
            raise BadData('not a file of this set', value=place.name, limit=', '.join(readers))
        readers = {place.name: readers[place.name]}
    for name, open_file in readers.items():
        try:
            rows = open_file(place)
        except BadData as error:
            report.problem(error)
            report.remedy = error.remedy or report.remedy
            continue
        report.counts[f'rows of {name}'] = len(rows)
        readable = _decode(report, spread(len(rows), limit), rows.sample, workers, name)
        report.counts[f'readable of {name}'] = readable
        if name == SFT_FILE and len(rows) != PUBLISHED_SFT:
            report.notes.append(f'the published {name} has {PUBLISHED_SFT} rows')
    return report


def _decode(report: Report, entries: Sequence, read: Callable, workers: int,
            label: str = 'pairs') -> int:
    """Read entries in threads; problems are filed in their order. Returns how many are good."""
    def attempt(entry: object) -> BadData | None:
        try:
            read(entry)
        except BadData as error:
            return error
        return None

    good = 0
    with ThreadPoolExecutor(workers) as pool:
        for error in tqdm(pool.map(attempt, entries), total=len(entries),
                          desc=f'{report.kind} {label}', mininterval=0.5):
            if error is None:
                good += 1
            else:
                report.problem(error)
    return good


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` indices of ``count``, evenly spread; all of them for 0."""
    if limit <= 0 or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]
