"""Files that ``cooper evaluate`` writes; errors of the system become ours, naming the flag."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Iterator

from cooper_ros.errors import BadOption, OutOfDisk
from cooper_ros.runtime.files import FULL


@contextlib.contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Context in which the file of a flag is written.

    Raises:
        OutOfDisk: there is no room for it.
        BadOption: the system refuses.
    """
    try:
        yield
    except OSError as error:
        said = f'{path}: {error.strerror or error}'
        if error.errno in FULL:
            raise OutOfDisk(f'no room on disk for the file of {option}', value=said,
                            remedy='free some space, or name another file') from error
        raise BadOption(f'{option} cannot be written', value=said,
                        remedy='name another file') from error
