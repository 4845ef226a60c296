"""The report of ``gpu_check.py``: what was found, what failed and what took how long."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, TypeVar

import torch

from cooper_ros.errors import CooperError

ENOUGH = 480.0  # seconds; what is not measured by then would end after the ten minutes
REPEATS, WARM = 30, 5
Made = TypeVar('Made')


@dataclass
class Report:
    """What was found, as rows and as failures.

    Attributes:
        rows: what, value and verdict.
        failures: what has failed.
        file: where rows are written as they come, for a crash leaves no time for it.
        started: time of the first row.
    """

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    file: Path | None = None
    started: float = field(default_factory=time.monotonic)

    def say(self, what: str, value: str, verdict: str = '') -> None:
        """Print and keep one row."""
        self.rows.append((what, value, verdict))
        print(f'{verdict or "":5}{what}: {value}', flush=True)
        if self.file is not None:
            self.file.write_text(json.dumps({'rows': self.rows, 'failures': self.failures},
                                            indent=1))

    def check(self, what: str, value: float, limit: float, least: bool = False,
              note: str = '') -> None:
        """Keep a number that must stay below (or, with ``least``, above) its limit."""
        good = math.isfinite(value) and (value >= limit if least else value <= limit)
        word = 'at least' if least else 'at most'
        self.failures += [] if good else [what]
        self.say(what, f'{value:.3g} ({word} {limit:.3g}){note}', 'ok' if good else 'FAIL')

    def fail(self, what: str, error: Exception) -> None:
        """Keep what could not be done, and why."""
        self.failures.append(what)
        kind = '' if isinstance(error, CooperError) else f'{type(error).__name__}: '
        self.say(what, kind + str(error)[:600], 'FAIL')

    def is_late(self) -> bool:
        """Whether what is left would take the run beyond its time."""
        return self.seconds() > ENOUGH

    def seconds(self) -> float:
        """Time since the first row."""
        return time.monotonic() - self.started

    def table(self) -> str:
        """The rows in Markdown."""
        lines = [f'| {" | ".join(map(_cell, row))} |' for row in self.rows]
        return '\n'.join(['| what | value | |', '| --- | --- | --- |', *lines])


def _cell(text: str) -> str:
    """A text as a cell of a table: one line, without what would end the cell."""
    return ' '.join(text.split()).replace('|', '\\|')


def guarded(report: Report, what: str, step: Callable[..., Made], *arguments: Any) -> Made | None:
    """Take one step; None, and a row with the reason, where it cannot be taken."""
    try:
        return step(*arguments)
    except Exception as error:  # of any library; the others shall still be heard
        report.fail(what, error)
        return None


def milliseconds(run: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Median and 95th percentile over repeated calls, after warming up."""
    taken = []
    for number in range(WARM + REPEATS):
        started = time.perf_counter()
        run()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        if number >= WARM:
            taken.append((time.perf_counter() - started) * 1e3)
    taken.sort()
    return taken[len(taken) // 2], taken[int(len(taken) * 0.95)]
