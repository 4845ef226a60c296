"""Which questions do maps help with? Accuracy with and without tools, question by question."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer
from cooper_ros.evaluation.judge import Claim
from cooper_ros.training.checker import Checker, RuleChecker
from cooper_ros.training.datasets.samples import RlSample
from cooper_ros.training.questions import Questions, flag_line, read_flags
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
                limit: int = 0) -> Counter[str]:
    """Append a row per question to ``out``; what is in it already is not asked again.

    Args:
        engine: the model, usually the start of GRPO.
        questions: which ones.
        out: JSON lines; a run that was stopped goes on from them.
        options: how.
        checker: what is right; the rules if None.
        limit: ask only so many; 0 asks all.

    Returns:
        how often each flag is in the file now.
    """
    checker = checker or RuleChecker()
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = read_flags(out) if out.exists() else {}
    count = min(limit or len(questions), len(questions))
    with open(out, 'a', encoding='utf-8') as file:
        for index in tqdm(range(count), desc='flags', mininterval=1):
            row = questions.sample(index)
            if row.data_id in flags:
                continue
            scores = [accuracy(engine, row, mode, options, checker)
                      for mode in (options.with_mode, options.without_mode)]
            flags[row.data_id] = flag_of(*scores, options.margin)
            file.write(flag_line(row.data_id, flags[row.data_id], *scores))
            file.flush()
    return Counter(flags.values())


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
