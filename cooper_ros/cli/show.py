"""What commands print while the engine works, and the facts that give numbers a meaning."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import (
    Answer,
    Event,
    Failure,
    Loading,
    MapFinished,
    MapStarted,
    MapStep,
    TextDelta,
)
from cooper_ros.engine.notices import Notice

if TYPE_CHECKING:
    from cooper_ros.engine.engine import CooperEngine


def load_engine(config: CooperConfig, console: Console) -> CooperEngine:
    """Load the model folder of the settings, with a spinner.

    Raises:
        CooperError: the folder cannot be used.
    """
    loading = f'loading {escape(config.model_path)}'
    with console.status(loading) as status:
        from cooper_ros.engine.engine import CooperEngine

        def tell(notice: Notice) -> None:
            status.update(f'preparing {escape(notice.preparing)}' if notice.preparing else loading)
            if notice.error:
                console.print(escape(notice.text), style='yellow', soft_wrap=True)

        return CooperEngine.from_pretrained(config.model_path, config, tell)


def facts(engine: CooperEngine) -> dict[str, str]:
    """Hardware, precision, model and size: what every printed number depends on."""
    import torch
    runtime = engine.parts.runtime
    device = torch.device(runtime.device)
    hardware = (torch.cuda.get_device_name(device) if device.type == 'cuda' else
                f'{_processor()} CPU, threads: {torch.get_num_threads()}')
    found = {'model': engine.parts.card.name or Path(engine.config.model_path).name,
             'hardware': hardware, 'precision': str(runtime.dtype).removeprefix('torch.')}
    runner = getattr(runtime, 'runner', None)  # numbers of plain torch need no name of a runtime
    return found if runner is None else {**found, 'runtime': runner.name}


class Printer:
    """Prints events as they come: reasoning text, flow steps on one line, then the answer."""

    def __init__(self, console: Console, reasoning: bool = True) -> None:
        self.console, self.reasoning = console, reasoning
        self._turn = 0

    def __call__(self, event: Event) -> None:
        """Print one event."""
        if isinstance(event, TextDelta) and self.reasoning:
            if event.turn != self._turn:
                self._turn = event.turn
                self.console.print(f'\n[dim]turn {event.turn}[/]')
            self.console.print(Text(event.text), end='', style='dim', highlight=False)
        elif isinstance(event, Loading):
            self.console.print(f'[dim]{escape(str(event))}[/]', highlight=False)
        elif isinstance(event, MapStarted):
            self.console.print(f'\n[cyan]drawing {event.kind}[/], {event.steps} steps ', end='')
        elif isinstance(event, MapStep):
            self.console.print('·', end='', style='cyan')
        elif isinstance(event, MapFinished):
            self.console.print(' done')
        elif isinstance(event, (Answer, Failure)):
            self._end(event)

    def _end(self, event: Answer | Failure) -> None:
        if isinstance(event, Failure):
            self.console.print(f'\n[red]no answer:[/] {escape(event.error_msg)}')
            return
        cut = '' if event.complete else f' [yellow](cut short: {escape(event.error_msg)})[/]'
        self.console.print(f'\n[bold green]{escape(event.text)}[/]{cut}')
        self.console.print(f'[dim]certainty of the model {event.confidence:.2f}, '
                           f'{event.timings.total_s:.1f} s[/]')


def _processor() -> str:
    try:
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def fact_line(values: dict[str, Any], seed: int) -> str:
    """The facts on one line."""
    return ', '.join(map(str, values.values())) + f', seed {seed}'
