"""Locks between processes: one builder at a time, and readers that wait for it.

A lock is a file that stands for what it guards; the kernel alone knows whether it is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import IO, Callable, Iterator

from cooper_ros.runtime.files import Unwritable, discard, refusals_named


@contextlib.contextmanager
def locked(path: Path, held: Callable[[], None] = lambda: None, flag: str = '') -> Iterator[None]:
    """Hold a lock between processes; the kernel frees it when its holder dies, however it dies.

    Args:
        path: the file that stands for it; made with its folder.
        held: called before waiting for another holder.
        flag: see :func:`~.files.refusals_named`.

    Raises:
        OutOfDisk: there is no room for the file.
        Unwritable: it cannot be made, or something else has its name.
    """
    with _holding(path, held, flag):
        yield


@contextlib.contextmanager
def locked_once(path: Path, held: Callable[[], None] = lambda: None, flag: str = ''
                ) -> Iterator[None]:
    """As :func:`locked`, for a lock whose file shall not stay: its holder removes it.

    Whoever waited then holds a file without a name, and takes the lock again.
    """
    while True:
        with _holding(path, held, flag) as stream:
            if not _has_name(stream, path):
                continue
            try:
                yield
            finally:
                discard(path, flag)
            return


@contextlib.contextmanager
def _holding(path: Path, held: Callable[[], None], flag: str) -> Iterator[IO]:
    with refusals_named(path, flag):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        stream = _lock_file(path)
    with stream:
        if not _taken(stream, fcntl.LOCK_EX):
            held()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def _has_name(stream: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _lock_file(path: Path) -> IO:
    """Open the file of a lock; a pipe of that name would wait, a link make a file elsewhere."""
    with contextlib.suppress(FileNotFoundError):  # its last holder may remove it just now
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Unwritable('a lock is no regular file', value=path,
                             limit='files that `cooper` made, or none of this name',
                             remedy='remove what is there')
    never_waiting = os.O_NONBLOCK | os.O_NOFOLLOW
    return open(path, 'a', opener=lambda name, flags: os.open(name, flags | never_waiting, 0o666))


@contextlib.contextmanager
def unwritten(path: Path, held: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep those who take a lock away while something is read; writes nothing.

    Args:
        path: the file that stands for the lock. Where there is none, nobody has ever taken it;
            where it may not be opened, reading goes on without.
        held: called before waiting for another holder.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            if path.is_file():  # a pipe would wait for a writer
                stream = stack.enter_context(path.open('rb'))
                if not _taken(stream, fcntl.LOCK_SH):
                    held()
                    fcntl.flock(stream, fcntl.LOCK_SH)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock now, or might: its file may not be opened."""
    if not path.is_file():
        return False
    try:
        with path.open('rb') as stream:
            return not _taken(stream, fcntl.LOCK_SH)
    except OSError:
        return True


def _taken(stream: IO, how: int) -> bool:
    """Take a lock that is free; False where it is not."""
    try:
        fcntl.flock(stream, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
