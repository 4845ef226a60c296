"""``cooper demo``: the whole path, simulated camera to answer, on this machine."""

from __future__ import annotations

import importlib.util

import typer

from cooper_ros.errors import BadOption

FORWARD = {'allow_extra_args': True, 'ignore_unknown_options': True}
PARTS = {'rclpy': ('ROS 2', 'run `make demo`, which brings its own, or source your ROS 2'),
         'mujoco': ('MuJoCo', 'run `make demo`, which brings it, or `pip install mujoco`')}


def demo(context: typer.Context) -> None:
    """Start a simulated camera and the node, ask over ROS 2, compare with the truth.

    See `cooper demo --help`.
    """
    from cooper_ros.node.demo.__main__ import main
    if not {'-h', '--help'} & set(context.args):
        _check_parts()
    status = main(context.args)
    if status:
        raise typer.Exit(int(status))


def _check_parts() -> None:
    """Look for what only the processes of the demo import, and would die of in their logs.

    Raises:
        BadOption: one of them is not installed.
    """
    for module, (name, remedy) in PARTS.items():
        if importlib.util.find_spec(module) is None:
            raise BadOption(f'the demo needs {name}', value=f'no module {module}', remedy=remedy)
