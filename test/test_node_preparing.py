"""Nothing is built inside a transition: the node says that it prepares, and requests wait."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.preparing import CHOICE
from test_node_supervisor import Caller, eventually

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer
from cooper_ros.node.diagnostics import ERROR, OK, STALE, WARN, Diagnostics
from cooper_ros.node.supervisor import PREPARING, READY, Status, Supervisor

FACTORY = 'support.preparing:PreparingEngine'


class RequestHandler:
    """As much of the handler as diagnostics look at."""

    active, cameras, refusal = True, {}, ''

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor


class Silent:
    """A node that publishes nowhere."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: '/cooper' if name.startswith('get_') else None


def test_it_says_preparing_while_requests_wait(tmp_path: Path) -> None:
    config, said = CooperConfig(model_path=str(tmp_path), diagnostics_rate_hz=0.0), []
    supervisor = Supervisor(FACTORY, config, lambda level, text: said.append(text))
    shown = Diagnostics(Silent(), RequestHandler(supervisor), lambda: config)
    eventually(lambda: supervisor.status().state == PREPARING)
    caller = Caller(supervisor)
    caller.ask('what colour?')
    status = shown._engine()
    values = {entry.key: entry.value for entry in status.values}
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
def test_a_camera_is_what_it_does_now(age: float | None, limit: float, quiet: float, error: str,
                                      said: tuple[bytes, str]) -> None:
    """A publisher that did not fit is no warning while another one serves."""
    config = CooperConfig(max_image_age_s=limit, diagnostics_rate_hz=0.0)
    ahead = 99.0 if error == 'ahead' else 0.0
    camera = SimpleNamespace(last_arrival=time.monotonic() - quiet, qos_conflicts=1,
                             lens_trouble=lambda: error, ahead_s=lambda: ahead)
    assert Diagnostics(Silent(), RequestHandler(None), lambda: config)._sight(camera, age) == said


def test_a_silent_worker_is_no_good_sign() -> None:
    status = Status(READY, 0, 0, True, 0, 0, 1, 1.0, '', silent_s=12.3)
    handler = RequestHandler(SimpleNamespace(status=lambda: status))
    shown = Diagnostics(Silent(), handler, lambda: CooperConfig(diagnostics_rate_hz=0.0))._engine()
    assert (shown.level, shown.message) == (WARN, 'the worker has been silent for 12 s')


def test_what_kept_the_node_from_being_configured_is_an_error() -> None:
    handler = RequestHandler(None)
    handler.refusal = 'the node could not be configured: no folder'
    shown = Diagnostics(Silent(), handler, lambda: CooperConfig(diagnostics_rate_hz=0.0))._engine()
    assert (shown.level, shown.message) == (ERROR, handler.refusal)
