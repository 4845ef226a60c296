"""What a recording says of its topics, and what of that survives mending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bag_maker import ROS1, ROS2, START_NS, STRING, text
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer

from cooper_ros.replay.storage import Recording


def latched(path: Path) -> dict[str, bool]:
    with Recording(path) as recording:
        return {name: topic.latched for name, topic in recording.topics.items()}


def ros1(path: Path, *publishers: tuple[str, int | None]) -> Path:
    """A ROS 1 bag; each publisher, by topic and latching, says two words."""
    with Ros1Writer(path) as writer:
        writer.chunk_threshold = 1
        made = [writer.add_connection(topic, STRING, typestore=ROS1, latching=latching,
                                      callerid=f'/node{number}')
                for number, (topic, latching) in enumerate(publishers)]
        for number, connection in enumerate(made * 2):
            writer.write(connection, START_NS + number,
                         ROS1.serialize_ros1(text('word', ROS1), STRING))
    return path


def ros2(folder: Path, *offers: tuple[str, list[Any]]) -> Path:
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, qos in offers:
            connection = writer.add_connection(topic, STRING, typestore=ROS2,
                                               offered_qos_profiles=qos)
            writer.write(connection, START_NS, ROS2.serialize_cdr(text('word'), STRING))
    return folder


def offer(durability: QosDurability) -> Qos:
    ever = QosTime(2147483647, 4294967295)
    return Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, durability, ever, ever,
               QosLiveliness.AUTOMATIC, ever, False)


def test_what_ros1_latched_is_latched(tmp_path: Path) -> None:
    bag = ros1(tmp_path / 'in.bag', ('/map', 1), ('/chat', 0), ('/tf_static', None),
               ('/robot/tf_static', 0), ('/both', 0), ('/both', 1), ('/my_tf_static', None))
    assert latched(bag) == {'/map': True, '/chat': False, '/tf_static': True,
                            '/robot/tf_static': True, '/both': True, '/my_tf_static': False}


def test_fixed_transforms_are_latched_unless_the_recording_says_otherwise(tmp_path: Path) -> None:
    late, volatile = offer(QosDurability.TRANSIENT_LOCAL), offer(QosDurability.VOLATILE)
    bag = ros2(tmp_path / 'in', ('/tf_static', []), ('/chat', []), ('/map', [late]),
               ('/robot/tf_static', [volatile]), ('/mixed', [late, volatile]))
    assert latched(bag) == {'/tf_static': True, '/chat': False, '/map': True,
                            '/robot/tf_static': False, '/mixed': False}


@pytest.mark.parametrize('last_chunk', [True, False])
def test_two_publishers_of_a_topic_do_not_cost_a_bag_without_index(tmp_path: Path,
                                                                   last_chunk: bool) -> None:
    """Nodes that are alike but for their names, as every /tf has them."""
    content = ros1(tmp_path / 'in.bag', ('/map', 1), ('/map', 1), ('/chat', None)).read_bytes()
    index = content.index(b'index_pos=') + len(b'index_pos=')
    content = content[:index] + bytes(8) + content[index + 8:]
    path = tmp_path / 'cut.bag.active'
    path.write_bytes(content if last_chunk else content[:content.rindex(b'op=\x05') - 8])
    with Recording(path) as recording:
        assert 'Mended a copy' in recording.warnings[0]
        assert len(list(recording.records())) == (6 if last_chunk else 5)
    assert latched(path) == {'/map': True, '/chat': False}
