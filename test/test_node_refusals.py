"""Whoever asks hears of an end, whatever goes wrong while a request is taken in."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import numpy as np
import pytest
import rclpy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import String
from support.ros import ABORTED, stamped

from cooper_interfaces.action import SpatialReason
from cooper_interfaces.msg import SpatialAnswer
from cooper_interfaces.srv import EstimateDepth, Segment, SpatialQuery
from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption, ErrorCode
from cooper_ros.node.action_server import ReasonServer
from cooper_ros.node.cameras import Camera
from cooper_ros.node.executor_queue import ExecutorQueue
from cooper_ros.node.outputs import AnswerOutputs
from cooper_ros.node.qos import DEEP
from cooper_ros.node.request_handler import RequestHandler
from cooper_ros.node.services import Services
from cooper_ros.node.topics import LiveMaps, QuestionTopic

PATIENCE_S = 60
CONFIG = CooperConfig(max_image_age_s=0.0)
REASON = 'INTERNAL: the request could not be taken in: ArithmeticError; got an odd matrix'


class Robot:
    """The servers of a node whose camera has a calibration that nobody can work with."""

    def __init__(self, context: Context) -> None:
        self.node = LifecycleNode('cooper', context=context)
        self.asker = rclpy.create_node('asker', context=context)
        self.executor = SingleThreadedExecutor(context=context)
        queue = ExecutorQueue(self.node)
        self.handler = RequestHandler(queue, lambda: CONFIG, lambda *heard: None)
        self.handler.active = True
        self.handler.supervisor = SimpleNamespace(
            check_room=lambda limit: None, queue=SimpleNamespace(everything=list))
        self.handler.cameras = {'': self._camera()}
        self.servers = ReasonServer(self.node, self.handler), Services(self.node, self.handler)
        self.answers = AnswerOutputs(self.node)
        self.question = QuestionTopic(self.node, self.handler, self.answers)
        self.node.trigger_configure()
        self.node.trigger_activate()
        self.executor.add_node(self.node)
        self.executor.add_node(self.asker)

    def _camera(self) -> Camera:
        def fail(frame: Any) -> None:
            raise ArithmeticError('an odd matrix')
        camera = Camera(self.node, '', lambda: CONFIG)
        camera._on_image(stamped(np.zeros((6, 8, 3), np.uint8)))
        camera.calibration = fail
        return camera

    def until(self, condition: Callable[[], Any], again: Callable[[], Any] = lambda: None) -> Any:
        """Serve until a condition holds; returns its value."""
        latest = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < latest, 'it never happened'
            again()
            self.executor.spin_once(timeout_sec=0.05)
        return found

    def close(self) -> None:
        """Leave."""
        self.executor.shutdown()
        self.asker.destroy_node()
        self.node.destroy_node()


@pytest.fixture
def robot() -> Iterator[Robot]:
    context = Context()
    rclpy.init(context=context)
    robot = Robot(context)
    yield robot
    robot.close()
    context.try_shutdown()


def test_an_accepted_goal_ends(robot: Robot) -> None:
    client = ActionClient(robot.asker, SpatialReason, '/cooper/reason')
    robot.until(client.server_is_ready)
    sent = client.send_goal_async(SpatialReason.Goal(question='what is nearest?'))
    robot.until(sent.done)
    assert sent.result().accepted
    ended = sent.result().get_result_async()
    robot.until(ended.done)
    answer = ended.result()
    assert (answer.status, answer.result.error_code) == (ABORTED, ErrorCode.INTERNAL)
    assert answer.result.error_msg.startswith(REASON)
    client.destroy()


@pytest.mark.parametrize(('kind', 'name', 'fields'), [
    (SpatialQuery, 'query', {'question': 'what is nearest?'}),
    (EstimateDepth, 'estimate_depth', {}), (Segment, 'segment', {})])
def test_a_service_answers(robot: Robot, kind: type, name: str, fields: dict[str, str]) -> None:
    client = robot.asker.create_client(kind, f'/cooper/{name}')
    robot.until(client.service_is_ready)
    called = client.call_async(kind.Request(**fields))
    robot.until(called.done)
    answer = called.result()
    assert answer.error_code == ErrorCode.INTERNAL and answer.error_msg.startswith(REASON)


def test_a_question_on_the_topic_is_answered(robot: Robot) -> None:
    heard: list[SpatialAnswer] = []
    said: list[str] = []
    robot.asker.create_subscription(SpatialAnswer, '/cooper/answer', heard.append, 10)
    robot.asker.create_subscription(
        String, '/cooper/answer_text', lambda message: said.append(message.data), 10)
    publisher = robot.asker.create_publisher(String, '/cooper/question', 10)
    robot.until(lambda: heard and said,
                again=lambda: publisher.publish(String(data='what is nearest?')))
    assert heard[0].error_code == ErrorCode.INTERNAL and heard[0].error_msg.startswith(REASON)
    assert heard[0].question == 'what is nearest?' and said[0] == heard[0].error_msg


def test_of_a_burst_of_questions_each_is_answered(robot: Robot) -> None:
    """They wait while the node is busy with something else."""
    said: list[str] = []
    robot.asker.create_subscription(
        String, '/cooper/answer_text', lambda message: said.append(message.data), DEEP)
    publisher = robot.asker.create_publisher(String, '/cooper/question', DEEP)
    robot.until(lambda: publisher.get_subscription_count()
                and robot.asker.count_publishers('/cooper/answer_text')
                and robot.answers._text.get_subscription_count())
    for number in range(60):
        publisher.publish(String(data=f'question {number}'))
    robot.until(lambda: len(said) == 60)


def test_the_only_camera_is_asked_without_a_name(robot: Robot) -> None:
    assert robot.handler.camera('') is robot.handler.cameras['']
    with pytest.raises(BadOption, match='got left; allowed: the only camera has no name; remedy: '
                                        'leave the camera empty'):
        robot.handler.camera('left')


def test_a_live_map_says_why_there_is_none(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    live = LiveMaps(robot.node, robot.handler, lambda: CONFIG,
                    {'': SimpleNamespace(wanted=lambda names: True)})
    monkeypatch.setattr(live, '_warn', said.append)
    live._tick()
    assert len(said) == 1 and said[0].startswith(REASON)
