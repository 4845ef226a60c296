"""Check the arguments of ``cooper evaluate`` before the model loads: its work takes hours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Collection, Mapping, Sequence

from PIL import Image

from cooper_ros.config import MODES, CooperConfig
from cooper_ros.errors import BadOption
from cooper_ros.evaluation.names import BENCHMARKS, FILE_SUITES, MAP_SUITES, SCENES, SUITES
from cooper_ros.evaluation.outputs import writing
from cooper_ros.evaluation.scenes_report import ScenesRun, parse_variant
from cooper_ros.evaluation.suites import SuiteOptions, make_judge
from cooper_ros.imaging.depth_sets import DEPTH_SETS
from cooper_ros.scenes.splits import absolute_seed

CONCERNS = {'limit': FILE_SUITES, 'units': ('depth',), 'depth_set': ('depth',),
            'palette': ('segmentation',), 'ignore': ('segmentation',), 'images': BENCHMARKS,
            'templates': ('qspatial',), 'out': BENCHMARKS, 'sheet': MAP_SUITES,
            'judge_url': BENCHMARKS, 'judge_model': BENCHMARKS}
SETTINGS_OF = {'focal': ('depth',), 'mode': (SCENES, *BENCHMARKS),
               **dict.fromkeys(('variant', 'count', 'split', 'blind', 'maps', 'other_words'),
                               (SCENES,))}
MODEL_FILES = ('llm_config.json', 'prompts.yaml')  # that every model folder has


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
    _check_concerns(suite, place, options)
    if suite in FILE_SUITES:  # scenes have seeds of their own, see check_scenes
        CooperConfig(seed=options.seed)
    if options.depth_set and options.depth_set not in DEPTH_SETS:
        raise BadOption('no such --depth-set', value=options.depth_set,
                        limit=', '.join(DEPTH_SETS))
    make_judge(options)
    files = {'--out': options.out, '--sheet': options.sheet,
             '--json': Path(json_file) if json_file else None}
    for option, path in files.items():
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise BadOption(f'{option} cannot be written', value=path,
                            limit='a file in a folder that exists')
    if options.out is not None and options.out.exists() and not options.out.is_file():
        raise BadOption('--out is no file', value=options.out, limit='what can be read again')
    if options.sheet is not None:
        _check_picture(options.sheet)


def _check_concerns(suite: str, place: Path | None, options: SuiteOptions) -> None:
    """Refuse what a suite would pass over in silence."""
    if suite == SCENES and place is not None:
        raise BadOption('suite scenes takes no folder and no table', value=place,
                        remedy='name the suite of it with --suite')
    for name, suites in CONCERNS.items():
        given = getattr(options, name)
        if suite not in suites and given != getattr(SuiteOptions(), name):
            raise BadOption(f'--{name.replace("_", "-")} does nothing in suite {suite}',
                            value=given, limit=f'suite {", ".join(suites)}', remedy='leave it out')


def check_given(suite: str, given: Collection[str]) -> None:
    """Refuse what was typed and a suite would pass over in silence.

    Args:
        suite: one of ``SUITES``.
        given: names of the parameters that are not left to their defaults.

    Raises:
        BadOption: naming the option.
    """
    for name, suites in SETTINGS_OF.items():
        if name in given and suite not in suites:
            raise BadOption(f'--{name.replace("_", "-")} does nothing in suite {suite}',
                            limit=f'suite {", ".join(suites)}', remedy='leave it out')


def _check_picture(sheet: Path) -> None:
    kinds = Image.registered_extensions()
    if kinds.get(sheet.suffix.lower()) not in Image.SAVE:
        raise BadOption('--sheet is no kind of picture', value=sheet, limit='.png, .jpg and such')


def ids_of(text: str | None) -> tuple[int, ...] | None:
    """The ids of ``--ignore``; None where nobody gave any.

    Raises:
        BadOption: they are no whole numbers.

    >>> ids_of('0, -1'), ids_of(''), ids_of(None)
    ((0, -1), (), None)
    """
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(',') if word.strip())
    except ValueError as error:
        raise BadOption('--ignore is no list of ids', value=text, limit='whole numbers, with '
                        'commas between them', remedy='for instance --ignore 0,255') from error


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
        if folder == first[0]:
            continue
        if not Path(folder).is_dir():
            raise BadOption('--variant is no mode and no model folder', value=name,
                            limit=f'{", ".join(MODES)}, FOLDER, FOLDER:MODE')
        missing = [file for file in MODEL_FILES if not Path(folder, file).is_file()]
        if missing:  # found now, not when the first model has answered everything
            raise BadOption('--variant names a folder that holds no model',
                            value=f'{folder} without {", ".join(missing)}',
                            remedy='give what `cooper train --export` wrote')


def write_json(json_file: str, results: Mapping[str, Any]) -> None:
    """Write all numbers and rows; nothing where no file is named.

    Raises:
        OutOfDisk: there is no room for them.
        BadOption: the system refuses.
    """
    if json_file:
        with writing('--json', Path(json_file)):
            Path(json_file).write_text(json.dumps(results, indent=1) + '\n', encoding='utf-8')
