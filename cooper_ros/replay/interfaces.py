"""Message classes without ROS: Jazzy's own and ours, read from the .msg files."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from cooper_ros.errors import BadData
from cooper_ros.imaging.buffers import ImageBuffer

PACKAGE = 'cooper_interfaces'
ANSWER = f'{PACKAGE}/msg/SpatialAnswer'
LEGEND = f'{PACKAGE}/msg/Legend'
LABEL = f'{PACKAGE}/msg/Label'
TIMINGS = f'{PACKAGE}/msg/Timings'
HEADER = 'std_msgs/msg/Header'
TIME = 'builtin_interfaces/msg/Time'


def message_folder() -> Path:
    """Find the .msg files: beside this package in the repository, or installed by colcon.

    Raises:
        BadData: they are nowhere.
    """
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) + [sys.prefix]
    places = [Path(__file__).parents[2] / PACKAGE / 'msg']
    places += [Path(prefix) / 'share' / PACKAGE / 'msg' for prefix in prefixes if prefix]
    for place in places:
        if (place / 'SpatialAnswer.msg').is_file():
            return place
    raise BadData(f'the message definitions of {PACKAGE} are missing',
                  limit=' or '.join(map(str, places)), remedy='source the workspace it is in')


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Return the types of Jazzy and of cooper_interfaces; the CDR of Humble is the same."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(message_folder().glob('*.msg')):
        types.update(get_types_from_msg(path.read_text(encoding='utf-8'),
                                        f'{PACKAGE}/msg/{path.stem}'))
    store.register(types)
    return store


def make(type_name: str, **fields: Any) -> Any:
    """Build a message; every field must be given, as the definition has it."""
    return typestore().types[type_name](**fields)


def header(stamp_ns: int, frame_id: str) -> Any:
    """Build a std_msgs/Header."""
    stamp = make(TIME, sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return make(HEADER, stamp=stamp, frame_id=frame_id)


def image(head: Any, pixels: ImageBuffer) -> Any:
    """Build a sensor_msgs/Image."""
    return make('sensor_msgs/msg/Image', header=head, height=pixels.height, width=pixels.width,
                encoding=pixels.encoding, is_bigendian=pixels.is_bigendian, step=pixels.step,
                data=pixels.data)
