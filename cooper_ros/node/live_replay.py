"""Publish a recording onto topics with /clock, and ask a running node about its pictures.

Messages go out as the bytes that were recorded; ROS 1 messages are converted. Unlike
`ros2 bag play` this needs no rosbag2, reads damaged and old recordings, and can ask questions.
What the player, the asked node or every node says live is left out: recorded, it contradicts them.
"""

from __future__ import annotations

import importlib
import time
from collections import Counter
from typing import Any, Iterator

import rclpy
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from cooper_ros.errors import BadBag, BadOption
from cooper_ros.node.qos import DEEP
from cooper_ros.node.spinning import serving
from cooper_ros.replay.bag import CAMERA_INFO, PICTURES, Bag
from cooper_ros.replay.live import Live
from cooper_ros.replay.questions import Picker
from cooper_ros.replay.storage import Record, Topic
from cooper_ros.replay.topics import ANSWER_TEXT, NODE, QUESTION

BAD_NAME = (InvalidTopicNameException, ValueError)  # to ROS 2
SAID_LIVE = ('/clock', '/rosout', '/parameter_events', '/diagnostics')
CLOCK_PERIOD_NS = 10_000_000
WAIT_FOR_ANSWERS_S = 120.0  # for each one
LONGEST_GAP_S = 60.0  # longer silences of a recording are left out
ARRIVAL_S = 2.0  # at most, for a picture to reach those who asked for reliable delivery
SETTLE_S = 3.5  # a listener may be seen one announcement period (3 s) of DDS before it sees us


def play(live: Live) -> int:
    """Publish until the end of the recording or Ctrl-C.

    Returns:
        the number of messages published.

    Raises:
        BadBag: nothing in the recording can be published, or the pictures to ask about cannot.
        BadOption: the question topic has no name that ROS 2 allows.
    """
    rclpy.init()
    node = rclpy.create_node('cooper_replay')
    try:
        with Bag(live.bag) as bag:
            with serving(node) as executor:
                player = _Player(executor, node, bag, live)
                try:
                    return player.run()
                except (KeyboardInterrupt, ExternalShutdownException):
                    return player.sent
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


class _Player:
    """One recording on its way out."""

    def __init__(self, executor: Executor, node: Node, bag: Bag, live: Live) -> None:
        self.executor, self.node, self.bag, self.live = executor, node, bag, live
        self.about = bag.choose_topic(live.topic) if live.questions or live.topic else None
        self.ask = _asker(node, live.question_topic or f'/{NODE}/{QUESTION}')
        self.asking = self.ask.topic_name
        self.asked_node = _node_of(self.asking)
        self.publishers = dict(self._publishers(self._recorded()))
        self._check_publishers()
        clock_qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.clock = node.create_publisher(Clock, '/clock', clock_qos)
        answers = f'{self.asked_node}/{ANSWER_TEXT}'
        node.create_subscription(String, answers, self._print_answer, DEEP)
        self.sent = self.asked = self.answered = 0
        self.heard = 0.0  # when the last answer came
        self.now = 0  # what /clock said last
        self.unsent: Counter[str] = Counter()

    def _check_publishers(self) -> None:
        what = '' if self.publishers else 'nothing in the recording can be published'
        if self.publishers and self.about is not None and self.about.name not in self.publishers:
            what = f'the pictures of {self.about.name} cannot be published'
        if what:
            raise BadBag(what, value=str(self.live.bag),
                         limit='; '.join(self.bag.warnings) or None)

    def run(self) -> int:
        """Wait for listeners, then publish; with ``loop`` again and again."""
        if not self._somebody_listens():
            self.node.get_logger().info(f'waiting up to {self.live.wait_s:g} s for a listener')
        self._wait(self._somebody_listens, self.live.wait_s)
        self._serve(SETTLE_S)
        self._play_once()
        while self.live.loop and rclpy.ok():
            self._play_once()
        self._wait_for_answers()
        for publisher in self.publishers.values():
            publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=2))
        self._report()
        return self.sent

    def _report(self) -> None:
        unsent = [f'{name}: messages that could not be published: {count}'
                  for name, count in self.unsent.items()]
        for warning in self.bag.warnings + unsent:
            self.node.get_logger().warning(warning)
        self.node.get_logger().info(f'{self.sent} messages published')

    def _somebody_listens(self) -> bool:
        pictures = any(one.get_subscription_count() for one in self.publishers.values())
        asks = self.live.questions or self.asking in self.publishers
        asker = self.publishers.get(self.asking, self.ask)
        return pictures and (not asks or asker.get_subscription_count() > 0)

    def _play_once(self) -> None:
        picker, index, self.now = Picker(self.live.plan), -1, 0
        start_wall, start_bag = time.monotonic_ns(), None
        for record in self.bag.recording.records(set(self.publishers)):
            start_bag = record.stamp_ns if start_bag is None else start_bag
            start_wall = self._without_gap(start_wall, start_bag, record.stamp_ns)
            self._pace(start_wall, start_bag, record.stamp_ns)
            if not rclpy.ok():
                return
            self._publish(record)
            if self.about is not None and record.topic.name == self.about.name:
                index += 1
                if picker.takes(index, record.stamp_ns):
                    self._ask_all()

    def _publish(self, record: Record) -> None:
        try:
            self.publishers[record.topic.name].publish(bytes(self.bag.cdr(record)))
            self.sent += 1
            self.asked += record.topic.name == self.asking
        except Exception as error:  # noqa: BLE001  broken bytes fail in any way
            self._leave_out(record, error)

    def _leave_out(self, record: Record, error: Exception) -> None:
        """Say it of the first message of a topic: the others are likely to be like it."""
        name = record.topic.name
        self.unsent[name] += 1
        if self.unsent[name] == 1:
            self.node.get_logger().warning(
                f'{name}: a message at {record.stamp_ns} ns cannot be published '
                f'({type(error).__name__}); more of the topic are counted only')

    def _without_gap(self, start_wall: int, start_bag: int, stamp: int) -> int:
        """Return a start that makes a message due at once if it were due in minutes or days."""
        due = start_wall + int((stamp - start_bag) / self.live.speed)
        gap = due - time.monotonic_ns()
        recorded_s = gap * self.live.speed / 1e9
        if recorded_s <= LONGEST_GAP_S:
            return start_wall
        self.node.get_logger().warning(
            f'nothing is recorded for {recorded_s:.0f} s; /clock skips them')
        return start_wall - gap

    def _pace(self, start_wall: int, start_bag: int, stamp: int) -> None:
        """Keep /clock going and callbacks served until a message is due."""
        while rclpy.ok():
            now_wall = time.monotonic_ns()
            now_bag = start_bag + int((now_wall - start_wall) * self.live.speed)
            self._tick(min(now_bag, stamp))
            if now_bag >= stamp:
                return
            left = (stamp - now_bag) / self.live.speed
            self._serve(min(left, CLOCK_PERIOD_NS) / 1e9)

    def _tick(self, stamp: int) -> None:
        """Say the time, and never an earlier one: nodes forget what they have when it steps back.

        Files that were mended are read in the order of writing, not of stamps.
        """
        self.now = max(self.now, stamp)
        self.clock.publish(Clock(clock=rclpy.time.Time(nanoseconds=self.now).to_msg()))

    def _serve(self, seconds: float) -> None:
        """Serve callbacks for a while; spinning alone returns early after each callback."""
        end = time.monotonic() + seconds
        while rclpy.ok() and (left := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def _wait(self, ready: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while rclpy.ok() and not ready() and time.monotonic() < end:
            self._serve(0.05)

    def _wait_for_answers(self) -> None:
        """Wait as long as answers keep coming: they are slower than the recording."""
        self.heard = time.monotonic()
        while (rclpy.ok() and self.answered < self.asked
               and time.monotonic() - self.heard < WAIT_FOR_ANSWERS_S):
            self._serve(0.05)
        if rclpy.ok() and self.answered < self.asked:
            self.node.get_logger().warning(
                f'no answer for {WAIT_FOR_ANSWERS_S:g} s; {self.asked - self.answered} of '
                f'{self.asked} questions have none')

    def _ask_all(self) -> None:
        self._settle()
        for question in self.live.questions:
            self.ask.publish(String(data=question.text))
            self.asked += 1
            self.node.get_logger().info(f'asked: {question.text}')

    def _settle(self) -> None:
        """Let the picture arrive before the question about it, where its listener says so."""
        assert self.about is not None
        self.publishers[self.about.name].wait_for_all_acked(
            rclpy.duration.Duration(seconds=ARRIVAL_S))

    def _print_answer(self, message: String) -> None:
        self.answered += 1
        self.heard = time.monotonic()
        self.node.get_logger().info(f'answer: {message.data}')

    def _recorded(self) -> list[Topic]:
        """Topics to publish; those left out are named once."""
        filled = [topic for topic in self.bag.recording.topics.values()
                  if topic.readable and topic.count]
        left_out = [topic for topic in filled if self._said_live(topic.name)]
        if left_out:
            self.node.get_logger().info('left out, live ones take their place: '
                                        + ', '.join(topic.name for topic in left_out))
        return [topic for topic in filled if topic not in left_out]

    def _said_live(self, name: str) -> bool:
        """Whether the player, the asked node or every node speaks on a topic."""
        if self.about is not None and name == self.about.name:
            return False
        if name == self.asking:  # recorded questions are asked when their topic alone is given
            return bool(self.live.questions) or not self.live.question_topic
        return name in SAID_LIVE or name.startswith(f'{self.asked_node}/')

    def _publishers(self, topics: list[Topic]) -> Iterator[tuple[str, Publisher]]:
        for topic in topics:
            publisher = self._publisher(topic)
            if isinstance(publisher, str):
                self.bag.warnings.append(f'{topic.name}: {publisher}; not published')
            else:
                yield topic.name, publisher

    def _publisher(self, topic: Topic) -> Publisher | str:
        """The publisher of a recorded topic, or why there can be none."""
        kind = _message_class(topic)
        if kind is None:
            return f'type {topic.type} is not installed'
        quality = DEEP if topic.name == self.asking else _qos(topic)
        try:
            return self.node.create_publisher(kind, topic.name, quality)
        except BAD_NAME:  # ROS 1 took it
            return 'ROS 2 allows no such name'


def _asker(node: Node, topic: str) -> Publisher:
    """Publisher of questions; all those about one picture go out at once."""
    try:
        return node.create_publisher(String, topic, DEEP)
    except BAD_NAME as error:
        raise BadOption('--question-topic is no name of a topic', value=topic,
                        limit='words of letters, digits and underscores, which begin with no '
                        'digit, between slashes') from error


def _node_of(question_topic: str) -> str:
    """Full name of the node that is asked; a topic that was remapped does not say it."""
    name, _, last = question_topic.rpartition('/')
    return name if name and last == QUESTION else f'/{NODE}'


def _message_class(topic: Topic) -> Any | None:
    package, _, name = topic.type.partition('/msg/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name, None)
    except ImportError:
        return None


def _qos(topic: Topic) -> QoSProfile:
    """As recorded, and reliable for cameras, so that every kind of subscriber is served."""
    reliable = topic.reliable or topic.type in (*PICTURES, CAMERA_INFO)
    return QoSProfile(
        depth=10,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=(DurabilityPolicy.TRANSIENT_LOCAL if topic.latched
                    else DurabilityPolicy.VOLATILE))
