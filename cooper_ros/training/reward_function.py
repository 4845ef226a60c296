"""The reward function that a training file names: found, called and checked.

A reward function gets a :class:`~.rewards.RewardGroup` and returns one mapping per rollout, name
of a term -> value. The reward is their sum, and every term has its curve (``reward_NAME``).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Mapping, Sequence

from torch import distributed as dist

from cooper_ros.errors import BadData, BadOption, CooperError
from cooper_ros.training.processes import rank, world_size
from cooper_ros.training.rewards import RewardGroup, RewardOptions, cooperative

RewardFunction = Callable[[RewardGroup], Sequence[Mapping[str, float]]]
FILE_MODULE = 'cooper_reward_function'  # what a file is known as once it is imported
TAKEN = 'std'  # `reward_std` is the spread of a group
LARGEST = 1e12  # sums of such terms, and the gradients they give, still fit float32
SHOWN = 200  # characters of what a function returned
_loaded: dict[str, str] = {}  # functions of this process -> SHA-256 of what they were read from


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
        self.name = options.function or cooperative.__name__
        self._names: set[str] = set()
        self._compared = world_size() == 1

    def terms(self, group: RewardGroup) -> list[dict[str, float]]:
        """Terms of every rollout of a group.

        Raises:
            BadData: the function raised.
            BadOption: the function returned no numbers of a usable size under the same names for
                each, here and in every other process.
        """
        if self._compared:
            return self._terms(group)
        self._compared = True
        try:
            found = self._terms(group)
        except CooperError:
            _of_all([])  # the others wait for it
            raise
        self._compare(_of_all(sorted(self._names)))
        return found

    def _terms(self, group: RewardGroup) -> list[dict[str, float]]:
        where, wanted = f'{self.name} on {group.data_id}', len(group.rollouts)
        found = self._called(group, where)
        if not isinstance(found, Sequence) or len(found) != wanted:
            got = len(found) if isinstance(found, Sequence) else _shown(found)
            raise BadOption('a reward function returns a list with the terms of every rollout',
                            value=f'{where}: {got}', limit=f'{wanted} mappings')
        return [self._checked(entry, f'{where} rollout {number}')
                for number, entry in enumerate(found)]

    def _called(self, group: RewardGroup, where: str) -> Any:
        try:
            return self.function(group)
        except (Exception, SystemExit) as error:  # whatever it is, the question must be named
            raise BadData('the reward function failed', value=f'{where}: {_shown(error)}',
                          remedy='mend it; the same command with --changed-settings then goes on '
                                 'from the last checkpoint') from error

    def _checked(self, entry: Any, where: str) -> dict[str, float]:
        if not isinstance(entry, Mapping) or not entry or not all(map(_is_name, entry)):
            raise BadOption('terms of a reward are names with numbers',
                            value=f'{where}: {_shown(entry)}',
                            limit=f'names like length, none of them {TAKEN}')
        self._names = self._names or set(entry)
        if set(entry) != self._names:  # every process adds up the same curves
            raise BadOption('the terms of a reward change', limit=', '.join(sorted(self._names)),
                            value=f'{where}: {", ".join(sorted(entry))}',
                            remedy='give a term that does not apply the value 0')
        return {name: _number(value, f'{where}: {name}') for name, value in entry.items()}

    def _compare(self, names: Sequence[Sequence[str]]) -> None:
        """Compare the names of all processes: their curves are added up by place, not by name."""
        own = names[rank()]
        for number, found in enumerate(names):
            if not found:
                raise BadOption('the reward function failed in another process',
                                value=f'process {number}', remedy='see its own message')
            if found != own:
                raise BadOption('the terms of a reward differ between processes',
                                value=f'{", ".join(found)} in process {number}',
                                limit=', '.join(own),
                                remedy='give a term that does not apply the value 0')


def _of_all(names: list[str]) -> list[list[str]]:
    """The names of every process, in all of them."""
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, names)
    return found


def load_function(name: str) -> RewardFunction:
    """Find a function by ``file.py:name`` or ``module:name``.

    Raises:
        BadOption: the file, the module or the name is not there, or the file cannot be run.
    """
    source, _, attribute = name.rpartition(':')
    if not source or not attribute:
        raise BadOption('reward.function has no such form', value=name,
                        limit='my_reward.py:rewards, package.module:rewards')
    _loaded.pop(name, None)
    module = _of_file(name, Path(source)) if source.endswith('.py') else _of_module(name, source)
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(module).items()
                 if callable(value) and getattr(value, '__module__', '') == module.__name__]
        raise BadOption('the reward function is not there', value=name,
                        limit=', '.join(known) or 'a function of that module')
    return function


def loaded_digest(name: str) -> str:
    """SHA-256 of the file that a function of this process was read from, whatever became of the
    file since; of the file as it is now where it was not loaded here."""
    return _loaded.get(name) or current_digest(name)


def current_digest(name: str) -> str:
    """SHA-256 of the file of ``file.py:name`` or ``module:name``; empty where there is none."""
    source = name.rpartition(':')[0]
    try:
        path = source if source.endswith('.py') else importlib.util.find_spec(source).origin
        return _digest(Path(path).read_bytes())
    except Exception:  # a parent package is run; what is wrong is said when it is loaded
        return ''


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _of_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise BadOption('the file of the reward function is missing', value=str(path),
                        remedy=f'give its path from {Path.cwd()}, or the whole path')
    loader = SourceFileLoader(FILE_MODULE, str(path))
    spec = importlib.util.spec_from_file_location(FILE_MODULE, path, loader=loader)
    assert spec is not None  # there is a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[FILE_MODULE] = module  # dataclasses of the file look themselves up there
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # for what lies beside it; last, so that it hides no package
    try:
        content = path.read_bytes()  # not by exec_module: bytecode may be older than the text
        exec(loader.source_to_code(content, str(path)), vars(module))
    except (Exception, SystemExit) as error:  # a script ends itself
        raise BadOption('the file of the reward function cannot be imported',
                        value=f'{path}: {_shown(error)}') from error
    _loaded[name] = _digest(content)
    return module


def _of_module(name: str, source: str) -> ModuleType:
    try:
        module = importlib.import_module(source)
    except (Exception, SystemExit) as error:
        raise BadOption('the module of the reward function cannot be imported',
                        value=f'{source}: {_shown(error)}',
                        remedy='install it, or name a file: my_reward.py:rewards') from error
    _loaded[name] = current_digest(name)
    return module


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and name != TAKEN


def _number(value: Any, where: str) -> float:
    cause = None
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except Exception as error:  # text, several numbers, too large a one, or of a class of its own
        number, cause = math.nan, error
    if not math.isfinite(number):
        raise BadOption('a term of the reward is no finite number',
                        value=f'{where} {_shown(value)}' + (f' ({_shown(cause)})' if cause else '')
                        ) from cause
    if abs(number) > LARGEST:
        raise BadOption('a term of the reward is too large', value=f'{where} {number:g}',
                        limit=f'{-LARGEST:g} .. {LARGEST:g}',
                        remedy='count in larger units: sums and gradients would not be finite')
    return number


def _shown(value: object) -> str:
    """What a function gave, however long it is; the text of some values cannot be made."""
    try:
        return repr(value)[:SHOWN]
    except Exception:
        return type(value).__name__
