"""Messages, services and the action: codes equal Python's, every field explained, both distros."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rclpy.parameter import Parameter

from cooper_interfaces.action import SpatialReason
from cooper_interfaces.msg import ErrorCode as ErrorCodeMsg
from cooper_ros.config import CooperConfig, options
from cooper_ros.engine.events import MapFinished, MapStarted, MapStep, TextDelta
from cooper_ros.errors import ErrorCode
from cooper_ros.node.action_server import spec_of
from cooper_ros.node.parameters import REQUEST_NAMES, descriptor
from cooper_ros.node.request_handler import RequestSpec

ROOT = Path(__file__).parents[1] / 'cooper_interfaces'
FILES = sorted(path for kind in ('msg', 'srv', 'action') for path in (ROOT / kind).iterdir())


def test_error_codes_are_the_same_on_the_wire_and_in_python() -> None:
    text = (ROOT / 'msg' / 'ErrorCode.msg').read_text()
    on_the_wire = {name: int(value) for name, value in re.findall(r'^uint16 (\w+)=(\d+)', text,
                                                                 re.MULTILINE)}
    assert on_the_wire == {code.name: code.value for code in ErrorCode}
    assert all(getattr(ErrorCodeMsg, code.name) == code.value for code in ErrorCode)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_interface_is_built_and_explained(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and line != '---']
    assert lines[0].startswith('# '), 'what it is for'
    assert all(len(line) < 100 for line in lines)
    unexplained = [line for line in lines if not line.startswith('#') and '#' not in line
                   and line.split()[1] not in ('request_id', 'timings', 'answer', 'error_msg',
                                               'NONE=0')]
    unexplained = [line for line in unexplained if not line.startswith('Timings ')]
    assert not unexplained
    assert f'"{path.parent.name}/{path.name}"' in (ROOT / 'CMakeLists.txt').read_text()


def test_a_goal_left_alone_leaves_everything_to_the_parameters() -> None:
    assert spec_of(SpatialReason.Goal(question='what?')) == RequestSpec(question='what?')


def test_a_goal_can_set_what_a_request_may_set() -> None:
    spec = spec_of(SpatialReason.Goal(question='what?', mode='maps', max_turns=2, flow_points=9,
                                      seed=4, time_budget_s=1.5))
    assert dict(spec.overrides) == {'mode': 'maps', 'max_turns': 2, 'flow_points': 9, 'seed': 4,
                                    'time_budget_s': 1.5}
    assert {'mode', 'max_turns', 'flow_points', 'seed', 'time_budget_s'} <= set(REQUEST_NAMES)
    assert 'model_path' not in REQUEST_NAMES and 'queue_size' not in REQUEST_NAMES


def test_every_event_has_a_kind_on_the_wire() -> None:
    from cooper_ros.node.action_server import _KINDS
    kinds = SpatialReason.Feedback
    assert set(_KINDS) == {TextDelta, MapStarted, MapStep, MapFinished}
    assert len({*_KINDS.values(), kinds.ACCEPTED}) == 5


@pytest.mark.parametrize('entry', list(options()), ids=lambda entry: entry.name)
def test_defaults_have_a_parameter_type_and_lie_in_their_range(entry: object) -> None:
    made = descriptor(entry)
    assert Parameter(entry.name, value=entry.default).type_ != Parameter.Type.NOT_SET
    for limits in (*made.integer_range, *made.floating_point_range):
        assert limits.from_value <= getattr(CooperConfig(), entry.name) <= limits.to_value
