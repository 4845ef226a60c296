"""Which questions do maps help with? Accuracy with and without tools, question by question."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer
from cooper_ros.errors import BadOption
from cooper_ros.evaluation.judge import Claim
from cooper_ros.training.checker import Checker, RuleChecker
from cooper_ros.training.datasets.json_lines import JsonLines
from cooper_ros.training.datasets.samples import RlSample
from cooper_ros.training.questions import LINE_BEGIN, Questions, flag_line, read_flags
from cooper_ros.training.rewards import flag_of


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


def write_flags(engine: CooperEngine, questions: Questions, out: Path,
                options: FlagOptions = FlagOptions(), checker: Checker | None = None,
                limit: int = 0, model: str = '') -> Counter[str]:
    """Append a row per question to ``out``; what is in it already is not asked again.

    Args:
        engine: the model, usually the start of GRPO.
        questions: which ones.
        out: JSON lines; a run that was stopped goes on from them, without a last line that was
            cut off.
        options: how.
        checker: what is right; the rules if None.
        limit: ask only so many; 0 asks all.
        model: fingerprint of the model, kept in every row; empty keeps and checks nothing.

    Returns:
        how often each flag is in the file now.

    Raises:
        BadData: a row of ``out`` is broken.
        BadOption: another model wrote in it.
    """
    checker = checker or RuleChecker()
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = _kept(out, model) if out.exists() else {}
    count = min(limit or len(questions), len(questions))
    with open(out, 'a', encoding='utf-8') as file:
        for index in tqdm(range(count), desc='flags', mininterval=1):
            row = questions.sample(index)
            if row.data_id in flags:
                continue
            scores = [accuracy(engine, row, mode, options, checker)
                      for mode in (options.with_mode, options.without_mode)]
            flags[row.data_id] = flag_of(*scores, options.margin)
            file.write(flag_line(row.data_id, flags[row.data_id], *scores, model))
            file.flush()
    return Counter(flags.values())


def _kept(out: Path, model: str) -> dict[str, str]:
    """Flags that an earlier run wrote."""
    _end_last_line(out)
    flags, lines = read_flags(out), JsonLines(out)
    for index in range(len(lines) if model else 0):
        other = lines.row(index).get('model', model)  # older files do not name theirs
        if other != model:
            raise BadOption('the flag file is of another model', limit=model,
                            value=f'{lines.where(index)}: {other}',
                            remedy=f'give another --out, or delete {out}')
    return flags


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
    """Mean score of a question in one mode, 0..1; a request without an answer scores 0."""
    claims = []
    for seed in range(options.tries):
        last = list(engine.ask(row.image, row.question, mode=mode, seed=seed,
                               sample=options.tries > 1, temperature=options.temperature))[-1]
        response = last.reasoning[-1] if isinstance(last, Answer) else ''
        claims.append(Claim(row.question, row.answer, response))
    return sum(checker.scores(claims)) / len(claims)
