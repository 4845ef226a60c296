"""What lies beside engines in their folder: exported graphs, and what killed processes left.

Only names that we give are looked at: the folder may be one of somebody else, named by mistake.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.runtime.engines.cache import (
    DESCRIPTION,
    ENGINE,
    KERNELS,
    LOCK,
    NAME,
    EngineCache,
)
from cooper_ros.runtime.engines.flavour import RTX, STANDARD
from cooper_ros.runtime.engines.plan import FINGERPRINTS, GRAPHS
from cooper_ros.runtime.engines.rights import Writers, writers
from cooper_ros.runtime.files import (
    CACHE_FLAG,
    PART,
    PART_END,
    discard,
    discard_folder,
    size_of,
)
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.locks import is_locked, locked, unwritten

TIMINGS = '.timings'
_GRAPHS_NAME = re.compile('[0-9a-f]{16}(-[0-9]+)?')  # bundle_name
_GRAPHS_PART = re.compile(_GRAPHS_NAME.pattern + PART_END)
_SUFFIXES = '|'.join(map(re.escape, (ENGINE, DESCRIPTION, KERNELS)))
_FILES = (f'{NAME.pattern}({_SUFFIXES})', re.escape(FINGERPRINTS),
          f'({STANDARD}|{RTX})-[0-9][0-9a-z.+]*-SM[0-9]+{re.escape(TIMINGS)}')
_FILE_PART = re.compile(f'({"|".join(_FILES)}){PART_END}')


@dataclass(frozen=True)
class Graphs:
    """The exported graphs of a checkpoint; nothing about their content has been proved.

    Attributes:
        name: of their folder.
        bytes: size on disk.
        bundle: what they say they are; None where that cannot be read, or is of another version.
    """

    name: str
    bytes: int
    bundle: Bundle | None


def exported_graphs(folder: Path) -> Iterator[Graphs]:
    """All graphs beside the engines of a folder, in order of names.

    Raises:
        BadOption: their folder cannot be read.
    """
    require_readable(folder / GRAPHS)
    for path in sorted((folder / GRAPHS).glob('*')):
        if _GRAPHS_NAME.fullmatch(path.name) and path.is_dir():
            try:
                bundle = Bundle.load(path)
            except BadCheckpoint:
                bundle = None
            yield Graphs(path.name, size_of(path), bundle)


def require_readable(folder: Path) -> None:
    """Refuse a folder that nobody lets us look into: to ``glob`` it is empty.

    Args:
        folder: may be missing, which is as good as empty.

    Raises:
        BadOption: the system refuses.
    """
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise BadOption('a folder cannot be read', value=f'{folder}: {error.strerror}',
                        limit='folders that this user may read',
                        remedy='change the rights, or name another folder with '
                        f'{CACHE_FLAG}') from error


def graphs_writers(folder: Path, name: str) -> Writers:
    """Who may write the graphs of a checkpoint; see :func:`~.rights.writers`."""
    path = folder / GRAPHS / name
    return writers(folder, (folder / GRAPHS, path, *sorted(path.glob('*'))))


def all_writers(folder: Path) -> Writers:
    """Who may write anything of ours in a folder of engines; the worst of all."""
    store = EngineCache(folder)
    found = [store.writers(entry.name for entry in store.entries())]
    found += [graphs_writers(folder, one.name) for one in exported_graphs(folder)]
    return max(found, key=lambda one: one.who)


def check_graphs(folder: Path, name: str, held: Callable[[], None] = lambda: None) -> str:
    """Prove that all graphs of a checkpoint are what was exported; empty when they are.

    Args:
        folder: of the engines.
        name: see :class:`Graphs`.
        held: called before waiting for whoever exports them.
    """
    path = folder / GRAPHS / name
    with unwritten(path.with_name(f'{name}{LOCK}'), held):
        return graphs_fault(path)


def graphs_fault(path: Path) -> str:
    """As :func:`check_graphs`, for their own folder, under a lock that the caller holds."""
    try:
        Bundle.load(path).prove()
    except (BadCheckpoint, OSError) as error:
        return str(error)
    return ''


def remove_graphs(folder: Path, name: str, only_if: Callable[[Path], object] = lambda path: True,
                  held: Callable[[], None] = lambda: None) -> int | None:
    """Remove the graphs of a checkpoint; returns the bytes that became free, None for nothing.

    Args:
        folder: of the engines.
        name: see :class:`Graphs`.
        only_if: asked about their folder under its lock: they may just have been exported.
        held: called before waiting for whoever exports them.

    Raises:
        Unwritable: the folder cannot be written.
    """
    path = folder / GRAPHS / name
    with locked(path.with_name(f'{name}{LOCK}'), held, CACHE_FLAG):
        if not path.is_dir() or not only_if(path):
            return None
        freed = size_of(path)
        discard_folder(path, CACHE_FLAG)
    return freed


def leftovers(folder: Path) -> list[Path]:
    """What writers that are dead have left among engines and graphs."""
    return [part for place, ours in ((folder, _FILE_PART), (folder / GRAPHS, _GRAPHS_PART))
            for part in sorted(place.glob(f'*{PART}*'))
            if ours.fullmatch(part.name) and not _has_writer(part)]


def remove_leftover(part: Path) -> int:
    """Remove one of :func:`leftovers`; returns its bytes.

    Raises:
        Unwritable: the folder cannot be written.
    """
    freed = size_of(part)
    discard(part, CACHE_FLAG)
    return freed


def _has_writer(part: Path) -> bool:
    """Whether what is half written may still become whole.

    Writers hold a lock, which tells more than the number of their process: that may live in
    another container. Only timings and kernels are written without a lock of their own, and lost
    for little.
    """
    target, _, writer = part.name.rpartition(PART)
    if target.endswith((TIMINGS, KERNELS)):
        return _lives(writer)
    return is_locked(part.with_name(target).with_suffix(LOCK))


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:  # of somebody else
        return True
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    return True
