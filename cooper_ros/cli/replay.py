"""``cooper replay``: a recording through the engine, or live onto topics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, Sequence

import typer

from cooper_ros.cli.flags import typed, with_settings
from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption
from cooper_ros.replay.live import Live
from cooper_ros.replay.questions import Plan, Question, collect

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from cooper_ros.engine.events import Answer, Failure
    from cooper_ros.replay.run import Request, Result, Watch

_HELP = {name: entry.metadata['help'] for name, entry in Plan.__dataclass_fields__.items()}
DEFAULT_OUT = Path('replay_out')
LIVE = {'speed', 'loop', 'wait'}  # say something with --live alone
EITHER = {'bag', 'live', 'question', 'questions', 'question_topic', 'topic', 'rate', 'every',
          'limit'}


BagArg = Annotated[Path, typer.Argument(help='mcap, sqlite3 (db3) or ROS 1 bag; file or folder')]
QuestionFlag = Annotated[Optional[list[str]], typer.Option(
    '--question', '-q', help='asked about every picture taken; may be repeated')]
QuestionsFlag = Annotated[Optional[Path], typer.Option(
    help='file of questions: text lines, JSON, JSONL or YAML')]
QuestionTopicFlag = Annotated[Optional[str], typer.Option(
    help='std_msgs/String topic of the bag whose texts are asked as they come; with --live the '
    'topic to ask on')]
TopicFlag = Annotated[Optional[str], typer.Option(
    help='picture topic; needed when there are several')]
RateFlag = Annotated[float, typer.Option(help=_HELP['rate'])]
EveryFlag = Annotated[int, typer.Option(help=_HELP['every'])]
LimitFlag = Annotated[int, typer.Option(help=_HELP['limit'])]
OutFlag = Annotated[Path, typer.Option(
    help='folder for the bag of answers, the summary and the picture sheets')]
OverwriteFlag = Annotated[bool, typer.Option(
    '--overwrite', help='replace the answers, the summary and the sheets of an earlier run in '
    '--out')]
TimingsFlag = Annotated[bool, typer.Option(
    '--timings', help='write timings into the bag; its bytes then differ from run to run')]
TopicsFlag = Annotated[bool, typer.Option('--topics', help='only list what is recorded')]
LiveFlag = Annotated[bool, typer.Option(
    '--live', help='publish the recording onto ROS topics with /clock, for a running node')]
SpeedFlag = Annotated[float, typer.Option(help='with --live: times real time')]
LoopFlag = Annotated[bool, typer.Option('--loop', help='with --live: start over at the end')]
WaitFlag = Annotated[float, typer.Option(
    help='with --live: seconds to wait for a listener before the first message')]


@with_settings('mode', 'max_turns', 'flow_points', 'time_budget_s', 'focal',
               time_budget_s=0.0)
def replay(context: typer.Context, bag: BagArg, question: QuestionFlag = None,
           questions: QuestionsFlag = None, question_topic: QuestionTopicFlag = None,
           topic: TopicFlag = None, rate: RateFlag = Plan.rate, every: EveryFlag = Plan.every,
           limit: LimitFlag = Plan.limit, out: OutFlag = DEFAULT_OUT,
           overwrite: OverwriteFlag = False, timings: TimingsFlag = False,
           topics: TopicsFlag = False, live: LiveFlag = False, speed: SpeedFlag = Live.speed,
           loop: LoopFlag = False, wait: WaitFlag = Live.wait_s,
           *, config: CooperConfig) -> None:
    """Ask about the pictures of a recording.

    Straight through the engine, the same bag, seed and questions give the same bytes in
    OUT/answers: the bag of answers, maps and pictures (opens in Foxglove and RViz). Beside it lie
    summary.md and summary.json, which name seconds too, and a picture sheet per question. A bad
    picture is reported and skipped. Exit status 1 when every question failed.

    \b
    Examples:
      cooper replay drive/ --topics
      cooper replay drive/ -q "How far is the door?" --rate 0.5 --limit 20
      cooper replay drive.mcap --topic /front/image_raw --questions asks.txt
      cooper replay drive/ --live --speed 2
    """
    from rich.console import Console
    console = Console()
    if topics:
        return _list_topics(bag, console)
    asked = collect(question or [], questions)
    plan = Plan(rate, every, limit)
    _check_typed(typed(context), live)
    if live:
        _check_no_modes(asked)
        return _go_live(Live(bag, topic, asked, plan, question_topic, speed, loop, wait))
    from cooper_ros.replay.run import Request
    _through_engine(Request(bag, out, asked, plan, topic, question_topic, config.mode,
                            config.seed, overwrite, timings, config.focal,
                            config.max_image_pixels), config, console)


def _check_typed(names: set[str], live: bool) -> None:
    """Refuse what would be passed over in silence."""
    idle = names - (LIVE | EITHER) if live else names & LIVE
    if idle:
        words = 'with' if live else 'without'
        shown = ', '.join('--' + name.strip('_').replace('_', '-') for name in sorted(idle))
        raise BadOption(f'options that do nothing {words} --live', value=shown,
                        remedy='leave them out' + (
                            ', or set them on the node that is asked' if live else ''))


def _check_no_modes(asked: Sequence[Question]) -> None:
    """Refuse questions with a mode of their own: a text on a topic carries none."""
    for question in asked:
        if question.mode is not None:
            raise BadOption('questions have no mode of their own with --live',
                            value=f'{question.mode}: {question.text}',
                            remedy='leave `mode` out of the file, and set it on the node')


def _through_engine(request: Request, config: CooperConfig, console: Console) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from cooper_ros.cli.show import facts, load_engine
    from cooper_ros.replay.run import check
    from cooper_ros.replay.run import replay as run
    from cooper_ros.replay.summary import write_summary
    check(request)
    engine = load_engine(config, console)
    known = facts(engine)
    with Progress(TextColumn('[progress.description]{task.description}'), BarColumn(),
                  TextColumn('{task.percentage:>3.0f} % of the recording'), TimeElapsedColumn(),
                  console=console) as bar:
        result = run(request, engine, _watch(request, bar, console, known))
    _, text = write_summary(result, known)
    _report(result, text, console)


def _watch(request: Request, bar: Progress, console: Console,
           known: dict[str, str]) -> Watch:
    from rich.markup import escape

    from cooper_ros.cli.show import fact_line
    from cooper_ros.engine.events import Event, Loading, MapStep, TextDelta
    from cooper_ros.replay.pictures import write_sheet
    from cooper_ros.replay.places import sheet_name
    from cooper_ros.replay.run import Asked, Watch
    task = bar.add_task('reading', total=1.0)
    footer = fact_line(known, request.seed)

    def event(said: Event) -> None:
        if isinstance(said, TextDelta):
            bar.update(task, description=f'writing, turn {said.turn}')
        elif isinstance(said, MapStep):
            bar.update(task, description=f'drawing {said.kind}, step {said.step}/{said.steps}')
        elif isinstance(said, Loading):
            bar.update(task, description=escape(str(said)))

    def asked(number: int, done: Asked) -> None:
        write_sheet(request.out / sheet_name(number), done.frame.rgb, done.question.text,
                    done.end, footer)
        console.print(f'[dim]picture {done.frame.index}[/] {escape(done.question.text)} '
                      f'{_ended(done.end)}', highlight=False)

    return Watch(
        progress=lambda done: bar.update(task, completed=done), event=event, asked=asked,
        skipped=lambda bad: console.print(f'[yellow]picture {bad.index} skipped:[/] '
                                          f'{escape(bad.reason)}', highlight=False,
                                          soft_wrap=True))


def _ended(end: Answer | Failure) -> str:
    """How a question ended, for the terminal."""
    from rich.markup import escape

    from cooper_ros.engine.events import Failure
    if isinstance(end, Failure):
        return f'[bold]{escape(end.error_msg)}[/]'
    cut = '' if end.complete else f' [yellow](cut short: {escape(end.error_msg)})[/]'
    return f'[bold]{escape(end.text)}[/]{cut}'


def _report(result: Result, text: Path, console: Console) -> None:
    from cooper_ros.engine.events import Answer
    _warn(result.warnings, console)
    said = [asked.end for asked in result.asked if isinstance(asked.end, Answer)]
    failed, cut = len(result.asked) - len(said), sum(not end.complete for end in said)
    amiss = (f', {failed} failed' if failed else '') + (f', {cut} cut short' if cut else '')
    stopped = ', stopped before the end' if result.interrupted else ''
    console.print(f'{result.pictures} pictures of {result.topic.name}, {len(result.asked)} '
                  f'questions{amiss}, {len(result.skipped)} skipped{stopped}. See {text}',
                  highlight=False, markup=False, soft_wrap=True)
    if result.interrupted:
        raise KeyboardInterrupt
    if failed and failed == len(result.asked):
        raise typer.Exit(1)


def _warn(warnings: list[str], console: Console) -> None:
    from rich.markup import escape
    for warning in warnings:
        console.print(f'[yellow]warning:[/] {escape(warning)}', highlight=False, soft_wrap=True)


def _list_topics(bag: Path, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    from cooper_ros.replay.bag import Bag
    with Bag(bag) as opened:
        pictures = {topic.name for topic in opened.picture_topics()}
        depth = {topic.name for topic in opened.depth_topics()}
        whole = [Column(name, overflow='fold') for name in ('topic', 'type')]  # to be copied
        table = Table(*whole, 'messages', 'use', title=escape(str(bag)))
        for topic in opened.recording.topics.values():
            use = 'pictures' if topic.name in pictures else 'depth' if topic.name in depth else ''
            table.add_row(escape(topic.name), escape(topic.type), str(topic.count), use)
        console.print(table)
        _warn(opened.warnings, console)


def _go_live(live: Live) -> None:
    try:
        from cooper_ros.node.live_replay import play
    except ImportError as error:
        raise BadOption('--live needs ROS 2', value=str(error),
                        remedy='source /opt/ros/.../setup.bash, or replay without --live'
                        ) from error
    play(live)
