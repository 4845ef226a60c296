"""``cooper conformance``: our network against golden numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def conformance(
        folder: Annotated[Path, typer.Argument(metavar='DIR', help='golden folder')],
        prompts: Annotated[Optional[Path], typer.Option(
            help='folder with prompts.yaml, for items that need the prompt texts')] = None,
        part: Annotated[Optional[list[str]], typer.Option(
            help='compare this part only; may be repeated')] = None) -> None:
    """Compare every item of a golden folder with our own computation, in float32.

    Prints item, largest absolute error, tolerance and verdict; exit status 1 on any failure.

    Example: `cooper conformance test/data/golden_small`
    """
    from cooper_ros.evaluation.conformance import failed, print_table, run_conformance
    results = run_conformance(folder, prompts, part)
    print_table(results)
    if failed(results):
        raise typer.Exit(1)
