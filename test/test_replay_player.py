"""The player of live replay from within: what it offers, and what it does with odd recordings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest
import rclpy
from bag_maker import IMAGE, ROS1, START_NS, STRING, camera, image, picture, text, write_ros2
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rosbags.rosbag1 import Writer as Ros1Writer
from std_msgs.msg import String

from cooper_ros.cli.flags import _OF_NODES
from cooper_ros.config import options
from cooper_ros.errors import BadBag, BadOption
from cooper_ros.node import live_replay
from cooper_ros.node.live_replay import _Player
from cooper_ros.node.parameters import declare_parameters
from cooper_ros.node.qos import DEEP
from cooper_ros.replay.bag import Bag
from cooper_ros.replay.live import Live
from cooper_ros.replay.questions import Question
from cooper_ros.replay.storage import Record, Topic

SECOND = 10**9
EXECUTOR: Any = None  # nothing is waited for


@pytest.fixture
def node() -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node('player', context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def odd_bag(path: Path, *names: str) -> Path:
    """A ROS 1 bag of texts, and pictures on names that end in `image`."""
    with Ros1Writer(path) as writer:
        for name in names:
            kind = IMAGE if name.endswith('image') else STRING
            said: Any = (image(START_NS, picture(0), store=ROS1) if kind == IMAGE
                         else text('x', ROS1))
            connection = writer.add_connection(name, kind, typestore=ROS1)
            writer.write(connection, START_NS, ROS1.serialize_ros1(said, kind))
    return path


def test_questions_and_answers_of_one_picture_have_room(tmp_path: Path, node: Node,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty of either go out at once; ROS keeps ten by default and drops the rest in silence."""
    depths: dict[str, int] = {}
    for work in ('create_publisher', 'create_subscription'):
        def noted(kind: Any, topic: str, *words: Any, make: Any = getattr(node, work)) -> Any:
            depths[topic] = getattr(words[-1], 'depth', words[-1])
            return make(kind, topic, *words)

        monkeypatch.setattr(node, work, noted)
    ask = ('/cooper/question', STRING, START_NS, text('recorded?'))
    with Bag(write_ros2(tmp_path / 'in', [*camera(1), ask])) as bag:
        _Player(EXECUTOR, node, bag, Live(tmp_path, questions=[Question('?')]))
        assert depths['/cooper/question'] == depths['/cooper/answer_text'] == DEEP.depth == 500
        del depths['/cooper/question']
        _Player(EXECUTOR, node, bag, Live(tmp_path, question_topic='cooper/question'))
        assert depths['/cooper/question'] == 500 and depths['/camera/image_raw'] == 10


def test_a_name_that_ros2_forbids_costs_its_topic_alone(tmp_path: Path, node: Node) -> None:
    bad = ('/lidar/2d_state', '/a-b', '/' + 'x' * 300)
    with Bag(odd_bag(tmp_path / 'in.bag', *bad, '/image', '/2d/image')) as bag:
        player = _Player(EXECUTOR, node, bag, Live(tmp_path))
        assert set(player.publishers) == {'/image'}
        assert sorted(bag.warnings) == sorted(
            f'{name}: ROS 2 allows no such name; not published' for name in (*bad, '/2d/image'))


def test_pictures_to_ask_about_need_a_name_that_ros2_allows(tmp_path: Path, node: Node) -> None:
    with Bag(odd_bag(tmp_path / 'in.bag', '/chat', '/2d/image')) as bag:
        with pytest.raises(BadBag, match='pictures of /2d/image cannot be published.*such name'):
            _Player(EXECUTOR, node, bag, Live(tmp_path, questions=[Question('?')]))
    with Bag(odd_bag(tmp_path / 'other.bag', '/2d/image')) as bag:
        with pytest.raises(BadBag, match='nothing in the recording can be published.*such name'):
            _Player(EXECUTOR, node, bag, Live(tmp_path))


@pytest.mark.parametrize('name', ['/2d/question', 'a-b', '{robot}/question', 'a//b'])
def test_a_question_topic_that_ros2_forbids_is_refused(tmp_path: Path, node: Node, name: str
                                                       ) -> None:
    with Bag(write_ros2(tmp_path / 'in', camera(1))) as bag, pytest.raises(
            BadOption, match='--question-topic is no name of a topic; got'):
        _Player(EXECUTOR, node, bag, Live(tmp_path, question_topic=name))


def player_of(records: list[Record], publish: Any, cdr: Any = lambda record: b'') -> Any:
    """A player of these records without ROS, which notes what is said in its `said`."""
    player: Any = _Player.__new__(_Player)
    said: list[str] = []
    name = records[0].topic.name
    player.__dict__.update(
        said=said, sent=0, asked=0, asking='/ask', about=None, unsent=live_replay.Counter(),
        publishers={name: SimpleNamespace(publish=publish)}, _serve=lambda seconds: None,
        live=Live(Path('in'), speed=1000.0), bag=SimpleNamespace(
            warnings=[], cdr=cdr, recording=SimpleNamespace(records=lambda names: iter(records))),
        node=SimpleNamespace(get_logger=lambda: SimpleNamespace(
            warning=said.append, info=said.append)))
    return player


def test_the_clock_of_a_mended_recording_never_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a file is read in the order of writing."""
    monkeypatch.setattr(live_replay.rclpy, 'ok', lambda: True)
    topic = Topic('/said', STRING, 5, False)
    stamps = [START_NS + number * SECOND for number in (2, 1, 4, 3, 5)]
    player = player_of([Record(topic, stamp, b'') for stamp in stamps], lambda data: None)
    ticks: list[int] = []
    player.clock = SimpleNamespace(publish=lambda said: ticks.append(
        said.clock.sec * SECOND + said.clock.nanosec))
    for _ in range(2):  # each pass begins anew
        ticks.clear()
        player._play_once()
        assert ticks == sorted(ticks) and (ticks[0], ticks[-1]) == (stamps[0], stamps[-1])
    assert player.sent == 10


def test_messages_that_cannot_be_published_are_said_once_and_counted() -> None:
    def broken(record: Record) -> bytes:
        raise KeyError('mesh_file')

    topic = Topic('/marker', 'visualization_msgs/msg/Marker', 50, True)
    records = [Record(topic, START_NS + number, b'') for number in range(50)]
    player = player_of(records, lambda data: None, broken)
    for record in records:
        player._publish(record)
    assert player.said == [f'/marker: a message at {START_NS} ns cannot be published (KeyError); '
                           'more of the topic are counted only']
    assert player.bag.warnings == [] and player.sent == 0
    player._report()
    assert player.said[1:] == ['/marker: messages that could not be published: 50',
                               '0 messages published']


def test_what_was_latched_reaches_those_who_come_late(tmp_path: Path, node: Node) -> None:
    with Ros1Writer(tmp_path / 'in.bag') as writer:
        for name, latching in (('/map', 1), ('/chat', 0)):
            connection = writer.add_connection(name, STRING, typestore=ROS1, latching=latching)
            writer.write(connection, START_NS, ROS1.serialize_ros1(text(name, ROS1), STRING))
    with Bag(tmp_path / 'in.bag') as bag:
        topics = bag.recording.topics
        assert live_replay._qos(topics['/map']).durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert live_replay._qos(topics['/map']).reliability == ReliabilityPolicy.RELIABLE
        assert live_replay._qos(topics['/chat']).durability == DurabilityPolicy.VOLATILE
        player = _Player(EXECUTOR, node, bag, Live(tmp_path))
        for record in bag.recording.records():
            player._publish(record)
        assert player.sent == 2 and not player.unsent
        heard: list[str] = []
        executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        for name in ('/map', '/chat'):
            node.create_subscription(String, name, lambda said: heard.append(said.data),
                                     live_replay._qos(topics['/map'])
                                     if name == '/map' else 10)
        for _ in range(100):
            if heard:
                break
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
        assert heard == ['/map']


def test_commands_know_what_the_node_declares_beside_the_settings(node: Node) -> None:
    declare_parameters(node, lambda: None)
    own = {name.partition('.')[0] for name in node._parameters} - {one.name for one in options()}
    assert own <= set(_OF_NODES) and {'cameras', 'use_sim_time'} <= own
