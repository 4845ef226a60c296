"""What a node publishes has the names and types that a bag of answers has."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Iterator

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from support.ros import stamped

from cooper_ros.config import CooperConfig
from cooper_ros.errors import ErrorCode
from cooper_ros.imaging.lens import Calibration
from cooper_ros.node.cameras import Camera
from cooper_ros.node.outputs import AnswerOutputs, MapOutputs, no_scale
from cooper_ros.node.qos import DEEP
from cooper_ros.node.request_handler import RequestSpec
from cooper_ros.node.topics import LiveMaps, QuestionTopic
from cooper_ros.replay.output import TYPES
from cooper_ros.replay.topics import DEPTH_TOPICS, NODE

PATIENCE_S = 60


@pytest.fixture
def node() -> Iterator[LifecycleNode]:
    context = Context()
    rclpy.init(context=context)
    node = LifecycleNode(NODE, context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def published(node: LifecycleNode) -> dict[str, list[str]]:
    """What it says below its own name, besides what every lifecycle node says."""
    found = node.get_publisher_names_and_types_by_node(NODE, '/')
    return {topic: types for topic, types in found
            if topic.startswith(f'/{NODE}/') and not topic.endswith('/transition_event')}


def test_a_bag_of_answers_is_what_the_node_publishes(node: LifecycleNode) -> None:
    assert not published(node)
    AnswerOutputs(node)
    MapOutputs(node, Camera(node, '', CooperConfig))
    latest = time.monotonic() + PATIENCE_S
    while len(published(node)) < len(TYPES) and time.monotonic() < latest:
        pass  # the graph learns of them a little later
    assert published(node) == {f'/{NODE}/{name}': [kind] for name, kind in TYPES.items()}


@pytest.mark.parametrize(('lens', 'code', 'said'), [
    (Calibration(error='BAD_CAMERA_INFO: odd'), ErrorCode.BAD_CAMERA_INFO, 'lens; got odd; rem'),
    (Calibration(), ErrorCode.NO_SCALE, 'got no camera_info'),
    (Calibration(focal=0.8), ErrorCode.NO_SCALE, 'for this model'),
    (Calibration(error='odd', focal=0.8), ErrorCode.NO_SCALE, 'for this model')])
def test_who_asks_for_metres_is_told_what_they_lack(lens: Calibration, code: ErrorCode, said: str
                                                    ) -> None:
    assert no_scale(lens).code == code and said in str(no_scale(lens))


def test_questions_and_answers_wait_in_deep_queues(node: LifecycleNode) -> None:
    """Of a burst none is lost on the way, as little as of goals and calls."""
    answers = AnswerOutputs(node)
    QuestionTopic(node, SimpleNamespace(), answers)
    question, = (one for one in node.subscriptions if one.topic_name.endswith('/question'))
    assert [one.qos_profile.depth for one in (question, answers._full, answers._text)] == [
        DEEP.depth] * 3


@pytest.mark.parametrize('changes', [True, False])
def test_live_maps_are_drawn_once_of_every_image(node: LifecycleNode, changes: bool) -> None:
    """Of one whose stamp never changes, too."""
    eyes = Camera(node, '', lambda: CooperConfig(max_image_age_s=0.0))
    drawn: list[RequestSpec] = []
    handler = SimpleNamespace(
        active=True, camera=lambda name: eyes, take_in=lambda spec, hear: drawn.append(spec),
        supervisor=SimpleNamespace(queue=SimpleNamespace(everything=list)))
    live = LiveMaps(node, handler, CooperConfig,
                    {'': SimpleNamespace(wanted=lambda names: names == DEPTH_TOPICS)})
    live._tick()  # no image yet
    for count in (1, 2, 3):
        eyes._on_image(stamped(np.zeros((6, 8, 3), np.uint8), seconds=100.5 + count * changes))
        for _ in range(2):
            live._tick()
        assert len(drawn) == count
