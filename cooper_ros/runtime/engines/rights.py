"""Who else may write engines: whoever may, can put one of his own in the place of ours.

An engine is code that runs on the GPU, and so are the kernels kept beside it; its description lies
there too: all together prove nothing against somebody who may write them.
"""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Iterable

from cooper_ros.errors import BadOption


class Who(IntEnum):
    """Who may write a file besides its reader and root; more of them are worse."""

    NOBODY = 0
    GROUP = 1  # one that the reader is in: containers share a cache like that
    OTHERS = 2
    ANYONE = 3


@dataclass(frozen=True)
class Writers:
    """Who may write what.

    Attributes:
        who: the worst that is known.
        path: what they may write.
        folder: of the engines.
    """

    who: Who
    path: Path
    folder: Path

    def __str__(self) -> str:
        """What is wrong and what to do, for a report."""
        return f'{self.what}: {self.remedy}'

    @property
    def what(self) -> str:
        """What is wrong."""
        return f'{_SAID[self.who]} may write {self.path}'

    @property
    def remedy(self) -> str:
        """What takes the right away."""
        place = shlex.quote(str(self.folder))
        return f'run `chmod -R go-w {place}`' + (
            f', and `chown` where {place} is not yours' * (self.who == Who.OTHERS))


_SAID = {Who.NOBODY: 'nobody else', Who.GROUP: 'the group of this user',
         Who.OTHERS: 'another user', Who.ANYONE: 'anyone'}


def writers(folder: Path, paths: Iterable[Path] = ()) -> Writers:
    """Who may write a folder, or anything of it; the worst of all.

    What lies in a folder that only its owner may enter is as private as the folder.

    Args:
        folder: of engines.
        paths: in it; what is not there, or may not be looked at, says nothing.
    """
    found = [Writers(_who(folder), folder, folder)]
    if not _is_private(folder):
        found += [Writers(_who(path), path, folder) for path in paths]
    return max(found, key=lambda one: one.who)


def require_private(folder: Path, paths: Iterable[Path] = ()) -> None:
    """Refuse to build where nothing will ever be loaded from.

    Args:
        folder: of engines.
        paths: folders in it; see :func:`writers`.

    Raises:
        BadOption: anyone may write one of them.
    """
    found = writers(folder, paths)
    if found.who == Who.ANYONE:
        what = 'engines' if found.path == folder else found.path.name
        raise BadOption(f'anyone may write the folder of {what}', value=found.path,
                        limit='a folder that only its users may write', remedy=found.remedy)


def _who(path: Path) -> Who:
    try:
        found = path.stat()
    except OSError:
        return Who.NOBODY
    return who_writes(found.st_mode, found.st_uid, found.st_gid)


def who_writes(mode: int, owner: int, group: int) -> Who:
    """Who may write what has this mode, owner and group.

    Args:
        mode: as ``stat`` tells it.
        owner: number of a user.
        group: number of a group.
    """
    if mode & stat.S_IWOTH:
        return Who.ANYONE
    if owner not in (0, os.geteuid()):
        return Who.OTHERS
    if not mode & stat.S_IWGRP:
        return Who.NOBODY
    return Who.GROUP if group in (os.getegid(), *os.getgroups()) else Who.OTHERS


def _is_private(folder: Path) -> bool:
    try:
        return not folder.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    except OSError:
        return True
