"""What a run says: a progress bar, ``log.jsonl``, curves and preview pictures."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Iterator, Mapping

import numpy as np
from PIL import Image
from tqdm import tqdm

from cooper_ros.errors import BadData
from cooper_ros.runtime.files import write_whole
from cooper_ros.training.curves import Curves, NoCurves, check_tracker, open_curves
from cooper_ros.training.processes import is_first
from cooper_ros.training.settings import TrainSettings

LOG_NAME = 'log.jsonl'
SUMS_NAME = 'log_sums.json'  # of steps that are no line yet, at the last two checkpoints


class RunLog:
    """Use as a context. Lines beyond the resumed step are dropped and the mean under way is taken
    up again, so the curve of a run that was killed is that of one that was not."""

    def __init__(self, folder: Path, start: int, steps: int, every: int = 20,
                 curves: Curves = NoCurves()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.every, self._steps = folder, every, steps
        self._samples, self._began = 0, time.monotonic()
        self._kept = _kept_sums(folder / SUMS_NAME)
        self._sums, self._counts = (dict(kept) for kept in self._kept.get(start, ({}, {})))
        self._keep_until(start)
        self._file = open(folder / LOG_NAME, 'a', encoding='utf-8')
        self._curves = curves
        self._bar = tqdm(total=steps, initial=start, unit='step', dynamic_ncols=True,
                         mininterval=5.0 if not sys.stderr.isatty() else 0.1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._bar.close()
        try:
            self._file.close()
            self._curves.close()
        except OSError:
            if error is None:  # else the first error is the one to tell
                raise

    def step(self, step: int, values: Mapping[str, float], samples: int) -> None:
        """Count one optimiser step of so many samples; the mean of every ``every`` steps becomes a
        line, and that of the last ones."""
        self._bar.update(1)
        self._samples += samples
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if step % self.every == 0 or step == self._steps:
            means = {name: total / self._counts[name] for name, total in self._sums.items()}
            # the bar's own rate is empty until it first draws itself, and where it is disabled
            rate = self._samples / max(time.monotonic() - self._began, 1e-9)
            self._bar.set_postfix({'loss': f"{means['loss']:.4f}",
                                   'samples/s': f'{rate:.1f}'}, refresh=False)
            self.line(step, means)
            self._sums, self._counts = {}, {}

    def keep(self, step: int) -> None:
        """Write down the mean under way; call it before the checkpoint of that step is written,
        which may still fail."""
        now = dict(self._sums), dict(self._counts)
        newest = dict(sorted({**self._kept, step: now}.items())[-2:])
        with _writing(self.folder):
            write_whole(self.folder / SUMS_NAME, json.dumps(list(newest.items())).encode())
        self._kept = newest

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line of numbers."""
        rounded = {name: float(f'{value:.6g}') for name, value in values.items()}
        line = {'step': step, 'time': round(time.time(), 1), **rounded}
        with _writing(self.folder):
            self._file.write(json.dumps(line) + '\n')
            self._file.flush()
            self._curves.scalars(step, rounded)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Save uint8 ``[H, W, 3]`` pictures people can look at."""
        for name, picture in pictures.items():
            path = self.folder / 'previews' / f'{step:07d}_{name}.png'
            with _writing(self.folder):
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(picture).save(path)
                self._curves.picture(step, name, picture)

    def _keep_until(self, start: int) -> None:
        path = self.folder / LOG_NAME
        if not path.exists():
            return
        kept = [line for line in path.read_text(encoding='utf-8', errors='replace').splitlines()
                if _step_of(line) is not None and _step_of(line) <= start]
        part = path.with_suffix('.part')  # a full disk must not cost the old curve
        with _writing(self.folder):
            part.write_text(''.join(line + '\n' for line in kept), encoding='utf-8')
            part.replace(path)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Name errors of a full disk as ours."""
    try:
        yield
    except OSError as error:
        raise BadData('the log cannot be written', value=f'{folder}: {error}',
                      remedy='free disk space and start the same command again') from error


class SilentLog:
    """The log of a process that is not the first: it says and writes nothing."""

    def __enter__(self) -> SilentLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        pass

    def step(self, step: int, values: Mapping[str, float], samples: int) -> None:
        """Nothing."""

    def keep(self, step: int) -> None:
        """Nothing."""

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Nothing."""


Log = RunLog | SilentLog


def open_log(settings: TrainSettings, start: int) -> Log:
    """The log of this process, for a run that goes on after step ``start``.

    Raises:
        BadOption: the tracker that was asked for cannot be used.
    """
    check_tracker(settings.track)
    if not is_first():
        return SilentLog()
    folder = Path(settings.folder)
    folder.mkdir(parents=True, exist_ok=True)
    curves = open_curves(settings.track, folder, start, dataclasses.asdict(settings))
    return RunLog(folder, start, settings.steps, settings.log_every, curves)


def _kept_sums(path: Path) -> dict[int, tuple[dict[str, float], dict[str, int]]]:
    try:
        return {int(step): (_numbers(sums, float), _numbers(counts, int))
                for step, (sums, counts) in json.loads(path.read_text(encoding='utf-8'))}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}  # a new run, or one of before there was such a file


def _numbers(values: Mapping[str, Any], kind: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: kind(value) for name, value in values.items()}


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)['step'])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None  # a line cut off by a kill, or nothing of ours
