"""``cooper data``: look after downloaded data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:  # commands start fast
    from cooper_ros.training.flags import FlagOptions
    from cooper_ros.training.questions import Questions

HELP = """Data sets: are they complete and readable, and which questions do maps help with?

\b
  cooper data check hypersim data/Hypersim      ai_001_001/..., raw or preprocessed, or a .jsonl
  cooper data check vkitti   data/vkitti        Scene01/clone/frames/...
  cooper data check ade20k   data/ADE20K        ADE20K_2021_17_01/images/ADE/...
  cooper data check nyu      data/nyu           rgb_/depth_ pictures or the labelled .mat
  cooper data check cooper   data/COOPER        Interleaved_SFT.jsonl and RL_data.jsonl
  cooper data flags --model models/cooper-nano --out runs/nano/flags.jsonl
"""
app = typer.Typer(name='data', help=HELP, no_args_is_help=True, rich_markup_mode=None,
                  add_completion=False, pretty_exceptions_enable=False)


@app.command()
def check(kind: Annotated[str, typer.Argument(metavar='KIND', help='hypersim, vkitti, ade20k, '
                                              'nyu or cooper')],
          place: Annotated[Path, typer.Argument(metavar='DIR', help='folder of the data set, or '
                                                'one of its .jsonl lists')],
          images: Annotated[Optional[Path], typer.Option(
              help='folder of the pictures of RL_data.jsonl, if not beside it')] = None,
          limit: Annotated[int, typer.Option(min=0, help='decode only so many files, evenly '
                                             'spread; 0: all')] = 0,
          part: Annotated[bool, typer.Option(
              '--part', help='a part of the set is meant: scenes, variants and pictures of which '
              'there is nothing at all are no fault')] = False) -> None:
    """Say what is missing or broken, and where to get it. Exit status 1 if anything is.

    Example: `cooper data check vkitti data/vkitti --limit 500`
    """
    from cooper_ros.training.datasets.check import check as run
    report = run(kind, place, images, limit, part=part)
    report.notes += _notes(kind, place)
    print('\n'.join(report.lines()))
    if not report.ok:
        raise typer.Exit(1)


def _notes(kind: str, place: Path) -> list[str]:
    """What no file of a set can show: that pictures to be tested on will train."""
    from cooper_ros.training.datasets.catalogue import DRAW_KINDS
    from cooper_ros.training.datasets.layouts import HYPERSIM_SPLIT, hypersim_split
    if kind != 'hypersim' or place.is_file() or hypersim_split(place) is not None or any(
            (place / name).is_file() for name in DRAW_KINDS[kind].lists):
        return []
    return [f'without {HYPERSIM_SPLIT} in the folder or its parent, the official validation and '
            'test pictures train too, and nobody knows which scenes are missing']


ModelFlag = Annotated[str, typer.Option(
    help='model folder that answers, usually the start of stage grpo')]
QuestionsFlag = Annotated[Optional[Path], typer.Option(
    help='RL_data.jsonl or a folder with it; without it, our scenes')]
WithFlag = Annotated[str, typer.Option(help='mode that uses maps: maps or auto')]
WithoutFlag = Annotated[str, typer.Option(help='mode that does not: text or direct')]


@app.command()
def flags(model: ModelFlag,
          out: Annotated[Path, typer.Option(help='JSON lines to write; goes on where it stopped')],
          questions: QuestionsFlag = None,
          images: Annotated[Optional[Path], typer.Option(
              help='folder of its pictures, if not beside it')] = None,
          data: Annotated[Path, typer.Option(help='where generated scenes are kept')] = Path(
              'runs/data'),
          seed: Annotated[int, typer.Option(help='first scene of the train split')] = 0,
          frames: Annotated[int, typer.Option(min=1, help='scenes')] = 200,
          per_category: Annotated[int, typer.Option(min=1, help='questions per category and '
                                                    'scene')] = 1,
          with_mode: WithFlag = 'maps', without_mode: WithoutFlag = 'text',
          tries: Annotated[int, typer.Option(min=1, help='answers per question and mode; 1 is '
                                             'greedy, more are sampled')] = 1,
          margin: Annotated[float, typer.Option(min=0, max=1, help='accuracies closer than this '
                                                'count as equal')] = 0.0,
          limit: Annotated[int, typer.Option(min=0, help='ask only so many; 0: all')] = 0) -> None:
    """Measure accuracy with and without tools, and flag every question for stage grpo.

    positive: maps help; negative: they hurt; boundary: no difference. Which options must agree
    with the training file is in docs/training.md, Flags.

    Example: `cooper data flags --model models/cooper-nano --out runs/flags.jsonl --frames 100`
    """
    from cooper_ros.training.flags import FlagOptions
    options = FlagOptions(with_mode, without_mode, tries, margin=margin)  # checked first
    if questions is not None:
        from cooper_ros.training.datasets.cooper_set import RlSet
        rows = RlSet(questions, images)
    else:
        from cooper_ros.training.data import frame_store
        from cooper_ros.training.questions import SceneQuestions
        rows = SceneQuestions(frame_store(data, 'train', seed, frames, per_category),
                              f'train/{seed}')
    _flag(model, rows, out, options, limit)


def _flag(model: str, rows: Questions, out: Path, options: FlagOptions, limit: int) -> None:
    from cooper_ros.engine.engine import CooperEngine
    from cooper_ros.engine.settings import offline
    from cooper_ros.runtime.engines.plan import FINGERPRINTS, default_cache, model_fingerprint
    from cooper_ros.training.flags import write_flags
    engine = CooperEngine.from_pretrained(model, offline())
    known_as = model_fingerprint([Path(model)], default_cache() / FINGERPRINTS)[:16]
    counts = write_flags(engine, rows, out, options, limit=limit, model=known_as)
    print(f'{out}: ' + ', '.join(f'{count} {flag}' for flag, count in sorted(counts.items())))
