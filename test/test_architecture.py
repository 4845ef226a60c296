"""The rooms stay apart: imports go downward only, and ROS stays in the node."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterator

import pytest

PACKAGE = Path(__file__).parents[1] / 'cooper_ros'
FLOOR = {'errors', 'config'}
ALLOWED = {
    'model': set(),
    'imaging': set(),
    'runtime': {'model', 'imaging'},
    'engine': {'runtime', 'model', 'imaging'},
    'node': {'engine', 'imaging', 'scenes', 'replay'},
    'replay': {'engine', 'imaging'},
    'scenes': {'imaging'},
    'training': {'model', 'runtime', 'engine', 'scenes', 'imaging', 'evaluation'},
    'evaluation': {'model', 'runtime', 'engine', 'scenes', 'imaging'},
    'cli': {'model', 'runtime', 'engine', 'node', 'replay', 'scenes', 'training', 'evaluation',
            'imaging'},
}
ROS = {'rclpy', 'cooper_interfaces', 'sensor_msgs', 'std_msgs', 'diagnostic_msgs',
       'lifecycle_msgs', 'rcl_interfaces', 'builtin_interfaces', 'rosgraph_msgs', 'cv_bridge',
       'diagnostic_updater', 'ament_index_python', 'geometry_msgs', 'action_msgs', 'std_srvs'}


def imports_of(path: Path) -> Iterator[str]:
    """Every imported module of a file, lazy imports inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('room', sorted(ALLOWED))
def test_rooms_import_only_downward(room: str) -> None:
    files = sorted((PACKAGE / room).rglob('*.py'))
    assert files, f'the room {room} is empty'
    for path in files:
        for name in imports_of(path):
            parts = name.split('.')
            if parts[0] != 'cooper_ros' or len(parts) < 2 or parts[1] == '__version__':
                continue
            assert parts[1] in FLOOR | {room} | ALLOWED[room], f'{path} imports {name}'


def test_only_the_node_imports_ros() -> None:
    for path in sorted(PACKAGE.rglob('*.py')):
        room = path.relative_to(PACKAGE).parts[0]
        used = {name.split('.')[0] for name in imports_of(path)} & ROS
        assert room == 'node' or not used, f'{path} imports {used}'


def test_every_room_of_the_picture_exists() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').is_file()}
    assert rooms == set(ALLOWED)
