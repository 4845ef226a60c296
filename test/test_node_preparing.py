"""Nothing is built inside a transition: the node says that it prepares, and requests wait."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Iterator

import pytest
from rclpy.node import Node
from support.preparing import CHOICE
from support.ros import lone_node
from test_node_supervisor import Caller, eventually

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer
from cooper_ros.node.diagnostics import ERROR, OK, STALE, WARN, Diagnostics
from cooper_ros.node.executor_queue import ExecutorQueue
from cooper_ros.node.request_handler import RequestHandler
from cooper_ros.node.supervisor import PREPARING, READY, Status, Supervisor

FACTORY = 'support.preparing:PreparingEngine'


@pytest.fixture
def node() -> Iterator[Node]:
    with lone_node('cooper') as node:
        yield node


def diagnostics(node: Node, config: CooperConfig = CooperConfig(), refusal: str = '',
                supervisor: Supervisor | SimpleNamespace | None = None) -> Diagnostics:
    """Diagnostics of an active node, looked at and never published."""
    config = config.replaced(diagnostics_rate_hz=0.0)
    handler = RequestHandler(ExecutorQueue(node), lambda: config, lambda accepted, event: None)
    handler.active, handler.supervisor, handler.refusal = True, supervisor, refusal
    return Diagnostics(node, handler, lambda: config)


def test_it_says_preparing_while_requests_wait(node: Node, tmp_path: Path) -> None:
    config, said = CooperConfig(model_path=str(tmp_path)), []
    supervisor = Supervisor(FACTORY, config, lambda level, text: said.append(text))
    shown = diagnostics(node, config, supervisor=supervisor)
    eventually(lambda: supervisor.status().state == PREPARING)
    caller = Caller(supervisor)
    caller.ask('what colour?')
    status = shown._engine()
    values = {entry.key: entry.value for entry in status.values}
    assert status.name == 'cooper: engine'
    assert (status.level, status.message) == (WARN, 'preparing onnx: graph flow (50%)')
    assert values['state'] == 'preparing' and values['runtime'] == ''
    assert values['runtime_choice'] == CHOICE and caller.inbox.empty()
    (tmp_path / 'go').touch()
    assert isinstance(caller.end(), Answer)
    eventually(lambda: supervisor.status().state == READY)
    status = shown._engine()
    values = {entry.key: entry.value for entry in status.values}
    assert (status.level, status.message) == (OK, 'ready')
    assert values['runtime'] == 'onnx' and values['preparing'] == ''
    assert said[:2] == ['runtime onnx chosen', 'preparing onnx: graph flow']
    supervisor.stop()
    supervisor.join(60)


@pytest.mark.parametrize('age, limit, quiet, error, said', [
    (None, 0.0, 99.0, '',
     (STALE, 'no image yet: a publisher offers an unfitting quality of service')),
    (9.0, 1.0, 9.0, '', (STALE, 'newest image is 9.0 s old')),
    (0.1, 1.0, 0.1, 'zero focal length', (WARN, 'zero focal length')),
    (0.1, 1.0, 0.1, '', (OK, 'receiving')),
    (1e9, 0.0, 7.2, '', (OK, 'no image for 7 s')),
    (0.1, 1.0, 0.1, 'ahead', (WARN, 'stamps lie 99.0 s in the future; set the clocks'))])
def test_a_camera_is_what_it_does_now(node: Node, age: float | None, limit: float, quiet: float,
                                      error: str, said: tuple[bytes, str]) -> None:
    """A publisher that did not fit is no warning while another one serves."""
    ahead = 99.0 if error == 'ahead' else 0.0
    camera = SimpleNamespace(quiet_s=lambda: quiet, qos_conflicts=1, lens_trouble=lambda: error,
                             ahead_s=lambda: ahead)
    shown = diagnostics(node, CooperConfig(max_image_age_s=limit))
    assert shown._sight(camera, age) == said


def test_a_silent_worker_is_no_good_sign(node: Node) -> None:
    status = Status(READY, 0, 0, True, 0, 0, 1, 1.0, '', silent_s=12.3)
    shown = diagnostics(node, supervisor=SimpleNamespace(status=lambda: status))._engine()
    assert (shown.level, shown.message) == (WARN, 'the worker has been silent for 12 s')


def test_what_kept_the_node_from_being_configured_is_an_error(node: Node) -> None:
    refusal = 'the node could not be configured: no folder'
    shown = diagnostics(node, refusal=refusal)._engine()
    assert (shown.level, shown.message) == (ERROR, refusal)
