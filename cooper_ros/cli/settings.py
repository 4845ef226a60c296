"""``cooper config``: every setting, as a table, Markdown or YAML, from the one source."""

from __future__ import annotations

import dataclasses
import enum
from itertools import groupby
from typing import Annotated, Any

import typer
import yaml

from cooper_ros.config import options

NODE_NAME = '/**'


class Format(str, enum.Enum):
    """How settings are printed."""

    TABLE = 'table'
    MARKDOWN = 'markdown'
    YAML = 'yaml'


def config(format: Annotated[Format, typer.Option(
        help='table to read, yaml for a ROS parameter file, markdown for documentation'
        )] = Format.TABLE) -> None:
    """Show every setting: name, default, range and meaning.

    The same names are `--set` pairs, ROS parameters and YAML keys; commands have flags for some.

    \b
    Examples:
      cooper config
      cooper config --format yaml > cooper.yaml
    """
    if format is Format.TABLE:
        _print_table()
    else:
        print(settings_yaml() if format is Format.YAML else settings_markdown(), end='')


def settings_markdown() -> str:
    """All settings as Markdown tables, one per group."""
    parts = []
    for group, entries in groupby(options(), key=lambda entry: entry.metadata['group']):
        parts.append(f'### {group}\n\n| parameter | type | default | allowed | changes | meaning |'
                     '\n|---|---|---|---|---|---|')
        parts += [_markdown_row(entry) for entry in entries]
        parts.append('')
    return '\n'.join(parts)


def settings_yaml() -> str:
    """All settings as a ROS parameter file for any node name, each with its meaning."""
    lines = [f'{NODE_NAME}:', '  ros__parameters:']
    for group, entries in groupby(options(), key=lambda entry: entry.metadata['group']):
        lines.append(f'    # {group}')
        for entry in entries:
            lines.append(f'    # {_meaning(entry)}. Allowed: {allowed(entry)}')
            lines.append(f'    {entry.name}: {_yaml(entry.default)}')
    return '\n'.join(lines) + '\n'


def allowed(entry: dataclasses.Field) -> str:
    """The choices or the range of a setting, in words."""
    meta = entry.metadata
    if meta['choices']:
        return ', '.join(meta['choices'])
    if type(entry.default) is bool:
        return 'true, false'
    return 'any' if meta['low'] is None else f'{_short(meta["low"])} .. {_short(meta["high"])}'


def _markdown_row(entry: dataclasses.Field) -> str:
    changes = 'at start' if entry.metadata['read_only'] else 'at run time'
    return (f'| `{entry.name}` | {type(entry.default).__name__} | `{_yaml(entry.default)}` '
            f'| {allowed(entry)} | {changes} | {_meaning(entry)} |')


def _meaning(entry: dataclasses.Field) -> str:
    unit = entry.metadata['unit']
    return entry.metadata['help'] + (f' ({unit})' if unit else '')


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_style='"' if isinstance(value, str) else None,
                          width=10**6).splitlines()[0]


def _short(number: float) -> str:
    return f'{number:g}' if abs(number) < 1e5 else f'{number:,.0f}'.replace(',', ' ')


def _print_table() -> None:
    from rich.console import Console
    from rich.table import Table
    table = Table('setting', 'default', 'allowed', 'meaning', title='Settings of cooper',
                  caption='set with a flag, --set name=value, --config FILE or a ROS parameter')
    for _, entries in groupby(options(), key=lambda entry: entry.metadata['group']):
        for entry in entries:
            table.add_row(entry.name, _yaml(entry.default), allowed(entry), _meaning(entry))
        table.add_section()
    Console(markup=False, emoji=False).print(table)  # lists are written in brackets
