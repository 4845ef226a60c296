"""Ask a model every question of a benchmark, keep every response, sum up with intervals."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Sequence

from tqdm import tqdm

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, Failure
from cooper_ros.errors import BadData, BadOption
from cooper_ros.evaluation.benchmarks import identity
from cooper_ros.evaluation.benchmarks.adapters import Adapter, Scores
from cooper_ros.evaluation.benchmarks.table import Row, Table
from cooper_ros.evaluation.judge import Claim, Judge
from cooper_ros.evaluation.scoring import wilson

WRONG = 'unread'  # rules could not read the response and nobody else was asked


@dataclass(frozen=True)
class Record:
    """One question and what became of it.

    Attributes:
        index: of the row.
        prompt, truth: what was asked, what is right.
        response: the last turn; empty after a failure.
        scores: measure -> 0..1.
        decided: ``rules``, ``judge``, ``unread`` (counts as wrong) or ``failed``.
        maps: kinds of the maps that were drawn.
        groups: column -> value, for scores by group.
        seconds: of the request.
        error: message of a failure.
    """

    index: str
    prompt: str
    truth: str
    response: str
    scores: Scores
    decided: str
    maps: tuple[str, ...]
    groups: dict[str, str]
    seconds: float
    error: str = ''


def run(engine: CooperEngine, adapter: Adapter, table: Table, *, mode: str = 'auto',
        seed: int = 0, limit: int = 0, out: Path | None = None,
        judge: Judge | None = None) -> list[Record]:
    """Ask all rows; those whose response is in ``out`` already are only scored again.

    Every line of ``out`` names the model, the seed and the settings it comes from. Requests that
    failed are asked again.

    Args:
        engine: answers.
        adapter: which benchmark.
        table: its file.
        mode: engine mode.
        seed: of maps.
        limit: first rows only; 0 for all.
        out: JSON lines with every record; a stopped run goes on from them.
        judge: decides where the rules cannot; None counts those as wrong.

    Raises:
        BadData: the table is damaged.
        BadOption: ``out`` belongs to other questions, or to another model, mode or seed.
    """
    rows = table.rows[:limit or None]
    now = {} if out is None else identity.identity(engine, mode, seed)
    known = _kept(out, now)
    records = []
    for row in tqdm(rows, desc=adapter.name, mininterval=1):
        kept = known.get(row.index)
        if kept is not None and kept['prompt'] != adapter.prompt(row):
            raise BadOption('the record file belongs to other questions',
                            value=f'{out}: row {row.index}',
                            remedy='give another --out, or delete the file')
        record = _asked(engine, adapter, table, row, mode, seed) if kept is None else (
            _scored_again(adapter, row, kept))
        record = _judged(record, judge) if record.decided == WRONG else record
        records.append(record)
        if kept is None and out is not None:
            with open(out, 'a', encoding='utf-8') as file:
                file.write(json.dumps({**now, **asdict(record)}) + '\n')
    return records


def _kept(out: Path | None, now: identity.Identity) -> dict[str, dict[str, Any]]:
    """Index -> the last record of it that has a response."""
    if out is None or not out.exists():
        return {}
    text, rows = out.read_text(encoding='utf-8'), []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line cut off by a kill is asked again
        if isinstance(row, dict) and 'index' in row:
            rows.append(row)
    identity.check(rows, now, out)
    if text and not text.endswith('\n'):
        with open(out, 'a', encoding='utf-8') as file:
            file.write('\n')  # what comes next is a line of its own
    return {row['index']: row for row in rows if not row.get('error')}


def _asked(engine: CooperEngine, adapter: Adapter, table: Table, row: Row, mode: str,
           seed: int) -> Record:
    started = time.monotonic()
    last = list(engine.ask(table.pictures(row), adapter.prompt(row), mode=mode, seed=seed))[-1]
    seconds = round(time.monotonic() - started, 3)
    if isinstance(last, Failure):
        return _record(adapter, row, '', (), seconds, last.error_msg)
    assert isinstance(last, Answer)
    return _record(adapter, row, last.reasoning[-1], tuple(drawn.kind for drawn in last.maps),
                   seconds)


def _scored_again(adapter: Adapter, row: Row, kept: dict[str, Any]) -> Record:
    return _record(adapter, row, kept['response'], tuple(kept['maps']), kept['seconds'],
                   kept['error'])


def _record(adapter: Adapter, row: Row, response: str, maps: tuple[str, ...], seconds: float,
            error: str = '') -> Record:
    scores = None if error else adapter.scores(row, response)
    decided = 'failed' if error else WRONG if scores is None else 'rules'
    groups = {column: row.get(column) for column in adapter.groups if row.get(column)}
    return Record(row.index, adapter.prompt(row), adapter.truth(row), response, scores or {},
                  decided, maps, groups, seconds, error)


def _judged(record: Record, judge: Judge | None) -> Record:
    if judge is None:
        return record
    verdict = judge.verdicts([Claim(record.prompt, record.truth, record.response)])[0]
    if verdict is None:
        return record
    return Record(**{**asdict(record), 'scores': {'score': float(verdict)}, 'decided': 'judge',
                     'maps': record.maps})


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Means with 95 % intervals: overall, and per value of every group column.

    Raises:
        BadData: nothing was asked.
    """
    if not records:
        raise BadData('no rows to sum up', value=0, limit='at least 1')
    grouped: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for column, value in record.groups.items():
            grouped[column][value].append(record)
    decided = {name: sum(record.decided == name for record in records)
               for name in ('rules', 'judge', WRONG, 'failed')}
    return {'questions': len(records), 'overall': means(records), 'decided': decided,
            'draws': sum(bool(record.maps) for record in records) / len(records),
            'groups': {column: {value: means(rows) for value, rows in sorted(values.items())}
                       for column, values in grouped.items()}}


def means(records: Sequence[Record]) -> dict[str, Any]:
    """Mean of every measure over rows; a row without a measure scores 0 in it."""
    names = next((list(record.scores) for record in records if record.decided == 'rules'),
                 ['score'])
    found: dict[str, Any] = {'questions': len(records)}
    for name in names:
        # a judge's verdict stands for the main measure
        values = [record.scores.get(name, record.scores.get('score', 0.0)) for record in records]
        mean = sum(values) / len(values)
        found[name] = {'mean': mean, 'interval': wilson(mean, len(values))}
    return found


def lines(name: str, found: dict[str, Any]) -> list[str]:
    """A summary as text."""
    rows = [f'{name}: {found["questions"]} questions, decided by rules {found["decided"]["rules"]}'
            f', judge {found["decided"]["judge"]}, unread {found["decided"][WRONG]}, failed '
            f'{found["decided"]["failed"]}; maps drawn for {100 * found["draws"]:.0f} %']
    rows += _measures('overall', found['overall'])
    for column, values in found['groups'].items():
        for value, measured in values.items():
            rows += _measures(f'{column} {value}', measured)
    return rows


def _measures(label: str, measured: dict[str, Any]) -> list[str]:
    return [f'  {label} (n={measured["questions"]}) {name} {100 * entry["mean"]:.2f} '
            f'[{100 * entry["interval"][0]:.2f}, {100 * entry["interval"][1]:.2f}]'
            for name, entry in measured.items() if name != 'questions']
