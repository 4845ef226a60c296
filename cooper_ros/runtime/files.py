"""Files that appear whole or not at all, and one builder at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import Iterator

from cooper_ros.errors import OutOfDisk

PART = '.part-'
REMEDY = ('free some space (`cooper engine remove --stale` removes engines of no use), or name '
          'another folder with --cache')
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a crash at any moment leaves the old one, or none, or the new one.

    Raises:
        OutOfDisk: there is no room; the old file, if any, is still there.
        OSError: no right to write.
    """
    part = path.with_name(f'{path.name}{PART}{os.getpid()}')
    try:
        with room(path.parent, len(content), path.name):
            with part.open('wb') as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextlib.contextmanager
def room(folder: Path, needed: int, what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Refuse what cannot fit before it is begun, and name a disk that fills up meanwhile.

    Args:
        folder: where the files go; it exists.
        needed: bytes they take.
        what: their name, for the message.
        remedy: what to do then.

    Raises:
        OutOfDisk: naming the bytes needed and the bytes free.
    """
    if shutil.disk_usage(folder).free < needed:
        raise _out_of_disk(folder, needed, what, remedy)
    try:
        yield
    except Exception as error:  # writers wrap what the system says in errors of their own
        if not _is_full(error):
            raise
        raise _out_of_disk(folder, needed, what, remedy) from error


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that the disk is full."""
    if error is None:
        return False
    said = isinstance(error, OSError) and error.errno in FULL
    said = said or any(f'os error {number}' in str(error) for number in FULL)  # safetensors
    return said or _is_full(error.__cause__ or error.__context__)


def _out_of_disk(folder: Path, needed: int, what: str, remedy: str) -> OutOfDisk:
    return OutOfDisk(f'no room on disk for {what}', value=f'{needed:,} bytes needed',
                     limit=f'{shutil.disk_usage(folder).free:,} bytes free in {folder}',
                     remedy=remedy)


def sync_tree(folder: Path) -> None:
    """Make every file of a folder last, then the folder itself."""
    for path in sorted(folder.iterdir()):
        with path.open('rb') as stream:
            os.fsync(stream.fileno())
    sync_folder(folder)


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


def discard(path: Path) -> None:
    """Remove whatever has this name, a folder with all that is in it; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path, name: str) -> None:
    """Remove what a killed writer of ``name`` left; call under its lock."""
    for part in folder.glob(f'{name}*{PART}*'):
        part.unlink(missing_ok=True)
