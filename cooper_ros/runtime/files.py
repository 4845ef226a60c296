"""Files and folders that appear whole or not at all; what the system refuses, in our words."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Iterator

from cooper_ros.errors import BadOption, OutOfDisk

PART = '.part-'
PART_END = re.escape(PART) + '([0-9]+|old)'  # of the name of what is half written, or replaced
REMEDY = 'free some space, or name another folder'
CACHE_FLAG = '--cache'  # names the folder of engines and graphs
CACHE_REMEDY = ('free some space (`cooper engine remove --stale` removes engines of no use), or '
                f'name another folder with {CACHE_FLAG}')
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Unwritable(BadOption, OSError):
    """A place that cannot be written; an OSError too, for callers who can do without."""


def write_whole(path: Path, content: bytes | memoryview, flag: str = '') -> None:
    """Write a file so that a crash at any moment leaves the old one, or none, or the new one.

    Args:
        path: the file.
        content: all of it.
        flag: see :func:`refusals_named`.

    Raises:
        OutOfDisk: there is no room; the old file, if any, is still there.
        Unwritable: the system refuses, for want of rights and the like.
    """
    part = path.with_name(f'{path.name}{PART}{os.getpid()}')
    with refusals_named(path, flag):
        try:
            with room(path.parent, len(content), path.name, _room_remedy(flag)):
                with part.open('wb') as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(part, path)
        finally:
            with contextlib.suppress(OSError):  # else it hides what went wrong
                part.unlink(missing_ok=True)
        sync_folder(path.parent)


def check_writable(folder: Path, flag: str = CACHE_FLAG) -> None:
    """Refuse a folder before long work for it; it is made if it is not there.

    Args:
        folder: where files shall go; of engines and graphs, unless ``flag`` says otherwise.
        flag: see :func:`refusals_named`.

    Raises:
        OutOfDisk: there is no room for it.
        Unwritable: the system refuses.
    """
    with refusals_named(folder, flag):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextlib.contextmanager
def refusals_named(path: Path, flag: str = '') -> Iterator[None]:
    """Say what the system refuses in words of ours, with the path and what to do.

    Args:
        path: what is written or removed.
        flag: of the command line, where one names the folder it lies in.

    Raises:
        OutOfDisk: there is no room.
        Unwritable: anything else.
    """
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        said = error.strerror or str(error)
        if _full(error):
            raise OutOfDisk(f'no room on disk for {path.name}', value=said, limit=path.parent,
                            remedy=_room_remedy(flag)) from error
        raise Unwritable('a file cannot be written or removed', value=f'{path}: {said}',
                         limit='folders that this user may write in',
                         remedy=f'change the rights, or name another folder{_with(flag)}'
                         ) from error


def _room_remedy(flag: str) -> str:
    return CACHE_REMEDY if flag == CACHE_FLAG else REMEDY + _with(flag)


def _with(flag: str) -> str:
    return f' with {flag}' if flag else ''


@contextlib.contextmanager
def room(folder: Path, needed: int, what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Refuse what cannot fit before it is begun, and name a disk that fills up meanwhile.

    Args:
        folder: where the files go; it exists.
        needed: bytes they take.
        what: their name, for the message.
        remedy: what to do then.

    Raises:
        OutOfDisk: naming the bytes needed and the bytes free, or the largest file allowed.
    """
    if shutil.disk_usage(folder).free < needed:
        raise _out_of_disk(folder, needed, what, remedy)
    try:
        yield
    except Exception as error:  # writers wrap what the system says in errors of their own
        number = _full(error)
        if not number:
            raise
        if number == errno.EFBIG:
            raise _too_large(folder, needed, what) from error
        raise _out_of_disk(folder, needed, what, remedy) from error


def _full(error: BaseException | None) -> int:
    """The number with which an error, or what caused it, says that there is no room; else 0."""
    if error is None:
        return 0
    if isinstance(error, OSError) and error.errno in FULL:
        return error.errno
    said = (number for number in FULL if f'os error {number}' in str(error))  # safetensors
    return next(said, 0) or _full(error.__cause__ or error.__context__)


def _out_of_disk(folder: Path, needed: int, what: str, remedy: str) -> OutOfDisk:
    return OutOfDisk(f'no room on disk for {what}', value=f'{needed:,} bytes needed',
                     limit=f'{shutil.disk_usage(folder).free:,} bytes free in {folder}',
                     remedy=remedy)


def _too_large(folder: Path, needed: int, what: str) -> OutOfDisk:
    """The disk has room, but a single file may not be so large: freeing space does not help."""
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = (f'what the file system of {folder} holds in one file'
             if most == resource.RLIM_INFINITY else f'{most:,} bytes (ulimit -f)')
    return OutOfDisk(f'{what} is larger than a file may be', value=f'{needed:,} bytes needed',
                     limit=limit, remedy='raise that limit, or take a disk for larger files')


def sync_tree(folder: Path) -> None:
    """Make every file of a folder last, then the folder itself."""
    for path in sorted(folder.iterdir()):
        sync_file(path)
    sync_folder(folder)


def sync_file(path: Path) -> None:
    """Make the content of a file last; whoever wrote it has closed it, or goes on."""
    with path.open('rb') as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(draft: Path, target: Path, flag: str = '') -> None:
    """Give a finished folder its name; call under the lock of that name.

    A crash at any moment leaves what was there before, or nothing, or the new folder: its content
    lasts before its name does, and what was there goes aside before it is removed.

    Args:
        draft: holds files only; on the file system of ``target``.
        target: its name; a file, a link or a folder of that name is replaced.
        flag: see :func:`refusals_named`.

    Raises:
        OutOfDisk: there is no room.
        Unwritable: the system refuses; what was there still is, under its name or set aside.
    """
    aside = _aside(target)
    with refusals_named(target, flag):
        sync_tree(draft)
        was_there = os.path.lexists(target)  # a file or a dangling link may lie there as well
        if was_there:
            discard(aside, flag)
            target.rename(aside)
        try:
            draft.rename(target)
        except OSError:
            if was_there:
                aside.rename(target)
            raise
        sync_folder(target.parent)
    discard(aside, flag)


@contextlib.contextmanager
def drafted(target: Path, flag: str = '') -> Iterator[Path]:
    """A new folder to be filled with files, which takes its name when all went well.

    Call under the lock of that name: what killed processes left of it is removed first.

    Args:
        target: its name; see :func:`replace_folder`.
        flag: see :func:`refusals_named`.

    Raises:
        OutOfDisk: there is no room.
        Unwritable: the system refuses.
    """
    draft = target.with_name(f'{target.name}{PART}{os.getpid()}')
    sweep(target.parent, target.name, flag, kinds='')
    with refusals_named(draft, flag):
        draft.mkdir(parents=True)
    try:
        yield draft
        replace_folder(draft, target, flag)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def discard(path: Path, flag: str = '') -> None:
    """Remove whatever has this name, a folder with all that is in it; of a link, the link.

    Args:
        path: what goes.
        flag: see :func:`refusals_named`.

    Raises:
        Unwritable: the system refuses.
    """
    with refusals_named(path, flag):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def discard_folder(target: Path, flag: str = '') -> None:
    """Remove a folder that others read; call under the lock of its name.

    It loses its name first: where the system refuses that, nothing in it has gone.

    Args:
        target: the folder.
        flag: see :func:`refusals_named`.

    Raises:
        Unwritable: the system refuses.
    """
    aside = _aside(target)
    with refusals_named(target, flag):
        discard(aside, flag)
        target.rename(aside)
    discard(aside, flag)


def _aside(target: Path) -> Path:
    """Where what has a name goes that another takes, or that is removed."""
    return target.with_name(f'{target.name}{PART}old')


def sweep(folder: Path, name: str, flag: str = '', kinds: str = r'(\.[a-z]+)?') -> None:
    """Remove what a killed writer of ``name`` left; call under its lock.

    Args:
        folder: where it wrote.
        name: of what it wrote.
        flag: see :func:`refusals_named`.
        kinds: pattern of what may follow the name: by default a suffix, or none.

    Raises:
        Unwritable: the system refuses.
    """
    ours = re.compile(f'{re.escape(name)}{kinds}{PART_END}')
    for part in folder.glob(f'{glob.escape(name)}*{PART}*'):
        if ours.fullmatch(part.name):
            discard(part, flag)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for one in (path, *path.rglob('*')) if path.is_dir() else (path,):
        with contextlib.suppress(OSError):
            total += one.lstat().st_size if not one.is_dir() or one.is_symlink() else 0
    return total
