"""What lies beside engines in their folder: exported graphs, and what killed processes left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

from cooper_ros.errors import BadCheckpoint
from cooper_ros.runtime.engines.cache import LOCK
from cooper_ros.runtime.engines.plan import GRAPHS
from cooper_ros.runtime.files import PART, discard, is_locked, locked, size_of
from cooper_ros.runtime.graphs.bundle import Bundle


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
    """All graphs beside the engines of a folder, in order of names."""
    for path in sorted((folder / GRAPHS).glob('*')):
        if path.is_dir() and PART not in path.name:
            try:
                bundle = Bundle.load(path)
            except BadCheckpoint:
                bundle = None
            yield Graphs(path.name, size_of(path), bundle)


def remove_graphs(folder: Path, name: str, held: Callable[[], None] = lambda: None) -> int:
    """Remove the graphs of a checkpoint; returns the bytes that became free.

    Args:
        folder: of the engines.
        name: see :class:`Graphs`.
        held: called before waiting for whoever exports them.

    Raises:
        Unwritable: the folder cannot be written.
    """
    path = folder / GRAPHS / name
    with locked(path.with_name(f'{name}{LOCK}'), held):
        freed = size_of(path)
        discard(path)
    return freed


def leftovers(folder: Path) -> list[Path]:
    """What writers that are dead have left among engines and graphs."""
    return [part for place in (folder, folder / GRAPHS)
            for part in sorted(place.glob(f'*{PART}*')) if not _has_writer(part)]


def remove_leftovers(folder: Path) -> tuple[int, int]:
    """Remove :func:`leftovers`; returns how many there were, and their bytes.

    Raises:
        Unwritable: the folder cannot be written.
    """
    found = leftovers(folder)
    freed = sum(map(size_of, found))
    for part in found:
        discard(part)
    return len(found), freed


def _has_writer(part: Path) -> bool:
    """Whether what is half written may still become whole.

    Writers hold a lock, which tells more than the number of their process: that may live in
    another container. Only timings are written without a lock of their own, and lost for little.
    """
    target, _, writer = part.name.rpartition(PART)
    if target.endswith('.timings'):
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
