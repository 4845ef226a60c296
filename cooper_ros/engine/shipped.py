"""Where the model folder is that a relative path names, whatever the working folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

SHARE = Path('share', 'cooper_ros')
_PACKAGE = Path(__file__).parents[1]


def shipped_model(path: str) -> str:
    """A model folder as it can be opened from here.

    Relative paths count from the working folder. What is not there is looked for where the
    package was installed (`colcon build`, pip) and in its source tree, so that the model that
    comes with it is found from everywhere. What is nowhere comes back as it is.
    """
    if Path(path).is_absolute() or Path(path).is_dir():
        return path
    return next((str(place / path) for place in _places() if (place / path).is_dir()), path)


def _places() -> Iterator[Path]:
    for prefix in filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)):
        yield Path(prefix, SHARE)
    for package in (_PACKAGE, _PACKAGE.resolve()):
        yield package.parent  # the source tree
        yield from (parent / SHARE for parent in package.parents)
