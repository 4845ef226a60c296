"""A stand-in for the part of `launch` and `launch_ros` that our launch files use.

Machines without ROS have neither, and their sources are not ours to carry. This one executes a
launch file, resolves its arguments and says which processes would start, with the command lines
that ROS programs are given. What it cannot show is that the real packages take the same words;
that is tried by hand with the real ones.
"""

from __future__ import annotations

import runpy
import sys
import sysconfig
import types
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class LaunchError(Exception):
    """A launch file asks for something impossible."""


class LaunchContext:
    def __init__(self, values):
        self.values = dict(values)


class Substitution:
    pass


class LaunchConfiguration(Substitution):
    def __init__(self, name):
        self.name = name

    def perform(self, context):
        if self.name not in context.values:
            raise LaunchError(f'argument {self.name} is not declared')
        return context.values[self.name]


class PathJoinSubstitution(Substitution):
    def __init__(self, parts):
        self.parts = list(parts)

    def perform(self, context):
        return str(Path(*(text(part, context) for part in self.parts)))


class FindPackageShare(Substitution):
    """The repository has launch/, config/ and models/ where the share folder has them."""

    def __init__(self, package):
        self.package = package

    def perform(self, context):
        if self.package != 'cooper_ros':
            raise LaunchError(f'package {self.package} is not here')
        return str(ROOT)


class ExecutableInPackage(Substitution):
    def __init__(self, *, package, executable):
        self.package, self.executable = package, executable

    def perform(self, context):
        FindPackageShare(self.package).perform(context)
        found = Path(sysconfig.get_path('scripts'), self.executable)
        if not found.is_file():
            raise LaunchError(f'{self.package} has no program {self.executable}')
        return str(found)


class ParameterValue:
    def __init__(self, value, *, value_type):
        self.value, self.value_type = value, value_type


def text(value, context):
    return value.perform(context) if isinstance(value, Substitution) else str(value)


class Action:
    def start(self, context, outcome):
        raise NotImplementedError


class DeclareLaunchArgument(Action):
    def __init__(self, name, *, default_value=None, description='', choices=None):
        self.name, self.default, self.description = name, default_value, description
        self.choices = choices

    def start(self, context, outcome):
        outcome.arguments[self.name] = self
        if self.name not in context.values:
            if self.default is None:
                raise LaunchError(f'argument {self.name} must be given')
            context.values[self.name] = text(self.default, context)
        value = context.values[self.name]
        if self.choices is not None and value not in self.choices:
            raise LaunchError(f'{self.name} is {value}, allowed: {self.choices}')


class OpaqueFunction(Action):
    def __init__(self, *, function):
        self.function = function

    def start(self, context, outcome):
        for action in self.function(context):
            action.start(context, outcome)


class Shutdown(Action):
    def __init__(self, *, reason=''):
        self.reason = reason


class ExecuteProcess(Action):
    def __init__(self, *, cmd, output='log', on_exit=None):
        self.cmd, self.output, self.on_exit = cmd, output, on_exit

    def start(self, context, outcome):
        self.words = [text(word, context) for word in self.cmd]
        outcome.processes.append(self)


class Node(Action):
    def __init__(self, *, package, executable, name=None, namespace='', cwd=None, output='log',
                 parameters=(), remappings=(), respawn=False, respawn_delay=0.0,
                 ros_arguments=()):
        self.program = ExecutableInPackage(package=package, executable=executable)
        self.name, self.namespace, self.cwd = name, namespace, cwd
        self.parameters, self.remappings = parameters, remappings
        self.respawn, self.ros_arguments = respawn, list(ros_arguments)

    def start(self, context, outcome):
        self.cwd = text(self.cwd, context)
        self.values, self.files = {}, []
        for entry in self.parameters:
            if isinstance(entry, dict):
                self.values.update({name: plain(value) for name, value in entry.items()})
            else:
                self.files.append(Path(text(entry, context)))
        self.words = [self.program.perform(context), '--ros-args', *self.ros_arguments,
                      '-r', f'__node:={self.name}', '-r', f'__ns:=/{self.namespace}']
        for path in self.files:
            if not path.is_file():
                continue  # launch_ros logs a warning, and starts the node without it
            self.words += ['--params-file', str(path)]
        for own, other in self.remappings:
            self.words += ['-r', f'{own}:={other}']
        outcome.processes.append(self)


def plain(value):
    if isinstance(value, ParameterValue):
        assert isinstance(value.value, value.value_type)
        return value.value
    return value


class LaunchDescription:
    def __init__(self, actions):
        self.actions = actions


class Outcome:
    """What executing a launch file would start."""

    def __init__(self):
        self.arguments, self.processes = {}, []


MODULES = {
    'launch': (LaunchContext, LaunchDescription),
    'launch.actions': (DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown),
    'launch.substitutions': (LaunchConfiguration, PathJoinSubstitution),
    'launch_ros': (),
    'launch_ros.actions': (Node,),
    'launch_ros.parameter_descriptions': (ParameterValue,),
    'launch_ros.substitutions': (ExecutableInPackage, FindPackageShare),
}
BOUND = 'cooper_ros.node.launching'  # binds names of the modules above when it is imported


@contextmanager
def standing_in():
    """Put the stand-in where the real packages would be, and take it away again."""
    names = [*MODULES, BOUND]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    for name, members in MODULES.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update({member.__name__: member for member in members})
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def execute(name, **arguments):
    """Execute one of our launch files with arguments, as `ros2 launch` would."""
    context, outcome = LaunchContext(arguments), Outcome()
    with standing_in():
        made = runpy.run_path(str(ROOT / 'launch' / name))
        for action in made['generate_launch_description']().actions:
            action.start(context, outcome)
    unknown = set(arguments) - set(outcome.arguments)
    if unknown:
        raise LaunchError(f'unknown arguments: {unknown}')
    return outcome
