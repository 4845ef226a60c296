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
from bag_maker import PERIOD_NS, START_NS, camera, picture, write_ros1, write_ros2
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

import cooper_ros
from cooper_ros.node import live_replay

PATIENCE_S = 60.0
Player = Callable[..., subprocess.Popen]


class Listener:
    """Collects what is published."""

    def __init__(self, context: Context, topic: str) -> None:
        self.node: Node = rclpy.create_node('listener', context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.pictures: list[Image] = []
        self.clock: list[int] = []
        self.questions: list[str] = []
        listen = self.node.create_subscription
        listen(Image, topic, self.pictures.append, QoSProfile(
            depth=50, reliability=ReliabilityPolicy.RELIABLE))
        listen(String, 'cooper/question', lambda said: self.questions.append(said.data), 10)
        listen(Clock, '/clock', self._tick, QoSProfile(
            depth=50, reliability=ReliabilityPolicy.BEST_EFFORT))

    def _tick(self, message: Clock) -> None:
        self.clock.append(message.clock.sec * 10**9 + message.clock.nanosec)

    def until(self, process: subprocess.Popen[str], ready: Any) -> None:
        """Spin until a condition holds, or the player has ended and nothing more comes."""
        end = time.monotonic() + PATIENCE_S
        while not ready() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.1)
        if not ready():
            process.kill()
            pytest.fail(f'{len(self.pictures)} pictures, {self.questions}, '
                        f'{process.communicate()}')


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()


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
def test_pictures_and_clock_arrive_in_bag_time(tmp_path: Path, context: Context,
                                               player: Player, kind: str) -> None:
    bag = (write_ros1(tmp_path / 'one.bag', 6) if kind == 'ros1'
           else write_ros2(tmp_path / 'in', camera(6)))
    listener = Listener(context, '/camera/image_raw')
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


def test_a_silence_of_hours_is_skipped_and_said(tmp_path: Path, context: Context,
                                                player: Player) -> None:
    first, (topic, kind, _, message) = camera(2)
    late = START_NS + 79 * 3600 * 10**9
    bag = write_ros2(tmp_path / 'in', [first, (topic, kind, late, message)])
    listener = Listener(context, topic)
    process = player(bag)
    listener.until(process, lambda: len(listener.pictures) == 2)
    said = ''.join(process.communicate(timeout=PATIENCE_S))
    assert process.returncode == 0 and 'nothing is recorded for 2844' in said
    listener.until(process, lambda: listener.clock[-1] == late)


def test_questions_are_asked_and_the_player_waits_for_answers(tmp_path: Path,
                                                              context: Context,
                                                              player: Player) -> None:
    bag = write_ros2(tmp_path / 'in', camera(4))
    listener = Listener(context, '/camera/image_raw')
    answer = listener.node.create_publisher(String, 'cooper/answer_text', 10)
    process = player(bag, '-q', 'Way free?')
    listener.until(process, lambda: listener.questions == ['Way free?'] * 2)
    assert process.poll() is None
    listener.until(process, lambda: answer.get_subscription_count() == 1)
    for _ in range(2):
        answer.publish(String(data='yes, it is'))
    said = ''.join(process.communicate(timeout=PATIENCE_S))
    assert process.returncode == 0 and said.count('answer: yes, it is') == 2


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
