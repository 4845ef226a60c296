"""The reward function that a training file names: found, called and checked.

A reward function gets a :class:`~.rewards.RewardGroup` and returns one mapping per rollout, name
of a term -> value. The reward is their sum, and every term has its curve (``reward_NAME``).
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Mapping, Sequence

from cooper_ros.errors import BadOption
from cooper_ros.training.rewards import RewardGroup, RewardOptions, cooperative

RewardFunction = Callable[[RewardGroup], Sequence[Mapping[str, float]]]
FILE_MODULE = 'cooper_reward_function'  # what a file is known as once it is imported
TAKEN = 'std'  # `reward_std` is the spread of a group


class Reward:
    """The reward function of a training file; what it returns is checked.

    Args:
        options: ``function`` names it.

    Raises:
        BadOption: there is no such function.
    """

    def __init__(self, options: RewardOptions) -> None:
        self.options = options
        self.function = load_function(options.function) if options.function else cooperative
        self._names: set[str] = set()

    def terms(self, group: RewardGroup) -> list[dict[str, float]]:
        """Terms of every rollout of a group.

        Raises:
            BadOption: the function returned no finite numbers under the same names for each.
        """
        found, wanted = self.function(group), len(group.rollouts)
        if not isinstance(found, Sequence) or len(found) != wanted:
            got = len(found) if isinstance(found, Sequence) else repr(found)
            raise BadOption('a reward function returns a list with the terms of every rollout',
                            value=got, limit=f'{wanted} mappings')
        return [self._checked(entry, f'{group.data_id} rollout {number}')
                for number, entry in enumerate(found)]

    def _checked(self, entry: Any, where: str) -> dict[str, float]:
        if not isinstance(entry, Mapping) or not entry or not all(map(_is_name, entry)):
            raise BadOption('terms of a reward are names with numbers', value=f'{where}: {entry}',
                            limit=f'names like length, none of them {TAKEN}')
        self._names = self._names or set(entry)
        if set(entry) != self._names:  # every process adds up the same curves
            raise BadOption('the terms of a reward change', limit=', '.join(sorted(self._names)),
                            value=f'{where}: {", ".join(sorted(entry))}',
                            remedy='give a term that does not apply the value 0')
        return {name: _number(value, f'{where}: {name}') for name, value in entry.items()}


def load_function(name: str) -> RewardFunction:
    """Find a function by ``file.py:name`` or ``module:name``.

    Raises:
        BadOption: the file, the module or the name is not there, or the file cannot be run.
    """
    place, _, attribute = name.rpartition(':')
    if not place or not attribute:
        raise BadOption('reward.function has no such form', value=name,
                        limit='my_reward.py:rewards, package.module:rewards')
    module = _of_file(Path(place)) if place.endswith('.py') else _of_module(place)
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(module).items()
                 if callable(value) and getattr(value, '__module__', '') == module.__name__]
        raise BadOption('the reward function is not there', value=name,
                        limit=', '.join(known) or 'a function of that module')
    return function


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadOption('the file of the reward function is missing', value=str(path),
                        remedy=f'give its path from {Path.cwd()}, or the whole path')
    spec = importlib.util.spec_from_file_location(FILE_MODULE, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[FILE_MODULE] = module  # dataclasses of the file look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadOption('the file of the reward function cannot be imported',
                        value=f'{path}: {error!r}') from error
    return module


def _of_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise BadOption('the module of the reward function cannot be imported',
                        value=f'{name}: {error!r}',
                        remedy='install it, or name a file: my_reward.py:rewards') from error


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and name != TAKEN


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # the last: torch, of several numbers
        number = math.nan
    if not math.isfinite(number):
        raise BadOption('a term of the reward is no finite number', value=f'{where} {value!r}')
    return number
