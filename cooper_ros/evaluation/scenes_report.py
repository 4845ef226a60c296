"""Tables of ``cooper evaluate --suite scenes``: one model, its baselines, and its variants."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any, Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from cooper_ros.config import MODES
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.settings import offline
from cooper_ros.errors import NoAnswer
from cooper_ros.evaluation import scenes_suite
from cooper_ros.evaluation.map_suites import score_lines
from cooper_ros.evaluation.paired import Comparison, compare_paired

INTERVALS = ('95 % intervals: Wilson where no scene has two questions; else, as for ALL, from '
             'scenes drawn again')
LENGTHS = ('camera_distance', 'object_distance', 'relative_distance', 'object_size', 'height')


@dataclass(frozen=True)
class ScenesRun:
    """Which scenes are asked about, and how.

    Attributes:
        seed, count, split: the scenes.
        blind: also ask with a grey picture.
        maps: scenes whose maps are measured.
        points: grid points of the flow, -1 as the model says.
        threads: CPU threads of variants, 0 for torch's choice.
        other_words: questions are put in other words.
    """

    seed: int
    count: int
    split: str = 'test'
    blind: bool = True
    maps: int = 50
    points: int = -1
    threads: int = 0
    other_words: bool = False


def report(engine: CooperEngine, run: ScenesRun, first: tuple[str, str], variants: Sequence[str],
           about: Mapping[str, Any], console: Console,
           keep: Callable[[Mapping[str, Any]], None] = lambda results: None) -> dict[str, Any]:
    """Ask a model and its variants, print everything.

    Args:
        engine: the loaded model.
        run: the scenes.
        first: model folder and mode of ``engine``.
        variants: what it is compared with: a mode, a folder, or ``folder:mode``.
        about: what every printed number must name.
        console: where to print.
        keep: gets the results so far after the model and after every variant.

    Returns:
        JSON-ready results; ``comparisons`` has one entry per baseline and variant.

    Raises:
        NoAnswer: every request of a model failed; what there is has been printed and kept.
    """
    results: dict[str, Any] = {**_asked(engine, run, first[1]), **about}
    show(results, console)
    keep(results)
    rows = results['rows']
    pairs = {'best constant': [row['majority'] for row in rows]}
    if run.blind:
        pairs['grey picture'] = [row['blind'] for row in rows]
    alone, results['variants'] = dataclasses.replace(run, blind=False), {}
    for name in variants:
        folder, mode = parse_variant(name, *first)
        other = engine if folder == first[0] else _loaded(folder, run)
        found = {**_asked(other, alone, mode), **about, 'model': folder}
        results['variants'][name] = found
        show(found, console)
        keep(results)
        pairs[name] = [row['score'] for row in found['rows']]
    results['comparisons'] = _comparisons(rows, pairs, console)
    keep(results)
    _check_answered(results, *results['variants'].values())
    return results


def _check_answered(*models: Mapping[str, Any]) -> None:
    """Refuse a score of nothing but failures: it says nothing about the model."""
    for found in models:
        rows = found['rows']
        asked = sum(1 if row['blind'] is None else 2 for row in rows)
        if rows and found['failures'] == asked:
            raise NoAnswer('every request failed', value=f'{asked} of {asked} to '
                           f'{found["model"]}, the first says: {rows[0]["error"]}')


def _comparisons(rows: Sequence[Mapping[str, Any]], pairs: Mapping[str, Sequence[float]],
                 console: Console) -> dict[str, Any]:
    compared = {name: _compared(rows, scores) for name, scores in pairs.items()}
    _print(compared, console)
    return {name: {group: asdict(value) for group, value in groups.items()}
            for name, groups in compared.items()}


def _loaded(folder: str, run: ScenesRun) -> CooperEngine:
    return CooperEngine.from_pretrained(folder, offline(
        model_path=folder, flow_points=run.points, threads=run.threads))


def parse_variant(text: str, folder: str, mode: str) -> tuple[str, str]:
    """Folder and mode of a variant; what it does not name is that of the first model."""
    if text in MODES:
        return folder, text
    head, _, tail = text.rpartition(':')
    return (head, tail) if head and tail in MODES else (text, mode)


def _asked(engine: CooperEngine, run: ScenesRun, mode: str) -> dict[str, Any]:
    return scenes_suite.run(engine, seed=run.seed, count=run.count, mode=mode, split=run.split,
                            blind=run.blind, map_frames=run.maps,
                            other_words=run.other_words)


def _compared(rows: Sequence[Mapping[str, Any]], scores: Sequence[float]
              ) -> dict[str, Comparison]:
    """All questions, and those about lengths, which is where maps should help most."""
    found = {}
    for group, wanted in (('all', None), ('distance and size', LENGTHS)):
        chosen = [(row['score'], score, row['scene']) for row, score in zip(rows, scores)
                  if wanted is None or row['category'] in wanted]
        if chosen:
            found[group] = compare_paired(*zip(*chosen))
    return found


def _print(compared: Mapping[str, Mapping[str, Comparison]], console: Console) -> None:
    console.print('in pairs, this model minus the other; 95 % interval over scenes:')
    for name, groups in compared.items():
        for group, value in groups.items():
            console.print(f'  {name}, {group}: {value}', highlight=False, soft_wrap=True)


def show(results: dict[str, Any], console: Console) -> None:
    """Print one table of questions and the scores of maps."""
    table = Table(title=f"{results['model']}, mode {results['mode']}, {results['split']} scenes "
                        f"{results['seed']}..{results['seed'] + results['scenes'] - 1}, 128x96"
                        f"{', other words' if results.get('other_words') else ''}")
    for name in ('category', 'n', 'score %', '95 % interval', 'constant %', 'grey picture %',
                 'draws depth %', 'draws segm. %'):
        table.add_column(name, justify='left' if name == 'category' else 'right',
                         no_wrap=name == 'category', min_width=17 if name == 'category' else None)
    rows = {**results['categories'], 'unseen names': results['held_out'],
            'ALL': results['overall']}
    for name, row in ((name, row) for name, row in rows.items() if row):
        low, high = row['interval']
        blind = '' if row['blind'] is None else f"{100 * row['blind']:.1f}"
        table.add_row(name, str(row['questions']), f"{100 * row['score']:.1f}",
                      f'{100 * low:.1f} .. {100 * high:.1f}', f"{100 * row['majority']:.1f}",
                      blind, f"{100 * row['draws_depth']:.0f}",
                      f"{100 * row['draws_segmentation']:.0f}")
    console.print(table)
    console.print(INTERVALS, highlight=False, soft_wrap=True)
    if results['maps']:
        maps = results['maps']
        console.print(f"maps of {maps['frames']} scenes: segmentation mIoU {maps['miou']:.4f}; "
                      'depth,', *score_lines(maps), sep='\n', highlight=False)
    if results['failures']:
        console.print(f"{results['failures']} requests failed; their answers count as wrong",
                      highlight=False)
    console.print(f"{results['hardware']}, {results['precision']}, median "
                  f"{results['seconds_per_question']:.2f} s a question")
