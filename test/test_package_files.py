"""What installs the package: one version, true dependencies, pins, both packages found."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from catkin_pkg.package import parse_package

import cooper_ros
from cooper_ros.cli.settings import settings_yaml
from cooper_ros.replay import topics

ROOT = Path(__file__).resolve().parents[1]
PYTHON_PACKAGES = {'cv2': 'python3-opencv', 'numpy': 'python3-numpy', 'yaml': 'python3-yaml',
                   'PIL': 'python3-pil'}
ROS = {'rclpy', 'cv_bridge', 'launch', 'launch_ros', 'cooper_interfaces'}
OPTIONAL = {'diagnostic_updater'}
GROUPS = ('torch', 'base', 'graphs', 'quant', 'ros', 'train', 'test')
PIN = re.compile(r"([A-Za-z0-9_.-]+)(\[\w+\])?==([^;\s]+)(; python_version (?:>=|<) '3\.11')?\Z")


def pins(name: str) -> list[re.Match]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    found = [(line, PIN.match(line)) for line in lines if line and not line.startswith('#')]
    assert all(match for _, match in found), [line for line, match in found if not match]
    return [match for _, match in found]


@pytest.mark.parametrize('folder', ['.', 'cooper_interfaces'])
def test_one_version_and_one_licence_everywhere(folder: str) -> None:
    package = parse_package(str(ROOT / folder))
    package.validate()
    assert package.version == cooper_ros.__version__
    assert package.licenses == ['Apache-2.0']
    assert importlib.metadata.version('cooper_ros') == cooper_ros.__version__
    assert 'Apache License' in (ROOT / 'LICENSE').read_text()


def test_every_imported_ros_package_is_a_dependency() -> None:
    wanted = {entry.name for entry in parse_package(str(ROOT)).exec_depends}
    used = set()
    for path in [*(ROOT / 'cooper_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                     [node.module or ''] if isinstance(node, ast.ImportFrom) else [])
            used |= {name.split('.')[0] for name in names}
    needed = {name for name in used if name in ROS or name.endswith(('_msgs', '_interfaces'))}
    needed |= {PYTHON_PACKAGES[name] for name in used if name in PYTHON_PACKAGES}
    assert needed - OPTIONAL <= wanted


def test_every_program_can_be_loaded() -> None:
    programs = importlib.metadata.distribution('cooper_ros').entry_points
    names = {entry.name for entry in programs}
    assert {'cooper', 'cooper_node', 'sim_camera', 'demo_client'} <= names
    for entry in programs:
        assert callable(entry.load())


def test_setup_runs_through_a_link_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / 'setup.py').symlink_to(ROOT / 'setup.py')  # colcon build --symlink-install
    said = subprocess.run([sys.executable, 'setup.py', '--version'], cwd=tmp_path, check=True,
                          capture_output=True, text=True).stdout
    assert said.strip() == cooper_ros.__version__


def test_share_has_what_a_robot_needs(tmp_path) -> None:
    subprocess.run([sys.executable, 'setup.py', '-q', 'install_data', '--install-dir', tmp_path],
                   cwd=ROOT, check=True)
    share = tmp_path / 'share' / 'cooper_ros'
    assert (tmp_path / 'share/ament_index/resource_index/packages/cooper_ros').is_file()
    for folder, pattern in (('launch', '*.launch.py'), ('config', '*'), ('.', 'package.xml')):
        wanted = {path.name for path in (ROOT / folder).glob(pattern) if path.is_file()}
        assert wanted and wanted <= {path.name for path in (share / folder).iterdir()}


def test_colcon_finds_both_packages() -> None:
    colcon = Path(sysconfig.get_path('scripts'), 'colcon')
    listed = subprocess.run([colcon, '--log-base', '/dev/null', 'list', '--base-paths', '.',
                             'cooper_interfaces'], cwd=ROOT, check=True, capture_output=True,
                            text=True).stdout
    found = {tuple(line.split()) for line in listed.splitlines()}
    assert found == {('cooper_interfaces', 'cooper_interfaces', '(ros.ament_cmake)'),
                     ('cooper_ros', '.', '(ros.ament_python)')}


def test_linters_are_named_only_where_a_test_runs_them() -> None:
    named = [found.text for found in ElementTree.parse(ROOT / 'package.xml').iter('test_depend')]
    assert 'python3-pytest' in named  # what `colcon test` starts
    for name in named:
        linter = name.partition('ament_')[2]
        assert not linter or (ROOT / 'test' / f'test_{linter}.py').is_file(), name


def test_requirements_are_pinned_and_agree_with_the_constraints() -> None:
    held = {match[1].lower().replace('_', '-'): match[3] for match in pins('constraints')}
    for name in GROUPS:
        for match in pins(name):
            if not (match[4] or '').endswith("< '3.11'"):
                assert held[match[1].lower().replace('_', '-')] == match[3], match[0]


def test_torch_is_installed_alone_and_held() -> None:
    torch, = pins('torch')
    assert torch[1] == 'torch'
    assert 'torch' not in {match[1] for name in GROUPS[1:]
                           for match in pins(name)}


def test_what_the_code_imports_is_required() -> None:
    listed = {match[1].lower() for name in GROUPS for match in pins(name)}
    names = {'cv2': 'opencv-python-headless', 'PIL': 'pillow', 'yaml': 'pyyaml',
             'huggingface_hub': 'huggingface-hub'}
    own = {'cooper_ros', 'cooper_interfaces', 'launch', 'launch_ros', '__future__'} | OPTIONAL
    for path in (ROOT / 'cooper_ros').rglob('*.py'):
        for node in ast.parse(path.read_text()).body:  # imports in functions are optional parts
            if isinstance(node, ast.ImportFrom | ast.Import):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                top = module.split('.')[0]
                if top in sys.stdlib_module_names | own:
                    continue
                known = {names.get(top, top).lower(), f'ros-{top.replace("_", "-")}'}
                assert known & listed, f'{path} imports {top}'


def test_the_default_parameter_file_is_generated() -> None:
    assert (ROOT / 'config' / 'cooper.yaml').read_text() == settings_yaml(), \
        'write it again: .venv/bin/cooper config --format yaml > config/cooper.yaml'


@pytest.mark.parametrize('path', sorted((ROOT / 'config').glob('*.yaml')), ids=lambda p: p.name)
def test_parameter_texts_are_quoted(path: Path) -> None:
    """ROS reads bare y, n, on and off as booleans."""
    top = yaml.compose(path.read_text())
    (name, inner), = top.value
    assert name.value == '/**'
    for key, value in inner.value[0][1].value:
        if value.tag.endswith(':str'):
            assert value.style == '"', f'{key.value} in {path.name}'


@pytest.mark.parametrize('name', ['foxglove_layout.json', 'cooper.rviz'])
def test_layouts_show_topics_that_exist(name: str) -> None:
    text = (ROOT / 'config' / name).read_text()
    assert yaml.safe_load(text)  # JSON is YAML
    ours = {topic.rstrip('.') for topic in re.findall(r'/cooper/([a-z_/]+)', text)}
    assert {'relative_depth/colored', 'overlay', 'segmentation/colored'} <= ours
    assert ours <= {topics.QUESTION, *topics.ANSWER_TOPICS, *topics.DEPTH_TOPICS,
                    *topics.SEGMENTATION_TOPICS}


def test_shared_memory_profile_keeps_shared_memory() -> None:
    tree = ElementTree.parse(ROOT / 'config' / 'fastdds_large_images.xml')
    values = {element.tag.split('}')[1]: element.text for element in tree.iter()}
    assert int(values['segment_size']) > int(values['maxMessageSize']) > 1920 * 1080 * 3
    assert values['useBuiltinTransports'] == 'false'
