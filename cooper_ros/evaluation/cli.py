"""``cooper evaluate``: scores of a checkpoint, with baselines and intervals."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer
from rich.console import Console

from cooper_ros.config import CooperConfig
from cooper_ros.evaluation.names import SCENES, SUITES

HELP = """Score a checkpoint: ask every question of simulated rooms, or measure on your own files.

\b
  cooper evaluate --suite scenes --seed 0 --count 100                the default way of asking
  cooper evaluate --suite scenes --mode direct --json direct.json    without maps, kept as JSON
  cooper evaluate --mode auto --variant direct --variant runs/export  who is better, and is it luck
  cooper evaluate --suite depth FOLDER --sheet depth.png             pictures with measured depth
  cooper evaluate --suite segmentation FOLDER                        pictures with masks
  cooper evaluate --suite sibench SIBench.tsv --out answers.jsonl    a benchmark table
"""
app = typer.Typer(name='evaluate', rich_markup_mode=None, add_completion=False,
                  pretty_exceptions_enable=False)
DEFAULTS = CooperConfig()
TYPED = 'COMMANDLINE'  # a source of parameters, by name: typer may carry a click of its own
PlaceArgument = Annotated[Optional[Path], typer.Argument(help='folder or table; not for scenes')]
SuiteFlag = Annotated[str, typer.Option(help=', '.join(SUITES))]
ModeFlag = Annotated[str, typer.Option(
    help='auto, direct, text or maps; where questions are asked')]
ModelFlag = Annotated[str, typer.Option(help='model folder')]
VariantFlag = Annotated[Optional[list[str]], typer.Option(
    help='MODE, FOLDER or FOLDER:MODE, asked the same questions and compared in pairs; may be '
         'repeated')]
SplitFlag = Annotated[str, typer.Option(help='test, or validation for choosing settings')]
MapsFlag = Annotated[int, typer.Option(min=0, help='scenes whose depth and segmentation are '
                                                   'drawn and measured')]
PointsFlag = Annotated[int, typer.Option(help='grid points of the flow; -1: as the model says')]
ThreadsFlag = Annotated[int, typer.Option(help='CPU threads; 0: torch decides')]
FocalFlag = Annotated[float, typer.Option(
    help='focal length of the camera of `depth` over the longest side of its pictures; 0: that of '
         'the model')]
UnitsFlag = Annotated[float, typer.Option(min=0, help='depth file numbers per metre; 0: as found')]
DepthSetFlag = Annotated[str, typer.Option(
    help='nyu, kitti, vkitti or hypersim: only what its benchmark counts (range and Eigen crop), '
         'and integers in its units unless annotations.json or --units say others')]
PaletteFlag = Annotated[bool, typer.Option(
    help='mask ids are classes of the model, and all of them count')]
IgnoreFlag = Annotated[Optional[str], typer.Option(
    help='mask ids that do not count, such as 0,255; "" for none, which is the default with '
         '--palette; else 0, -1 and, in masks without larger ids, 255')]
ImagesFlag = Annotated[Optional[Path], typer.Option(help='picture folder of a table')]
SeedFlag = Annotated[int, typer.Option(
    help='first scene seed within the split; on your own files, the seed of drawing noise')]
WordsFlag = Annotated[bool, typer.Option(
    '--other-words', help='word the questions about scenes anew, as people ask them: options in '
                          'the sentence, and answered by name')]
LimitFlag = Annotated[int, typer.Option(
    min=0, help='first pictures or questions only; 0: all')]
TemplatesFlag = Annotated[Optional[Path], typer.Option(help='prompt texts of qspatial')]
OutFlag = Annotated[Optional[Path], typer.Option(help='JSON lines; a stopped run goes on')]
SheetFlag = Annotated[Optional[Path], typer.Option(help='PNG of the first pictures')]
JudgeFlag = Annotated[str, typer.Option(help='OpenAI-compatible judge')]
JudgeModelFlag = Annotated[str, typer.Option(help='its model')]
JsonFlag = Annotated[str, typer.Option('--json', help='file for all numbers and rows')]


@app.command(help=HELP)  # of one command, typer shows no help of the app
def evaluate(
        context: typer.Context, place: PlaceArgument = None,
        suite: SuiteFlag = SCENES, seed: SeedFlag = 0,
        count: Annotated[int, typer.Option(min=1, help='scenes')] = 100,
        mode: ModeFlag = DEFAULTS.mode, model: ModelFlag = DEFAULTS.model_path,
        variant: VariantFlag = None, split: SplitFlag = 'test',
        blind: Annotated[bool, typer.Option(help='also ask with a grey picture')] = True,
        other_words: WordsFlag = False, maps: MapsFlag = 50,
        points: PointsFlag = DEFAULTS.flow_points, threads: ThreadsFlag = DEFAULTS.threads,
        focal: FocalFlag = DEFAULTS.focal, limit: LimitFlag = 0, units: UnitsFlag = 0.0,
        depth_set: DepthSetFlag = '', palette: PaletteFlag = False, ignore: IgnoreFlag = None,
        images: ImagesFlag = None, templates: TemplatesFlag = None, out: OutFlag = None,
        sheet: SheetFlag = None, judge_url: JudgeFlag = '', judge_model: JudgeModelFlag = '',
        json_file: JsonFlag = '') -> None:
    """Ask every question of simulated rooms, or measure on your own files."""
    from cooper_ros.engine.engine import CooperEngine
    from cooper_ros.engine.settings import offline
    from cooper_ros.engine.shipped import shipped_model
    from cooper_ros.evaluation import arguments, map_suites
    from cooper_ros.evaluation.scenes_report import ScenesRun, report
    from cooper_ros.evaluation.suites import SuiteOptions
    options = SuiteOptions(mode, seed, limit, units, palette, images, templates, out, sheet,
                           judge_url, judge_model, arguments.ids_of(ignore), depth_set)
    model = shipped_model(model)
    run = ScenesRun(seed, count, split, blind, maps, points, threads, other_words)
    arguments.check(suite, place, options, json_file)
    arguments.check_given(suite, [name for name in context.params
                                  if context.get_parameter_source(name).name == TYPED])
    if suite == SCENES:
        arguments.check_variants(variant or [], (model, mode))
        arguments.check_scenes(run)
    engine = CooperEngine.from_pretrained(model, offline(
        model_path=model, mode=mode, flow_points=points, threads=threads, focal=focal,
        **map_suites.drawing_for(suite, Path(model))))
    about = {'model': engine.parts.card.name or model, **_machine(engine)}
    keep = functools.partial(arguments.write_json, json_file)
    if suite == SCENES:
        keep(report(engine, run, (model, mode), variant or [], about, Console(), keep))
    elif place is not None:  # checked above
        keep(_on_files(engine, suite, place, options, about))


def _on_files(engine: Any, suite: str, place: Path, options: Any, about: dict[str, Any]
              ) -> dict[str, Any]:
    """Run a suite on the user's files and print its summary."""
    from cooper_ros.evaluation.suites import run_file_suite
    footer = f"{about['hardware']}, {about['precision']}, seed {options.seed}"
    results, text = run_file_suite(engine, suite, place, options, footer)
    print('\n'.join(text))
    return results | about


def _machine(engine: Any) -> dict[str, Any]:
    """What every printed number must name: hardware and precision."""
    runtime = engine.parts.runtime
    kind = (torch.cuda.get_device_name() if str(runtime.device).startswith('cuda')
            else f'CPU {platform.machine()}, {os.cpu_count()} cores, '
                 f'{torch.get_num_threads()} threads')
    return {'hardware': kind, 'precision': str(runtime.dtype).removeprefix('torch.')}
