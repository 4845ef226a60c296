"""Files that appear whole or not at all, and one builder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Iterator

PART = '.part-'


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a crash at any moment leaves the old one, or none, or the new one.

    Raises:
        OSError: no room, or no right to write.
    """
    part = path.with_name(f'{path.name}{PART}{os.getpid()}')
    try:
        with part.open('wb') as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel frees it when its holder dies, however it dies."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open('a') as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def sweep(folder: Path, name: str) -> None:
    """Remove what a killed writer of ``name`` left; call under its lock."""
    for part in folder.glob(f'{name}*{PART}*'):
        part.unlink(missing_ok=True)
