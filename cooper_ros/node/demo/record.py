"""Record the demo: every topic below some names, as the bytes that went over ROS, into an MCAP."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Sequence

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from cooper_ros.replay import interfaces
from cooper_ros.replay.output import BAG_VERSION
from cooper_ros.replay.places import check_bag, mark_bag

LOOK_S = 0.5
QUEUE = 20


class Recorder:
    """A bag that is open while the context is; an interrupted demo leaves a readable one.

    Args:
        node: subscribes.
        folder: bag folder; the one of an earlier demo is replaced.
        names: topics that begin with one of these are recorded, as soon as they exist.
    """

    def __init__(self, node: Node, folder: Path, names: Sequence[str]) -> None:
        check_bag(folder)
        shutil.rmtree(folder, ignore_errors=True)
        self._node, self._names, self._folder = node, tuple(names), folder
        self._writer = Writer(folder, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self.counts: dict[str, int] = {}

    def __enter__(self) -> Recorder:
        self._writer.open()
        mark_bag(self._folder)
        self._look()
        self._timer = self._node.create_timer(LOOK_S, self._look)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._node.destroy_timer(self._timer)
        self._writer.close()

    def _look(self) -> None:
        """Find topics that have appeared."""
        for topic, types in self._node.get_topic_names_and_types():
            wanted = topic.startswith(self._names) and topic not in self.counts
            if (wanted and '/_' not in topic and types[0] in interfaces.typestore().types
                    and self._node.count_publishers(topic)):  # they say in what quality
                self.counts[topic] = 0
                self._follow(topic, types[0])

    def _follow(self, topic: str, type_name: str) -> None:
        """Write every message of a topic, not decoded; a silent topic leaves no trace."""
        package, _, name = type_name.partition('/msg/')
        connections: list[Connection] = []

        def write(data: bytes) -> None:
            if not connections:
                connections.append(self._writer.add_connection(
                    topic, type_name, typestore=interfaces.typestore()))
            self._writer.write(connections[0], self._node.get_clock().now().nanoseconds, data)
            self.counts[topic] += 1

        self._node.create_subscription(getattr(import_module(f'{package}.msg'), name), topic,
                                       write, self._quality(topic), raw=True)

    def _quality(self, topic: str) -> QoSProfile:
        """Ask for the best that every publisher of the topic offers."""
        offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(topic)]
        reliable = all(one.reliability == ReliabilityPolicy.RELIABLE for one in offers)
        latched = offers and all(one.durability == DurabilityPolicy.TRANSIENT_LOCAL
                                 for one in offers)
        return QoSProfile(
            depth=QUEUE,
            reliability=(ReliabilityPolicy.RELIABLE if reliable
                         else ReliabilityPolicy.BEST_EFFORT),
            durability=(DurabilityPolicy.TRANSIENT_LOCAL if latched
                        else DurabilityPolicy.VOLATILE))
