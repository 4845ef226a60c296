"""One picture of the curves of one or more runs, drawn from their ``log.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from cooper_ros.errors import BadData, BadOption
from cooper_ros.training.kept_settings import NAME as SETTINGS_NAME
from cooper_ros.training.logs import LOG_NAME

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[int, float]]
COLUMNS, WIDTH, HEIGHT = 3, 4.2, 2.6  # panels side by side; inches of a panel
UNDRAWN = ('step', 'time')
VALID = 'valid_'


def read_curves(run: Path) -> dict[str, Points]:
    """The numbers of a run by name, each as (step, value) in the order of its log.

    Args:
        run: folder of the run, or a log itself. A last line that a kill cut off is left out.

    Raises:
        BadData: there is no log, or no number in it.
    """
    path = run / LOG_NAME if run.is_dir() else run
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadData('the log of the run cannot be read', value=f'{path}: {error}',
                      limit=f'a folder with {LOG_NAME}, which every run writes') from error
    curves: dict[str, Points] = {}
    for step, name, value in _numbers(lines):
        curves.setdefault(name, []).append((step, value))
    if not curves:
        raise BadData('the log of the run holds no numbers yet', value=str(path))
    return curves


def _numbers(lines: Sequence[str]) -> Iterator[tuple[int, str, float]]:
    for line in lines:
        try:
            values = json.loads(line)
            step = int(values['step'])
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a kill
        for name, value in values.items():
            if name not in UNDRAWN and isinstance(value, (int, float)):
                yield step, name, float(value)


def draw_curves(runs: Sequence[Path], out: Path, names: Sequence[str] = ()) -> None:
    """Draw a panel for every number, with a line for every run; ``valid_x`` dashed beside ``x``.

    Args:
        runs: folders of runs, or logs.
        out: picture to write; its suffix tells the format (png, svg, pdf).
        names: numbers to draw; empty for all.

    Raises:
        BadData: a run has no log, or none of the numbers.
        BadOption: matplotlib is not installed, or does not write this format.
    """
    figures = _matplotlib()
    curves = {str(run): read_curves(run) for run in runs}
    panels = _panels(curves, names)
    rows = -(-len(panels) // COLUMNS)
    columns = min(COLUMNS, len(panels))
    figure = figures.Figure(figsize=(columns * WIDTH, rows * HEIGHT + 0.4), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, panel in zip(axes, panels):
        _draw_panel(axis, panel, curves)
    for axis in axes[len(panels):]:
        axis.set_axis_off()
    figure.suptitle('; '.join(_title(run) for run in runs), fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(out, dpi=100)
    except ValueError as error:
        raise BadOption('the picture cannot be written', value=str(out),
                        limit='.png, .svg or .pdf') from error


def _matplotlib() -> Any:
    try:
        from matplotlib import figure
    except ImportError as error:
        raise BadOption('matplotlib is not installed', value=str(error),
                        remedy='pip install matplotlib, or look at tensorboard/') from error
    return figure


def _panels(curves: Mapping[str, Mapping[str, Points]], names: Sequence[str]) -> list[str]:
    """Numbers that get a panel of their own, in the order in which they first occur."""
    known = list(dict.fromkeys(name for found in curves.values() for name in found))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadData('no run has these numbers', value=', '.join(unknown),
                      limit=', '.join(known))
    wanted = list(names) or known
    return [name for name in wanted
            if not (name.startswith(VALID) and name.removeprefix(VALID) in wanted)]


def _draw_panel(axis: Axes, name: str, curves: Mapping[str, Mapping[str, Points]]) -> None:
    for number, (run, found) in enumerate(curves.items()):
        for key, style in ((name, '-'), (VALID + name, '--')):
            if key in found:
                axis.plot(*zip(*found[key]), style, color=f'C{number}', marker='.', markersize=3,
                          linewidth=1, label=f'{run}{" (validation)" * (key != name)}')
    axis.set_title(name, fontsize=9)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[1] and len(axis.lines) > 1:
        axis.legend(fontsize=6)


def _title(run: Path) -> str:
    """Which run that is: stage, seed and batch, where its settings lie beside the log. A mixture
    has no batch: its recipes have frames."""
    place = (run if run.is_dir() else run.parent) / SETTINGS_NAME
    try:
        kept = json.loads(place.read_text(encoding='utf-8'))
        batch = '' if 'recipes' in kept.get('task', {}) else f", batch {kept['batch']}"
        return f"{run}: {kept['stage']}, seed {kept['seed']}{batch}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return str(run)
