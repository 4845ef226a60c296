"""Live replay in a process of its own: pictures and /clock arrive, questions are asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import numpy as np
import pytest
import rclpy
from bag_maker import (
    PERIOD_NS,
    ROS2,
    START_NS,
    STRING,
    camera,
    picture,
    text,
    write_ros1,
    write_ros2,
)
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

import cooper_ros
from cooper_ros.config import CooperConfig
from cooper_ros.node import live_replay
from cooper_ros.node.cameras import Camera
from cooper_ros.replay.storage import Topic

PATIENCE_S = 60.0
Player = Callable[..., subprocess.Popen]


class Listener:
    """Collects what is published."""

    def __init__(self, context: Context, topic: str, asked: str = '/cooper') -> None:
        self.node: Node = rclpy.create_node('listener', context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.pictures: list[Image] = []
        self.clock: list[int] = []
        self.questions: list[str] = []
        self.answers: list[str] = []
        listen = self.node.create_subscription
        listen(Image, topic, self.pictures.append, QoSProfile(
            depth=50, reliability=ReliabilityPolicy.RELIABLE))
        listen(String, f'{asked}/question', lambda said: self.questions.append(said.data), 10)
        listen(String, f'{asked}/answer_text', lambda said: self.answers.append(said.data), 10)
        self.answer = self.node.create_publisher(String, f'{asked}/answer_text', 10)
        listen(Clock, '/clock', self._tick, QoSProfile(
            depth=50, reliability=ReliabilityPolicy.BEST_EFFORT))

    def _tick(self, message: Clock) -> None:
        self.clock.append(message.clock.sec * 10**9 + message.clock.nanosec)

    def is_heard(self) -> bool:
        """Whether the player listens for answers; listeners of other tests may do so too."""
        return any(one.node_name == 'cooper_replay' for one in
                   self.node.get_subscriptions_info_by_topic(self.answer.topic_name))

    def until(self, process: subprocess.Popen[str], ready: Any) -> None:
        """Spin until a condition holds, or the player has ended and nothing more comes."""
        end = time.monotonic() + PATIENCE_S
        while not ready() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.1)
        if not ready():
            process.kill()
            pytest.fail(f'{len(self.pictures)} pictures, {self.questions}, '
                        f'{process.communicate()}')

    def close(self) -> None:
        """Leave at once: left to the garbage collector, the next test's player hears this one."""
        self.executor.shutdown()
        self.node.destroy_node()


Listen = Callable[..., Listener]


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()


@pytest.fixture
def listen(context: Context) -> Iterator[Listen]:
    listeners: list[Listener] = []
    yield lambda *words: listeners.append(Listener(context, *words)) or listeners[-1]
    for listener in listeners:
        listener.close()


@pytest.fixture
def player() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield lambda *words: started.append(start(*words)) or started[-1]
    for process in started:
        process.kill()
        process.wait()


def start(*words: str | Path) -> subprocess.Popen[str]:
    root = Path(cooper_ros.__file__).parents[1]
    place = {'PYTHONPATH': f'{root}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'}
    return subprocess.Popen([sys.executable, '-m', 'cooper_ros.cli', 'replay', *map(str, words),
                             '--live', '--speed', '4', '--wait', '60'],
                            env={**os.environ, **place}, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize('kind', ['ros2', 'ros1'])
def test_pictures_and_clock_arrive_in_bag_time(tmp_path: Path, listen: Listen,
                                               player: Player, kind: str) -> None:
    bag = (write_ros1(tmp_path / 'one.bag', 6) if kind == 'ros1'
           else write_ros2(tmp_path / 'in', camera(6)))
    listener = listen('/camera/image_raw')
    process = player(bag)
    listener.until(process, lambda: len(listener.pictures) == 6)
    said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and '6 messages published' in ''.join(said)
    for number, message in enumerate(listener.pictures):
        rgb = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        np.testing.assert_array_equal(rgb, picture(number))
    assert listener.clock == sorted(listener.clock) and len(listener.clock) > 20
    assert START_NS <= listener.clock[0]
    assert listener.clock[-1] <= START_NS + 5 * PERIOD_NS


def test_a_silence_of_hours_is_skipped_and_said(tmp_path: Path, listen: Listen,
                                                player: Player) -> None:
    first, (topic, kind, _, message) = camera(2)
    late = START_NS + 79 * 3600 * 10**9
    bag = write_ros2(tmp_path / 'in', [first, (topic, kind, late, message)])
    listener = listen(topic)
    process = player(bag)
    listener.until(process, lambda: len(listener.pictures) == 2)
    said = ''.join(process.communicate(timeout=PATIENCE_S))
    assert process.returncode == 0 and 'nothing is recorded for 2844' in said
    listener.until(process, lambda: listener.clock[-1] == late)


@pytest.mark.parametrize(('seconds', 'skipped'), [(1, 0), (59, 0), (61, 61)])
def test_slow_play_leaves_out_no_more_than_quick(seconds: int, skipped: int) -> None:
    said: list[str] = []
    me: Any = SimpleNamespace(live=SimpleNamespace(speed=0.01), node=SimpleNamespace(
        get_logger=lambda: SimpleNamespace(warning=said.append)))
    now = time.monotonic_ns()
    start = live_replay._Player._without_gap(me, now, 0, seconds * 10**9)
    assert (start == now) == (not skipped) and bool(said) == bool(skipped)


def test_questions_are_asked_and_the_player_waits_for_answers(tmp_path: Path,
                                                              listen: Listen,
                                                              player: Player) -> None:
    bag = write_ros2(tmp_path / 'in', camera(4))
    listener = listen('/camera/image_raw')
    process = player(bag, '-q', 'Way free?')
    listener.until(process, lambda: listener.questions == ['Way free?'] * 2)
    assert process.poll() is None
    assert answered(listener, process, 2).count('answer: yes, it is') == 2


def answered(listener: Listener, process: subprocess.Popen[str], count: int) -> str:
    """Answer so many questions; return what the player said until its end."""
    listener.until(process, listener.is_heard)
    for _ in range(count):
        listener.answer.publish(String(data='yes, it is'))
    said = ''.join(process.communicate(timeout=PATIENCE_S))
    assert process.returncode == 0, said
    return said


def recorded_beside_a_node(folder: Path, node: str) -> Path:
    """A bag with what every live side says itself."""
    clock = ROS2.types['rosgraph_msgs/msg/Clock'](
        clock=ROS2.types['builtin_interfaces/msg/Time'](7, 0))
    stamps = [stamp for _, _, stamp, _ in camera(4)]
    return write_ros2(folder, [
        *camera(4), *camera(4, f'{node}/overlay'),
        *(('/clock', 'rosgraph_msgs/msg/Clock', stamp, clock) for stamp in stamps),
        *((f'{node}/question', STRING, stamp, text('recorded?')) for stamp in stamps[:2]),
        *((f'{node}/answer_text', STRING, stamp, text('recorded')) for stamp in stamps)])


@pytest.mark.parametrize('node', ['/cooper', '/robot1/cooper'])
def test_what_is_said_live_is_not_published_from_the_recording(
        tmp_path: Path, listen: Listen, player: Player, node: str) -> None:
    bag = recorded_beside_a_node(tmp_path / 'in', node)
    listener = listen('/camera/image_raw', node)
    where = () if node == '/cooper' else ('--question-topic', f'{node}/question')
    process = player(bag, '-q', 'Way free?', '--topic', '/camera/image_raw', *where)
    listener.until(process, lambda: len(listener.questions) == 2 and len(listener.pictures) == 4)
    assert process.poll() is None
    said = answered(listener, process, 2)
    assert listener.questions == ['Way free?'] * 2 and 'recorded' not in listener.answers
    assert listener.clock[0] >= START_NS and listener.clock == sorted(listener.clock)
    assert said.count('answer: yes, it is') == 2 and '4 messages published' in said
    assert said.count('left out') == 1 and all(name in said for name in (
        '/clock', f'{node}/answer_text', f'{node}/overlay', f'{node}/question'))


def test_recorded_questions_are_asked_where_their_topic_is_named(
        tmp_path: Path, listen: Listen, player: Player) -> None:
    bag = recorded_beside_a_node(tmp_path / 'in', '/cooper')
    listener = listen('/camera/image_raw')
    process = player(bag, '--question-topic', 'cooper/question')
    listener.until(process, lambda: len(listener.questions) == 2 and len(listener.pictures) == 4)
    assert process.poll() is None  # waits for their answers
    assert 'answer: yes, it is' in answered(listener, process, 2)
    assert listener.questions == ['recorded?'] * 2 and 'recorded' not in listener.answers


def test_a_question_waits_until_its_picture_has_arrived() -> None:
    done: list[str] = []
    picture_out = SimpleNamespace(wait_for_all_acked=lambda limit: done.append('picture'))
    player = live_replay._Player.__new__(live_replay._Player)
    player.__dict__.update(
        about=SimpleNamespace(name='/image'), publishers={'/image': picture_out}, asked=0,
        live=SimpleNamespace(questions=[SimpleNamespace(text='free?')]),
        ask=SimpleNamespace(publish=lambda said: done.append(said.data)),
        node=SimpleNamespace(get_logger=lambda: SimpleNamespace(info=lambda text: None)))
    player._ask_all()
    assert done == ['picture', 'free?'] and player.asked == 1


@pytest.mark.parametrize('topic, node', [
    ('/cooper/question', '/cooper'), ('/robot1/cooper/question', '/robot1/cooper'),
    ('/operator/asks', '/cooper'), ('/question', '/cooper')])
def test_the_question_topic_names_the_node(topic: str, node: str) -> None:
    assert live_replay._node_of(topic) == node


def test_the_player_waits_as_long_as_answers_keep_coming(monkeypatch) -> None:
    now, warned = [0.0], []
    player = live_replay._Player.__new__(live_replay._Player)

    def serve(seconds: float) -> None:
        now[0] += 50
        if player.answered < 5 and now[0] % 100 == 0:
            player._print_answer(String(data='yes'))

    monkeypatch.setattr(live_replay, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(live_replay.rclpy, 'ok', lambda: True)
    player.__dict__.update(asked=5, answered=0, _serve=serve, node=SimpleNamespace(
        get_logger=lambda: SimpleNamespace(warning=warned.append, info=str)))
    player._wait_for_answers()
    assert player.answered == 5 and now[0] == 500 and not warned
    player.asked = 7
    player._wait_for_answers()
    assert warned == ['no answer for 120 s; 2 of 7 questions have none']


def test_the_player_offers_camera_info_reliably() -> None:
    info = Topic('/camera_info', 'sensor_msgs/msg/CameraInfo', 1, False, reliable=False)
    assert live_replay._qos(info).reliability == ReliabilityPolicy.RELIABLE


def test_reliable_pictures_do_not_cost_the_lens(context: Context) -> None:
    node = rclpy.create_node('reliable', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    reliable = CooperConfig().replaced(image_reliable=True)
    camera = Camera(node, '', lambda: reliable)
    source = node.create_publisher(CameraInfo, 'camera_info', QoSProfile(
        depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    end = time.monotonic() + PATIENCE_S / 4
    while camera.info is None and time.monotonic() < end:
        source.publish(CameraInfo(width=32, height=24, k=[40., 0., 16., 0., 40., 12., 0., 0., 1.],
                                  p=[40., 0., 16., 0., 0., 40., 12., 0., 0., 0., 1., 0.]))
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    node.destroy_node()
    assert camera.info is not None and camera.qos_conflicts == 0
