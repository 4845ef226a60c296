"""Nothing is built inside a transition: the node says that it prepares, and requests wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.preparing import CHOICE
from test_node_supervisor import Caller, eventually

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer
from cooper_ros.node.diagnostics import OK, WARN, Diagnostics
from cooper_ros.node.supervisor import PREPARING, READY, Supervisor

FACTORY = 'support.preparing:PreparingEngine'


class Desk:
    """As much of the desk as diagnostics look at."""

    active, cameras = True, {}

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor


class Silent:
    """A node that publishes nowhere."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: '/cooper' if name.startswith('get_') else None


def test_it_says_preparing_while_requests_wait(tmp_path: Path) -> None:
    config, said = CooperConfig(model_path=str(tmp_path), diagnostics_rate_hz=0.0), []
    supervisor = Supervisor(FACTORY, config, lambda level, text: said.append(text))
    shown = Diagnostics(Silent(), Desk(supervisor), lambda: config)
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
