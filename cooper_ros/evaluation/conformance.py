"""Compare this implementation with recordings of the reference, item by item, in float32.

A recording is a folder with a small random checkpoint, inputs and expected outputs. All sizes
come from its own files. Every recorded output must be compared by some check: one that is not
becomes a failed row, as does a file or an item that is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Sequence

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError, safe_open

from cooper_ros.engine.prompts import FILE_NAME, Prompts, load_prompts
from cooper_ros.errors import BadData, BadOption
from cooper_ros.evaluation.conformance_context import check_context, check_text
from cooper_ros.evaluation.conformance_drawing import check_drawing
from cooper_ros.evaluation.conformance_encoders import check_autoencoder, check_vision
from cooper_ros.evaluation.conformance_golden import Golden, Rows, guarded
from cooper_ros.evaluation.conformance_pictures import check_depth, check_preprocessing
from cooper_ros.evaluation.conformance_routes import check_routes
from cooper_ros.evaluation.conformance_rows import Row, failed, print_table
from cooper_ros.evaluation.conformance_training import check_training

__all__ = ['PARTS', 'Row', 'failed', 'print_table', 'run_conformance']

Check = Callable[[Golden, 'Prompts | None'], Rows]


def _without_prompts(check: Callable[[Golden], Rows]) -> Check:
    return lambda golden, prompts: check(golden)


def _check_routes(golden: Golden, prompts: Prompts | None) -> Rows:
    """Part i."""
    golden.part('i_routes')
    yield from check_routes(golden.folder, golden.runtime, golden.meta, prompts)


PARTS: dict[str, Check] = {
    'a_preprocess': _without_prompts(check_preprocessing),
    'b_vit': _without_prompts(check_vision),
    'c_vae': _without_prompts(check_autoencoder),
    'd_text': _without_prompts(check_text),
    'e_context': _without_prompts(check_context),
    'f_generate': _without_prompts(check_drawing),
    'g_train': _without_prompts(check_training),
    'h_depth': _without_prompts(check_depth),
    'i_routes': _check_routes,
}


def run_conformance(folder: Path, prompts: Path | None = None,
                    parts: Sequence[str] | None = None) -> list[Row]:
    """Compare a recording.

    Args:
        folder: the recording.
        prompts: ``prompts.yaml`` (or its folder) of the user's own clone, for the few items
            whose pixels depend on the published words; without it they are not tried.
        parts: names of ``PARTS`` to run; None runs all.

    Returns:
        one row per item, in the order of the parts.

    Raises:
        BadData: the folder or the prompts do not exist.
        BadPrompts: the prompts cannot be read, or are incomplete.
        BadOption: no such part.
    """
    chosen = list(PARTS) if parts is None else list(parts)
    for name in chosen:
        if name not in PARTS:
            raise BadOption('unknown part', value=name, limit=', '.join(PARTS))
    if not folder.is_dir():
        raise BadData('no such folder', value=str(folder), limit='a folder of recordings')
    texts = None if prompts is None else _load_texts(prompts)
    golden, rows = Golden(folder), []
    with Progress(SpinnerColumn(), TextColumn('{task.description}'), TimeElapsedColumn(),
                  transient=True) as progress:
        task = progress.add_task('', total=len(chosen))
        for name in chosen:
            progress.update(task, description=name, advance=1)
            rows += guarded(name, PARTS[name](golden, texts))
    others = set(PARTS) - set(chosen)
    return rows + _uncovered(folder, rows, others)


def _load_texts(path: Path) -> Prompts:
    """Read ``prompts.yaml``, given itself or as its folder, before anything is computed."""
    file = path / FILE_NAME if path.is_dir() else path
    if not path.exists() or file.name != FILE_NAME:
        raise BadData('no such prompts', value=str(path), limit=f'{FILE_NAME} or its folder',
                      remedy='cooper import-prompts writes it into a model folder')
    return load_prompts(file.parent)


def _uncovered(folder: Path, rows: list[Row], others: set[str]) -> list[Row]:
    """A failed row for every recorded output that no check looked at."""
    seen = {row.item for row in rows}
    missed = []
    for path in sorted(folder.glob('*.safetensors')):
        for name in [] if path.stem in others else _names(path):
            item = f'{path.stem}.{name}'
            if name.startswith('out.') and item not in seen:
                missed.append(Row(item, None, None, False, 'was not compared'))
    return missed


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, 'np') as file:
            return list(file.keys())
    except (OSError, SafetensorError):
        return []
