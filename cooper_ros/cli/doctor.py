"""``cooper doctor``: what is ready on this machine, and what to do next."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Callable, Iterable, Iterator, Optional

import typer

from cooper_ros.cli.flags import with_settings
from cooper_ros.config import CooperConfig

OK, NOTE, MISSING = 'ok', 'note', 'missing'
TORCH = 'torch'
_COLOURS = {OK: 'green', NOTE: 'yellow', MISSING: 'red'}


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, how it is, and what to do about it."""

    what: str
    state: str
    detail: str
    next: str = ''


@with_settings('runtime', 'engine_missing', 'engine_cache')
def doctor(checkpoint: Annotated[Optional[Path], typer.Argument(
               help='model folder; the same as --model')] = None, *,
           config: CooperConfig) -> None:
    """Check Python, torch, GPU, memory, ROS and a model folder; say which runtime it would get.

    Driver, CUDA, TensorRT and Torch-TensorRT, every runtime with the reason for which it is
    chosen or passed over, and what the published 7B network (and the checkpoint) needs in each
    precision. Nothing is loaded or changed. Exit status 1 when something needed is missing.

    Examples: `cooper doctor`, `cooper doctor models/COOPER`
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    if checkpoint is not None:
        config = config.replaced(model_path=str(checkpoint))
    findings = list(examine(config))
    console = Console(markup=False, emoji=False)  # paths and messages are shown as they are
    table = Table('what', 'state', 'detail', 'what next')
    for row in findings:
        table.add_row(row.what, Text(row.state, _COLOURS[row.state]), row.detail, row.next)
    console.print(table)
    for title, rows in () if _lacks_torch(findings) else memory_tables(config):
        console.print(f'\n{title}', soft_wrap=True, highlight=False)
        table = Table('weights', 'use', 'needs', 'here')
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    if any(row.state == MISSING for row in findings):
        raise typer.Exit(1)


def examine(config: CooperConfig) -> Iterator[Finding]:
    """Yield every finding; a check that cannot run is itself a finding.

    Without torch, what needs it is not looked at.
    """
    checks: tuple[Callable[[CooperConfig], Iterator[Finding]], ...] = (
        _python, _torch, _memory, _runtimes, _choice, _ros, _model)
    found: list[Finding] = []
    for check in checks:
        if check in (_runtimes, _choice, _model) and _lacks_torch(found):
            continue
        for row in check(config):
            found.append(row)
            yield row


def _lacks_torch(findings: Iterable[Finding]) -> bool:
    return any(row.what == TORCH and row.state == MISSING for row in findings)


def _python(config: CooperConfig) -> Iterator[Finding]:
    good = (3, 10) <= sys.version_info < (3, 14)
    yield Finding('Python', OK if good else NOTE, platform.python_version(),
                  '' if good else 'tested with 3.10 to 3.13')


def _torch(config: CooperConfig) -> Iterator[Finding]:
    if importlib.util.find_spec('torch') is None:
        yield Finding(TORCH, MISSING, 'not installed', _how_to_install())
        return
    try:
        import torch
    except Exception as error:  # a wheel for another machine lacks libraries of its own
        yield Finding(TORCH, MISSING, f'cannot be imported: {error}'[:200], _how_to_install())
        return
    yield Finding(TORCH, OK, torch.__version__)
    if not torch.cuda.is_available():
        yield Finding('GPU', NOTE, 'no CUDA device', 'small checkpoints run on the CPU; '
                      'COOPER itself needs about 32 GB of GPU memory in bfloat16')
        return
    for number in range(torch.cuda.device_count()):
        entry = torch.cuda.get_device_properties(number)
        yield Finding('GPU', OK, f'{entry.name}, {entry.total_memory / 2**30:.0f} GiB')


def _how_to_install() -> str:
    """`make setup` refuses where a ROS is sourced, and its wheels are for x86_64."""
    robot = 'ROS_DISTRO' in os.environ or platform.machine() != 'x86_64'
    return 'see docs/install.md, "On a robot"' if robot else 'run `make setup`'


def _memory(config: CooperConfig) -> Iterator[Finding]:
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30
    yield Finding('memory', OK if pages >= 4 else NOTE, f'{pages:.1f} GiB, {os.cpu_count()} cores',
                  '' if pages >= 4 else 'close other programs')
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding('disk', OK if free >= 2 else NOTE, f'{free:.0f} GiB free here')


def _runtimes(config: CooperConfig) -> Iterator[Finding]:
    from cooper_ros.model.config import ModelConfig
    from cooper_ros.runtime.doctor import advice, facts, free_memory, needs
    for fact in facts(Path(config.engine_cache) if config.engine_cache else None):
        if fact.what in ('GPU', 'host memory'):  # said above
            continue
        state = {True: OK, False: NOTE, None: NOTE}[fact.good]
        yield Finding(fact.what, state, fact.value, fact.next)
    yield Finding('COOPER 7B here', NOTE,
                  advice(needs(ModelConfig.official_7b()), *free_memory()))


def _choice(config: CooperConfig) -> Iterator[Finding]:
    """Which runtime the settings would give the checkpoint, one row per candidate."""
    from cooper_ros.errors import CooperError
    from cooper_ros.runtime.choice import choose
    if not Path(config.model_path).is_dir():
        return  # said with the model
    try:
        for verdict in choose(config):
            yield Finding(f'runtime {verdict.runtime}', OK if verdict.chosen else NOTE,
                          f'{"chosen" if verdict.chosen else "passed over"}: {verdict.reason}')
    except CooperError as error:
        yield Finding('runtime', MISSING, str(error), error.remedy)


def memory_tables(config: CooperConfig) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """What each precision needs and whether it fits here: the 7B network, then the checkpoint."""
    from cooper_ros.errors import CooperError
    from cooper_ros.model.config import ModelConfig
    from cooper_ros.runtime.checkpoint import read_model_config
    from cooper_ros.runtime.doctor import free_memory, need_rows
    capability, free = free_memory()
    where = f'{free / 2**30:.1f} GiB free on {"the GPU" if capability else "the CPU"}'
    yield f'COOPER 7B, {where}', need_rows(ModelConfig.official_7b(), capability, free)
    try:
        found = read_model_config(config.model_path, config.base_path or None)
    except (CooperError, OSError):
        return  # said with the model
    if found != ModelConfig.official_7b():
        yield f'{config.model_path}, {where}', need_rows(found, capability, free)


def _ros(config: CooperConfig) -> Iterator[Finding]:
    for package, remedy in (('rclpy', 'source /opt/ros/<distro>/setup.bash, or `make setup`'),
                            ('cooper_interfaces', '`colcon build` and source the workspace, or '
                             '`make setup`')):
        spec = importlib.util.find_spec(package)
        found = spec is not None and spec.origin is not None  # not just a folder of this name
        yield Finding(package, OK if found else NOTE, 'importable' if found else 'not importable',
                      '' if found else f'for the node: {remedy}')
    yield Finding('ROS', OK if os.environ.get('ROS_DISTRO') else NOTE,
                  f"distro {os.environ.get('ROS_DISTRO', 'not named in the environment')}, "
                  f"domain {os.environ.get('ROS_DOMAIN_ID', '0')}")


def _model(config: CooperConfig) -> Iterator[Finding]:
    """As strict as loading, so that what is fine here loads."""
    from cooper_ros.engine.prompts import FILE_NAME, load_prompts
    from cooper_ros.errors import CooperError
    from cooper_ros.runtime.checkpoint import check_model_folder
    if not Path(config.model_path).is_dir():
        yield Finding('model', MISSING, f'{config.model_path} is no folder',
                      'give --model, or run `make demo` once')
        return
    try:
        size = check_model_folder(config.model_path, config.base_path or None)
        yield Finding('model', OK, f'{config.model_path}, {size / 2**20:,.0f} MiB of weights')
    except CooperError as error:
        yield Finding('model', MISSING, str(error), error.remedy)
    try:
        load_prompts(config.model_path)
        yield Finding('prompts', OK, FILE_NAME)
    except CooperError as error:
        yield Finding('prompts', MISSING, str(error),
                      f'cooper import-prompts FILE --model {config.model_path}')
