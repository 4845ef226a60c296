"""``cooper import-prompts``: the official prompt texts into a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_prompts(
        file: Annotated[Path, typer.Argument(help='inferencer.py of your clone of the official '
                                             'repository')],
        model: Annotated[Path, typer.Option(help='model folder that gets prompts.yaml')]) -> None:
    """Copy the official prompt texts from your own clone into a model folder.

    The released checkpoints answer only to the exact texts they were trained with, which are not
    part of this product. The file is parsed, never executed; every text is checked by size and
    SHA-256, and nothing is written unless all match.

    Example: `cooper import-prompts COOPER/inferencer.py --model models/COOPER`
    """
    from rich.console import Console
    from rich.table import Table

    from cooper_ros.engine import import_prompts as importer
    findings = importer.compare(importer.read_constants(file))
    table = Table('constant', 'expected', 'found', 'ok')
    for finding in findings:
        table.add_row(finding.name, str(finding.expected), str(finding.got or 'missing'),
                      'yes' if finding.ok else 'NO')
    Console(markup=False, emoji=False).print(table)  # prompts are shown as they are
    print(f'wrote {importer.import_prompts(file, model)}')
