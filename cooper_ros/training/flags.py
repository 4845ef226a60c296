"""Which questions do maps help with? Accuracy with and without tools, question by question."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Mapping

from tqdm import tqdm

from cooper_ros.config import MODES
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, Event, Failure
from cooper_ros.errors import BadOption, class_of
from cooper_ros.scoring.judge import Claim
from cooper_ros.training.checker import Checker, RuleChecker
from cooper_ros.training.datasets.json_lines import JsonLines
from cooper_ros.training.datasets.samples import RlSample
from cooper_ros.training.questions import (
    LINE_BEGIN,
    Questions,
    asking_order,
    flag_line,
    read_flags,
)
from cooper_ros.training.rewards import flag_of
from cooper_ros.training.typed import check_ranges


@dataclass(frozen=True)
class FlagOptions:
    """How both accuracies are measured.

    Attributes:
        with_mode, without_mode: engine modes that use maps and that do not.
        tries: answers per question and mode; one is greedy, more are sampled.
        temperature: of sampled answers.
        margin: difference of the accuracies up to which a question stays ``boundary``.
    """

    with_mode: str = 'maps'
    without_mode: str = 'text'
    tries: int = 1
    temperature: float = 1.0
    margin: float = 0.0

    def __post_init__(self) -> None:
        choice = ', '.join(MODES)
        check_ranges(self, (
            ('with_mode', self.with_mode in MODES, choice),
            ('without_mode', self.without_mode in MODES, choice),
            ('without_mode', self.without_mode != self.with_mode, 'another than with_mode'),
            ('tries', self.tries >= 1, '>= 1'),
            ('temperature', self.temperature > 0, '> 0'),
            ('margin', 0 <= self.margin <= 1, '0 .. 1')))


def write_flags(engine: CooperEngine, questions: Questions, out: Path,
                options: FlagOptions = FlagOptions(), checker: Checker | None = None,
                limit: int = 0, model: str = '') -> Counter[str]:
    """Append a row per question to ``out``; what is in it already is not asked again.

    Every row says how it was measured: the options and the model.

    Args:
        engine: the model, usually the start of GRPO.
        questions: which ones.
        out: JSON lines; a stopped run goes on from them, without a last line that was cut off.
        options: how.
        checker: what is right; the rules if None.
        limit: ask only so many, of scenes from all over them; 0 asks all.
        model: fingerprint of the model, kept in every row; empty keeps and checks nothing.

    Returns:
        how often each flag is in the file now.

    Raises:
        BadData: a row of ``out`` is broken.
        BadOption: another model wrote in it, or it was measured in another way.
        CooperError: the engine's, of a question it refused; the same call goes on from there.
    """
    checker = checker or RuleChecker()
    out.parent.mkdir(parents=True, exist_ok=True)
    made = {**asdict(options), **({'model': model} if model else {})}
    flags = _kept(out, made) if out.exists() else {}
    order = asking_order(questions)[:limit or len(questions)]
    with open(out, 'a', encoding='utf-8') as file:
        for index in tqdm(order, desc='flags', mininterval=1):
            row = questions.sample(index)
            if row.data_id in flags:
                continue
            scores = [accuracy(engine, row, mode, options, checker)
                      for mode in (options.with_mode, options.without_mode)]
            flags[row.data_id] = flag_of(*scores, options.margin)
            file.write(flag_line(row.data_id, flags[row.data_id], *scores, made))
            file.flush()
    return Counter(flags.values())


def _kept(out: Path, made: Mapping[str, Any]) -> dict[str, str]:
    """Flags that an earlier run wrote, made as ours will be."""
    _end_last_line(out)
    flags, lines = read_flags(out), JsonLines(out)
    for index in range(len(lines)):
        row = lines.row(index)  # those of older versions do not say how they were made
        changed = [name for name in made if row.get(name, made[name]) != made[name]]
        if changed:
            raise BadOption(
                'the flag file is of another model' if changed == ['model'] else
                'the flags of this file were measured in another way',
                value=f'{lines.where(index)}: {_listed(changed, row)}',
                limit=_listed(changed, made), remedy=f'give another --out, or delete {out}')
    return flags


def _listed(names: list[str], values: Mapping[str, Any]) -> str:
    return ', '.join(f'{name} {values[name]}' for name in names)


def _end_last_line(out: Path) -> None:
    """Take out a last line of ours that a kill cut off; one that only lacks its end gets it."""
    kept, newline, rest = out.read_bytes().rpartition(b'\n')
    if not rest.startswith(LINE_BEGIN[:max(1, len(rest))]):
        return  # whole, or no file of flags
    try:
        json.loads(rest)
    except ValueError:
        os.truncate(out, len(kept + newline))
    else:
        with open(out, 'ab') as file:
            file.write(b'\n')


def accuracy(engine: CooperEngine, row: RlSample, mode: str, options: FlagOptions,
             checker: Checker) -> float:
    """Mean score of a question in one mode, 0..1.

    Raises:
        CooperError: the engine refused the question, with the engine's code.
    """
    claims = []
    for seed in range(options.tries):
        last = list(engine.ask(row.image, row.question, mode=mode, seed=seed,
                               sample=options.tries > 1, temperature=options.temperature))[-1]
        claims.append(Claim(row.question, row.answer, _response(last, row.data_id, mode)))
    return sum(checker.scores(claims)) / len(claims)


def _response(last: Event, data_id: str, mode: str) -> str:
    """The last turn of an answer; what was never answered is neither right nor wrong."""
    if isinstance(last, Answer):
        return last.reasoning[-1]
    assert isinstance(last, Failure)  # a request ends in one of both
    raise class_of(last.error_code)(
        'a question was not answered', value=f'{data_id} in mode {mode}: {last.error_msg}',
        remedy='mend the cause, or take the question out; the same command then goes on')
