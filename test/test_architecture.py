"""The rooms stay apart: imports go downward only, and ROS stays in the node."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator

import pytest

PACKAGE = Path(__file__).parents[1] / 'cooper_ros'
PAGE = PACKAGE.parent / 'docs' / 'architecture.md'
FLOOR = {'errors', 'config'}
ALLOWED = {
    'model': set(),
    'imaging': set(),
    'runtime': {'model', 'imaging'},
    'engine': {'runtime', 'model', 'imaging'},
    'node': {'engine', 'imaging', 'scenes', 'replay'},
    'replay': {'engine', 'imaging'},
    'scenes': set(),
    'training': {'model', 'runtime', 'engine', 'scenes', 'imaging', 'scoring'},
    'evaluation': {'model', 'runtime', 'engine', 'scenes', 'imaging', 'scoring'},
    'scoring': {'engine'},
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


def test_no_permission_goes_unused() -> None:
    for room, allowed in ALLOWED.items():
        if room == 'cli':
            continue  # it loads commands by name
        used = {name.split('.')[1] for path in (PACKAGE / room).rglob('*.py')
                for name in imports_of(path) if name.startswith('cooper_ros.')}
        assert allowed <= used, f'{room} never imports {allowed - used}'


def test_the_page_names_the_imports_of_every_room() -> None:
    rows = re.findall(r'^\| `cooper_ros/(\w+)` \|.*\| ([^|]*) \|$', PAGE.read_text(), re.MULTILINE)
    named = {room: set(re.findall(r'[a-z]+', re.sub(r'\(.*?\)', '', text)))
             for room, text in rows}
    assert named == {room: {'all'} if room == 'cli' else allowed
                     for room, allowed in ALLOWED.items()}


def test_only_the_node_imports_ros() -> None:
    for path in sorted(PACKAGE.rglob('*.py')):
        room = path.relative_to(PACKAGE).parts[0]
        used = {name.split('.')[0] for name in imports_of(path)} & ROS
        assert room == 'node' or not used, f'{path} imports {used}'


def test_only_the_demo_knows_the_scenes() -> None:
    demo = PACKAGE / 'node' / 'demo'
    for path in sorted((PACKAGE / 'node').rglob('*.py')):
        known = [name for name in imports_of(path)
                 if name.startswith(('cooper_ros.scenes', 'cooper_ros.node.demo'))]
        assert demo in path.parents or not known, f'{path} imports {known}'


def test_every_room_of_the_picture_exists() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').is_file()}
    assert rooms == set(ALLOWED)
