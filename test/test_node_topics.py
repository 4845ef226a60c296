"""What a node publishes has the names and types that a bag of answers has."""

from __future__ import annotations

import time
from typing import Iterator

import pytest
import rclpy
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode

from cooper_ros.config import CooperConfig
from cooper_ros.errors import ErrorCode
from cooper_ros.imaging.lens import Calibration
from cooper_ros.node.cameras import Camera
from cooper_ros.node.outputs import AnswerOutputs, MapOutputs, no_scale
from cooper_ros.replay.output import TYPES
from cooper_ros.replay.topics import NODE

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
