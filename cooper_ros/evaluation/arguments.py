"""What ``cooper evaluate`` is told is checked before the model loads: its work takes hours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping, Sequence

from PIL import Image

from cooper_ros.config import MODES
from cooper_ros.errors import BadOption
from cooper_ros.evaluation.scenes_report import ScenesRun, parse_variant
from cooper_ros.evaluation.suites import FILE_SUITES, SuiteOptions, make_judge
from cooper_ros.scenes.splits import absolute_seed

SUITES = ('scenes', *FILE_SUITES)


def check(suite: str, place: Path | None, options: SuiteOptions, json_file: str) -> None:
    """Refuse what would fail only after the work.

    Args:
        suite: ``scenes``, or a suite on files.
        place: folder, list or table of the latter.
        options: of suites on files.
        json_file: where the numbers go; empty for nowhere.

    Raises:
        BadOption: naming the option.
    """
    if suite not in SUITES:
        raise BadOption('no such suite', value=suite, limit=', '.join(SUITES))
    if suite in FILE_SUITES and place is None:
        raise BadOption(f'suite {suite} needs a folder or a table', limit='a path',
                        remedy=f'cooper evaluate --suite {suite} PATH')
    make_judge(options)
    files = {'--out': options.out, '--sheet': options.sheet,
             '--json': Path(json_file) if json_file else None}
    for option, path in files.items():
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise BadOption(f'{option} cannot be written', value=path,
                            limit='a file in a folder that exists')
    if options.sheet is not None:
        _check_picture(options.sheet)


def _check_picture(sheet: Path) -> None:
    kinds = Image.registered_extensions()
    if kinds.get(sheet.suffix.lower()) not in Image.SAVE:
        raise BadOption('--sheet is no kind of picture', value=sheet, limit='.png, .jpg and such')


def check_scenes(run: ScenesRun) -> None:
    """Refuse scenes that do not exist.

    Raises:
        BadOption: the split is unknown, or has no such seeds.
    """
    for seed in (run.seed, run.seed + run.count - 1):
        absolute_seed(seed, run.split)


def check_variants(variants: Sequence[str], first: tuple[str, str]) -> None:
    """Refuse a variant that is neither a mode nor a folder.

    Args:
        variants: as given.
        first: model folder and mode they are compared with.

    Raises:
        BadOption: naming it.
    """
    for name in variants:
        folder, _ = parse_variant(name, *first)
        if folder != first[0] and not Path(folder).is_dir():
            raise BadOption('--variant is no mode and no model folder', value=name,
                            limit=f'{", ".join(MODES)}, FOLDER, FOLDER:MODE')


def write_json(json_file: str, results: Mapping[str, Any]) -> None:
    """Write all numbers and rows; nothing where no file is named."""
    if json_file:
        Path(json_file).write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')
