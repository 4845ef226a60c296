"""Ask a model every question of a benchmark, keep every response, sum up with intervals."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Sequence

from tqdm import tqdm

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, Failure
from cooper_ros.errors import BadData, BadOption, NoAnswer
from cooper_ros.evaluation.benchmarks import identity
from cooper_ros.evaluation.benchmarks.adapters import Adapter, Scores
from cooper_ros.evaluation.benchmarks.table import Row, Table
from cooper_ros.evaluation.outputs import writing
from cooper_ros.scoring.judge import Claim, Judge
from cooper_ros.scoring.scores import mean_interval

WRONG = 'unread'  # rules could not read the response and nobody else was asked
SILENT = 'judge_failed'  # nor did the judge say anything
FAILURES_SHOWN = 5
Kept = dict[str, dict[str, Any]]  # index -> the line of a record
KEPT = {'index': str, 'prompt': str, 'response': str, 'maps': list, 'seconds': (int, float),
        'error': str}  # what is read of such a line; one without is asked again


@dataclass(frozen=True)
class Record:
    """One question and what became of it.

    Attributes:
        index: of the row.
        prompt, truth: what was asked, what is right.
        response: the last turn; empty after a failure.
        scores: measure -> 0..1.
        decided: ``rules``, ``judge``, or what counts as wrong: ``unread``, ``judge_failed`` or
            ``failed``.
        maps: kinds of the maps that were drawn.
        groups: column -> value, for scores by group.
        seconds: of the request.
        error: message of a failure, of the request or of the row itself.
        picture: name of what is seen, the same for questions about the same pictures; empty where
            nothing else is known to show it.
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
    picture: str = ''


def run(engine: CooperEngine, adapter: Adapter, table: Table, *, mode: str = 'auto',
        seed: int = 0, limit: int = 0, out: Path | None = None,
        judge: Judge | None = None) -> list[Record]:
    """Ask all rows; those whose response is in ``out`` already are only scored again.

    Every line of ``out`` names the model, the seed and the settings it comes from. Requests that
    failed are asked again. A row that cannot be asked or scored counts as failed. The judge is
    asked last, about all responses at once; its verdicts are not in ``out``.

    Args:
        engine: answers.
        adapter: which benchmark.
        table: its file.
        mode: engine mode.
        seed: of maps.
        limit: first rows only; 0 for all.
        out: JSON lines with every record; a stopped run goes on from them.
        judge: decides where the rules cannot, and reads numbers, of several numbers the one that
            is meant; without it the first count as wrong, and of several the last one is read.

    Raises:
        BadData: not one row can be asked.
        BadOption, OutOfDisk: ``out`` is of another run or cannot be written, or there is no judge.
    """
    rows = table.rows[:limit or None]
    now = {} if out is None else identity.identity(engine, mode, seed)
    known = _kept(out, now)
    _check_questions(adapter, rows, known, out)
    bad, records = _bad_rows(adapter, table, rows, known), []
    if judge is not None:
        judge.require()
    for row in tqdm(rows, desc=adapter.name, mininterval=1):
        record = (_failed(adapter, row, bad[row.index]) if row.index in bad else
                  _scored_again(adapter, row, known[row.index]) if row.index in known else
                  _asked(engine, adapter, table, row, mode, seed))
        records.append(replace(record, picture=table.picture_name(row)))
        if out is not None and row.index not in known:
            _append(out, json.dumps({**now, **asdict(records[-1])}))
    return records if judge is None else _judged(adapter, rows, records, judge)


def _check_questions(adapter: Adapter, rows: Sequence[Row], known: Kept, out: Path | None
                     ) -> None:
    for row in rows:
        if row.index in known and known[row.index]['prompt'] != adapter.prompt(row):
            raise BadOption('the record file belongs to other questions',
                            value=f'{out}: row {row.index}',
                            remedy='give another --out, or delete the file')


def _bad_rows(adapter: Adapter, table: Table, rows: Sequence[Row], known: Kept
              ) -> dict[str, str]:
    """Index -> what is wrong, of rows that cannot be asked or scored; no picture is decoded."""
    found = {}
    for row in rows:
        try:
            adapter.check(row)
            if row.index not in known:
                table.check(row)
        except BadData as error:
            found[row.index] = str(error)
    if found:
        first = f'{len(found)} bad rows of {len(rows)}, the first says: {[*found.values()][0]}'
        if len(found) == len(rows):
            raise BadData('no row can be asked', value=first)
        print(f'{adapter.name}: not asked, counted as failed: {first}', file=sys.stderr)
    return found


def _kept(out: Path | None, now: identity.Identity) -> Kept:
    """Index -> the last record of it that has a response."""
    if out is None or not out.exists():
        return {}
    try:
        text, rows = out.read_text(encoding='utf-8'), []
    except UnicodeDecodeError as error:
        raise BadOption('the record file holds no text', value=f'{out}: {error}',
                        limit='JSON lines of an earlier run',
                        remedy='give another --out, or delete the file') from error
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line cut off by a kill is asked again
        if isinstance(row, dict) and 'index' in row:
            rows.append(row)
    identity.check(rows, now, out)
    if text and not text.endswith('\n'):
        _append(out, '')  # what comes next is a line of its own
    return {row['index']: row for row in rows if not row.get('error')
            and all(isinstance(row.get(name), kind) for name, kind in KEPT.items())}


def _append(out: Path, line: str) -> None:
    with writing('--out', out), open(out, 'a', encoding='utf-8') as file:
        file.write(line + '\n')


def _asked(engine: CooperEngine, adapter: Adapter, table: Table, row: Row, mode: str,
           seed: int) -> Record:
    try:
        pictures = table.pictures(row)
    except BadData as error:
        return _failed(adapter, row, str(error))
    started = time.monotonic()
    last = list(engine.ask(pictures, adapter.prompt(row), mode=mode, seed=seed))[-1]
    seconds = round(time.monotonic() - started, 3)
    if isinstance(last, Failure):
        return _record(adapter, row, '', (), seconds, last.error_msg)
    assert isinstance(last, Answer)
    return _record(adapter, row, last.reasoning[-1], tuple(drawn.kind for drawn in last.maps),
                   seconds)


def _failed(adapter: Adapter, row: Row, error: str) -> Record:
    return _record(adapter, row, '', (), 0.0, error)


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


def _judged(adapter: Adapter, rows: Sequence[Row], records: Sequence[Record], judge: Judge
            ) -> list[Record]:
    """Records with what the judge made of those that the rules could not read, or guessed."""
    unread = [number for number, record in enumerate(records) if record.decided == WRONG
              or (record.decided == 'rules' and adapter.doubtful(rows[number], record.response))]
    said = _opinions(adapter, judge, [rows[number] for number in unread],
                     [Claim(records[number].prompt, records[number].truth,
                            records[number].response) for number in unread])
    if unread and all(scores is None for scores in said):
        judge.require()  # a judge that is there and cannot read these is counted
    judged = list(records)
    for number, scores in zip(unread, said):
        decided = SILENT if scores is None else 'judge'
        judged[number] = replace(records[number], decided=decided, scores=scores or {})
    return judged


def _opinions(adapter: Adapter, judge: Judge, rows: Sequence[Row], claims: Sequence[Claim]
              ) -> list[Scores | None]:
    """Scores by what the judge says: whether a claim is right, or which number it states.

    Numbers are scored by the measures of the benchmark, which need more than True or False.
    """
    numeric = [adapter.numeric(row) for row in rows]
    read = iter(judge.numbers([claim for claim, number in zip(claims, numeric) if number]))
    ruled = iter(judge.verdicts([claim for claim, number in zip(claims, numeric) if not number]))
    return [_measured(adapter, row, next(read)) if number else _ruled(next(ruled))
            for row, number in zip(rows, numeric)]


def _measured(adapter: Adapter, row: Row, said: str | None) -> Scores | None:
    """Scores of a number as the judge read it; none of them where that is no answer."""
    return None if said is None else adapter.scores(row, said) or {}


def _ruled(verdict: bool | None) -> Scores | None:
    return None if verdict is None else {'score': float(verdict)}


def check_answered(records: Sequence[Record]) -> None:
    """Refuse a score of nothing but failures: it says nothing about the model.

    Raises:
        NoAnswer: every request failed.
    """
    if records and all(record.error for record in records):
        raise NoAnswer('every request failed', value=f'{len(records)} of {len(records)}, the '
                       f'first says: {records[0].error}')


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Means with 95 % intervals: overall, and per value of every group column.

    Questions about one picture are right or wrong together, so intervals are over pictures.

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
               for name in ('rules', 'judge', WRONG, SILENT, 'failed')}
    names = next((tuple(record.scores) for record in records if record.scores), ('score',))
    return {'questions': len(records), 'pictures': len({*_pictures(records)}),
            'overall': means(records, names), 'decided': decided,
            'draws': sum(bool(record.maps) for record in records) / len(records),
            'failures': {record.index: record.error for record in records if record.error},
            'groups': {column: {value: means(rows, names)
                                for value, rows in sorted(values.items())}
                       for column, values in grouped.items()}}


def means(records: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """Mean of every measure over rows; a row without a measure scores 0 in it."""
    found: dict[str, Any] = {'questions': len(records)}
    for name in names:
        values = [record.scores.get(name, 0.0) for record in records]
        found[name] = {'mean': sum(values) / len(values),
                       'interval': mean_interval(values, _pictures(records))}
    return found


def _pictures(records: Sequence[Record]) -> list[str]:
    """The picture of every record; one without a name has one of its own."""
    return [record.picture or f'#{number}' for number, record in enumerate(records)]


def lines(name: str, found: dict[str, Any]) -> list[str]:
    """A summary as text."""
    decided = found['decided']
    silent = f', {SILENT} {decided[SILENT]}' if decided[SILENT] else ''
    rows = [f'{name}: {found["questions"]} questions about {found["pictures"]} pictures, decided '
            f'by rules {decided["rules"]}, judge {decided["judge"]}, unread {decided[WRONG]}'
            f'{silent}, failed {decided["failed"]}; maps drawn for {100 * found["draws"]:.0f} %']
    rows += _measures('overall', found['overall'])
    for column, values in found['groups'].items():
        for value, measured in values.items():
            rows += _measures(f'{column} {value}', measured)
    return rows + _failures(found['failures'])


def _failures(found: Mapping[str, str]) -> list[str]:
    rows = [f'  failed, counted as wrong: {len(found)}'] * bool(found)
    rows += [f'    row {index}: {error}' for index, error in [*found.items()][:FAILURES_SHOWN]]
    more = len(found) - FAILURES_SHOWN
    return rows + [f'    and {more} more, all of them in the file of --json'] * (more > 0)


def _measures(label: str, measured: dict[str, Any]) -> list[str]:
    return [f'  {label} (n={measured["questions"]}) {name} {100 * entry["mean"]:.2f} '
            f'[{100 * entry["interval"][0]:.2f}, {100 * entry["interval"][1]:.2f}]'
            for name, entry in measured.items() if name != 'questions']
