"""What a replay found, for people (Markdown, pictures) and for programs (JSON)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Mapping

from cooper_ros.engine.events import Answer
from cooper_ros.replay.places import ANSWERS, SUMMARY_JSON, SUMMARY_MD, sheet_name
from cooper_ros.replay.run import Asked, Result


def write_summary(result: Result, facts: Mapping[str, str]) -> tuple[Path, Path]:
    """Write ``summary.json`` and ``summary.md`` beside the bag of answers.

    Everything that changes between two equal runs sits under ``timings`` and ``run``.

    Args:
        result: of :func:`cooper_ros.replay.run.replay`.
        facts: hardware, precision, model and size, for the numbers to mean something.

    Returns:
        the two files.
    """
    values = summary(result, facts)
    as_json, as_text = result.request.out / SUMMARY_JSON, result.request.out / SUMMARY_MD
    as_json.write_text(json.dumps(values, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    as_text.write_text(_markdown(values), encoding='utf-8')
    return as_json, as_text


def summary(result: Result, facts: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of ``summary.json``."""
    request = result.request
    return {
        'bag': request.bag.name, 'topic': result.topic.name, 'type': result.topic.type,
        'seed': request.seed, 'plan': dataclasses.asdict(request.plan),
        'pictures': result.pictures, 'complete': not result.interrupted,
        'answers': [_entry(number, asked) for number, asked in enumerate(result.asked)],
        'skipped': [dataclasses.asdict(entry) for entry in result.skipped],
        'warnings': list(result.warnings),
        'run': dict(facts),
        'timings': [_timing(asked) for asked in result.asked],
    }


def _entry(number: int, asked: Asked) -> dict[str, Any]:
    end = asked.end
    entry = {'picture': asked.frame.index, 'stamp_ns': asked.frame.stamp_ns,
             'bag_ns': asked.frame.bag_ns, 'frame_id': asked.frame.frame_id,
             'question': asked.question.text, 'mode': asked.mode}
    if isinstance(end, Answer):
        entry |= {'answer': end.text, 'short': end.short, 'reasoning': list(end.reasoning),
                  'confidence': round(end.confidence, 4), 'complete': end.complete}
    return entry | {'error_code': end.error_code, 'error_msg': end.error_msg,
                    'sheet': sheet_name(number)}


def _timing(asked: Asked) -> dict[str, float]:
    inner = dataclasses.asdict(asked.end.timings) if isinstance(asked.end, Answer) else {}
    return {'seconds': round(asked.seconds, 3),
            **{name: round(value, 4) for name, value in inner.items()}}


def _markdown(values: Mapping[str, Any]) -> str:
    said = [entry for entry in values['answers'] if 'answer' in entry]
    cut = sum(not entry['complete'] for entry in said)
    seconds = sum(entry['seconds'] for entry in values['timings'])
    run = ', '.join(f'{name} {value}' for name, value in values['run'].items())
    lines = [f'# Replay of {values["bag"]}', '',
             f'{values["pictures"]} pictures of `{values["topic"]}`, '
             f'{len(values["answers"])} questions, {len(said) - cut} answered, '
             f'{f"{cut} cut short, " if cut else ""}'
             f'{len(values["skipped"])} pictures skipped'
             f'{"" if values["complete"] else " (stopped before the end)"}.', '',
             f'{seconds:.1f} s of asking on {run}, seed {values["seed"]}.', '',
             f'Bag of answers: `{ANSWERS}/` (Foxglove, or `ros2 bag play {ANSWERS}`).', '']
    lines += ['| picture | stamp, s | question | answer | sure | sheet |',
              '|---|---|---|---|---|---|']
    lines += [_row(entry) for entry in values['answers']]
    for title, key in (('Skipped pictures', 'skipped'), ('Warnings', 'warnings')):
        if values[key]:
            lines += ['', f'## {title}', '']
            lines += [f'- {_plain(entry)}' for entry in values[key]]
    return '\n'.join(lines) + '\n'


def _row(entry: Mapping[str, Any]) -> str:
    said = entry.get('answer', f'**{entry["error_msg"]}**')
    sure = f'{entry["confidence"]:.2f}' if 'confidence' in entry else ''
    cut = '' if entry.get('complete', True) else ' (incomplete)'
    return (f'| {entry["picture"]} | {entry["stamp_ns"] / 1e9:.3f} | {_cell(entry["question"])} '
            f'| {_cell(said)}{cut} | {sure} | [picture]({entry["sheet"]}) |')


def _cell(text: str) -> str:
    short = text if len(text) <= 300 else text[:299] + '…'
    return ' '.join(short.replace('|', '\\|').split())


def _plain(entry: Any) -> str:
    if isinstance(entry, str):
        return _cell(entry)
    return f'picture {entry["index"]} at {entry["bag_ns"]} ns: {_cell(entry["reason"])}'
