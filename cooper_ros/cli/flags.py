"""Command-line flags made from :class:`CooperConfig`, so that no default is written twice."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from pathlib import Path
from typing import Annotated, Any, Callable, Mapping, Optional

import typer
import yaml

from cooper_ros.config import CooperConfig, options
from cooper_ros.engine.shipped import shipped_model
from cooper_ros.errors import BadOption

PARAMETERS = 'ros__parameters'
# What a parameter file may say that concerns the node alone, or every node of ROS.
_OF_NODES = ('cameras', 'use_sim_time', 'start_type_description_service', 'qos_overrides')
COMMON = ('model_path', 'device', 'dtype', 'load_drawing', 'threads', 'seed')
_SHORT = {'model_path': 'model'}
_PANEL = 'Settings (see `cooper config`)'


def with_settings(*names: str, **defaults: Any) -> Callable[[Callable], Callable]:
    """Give a command one flag per named setting, ``--set`` and ``--config``.

    The command takes ``config: CooperConfig`` as its last parameter and gets the outcome:
    defaults, then ``--config FILE``, then ``--set name=value``, then the flags.

    Args:
        names: settings that get a flag of their own, beside the common ones.
        defaults: settings for which this command starts from another value than the node.
    """
    def decorate(command: Callable) -> Callable:
        fields = [entry for entry in options() if entry.name in COMMON + names]
        flags = [_flag(entry, defaults) for entry in fields] + [_SET, _CONFIG]
        own = [parameter for name, parameter in inspect.signature(
            command, eval_str=True).parameters.items() if name != 'config']

        @functools.wraps(command)
        def run(**values: Any) -> Any:
            mine = {parameter.name: values.pop(parameter.name) for parameter in own}
            return command(**mine, config=_settings(values, defaults))

        run.__signature__ = inspect.Signature(own + flags)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in own + flags}
        return run
    return decorate


def typed(context: typer.Context) -> set[str]:
    """Names of the parameters that were given on the command line."""
    return {name for name in context.params  # by name: typer may carry a click of its own
            if context.get_parameter_source(name).name == 'COMMANDLINE'}


def settings_from_file(path: Path) -> dict[str, Any]:
    """Read settings from YAML: a plain table, or the parameter file of a node.

    What the file of a node says of cameras, clock and transport is left out.

    Raises:
        BadOption: the file cannot be read or is no table.
    """
    try:
        values = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadOption('the settings file cannot be read', value=f'{path}: {error}',
                        remedy='see `cooper config --format yaml`') from error
    values = _innermost(values)
    if not isinstance(values, dict):
        raise BadOption('the settings file is no table', value=str(path),
                        remedy='see `cooper config --format yaml`')
    return values


def _innermost(values: Any) -> Any:
    """The table inside the names of a namespace, of a node and ``ros__parameters``."""
    while isinstance(values, dict) and len(values) == 1:
        name, inner = next(iter(values.items()))
        if not isinstance(inner, dict):
            break
        if name == PARAMETERS:
            return {key: value for key, value in inner.items()
                    if str(key).partition('.')[0] not in _OF_NODES}
        values = inner
    return values


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``name=value``; the value is read as the type of the setting.

    Raises:
        BadOption: no ``=``, an unknown name, or a value of another type.
    """
    name, sign, value = text.partition('=')
    fields = {entry.name: entry for entry in options()}
    if not sign or name not in fields:
        raise BadOption('--set needs name=value of a known setting', value=repr(text),
                        limit=', '.join(fields), remedy='see `cooper config`')
    kind = type(fields[name].default)
    try:
        return name, _SWITCH[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise BadOption(f'{name} has the wrong type', value=repr(value),
                        limit=kind.__name__) from None


_SWITCH = {'true': True, 'yes': True, 'on': True, '1': True,
           'false': False, 'no': False, 'off': False, '0': False}
_SET = inspect.Parameter('set_', inspect.Parameter.KEYWORD_ONLY, default=[], annotation=Annotated[
    list[str], typer.Option('--set', metavar='NAME=VALUE', rich_help_panel=_PANEL,
                            help='any setting; may be repeated', show_default=False)])
_CONFIG = inspect.Parameter('config_file', inspect.Parameter.KEYWORD_ONLY, default=None,
                            annotation=Annotated[Optional[Path], typer.Option(
                                '--config', metavar='FILE', rich_help_panel=_PANEL,
                                help='YAML with settings, or a ROS parameter file')])


def _flag(entry: dataclasses.Field, defaults: Mapping[str, Any]) -> inspect.Parameter:
    kind, shown = type(entry.default), defaults.get(entry.name, entry.default)
    name = '--' + _SHORT.get(entry.name, entry.name).replace('_', '-')
    spelled = f'{name}/--no-{name[2:]}' if kind is bool else name
    choices = f' [{"|".join(entry.metadata["choices"])}]' if entry.metadata['choices'] else ''
    option = typer.Option(spelled, rich_help_panel=_PANEL, show_default=False, help=(
        f'{entry.metadata["help"]}{choices}  [default: {"empty" if shown == "" else shown}]'))
    return inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=None,
                             annotation=Annotated[Optional[kind], option])


def _settings(values: dict[str, Any], defaults: Mapping[str, Any]) -> CooperConfig:
    chosen = dict(defaults)
    file, pairs = values.pop('config_file'), values.pop('set_')
    if file is not None:
        chosen |= settings_from_file(file)
    chosen |= dict(parse_setting(pair) for pair in pairs)
    chosen |= {name: value for name, value in values.items() if value is not None}
    config = CooperConfig.from_mapping(chosen)
    return config.replaced(model_path=shipped_model(config.model_path))
