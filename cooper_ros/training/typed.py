"""Settings classes from parsed YAML: names are known, values of the type that is declared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping as AnyMapping
from typing import Any, Iterable, Mapping, TypeVar, get_args, get_origin, get_type_hints

from cooper_ros.errors import BadOption

Settings = TypeVar('Settings')
Range = tuple[str, bool, str]  # name of a setting, whether its value fits, what fits


def build(kind: type[Settings], values: Mapping[str, Any], where: str = '') -> Settings:
    """Build a settings dataclass, and those inside it, from a parsed mapping.

    Args:
        kind: the dataclass.
        values: by name; lists become tuples.
        where: of the mapping in its file, for messages: ``data``, ``task.rollout``.

    Raises:
        BadOption: an unknown or missing name, or a value of another type.
    """
    if not isinstance(values, AnyMapping):
        raise BadOption(f'{where or "settings"} must be a mapping', value=repr(values))
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise BadOption(f'unknown setting of {where or kind.__name__}', value=name,
                            limit=', '.join(sorted(fields)))
    missing = [name for name, entry in fields.items() if name not in values and
               entry.default is entry.default_factory is dataclasses.MISSING]
    if missing:
        raise BadOption(f'{where or kind.__name__} is incomplete', value=', '.join(values) or None,
                        limit=f'needs {", ".join(missing)} too')
    hints = get_type_hints(kind)
    return kind(**{name: _typed(f'{where}.{name}'.lstrip('.'), value, hints[name])
                   for name, value in values.items()})


def check_ranges(settings: object, ranges: Iterable[Range], where: str = '') -> None:
    """Refuse the first value that does not fit.

    Args:
        settings: a settings dataclass.
        ranges: of its fields.
        where: it stands in its file, for messages: ``task``, ``model.llm``.

    Raises:
        BadOption: naming the setting, its value and what fits.
    """
    for name, fits, limit in ranges:
        if not fits:
            raise BadOption(f'{where}.{name}'.lstrip('.') + ' is out of range',
                            value=getattr(settings, name), limit=limit)


def _typed(name: str, value: Any, hint: Any) -> Any:
    """A value as the type of its setting."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, name)  # type: ignore[arg-type]
    if hint is Any:
        return value
    if hint is float:
        return _number(name, value)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            return tuple(_typed(name, part, each) for part, each in zip(value, kinds))
    elif origin is AnyMapping and isinstance(value, AnyMapping):
        return {key: _typed(f'{name}.{key}', part, inner[1]) for key, part in value.items()}
    elif type(value) is origin:
        return value
    raise _wrong(name, value, str(hint) if inner else hint.__name__)


def _number(name: str, value: Any) -> float:
    """A finite number; YAML takes ``1e-4`` for text, and only ``1.0e-4`` for a number."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _wrong(name, value, 'a finite number')
    return number


def _wrong(name: str, value: Any, wanted: str) -> BadOption:
    return BadOption(f'{name} has the wrong type', value=repr(value), limit=wanted)
