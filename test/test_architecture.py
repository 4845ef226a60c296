"""The rooms stay apart: imports go downward only, ROS stays in the node, and rooms stay small."""

from __future__ import annotations

import ast
import re
import sys
from functools import lru_cache
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
REQUIREMENTS = PACKAGE.parent / 'requirements'
# What the product may import where it is installed; ros, test, tools and robot are not for rooms.
PINNED = ('base', 'torch', 'train', 'graphs', 'quant', 'trt', 'ttrt')
NAMES = {'PIL': 'pillow', 'cv2': 'opencv-python-headless', 'yaml': 'pyyaml',
         'torch_tensorrt': 'torch-tensorrt-rtx'}  # import -> distribution, where they differ
# Brought along by something that is pinned: these are in constraints.txt alone.
ALONG = {'onnx_ir': 'onnx-ir', 'backports': 'backports.zstd'}  # onnxscript; rosbags
UNPINNED = {'h5py': 'training/datasets/hdf5.py', 'wandb': 'training/curves.py'}  # asked for there
LATER = {'compression'}  # of the standard library since Python 3.14
LONGEST_FUNCTION, LONGEST_FILE = 40, 500  # lines, docstrings included


def imports_of(path: Path) -> Iterator[str]:
    """Every imported module of a file, lazy imports inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)
        elif (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
              and ast.unparse(node.func).rpartition('.')[2] in ('import_module', '__import__')):
            yield str(node.args[0].value)


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


@lru_cache(maxsize=None)
def pinned(*files: str) -> set[str]:
    """Distributions that requirement files pin, as they are compared: lower case, dashes."""
    text = '\n'.join((REQUIREMENTS / f'{name}.txt').read_text() for name in files)
    return {name.lower().replace('_', '-')
            for name in re.findall(r'^([\w.-]+)(?:\[[\w,]+\])?==', text, re.MULTILINE)}


def is_allowed(name: str, path: Path) -> bool:
    """Whether any room may import a top-level module, or this file may."""
    file = path.relative_to(PACKAGE).as_posix()
    return (name == 'cooper_ros' or name in sys.stdlib_module_names or name in LATER
            or NAMES.get(name, name).replace('_', '-') in pinned(*PINNED)
            or ALONG.get(name) in pinned('constraints') or UNPINNED.get(name) == file)


def foreign_imports(path: Path) -> set[str]:
    return {name.split('.')[0] for name in imports_of(path)
            if not is_allowed(name.split('.')[0], path)}


def test_rooms_import_what_is_pinned_and_only_the_node_imports_ros() -> None:
    manifest = (PACKAGE.parent / 'package.xml').read_text()
    of_ros = set(re.findall(r'<(?:exec_)?depend>(\w+)</', manifest))
    for path in sorted(PACKAGE.rglob('*.py')):
        ros = of_ros if path.relative_to(PACKAGE).parts[0] == 'node' else set()
        assert foreign_imports(path) <= ros, f'{path} imports {foreign_imports(path) - ros}'


def test_no_name_is_allowed_that_nobody_imports() -> None:
    used = {name.split('.')[0] for path in PACKAGE.rglob('*.py') for name in imports_of(path)}
    assert {*NAMES, *ALONG, *UNPINNED, *LATER} <= used


@pytest.mark.parametrize('line', ['import rosbag2_py', 'from launch_ros.actions import Node',
                                  'def f():\n    import tf2_ros', 'import pytest', 'import h5py',
                                  "import importlib\nimportlib.import_module('rclpy')"])
def test_a_foreign_import_is_noticed(line: str, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], 'PACKAGE', tmp_path)
    (tmp_path / 'room.py').write_text(f'import numpy, PIL.Image, json\n{line}\n')
    assert len(foreign_imports(tmp_path / 'room.py')) == 1


def test_functions_and_files_stay_small() -> None:
    large = []
    for path in sorted(PACKAGE.rglob('*.py')):
        text, file = path.read_text(), path.relative_to(PACKAGE)
        if text.count('\n') > LONGEST_FILE:
            large.append(f'{file}: {text.count(chr(10))} lines')
        large += [f'{file}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines'
                  for node in ast.walk(ast.parse(text))
                  if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                  and node.end_lineno - node.lineno >= LONGEST_FUNCTION]
    assert large == []


def test_only_the_demo_knows_the_scenes() -> None:
    demo = PACKAGE / 'node' / 'demo'
    for path in sorted((PACKAGE / 'node').rglob('*.py')):
        known = [name for name in imports_of(path)
                 if name.startswith(('cooper_ros.scenes', 'cooper_ros.node.demo'))]
        assert demo in path.parents or not known, f'{path} imports {known}'


def test_every_room_of_the_picture_exists() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').is_file()}
    assert rooms == set(ALLOWED)
