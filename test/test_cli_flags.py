"""What settings files may hold: plain tables, and parameter files as nodes of ROS take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cooper_ros.cli.flags import settings_from_file
from cooper_ros.cli.settings import settings_yaml
from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption

ROOT = Path(__file__).parents[1]
ROBOT = {
    'cameras': ['front', 'rear'], 'use_sim_time': True, 'mode': 'direct', 'seed': 7,
    'start_type_description_service': False,
    'qos_overrides': {'/front/image': {'subscription': {'depth': 5}}},
    'qos_overrides./parameter_events.publisher.depth': 5}


def read(folder: Path, values: Any) -> dict[str, Any]:
    (folder / 'in.yaml').write_text(yaml.safe_dump(values))
    return settings_from_file(folder / 'in.yaml')


@pytest.mark.parametrize('names', [('/**',), ('cooper',), ('robot1', 'cooper')])
def test_the_parameter_file_of_a_robot_is_taken(tmp_path: Path, names: tuple[str, ...]) -> None:
    values: Any = {'ros__parameters': ROBOT}
    for name in reversed(names):
        values = {name: values}
    assert read(tmp_path, values) == {'mode': 'direct', 'seed': 7}


@pytest.mark.parametrize('alone', ['cameras', 'use_sim_time', 'qos_overrides'])
def test_a_file_of_nothing_but_what_the_node_knows_says_nothing(tmp_path: Path, alone: str
                                                                ) -> None:
    assert read(tmp_path, {'/**': {'ros__parameters': {alone: ROBOT[alone]}}}) == {}


@pytest.mark.parametrize('values', [
    {'/**': {'ros__parameters': {'mode': 'direct', 'usesimtime': True}}},
    {'/**': {'ros__parameters': {'mode': 'direct', 'cameras_': ['a']}}},
    {'/**': {'ros__parameters': {'image': {'format': 'jpeg'}}}},
    {'mode': 'direct', 'cameras': ['front']}, {'use_sim_time': True, 'seed': 1}])
def test_what_nobody_knows_is_still_refused(tmp_path: Path, values: Any) -> None:
    with pytest.raises(BadOption, match='unknown setting'):
        CooperConfig.from_mapping(read(tmp_path, values))


def test_our_own_files_are_taken(tmp_path: Path) -> None:
    (tmp_path / 'all.yaml').write_text(settings_yaml())
    files = [tmp_path / 'all.yaml', *sorted((ROOT / 'config').glob('*.yaml'))]
    assert len(files) > 4
    for file in files:
        assert CooperConfig.from_mapping(settings_from_file(file)), file
