"""Which names cameras may have: they become parts of topic names. No ROS in here."""

from __future__ import annotations

import re
from typing import Sequence

from cooper_ros.errors import BadOption

CAMERA_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]*\Z')


def check_camera_names(names: Sequence[str]) -> None:
    """Refuse names that ROS would not take; one camera alone may have none.

    Raises:
        BadOption: naming them.
    """
    wrong = [name for name in names if not CAMERA_NAME.match(name)] if list(names) != [''] else []
    wrong += sorted({name for name in names if list(names).count(name) > 1})
    if wrong:
        raise BadOption('cameras cannot be called that', value=', '.join(map(repr, wrong)),
                        limit='different names of letters, digits and underscores',
                        remedy='change parameter cameras')
