"""Every setting of ``CooperConfig`` as a ROS parameter, declared from the dataclass alone."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Sequence

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from cooper_ros.config import CooperConfig, options
from cooper_ros.errors import CooperError

CAMERAS = 'cameras'
_REQUEST_GROUPS = ('model', 'reasoning', 'drawing', 'depth', 'limits')
_NAMES = tuple(entry.name for entry in options())
# What one request may change; the rest is fixed when the model is loaded, or is the node's own.
REQUEST_NAMES = tuple(entry.name for entry in options()
                      if entry.metadata['group'] in _REQUEST_GROUPS
                      and not entry.metadata['read_only'] and entry.name != 'queue_size')


def declare_parameters(node: Node, changed: Callable[[], None]) -> None:
    """Declare all settings with description, range and read-only flag, and watch their changes.

    Args:
        node: declares them.
        changed: called when allowed changes are about to be made.
    """
    for entry in options():
        node.declare_parameter(entry.name, entry.default, descriptor(entry))
    node.declare_parameter(CAMERAS, [''], ParameterDescriptor(
        read_only=True, description='names of the cameras; each listens to <name>/image, '
        'one empty name to image'))
    node.add_on_set_parameters_callback(lambda values: _judge(node, values, changed))


def descriptor(entry: dataclasses.Field) -> ParameterDescriptor:
    """What ``ros2 param describe`` prints about one setting."""
    meta = entry.metadata
    text = meta['help'] + (f" [{meta['unit']}]" if meta['unit'] else '')
    made = ParameterDescriptor(name=entry.name, description=text, read_only=meta['read_only'])
    if meta['choices']:
        made.additional_constraints = 'one of: ' + ', '.join(meta['choices'])
    if meta['low'] is not None and isinstance(entry.default, float):
        made.floating_point_range = [FloatingPointRange(
            from_value=float(meta['low']), to_value=float(meta['high']), step=0.0)]
    elif meta['low'] is not None:
        made.integer_range = [IntegerRange(from_value=int(meta['low']),
                                           to_value=int(meta['high']), step=1)]
    return made


def current_config(node: Node) -> CooperConfig:
    """The settings as they are now; the next request uses them.

    Raises:
        BadOption: a start value is not allowed.
    """
    return CooperConfig.from_mapping({name: node.get_parameter(name).value for name in _NAMES})


def camera_names(node: Node) -> list[str]:
    """Names of the cameras; one empty name where none is given.

    To ROS an empty list has no type, and what has none has no value.
    """
    nothing = Parameter(CAMERAS, Parameter.Type.STRING_ARRAY, [])
    return list(node.get_parameter_or(CAMERAS, nothing).value) or ['']


def request_settings(config: CooperConfig) -> dict[str, Any]:
    """The settings that travel with every request."""
    return {name: getattr(config, name) for name in REQUEST_NAMES}


def _judge(node: Node, wanted: Sequence[Parameter],
           changed: Callable[[], None]) -> SetParametersResult:
    values = {item.name: item.value for item in wanted if item.name in _NAMES}
    try:
        current_config(node).replaced(**values)
    except CooperError as error:
        return SetParametersResult(successful=False, reason=str(error))
    changed()
    return SetParametersResult(successful=True)
