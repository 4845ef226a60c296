"""``cooper ask``: one question about pictures in files."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Callable, Iterable, Optional

import typer

from cooper_ros.cli.flags import with_settings
from cooper_ros.config import CooperConfig

if TYPE_CHECKING:
    from rich.console import Console

    from cooper_ros.engine.events import Answer, Event


@with_settings('mode', 'max_turns', 'max_turn_tokens', 'flow_points', 'time_budget_s', 'sample',
               'temperature', 'focal')
def ask(images: Annotated[list[str], typer.Argument(
            metavar='IMAGE... QUESTION', help='picture files, then the question')],
        out: Annotated[Optional[Path], typer.Option(
            help='folder for the maps, the overlay and a picture sheet')] = None,
        quiet: Annotated[bool, typer.Option('--quiet', '-q', help='print the answer only')
                         ] = False,
        *, config: CooperConfig) -> None:
    """Ask one question about one or several pictures.

    The reasoning is printed as it is written; with --out its maps are kept. Exit status 1 when
    there is no answer, or a limit cut it short.

    \b
    Examples:
      cooper ask room.jpg "Which is closer, the chair or the table?" --out out
      cooper ask before.png after.png "What has moved?" --mode direct
    """
    from rich.console import Console

    from cooper_ros.cli.files import read_picture
    from cooper_ros.cli.show import Printer, fact_line, facts, load_engine
    from cooper_ros.replay.pictures import holds_answer, write_pictures
    from cooper_ros.replay.places import make_folder
    files, question = _split(images)
    pictures = [read_picture(file, config.max_image_pixels) for file in files]
    if out is not None:
        make_folder(out)
        holds_answer(out)  # before a large model is loaded for nothing
    console = Console(stderr=quiet)
    engine = load_engine(config, console)
    answer = _answered(engine.ask(pictures, question), Printer(console), quiet)
    footer = fact_line(facts(engine), config.seed)
    _conclude(answer, footer, console, quiet)
    if out is not None:
        said = [f'wrote {file}' for file in write_pictures(out, pictures[-1], question, answer,
                                                           footer)]
        for line in said + _lens_wanted(answer):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if answer.error_code:
        raise typer.Exit(1)


def _conclude(answer: Answer, footer: str, console: Console, quiet: bool) -> None:
    """Say what the events have not said: to whom wants the answer only, the answer, and why it is
    none or was cut short."""
    if not quiet:
        console.print(footer, style='dim', highlight=False, markup=False)
        return
    print(answer.text)
    if answer.error_code:
        console.print(answer.error_msg, style='yellow', highlight=False, markup=False)


def _lens_wanted(answer: Answer) -> list[str]:
    """Why there is no file of metres where the sheet shows some."""
    guessed = [drawn for drawn in answer.maps if drawn.kind == 'depth'
               and drawn.metres is not None and drawn.vouched_metres is None]
    return ['no metres are written: they depend on the lens, which --focal names'
            ] if guessed else []


def _answered(events: Iterable[Event], show: Callable[[Event], None], quiet: bool) -> Answer:
    """Show events as they come, failures alone if ``quiet``; leave where no answer comes."""
    from cooper_ros.engine.events import Answer, Failure
    for event in events:
        if not quiet or isinstance(event, Failure):
            show(event)
    if not isinstance(event, Answer):
        raise typer.Exit(1)
    return event


def _split(words: list[str]) -> tuple[list[Path], str]:
    from cooper_ros.errors import BadQuestion
    if len(words) < 2:
        raise BadQuestion('give at least one picture and a question',
                          value=words[0] if words else None,
                          remedy='cooper ask IMAGE "QUESTION"')
    if os.path.isfile(words[-1]):  # pathlib's own raises for a question longer than a name may be
        raise BadQuestion('the last word is a file, not a question', value=words[-1],
                          remedy='cooper ask IMAGE "QUESTION"')
    return [Path(word) for word in words[:-1]], words[-1]
