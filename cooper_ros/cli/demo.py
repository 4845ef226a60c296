"""``cooper demo``: the whole path, simulated camera to answer, on this machine."""

from __future__ import annotations

import typer

from cooper_ros.errors import BadOption

FORWARD = {'allow_extra_args': True, 'ignore_unknown_options': True}


def demo(context: typer.Context) -> None:
    """Start a simulated camera and the node, ask over ROS 2, compare with the truth.

    See `cooper demo --help`.
    """
    try:
        from cooper_ros.node.demo.__main__ import main
    except ImportError as error:
        raise BadOption('the demo needs ROS 2', value=str(error),
                        remedy='run `make demo`, which brings its own') from error
    status = main(context.args)
    if status:
        raise typer.Exit(int(status))
