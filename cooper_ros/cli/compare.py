"""``cooper compare``: two checkpoints, question by question."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cooper_ros.config import CooperConfig

if TYPE_CHECKING:
    from cooper_ros.evaluation.parity import ParityRow

DEFAULTS = CooperConfig()
JsonFlag = Annotated[Optional[Path], typer.Option('--json', help='write the rows as JSON')]


def compare(
        first: Annotated[Path, typer.Argument(help='model folder, usually the original')],
        second: Annotated[Path, typer.Argument(help='model folder, usually the quantised one')],
        seed: Annotated[int, typer.Option(help='first scene of the test split')] = 0,
        count: Annotated[int, typer.Option(min=1, help='scenes')] = 5,
        mode: Annotated[str, typer.Option(help='auto, direct, text or maps')] = DEFAULTS.mode,
        json_file: JsonFlag = None) -> None:
    """Ask two checkpoints the same questions and show every difference.

    Both stay in memory. Columns: both answers, whether they agree, the largest difference of the
    logits of the first generated token, the first generated token that differs, and the mean
    difference of each map.

    Example: `cooper compare models/cooper-nano models/cooper-nano-int8 --mode direct`
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from cooper_ros.cli.show import facts, load_engine
    from cooper_ros.evaluation import parity
    console = Console()
    config = DEFAULTS.replaced(mode=mode, runtime='torch')
    engines = [load_engine(config.replaced(model_path=str(path)), console)
               for path in (first, second)]
    table = Table('scene', 'question', 'first', 'second', 'agree', 'logits', 'token', 'maps')
    rows = []
    with console.status('asking') as status:
        for row in parity.compare(*engines, seed=seed, count=count):
            rows.append(row)
            status.update(f'scene {row.scene + 1 - seed} of {count}')
            table.add_row(*_cells(row))
    about = {**facts(engines[0]), 'mode': mode, 'seed': seed, 'scenes': count}
    console.print(table)
    console.print(f'{sum(row.agree for row in rows)} of {len(rows)} answers agree; {about}')
    if json_file is not None:
        kept = [asdict(row) | {'logits': row.logits if math.isfinite(row.logits) else None}
                for row in rows]
        json_file.write_text(json.dumps({**about, 'rows': kept}, indent=2) + '\n', 'utf-8')


def _cells(row: ParityRow) -> tuple[str, ...]:
    from rich.markup import escape
    maps = 'not the same' if row.maps is None else ' '.join(f'{m:.4f}' for m in row.maps)
    return (str(row.scene), *map(escape, (row.question, row.first, row.second)),
            'yes' if row.agree else 'NO', f'{row.logits:.3g}',
            '' if row.differs_at is None else str(row.differs_at), maps)
