"""What lies in somebody's folders, links followed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, Sequence


def files(root: Path) -> Iterator[Path]:
    """All files below a folder, sorted, links followed; faster than globbing twice.

    A link to a folder that it lies in, by other links too, is not followed: its files would be
    there twice, some of them to be learnt and some held out.
    """
    above: dict[str, tuple[str, ...]] = {}  # folder -> where those on the way to it really are
    for folder, names, entries in os.walk(root, followlinks=True):
        way = (*above.pop(folder, ()), os.path.realpath(folder))
        names[:] = sorted(name for name in names if not _leads_back(folder, name, way))
        above.update((os.path.join(folder, name), way) for name in names)
        yield from (Path(folder, name) for name in sorted(entries))


def _leads_back(folder: str, name: str, way: Sequence[str]) -> bool:
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    return any(Path(inside).is_relative_to(target) for inside in way)


def files_named(root: Path, name: str) -> list[Path]:
    """The files of a name anywhere below a folder, sorted, links followed."""
    return sorted(path for path in files(root) if path.name == name)
