"""What the launch files share: their arguments, and the node that these arguments describe.

Needs the ROS package `launch`; only launch files import this module. An argument left empty
leaves the matter to the parameter file, so a value never stands in two places.
"""

from __future__ import annotations

import os
from dataclasses import Field
from typing import Any, Mapping, Sequence

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from cooper_ros.config import options
from cooper_ros.errors import BadOption
from cooper_ros.node.camera_names import check_camera_names
from cooper_ros.replay.topics import NODE as NODE_NAME

PACKAGE = 'cooper_ros'
SWITCH = ('true', 'false')
OVERRIDES = {entry.name: entry for entry in options()
             if entry.name in ('model_path', 'device', 'dtype', 'autostart')}
LOG_LEVELS = ('debug', 'info', 'warn', 'error', 'fatal')


def share(*parts: str) -> PathJoinSubstitution:
    """Return a path inside the installed share folder of this package."""
    return PathJoinSubstitution([FindPackageShare(PACKAGE), *parts])


def common_arguments(params_file: str, use_sim_time: bool = False) -> list[DeclareLaunchArgument]:
    """Return the arguments that every launch file of this package takes."""
    made = [
        DeclareLaunchArgument('namespace', default_value='',
                              description='namespace of the node, for instance robot1'),
        DeclareLaunchArgument('params_file', default_value=share('config', params_file),
                              description='YAML file with the parameters of the node'),
        DeclareLaunchArgument('use_sim_time', default_value=SWITCH[not use_sim_time],
                              choices=SWITCH, description='take the time from /clock'),
        DeclareLaunchArgument('log_level', default_value='info', choices=LOG_LEVELS,
                              description='least important messages that are logged'),
        DeclareLaunchArgument('respawn', default_value='false', choices=SWITCH,
                              description='start the node again two seconds after it died')]
    return made + [_override(entry) for entry in OVERRIDES.values()]


def _override(entry: Field) -> DeclareLaunchArgument:
    """One setting as a launch argument."""
    choices = SWITCH if type(entry.default) is bool else entry.metadata['choices']
    return DeclareLaunchArgument(entry.name, default_value='',
                                 choices=('', *choices) if choices else None,
                                 description=f'{entry.metadata["help"]}; empty: as the parameter '
                                 'file says')


def given(context: LaunchContext, name: str) -> str:
    """Return the value of one launch argument, without blanks around it."""
    return LaunchConfiguration(name).perform(context).strip()


def cooper_node(context: LaunchContext, remappings: Sequence[tuple[str, str]],
                parameters: Mapping[str, Any] = {}) -> Node:
    """Return the node as the launch arguments describe it.

    Its working folder is the share folder, so that the relative model path of the shipped
    parameter files finds the shipped model; a path on the command line is relative to the shell.

    Raises:
        BadOption: there is no such parameter file.
    """
    changes = {**parameters, **overrides(context),
               'use_sim_time': given(context, 'use_sim_time') == 'true'}
    return Node(package=PACKAGE, executable='cooper_node', name=NODE_NAME,
                namespace=given(context, 'namespace'), cwd=share(), output='screen',
                parameters=[_parameter_file(context), changes],
                remappings=list(remappings), respawn=given(context, 'respawn') == 'true',
                respawn_delay=2.0, ros_arguments=['--log-level', given(context, 'log_level')])


def given_path(context: LaunchContext, name: str) -> str:
    """Return the path in one launch argument, absolute; no shell expands ``bag:=~/drive``."""
    return os.path.abspath(os.path.expanduser(given(context, name)))


def _parameter_file(context: LaunchContext) -> str:
    """ROS only warns of one that is missing, and starts the node with default settings."""
    path = given_path(context, 'params_file')
    if not os.path.isfile(path):
        raise BadOption('there is no such parameter file', value=path, limit='a YAML file',
                        remedy='correct params_file, or leave it out')
    return path


def overrides(context: LaunchContext) -> dict[str, Any]:
    """Return the parameters that were given as launch arguments, in their types."""
    values = {name: given(context, name) for name in OVERRIDES}
    typed: dict[str, Any] = {name: ParameterValue(value, value_type=str)
                             for name, value in values.items() if value}
    if values['model_path']:
        typed['model_path'] = ParameterValue(given_path(context, 'model_path'), value_type=str)
    if values['autostart']:
        typed['autostart'] = values['autostart'] == 'true'
    return typed


def camera_names(text: str) -> list[str]:
    """Read a list of camera names, separated by commas or blanks.

    Raises:
        BadOption: no name, one that ROS would not take, or the same one twice.
    """
    names = text.replace(',', ' ').split()
    check_camera_names(names)
    if not names:
        raise BadOption('no camera is named', value=repr(text), limit='at least one name',
                        remedy='set cameras, for instance front,rear')
    return names
