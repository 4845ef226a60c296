"""One door to everything ``cooper evaluate`` measures on the user's own files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadOption
from cooper_ros.evaluation import map_suites
from cooper_ros.evaluation.benchmarks import run as benchmarks
from cooper_ros.evaluation.benchmarks.adapters import make_adapter
from cooper_ros.evaluation.benchmarks.table import Table
from cooper_ros.evaluation.names import BENCHMARKS, FILE_SUITES
from cooper_ros.evaluation.outputs import writing
from cooper_ros.scoring.judge import Judge, JudgeSettings


@dataclass(frozen=True)
class SuiteOptions:
    """Settings of all suites on files; each uses what concerns it.

    Attributes:
        mode: engine mode of benchmarks.
        seed: of drawing noise.
        limit: first pictures or questions only; 0 for all.
        units: depth file numbers per metre; 0 reads them off notes or names, and takes floating
            point numbers as metres.
        palette: mask ids are classes of the model's palette.
        images: picture folder of a benchmark table, if not ``images`` beside it.
        templates: Q-Spatial's prompt texts.
        out: JSON lines with every response; a stopped run goes on from them.
        sheet: PNG with the first pictures of a map suite.
        judge_url, judge_model: who decides what the rules cannot read; empty for nobody.
        ignore: mask ids that are not counted; None for the usual ones.
        depth_set: published data set that the depth is of: its range and its crop count, and
            integers are in its units unless notes or ``units`` say others.
    """

    mode: str = 'auto'
    seed: int = 0
    limit: int = 0
    units: float = 0.0
    palette: bool = False
    images: Path | None = None
    templates: Path | None = None
    out: Path | None = None
    sheet: Path | None = None
    judge_url: str = ''
    judge_model: str = ''
    ignore: tuple[int, ...] | None = None
    depth_set: str = ''


def run_file_suite(engine: CooperEngine, suite: str, place: Path,
                   options: SuiteOptions = SuiteOptions(), footer: str = ''
                   ) -> tuple[dict[str, Any], list[str]]:
    """Run one suite.

    Args:
        engine: the model.
        suite: one of ``FILE_SUITES``.
        place: folder, list or table.
        options: see :class:`SuiteOptions`.
        footer: hardware and precision, for the sheet.

    Returns:
        numbers and rows for JSON, and the summary as text.

    Raises:
        BadOption: no such suite.
        BadData: nothing usable at ``place``.
        NoAnswer: every request failed.
        OutOfDisk: there is no room for a file.
    """
    if suite not in FILE_SUITES:
        raise BadOption('no such suite', value=suite, limit=', '.join(FILE_SUITES))
    if suite in BENCHMARKS:
        return _benchmark(engine, suite, place, options)
    sheets = map_suites.Sheets() if options.sheet else None
    found = (_depth if suite == 'depth' else _segmentation)(engine, place, options, sheets)
    if sheets is not None and options.sheet is not None:
        drawn = Image.fromarray(sheets.draw(f'{suite}, {place}', footer))
        with writing('--sheet', options.sheet):
            drawn.save(options.sheet)
    return found


def _depth(engine: CooperEngine, place: Path, options: SuiteOptions,
           sheets: map_suites.Sheets | None) -> tuple[dict[str, Any], list[str]]:
    skipped = map_suites.Skipped()
    rows = map_suites.measure_depth(engine, place, units=options.units, known=options.depth_set,
                                    seed=options.seed, limit=options.limit, sheets=sheets,
                                    skipped=skipped)
    found = {**map_suites.depth_summary(rows), 'depth_set': options.depth_set}
    return ({**found, **skipped.as_dict(), 'rows': [asdict(row) for row in rows]},
            map_suites.depth_lines(found) + skipped.lines())


def _segmentation(engine: CooperEngine, place: Path, options: SuiteOptions,
                  sheets: map_suites.Sheets | None) -> tuple[dict[str, Any], list[str]]:
    skipped, ignored = map_suites.Skipped(), options.ignore
    rows, classes = map_suites.measure_segmentation(
        engine, place, palette=options.palette, ignore=ignored, seed=options.seed,
        limit=options.limit, sheets=sheets, skipped=skipped)
    if ignored is None:
        ignored = map_suites.ignored_ids(options.palette)
    found = map_suites.segment_summary(rows, classes, ignored)
    return ({**found, **skipped.as_dict(), 'rows': [asdict(row) for row in rows]},
            map_suites.segment_lines(found) + skipped.lines())


def _benchmark(engine: CooperEngine, suite: str, place: Path,
               options: SuiteOptions) -> tuple[dict[str, Any], list[str]]:
    adapter = make_adapter(suite, options.templates)
    table = Table(place, adapter.columns, options.images)
    records = benchmarks.run(engine, adapter, table, mode=options.mode, seed=options.seed,
                             limit=options.limit, out=options.out,
                             judge=make_judge(options))
    benchmarks.check_answered(records)
    found = benchmarks.summary(records)
    return ({**found, 'rows': [asdict(record) for record in records]},
            benchmarks.lines(suite, found))


def make_judge(options: SuiteOptions) -> Judge | None:
    """The judge that is named, or None.

    Raises:
        BadOption: its address is none, or a model is named and nowhere to ask it.
    """
    if not options.judge_url:
        if options.judge_model:
            raise BadOption('--judge-model asks nobody without --judge-url',
                            value=options.judge_model, limit='an address too',
                            remedy='name the server with --judge-url, or leave it out')
        return None
    named = {'model': options.judge_model} if options.judge_model else {}
    return Judge(JudgeSettings(options.judge_url, **named))
