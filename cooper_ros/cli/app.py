"""The command tree. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
from typing import Annotated, Sequence

import typer

from cooper_ros.cli.ask import ask
from cooper_ros.cli.compare import compare
from cooper_ros.cli.conformance import conformance
from cooper_ros.cli.demo import FORWARD, demo
from cooper_ros.cli.doctor import doctor
from cooper_ros.cli.import_prompts import import_prompts
from cooper_ros.cli.quantize import quantize
from cooper_ros.cli.replay import replay
from cooper_ros.cli.scenes import app as scenes
from cooper_ros.cli.settings import config
from cooper_ros.errors import BadOption, CooperError

HELP = """Ask a robot's camera spatial questions.

Answers come with the depth map and the segmentation that the model (COOPER, a unified
vision-language model that draws while it thinks) reasoned from.

\b
Typical use:
  cooper doctor                              what is ready, what is missing
  cooper ask room.jpg "What is closest?"     one question, reasoning shown
  cooper replay drive.mcap -q "Way free?"    a recording, answers as a bag
  cooper replay drive.mcap --live            onto ROS topics, with /clock
  cooper config                              every setting
  ros2 launch cooper_ros cooper.launch.py    the node on a robot
"""
GROUPS = {'data': ('cooper_ros.training.data_cli', 'Check downloaded data; flag questions.'),
          'train': ('cooper_ros.training.cli', 'Train a checkpoint.'),
          'evaluate': ('cooper_ros.evaluation.cli', 'Score a checkpoint.'),
          'engine': ('cooper_ros.cli.engine', 'Compile a checkpoint with TensorRT.')}
EXIT_ERROR, EXIT_INTERRUPTED = 2, 130

app = typer.Typer(name='cooper', help=HELP, no_args_is_help=True,
                  rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``cooper``. Errors of the product end as one line on stderr and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = '--debug' in given
    _print_anything()
    try:
        app(args=[word for word in given if word != '--debug'], prog_name='cooper')
    except (CooperError, OSError) as error:
        if debug:
            raise
        print(f'cooper: {" ".join(str(error).split())}', file=sys.stderr)
        sys.exit(EXIT_ERROR)
    except (KeyboardInterrupt, SystemExit) as end:
        if not _is_interrupt(end):
            raise
        print('cooper: stopped', file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _print_anything() -> None:
    """Show what the terminal or file cannot hold by its number, instead of failing over it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def _is_interrupt(end: BaseException) -> bool:
    """Whether Ctrl-C is behind this end: typer makes an exit of its own of it."""
    if isinstance(end, SystemExit) and not end.code:
        return False
    cause: BaseException | None = end
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _print_version(wanted: bool) -> None:
    if wanted:
        from cooper_ros import __version__
        print(f'cooper {__version__}')
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option('--version', callback=_print_version,
                                                is_eager=True, help='print the version')] = False,
          debug: Annotated[bool, typer.Option('--debug', help='show where an error came from; '
                                              'works behind any command')] = False) -> None:
    """Take the options of the door itself; :func:`main` acts on ``--debug``."""


def _forward(group: str, module: str) -> None:
    """Register a command group that is imported only when it is called."""
    def run(context: typer.Context) -> None:
        if importlib.util.find_spec(module.rpartition('.')[0]) is None or (
                importlib.util.find_spec(module) is None):
            raise BadOption(f'cooper {group} is not part of this installation', value=module,
                            remedy='install the full repository')
        importlib.import_module(module).app(args=context.args, prog_name=f'cooper {group}')

    app.command(group, help=GROUPS[group][1] + f' See `cooper {group} --help`.',
                add_help_option=False, context_settings=FORWARD)(run)


for _name, _command in (('ask', ask), ('replay', replay), ('doctor', doctor), ('config', config),
                        ('import-prompts', import_prompts), ('conformance', conformance),
                        ('quantize', quantize), ('compare', compare)):
    app.command(_name)(_command)
app.command('demo', add_help_option=False, context_settings=FORWARD)(demo)
app.add_typer(scenes, name='scenes')
for _name, (_module, _) in GROUPS.items():
    _forward(_name, _module)
