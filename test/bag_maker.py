"""Small recordings for the replay tests, written with rosbags or by hand."""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from PIL import Image
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
INFO, STRING = 'sensor_msgs/msg/CameraInfo', 'std_msgs/msg/String'
ROS2, ROS1 = get_typestore(Stores.ROS2_JAZZY), get_typestore(Stores.ROS1_NOETIC)
START_NS, PERIOD_NS = 1_700_000_000_000_000_000, 500_000_000
Messages = Sequence[tuple[str, str, int, Any]]


def picture(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A picture that differs from every other number: a bar moving over a gradient."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 1] = np.linspace(0, 255, width, dtype=np.uint8)
    rgb[:, number % width] = (255, 10 * number % 256, 0)
    return rgb


def header(store: Any, stamp_ns: int, frame: str = 'camera_optical') -> Any:
    stamp = store.types['builtin_interfaces/msg/Time'](stamp_ns // 10**9, stamp_ns % 10**9)
    extra = {'seq': 0} if store is ROS1 else {}
    return store.types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame, **extra)


def image(stamp_ns: int, rgb: np.ndarray, encoding: str = 'rgb8', store: Any = ROS2) -> Any:
    data = np.ascontiguousarray(rgb)
    return store.types[IMAGE](
        header=header(store, stamp_ns), height=rgb.shape[0], width=rgb.shape[1],
        encoding=encoding, is_bigendian=0, step=data.strides[0],
        data=data.reshape(-1).view(np.uint8))


def compressed(stamp_ns: int, rgb: np.ndarray, store: Any = ROS2) -> Any:
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, 'PNG')
    return store.types[COMPRESSED](header=header(store, stamp_ns), format='png',
                                   data=np.frombuffer(data.getvalue(), np.uint8))


def camera_info(stamp_ns: int, height: int = 24, width: int = 32) -> Any:
    roi = ROS2.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    k = np.array([40.0, 0, 16, 0, 40, 12, 0, 0, 1])
    return ROS2.types[INFO](
        header=header(ROS2, stamp_ns), height=height, width=width, distortion_model='plumb_bob',
        d=np.zeros(5), k=k, r=np.eye(3).reshape(-1), binning_x=0, binning_y=0, roi=roi,
        p=np.array([40.0, 0, 16, 0, 0, 40, 12, 0, 0, 0, 1, 0]))


def text(words: str, store: Any = ROS2) -> Any:
    return store.types[STRING](data=words)


def camera(count: int = 4, topic: str = '/camera/image_raw') -> list[tuple[str, str, int, Any]]:
    """``count`` pictures, two per second, taken 1 ms before they were recorded."""
    stamps = [START_NS + number * PERIOD_NS for number in range(count)]
    return [(topic, IMAGE, stamp, image(stamp - 1_000_000, picture(number)))
            for number, stamp in enumerate(stamps)]


def write_ros2(folder: Path, messages: Messages, storage: str = 'mcap', compress: str = '',
               encoding: str = 'cdr') -> Path:
    """Write a ROS 2 bag; ``compress`` is message, file or empty."""
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin[storage.upper()])
    if compress:
        writer.set_compression(CompressionMode[compress.upper()], CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for topic, kind, stamp, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(
                    topic, kind, typestore=ROS2, serialization_format=encoding)
            writer.write(connections[topic], stamp, ROS2.serialize_cdr(message, kind))
    return folder


def write_ros1(path: Path, count: int = 4, topic: str = '/camera/image_raw') -> Path:
    """Write a ROS 1 bag, one chunk per picture."""
    with Ros1Writer(path) as writer:
        writer.chunk_threshold = 1
        connection = writer.add_connection(topic, IMAGE, typestore=ROS1)
        for number in range(count):
            stamp = START_NS + number * PERIOD_NS
            message = image(stamp, picture(number), store=ROS1)
            writer.write(connection, stamp, ROS1.serialize_ros1(message, IMAGE))
    return path


def write_dashing(path: Path, count: int = 3, leave_log: bool = False) -> Path:
    """Write a bare database as ROS 2 Dashing did: two tables, old type names, WAL mode.

    With ``leave_log`` most messages are still in the write-ahead log, as after a power cut.
    """
    source = path.with_name('source.db3')
    connection = sqlite3.connect(source, isolation_level=None)
    connection.execute('PRAGMA journal_mode=WAL').fetchall()
    connection.execute('PRAGMA wal_autocheckpoint=0').fetchall()
    connection.execute('CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, '
                       'type TEXT NOT NULL, serialization_format TEXT NOT NULL)')
    connection.execute('CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, '
                       'timestamp INTEGER NOT NULL, data BLOB NOT NULL)')
    connection.execute("INSERT INTO topics VALUES(1, '/image', 'sensor_msgs/Image', 'cdr')")
    for number in range(count):
        stamp = START_NS + number * PERIOD_NS
        data = ROS2.serialize_cdr(image(stamp, picture(number)), IMAGE)
        connection.execute('INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)',
                           (stamp, bytes(data)))
    if not leave_log:
        connection.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()
    for suffix in ('', '-wal') if leave_log else ('',):
        path.with_name(path.name + suffix).write_bytes(Path(f'{source}{suffix}').read_bytes())
    connection.close()
    return path
