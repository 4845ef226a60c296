"""The launch files, executed without ROS launch: arguments, programs, files and names."""

from __future__ import annotations

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.node import Node
from support import stand_in_launch
from support.stand_in_launch import ROOT, LaunchError, execute

from cooper_ros.config import CooperConfig, options
from cooper_ros.errors import BadOption

FILES = sorted(path.name for path in (ROOT / 'launch').glob('*.launch.py'))
CONFIGS = sorted((ROOT / 'config').glob('*.yaml'))
REQUIRED = {'replay.launch.py': {'bag': 'drive.mcap'}}
EXPECTED = {'namespace', 'params_file', 'use_sim_time', 'image_topic', 'camera_info_topic',
            'model_path', 'device', 'dtype', 'log_level', 'autostart', 'respawn'}


def remaps(node) -> set[str]:
    return {word for flag, word in zip(node.words, node.words[1:]) if flag == '-r'}


def test_there_is_a_launch_file_for_each_purpose() -> None:
    assert FILES == ['cooper.launch.py', 'multi_camera.launch.py', 'replay.launch.py']


@pytest.mark.parametrize('name', FILES)
def test_every_file_takes_what_people_expect_and_explains_it(name: str) -> None:
    outcome = execute(name, **REQUIRED.get(name, {}))
    assert EXPECTED <= set(outcome.arguments)
    assert all(one.description for one in outcome.arguments.values())
    node = outcome.processes[0]
    assert node.words[0].endswith('/cooper_node')
    assert node.cwd == str(ROOT)
    assert len(node.files) == 1 and node.respawn is False
    set_here = {'use_sim_time', 'cameras', 'image_reliable'}  # the rest stays with the file
    assert set(node.values) <= set_here


def test_arguments_reach_the_node(tmp_path) -> None:
    node, = execute('cooper.launch.py', namespace='robot1', image_topic='/front/image',
                    camera_info_topic='/front/info', model_path='runs/mine', device='cuda',
                    dtype='bfloat16', autostart='false', respawn='true', log_level='debug',
                    use_sim_time='true').processes
    assert node.values == {'model_path': str(tmp_path.cwd() / 'runs' / 'mine'), 'device': 'cuda',
                           'dtype': 'bfloat16', 'autostart': False, 'use_sim_time': True}
    assert {'image:=/front/image', 'camera_info:=/front/info', '__ns:=/robot1',
            '__node:=cooper'} <= remaps(node)
    assert node.respawn is True
    assert node.words[node.words.index('--log-level') + 1] == 'debug'
    CooperConfig().replaced(**{name: value for name, value in node.values.items()
                               if name != 'use_sim_time'})


@pytest.mark.parametrize('wrong', [
    {'log_level': 'loud'}, {'respawn': 'maybe'}, {'colour': 'red'}])
def test_wrong_arguments_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(LaunchError):
        execute('cooper.launch.py', **wrong)


@pytest.mark.parametrize('path', ['/nowhere.yaml', '~/nowhere.yaml', '/', ''])
@pytest.mark.parametrize('name', FILES)
def test_a_parameter_file_that_is_none_is_refused(name: str, path: str) -> None:
    """ROS would start the node with default settings, after a warning."""
    with pytest.raises(BadOption, match='no such parameter file; got /.*remedy: correct params_'):
        execute(name, **REQUIRED.get(name, {}), params_file=path)


def test_the_stand_in_passes_over_a_parameter_file_as_ros_does() -> None:
    """Otherwise it would hide that nobody else refuses it."""
    node = stand_in_launch.Node(package='cooper_ros', executable='cooper_node', cwd=str(ROOT),
                                parameters=['/nowhere.yaml', str(CONFIGS[0])])
    node.start(stand_in_launch.LaunchContext({}), stand_in_launch.Outcome())
    assert node.words.count('--params-file') == 1 and str(CONFIGS[0]) in node.words


@pytest.mark.parametrize('name', FILES)
def test_paths_may_begin_at_home(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands `params_file:=~/x.yaml`."""
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'mine.yaml').write_text('/**: {ros__parameters: {seed: 3}}')
    bag = {'bag': '~/drive'} if name in REQUIRED else {}
    node, *player = execute(name, **bag, params_file='~/mine.yaml', model_path='~/m').processes
    place = node.words.index('--params-file') + 1
    assert node.words[place] == str(tmp_path / 'mine.yaml')
    assert node.values['model_path'] == str(tmp_path / 'm')
    assert all(str(tmp_path / 'drive') in one.words for one in player)


@pytest.mark.parametrize('name', ['model_path', 'device', 'dtype', 'autostart'])
def test_arguments_of_settings_say_and_allow_what_the_settings_do(name: str) -> None:
    entry = next(entry for entry in options() if entry.name == name)
    shown = execute('cooper.launch.py').arguments[name]
    assert shown.description.startswith(entry.metadata['help'])
    choices = ('true', 'false') if name == 'autostart' else entry.metadata['choices']
    assert shown.choices == (('', *choices) if choices else None)
    for choice in choices:
        assert execute('cooper.launch.py', **{name: choice}).processes
    if choices:
        with pytest.raises(LaunchError, match='allowed'):
            execute('cooper.launch.py', **{name: 'yes'})


def test_several_cameras_share_one_node() -> None:
    node, = execute('multi_camera.launch.py', cameras='left, right',
                    image_topic='/rig/{camera}/image_rect').processes
    assert node.values['cameras'] == ['left', 'right']
    assert {'left/image:=/rig/left/image_rect', 'right/image:=/rig/right/image_rect',
            'left/camera_info:=/left/camera_info',
            'right/camera_info:=/right/camera_info'} <= remaps(node)


@pytest.mark.parametrize(('cameras', 'said'), [
    ('', 'no camera is named; got .*allowed: at least one name'),
    *((wrong, 'cannot be called that; got .*different names of letters')
      for wrong in ('a,a', 'front door/', '1st', 'a,,b;c'))])
def test_bad_camera_names_are_refused_as_the_node_would(cameras: str, said: str) -> None:
    with pytest.raises(BadOption, match=said):
        execute('multi_camera.launch.py', cameras=cameras)


def test_replay_runs_on_recorded_time_and_asks() -> None:
    node, player = execute('replay.launch.py', bag='drive.mcap', question='how far?',
                           image_topic='/front/image').processes
    assert node.values['use_sim_time'] is True and node.values['image_reliable'] is True
    assert 'image:=/front/image' in remaps(node)
    assert player.words[0].endswith('/cooper')
    assert player.words[1:4] == ['replay', str(ROOT.cwd() / 'drive.mcap'), '--live']
    assert player.words[player.words.index('-q') + 1] == 'how far?'
    assert player.words[player.words.index('--topic') + 1] == '/front/image'
    assert player.on_exit.reason


@pytest.mark.parametrize('namespace', ['robot1', '/robot1'])
@pytest.mark.parametrize('question', ['', 'how far?'])
def test_replay_asks_the_node_where_its_namespace_puts_it(namespace: str, question: str) -> None:
    _, player = execute('replay.launch.py', bag='/d', namespace=namespace,
                        question=question).processes
    place = player.words.index('--question-topic') + 1
    assert player.words[place] == '/robot1/cooper/question'
    _, plain = execute('replay.launch.py', bag='/d', question=question).processes
    assert '--question-topic' not in plain.words


def test_replay_by_the_player_of_ros() -> None:
    node, player = execute('replay.launch.py', bag='/d', player='ros2', speed='0.5').processes
    assert 'image_reliable' not in node.values  # a recording may offer best effort only
    assert player.words == ['ros2', 'bag', 'play', '/d', '--clock', '--rate', '0.5']


def test_the_flags_that_replay_uses_exist() -> None:
    from typer.testing import CliRunner

    from cooper_ros.cli.app import app
    _, player = execute('replay.launch.py', bag='missing.mcap', question='q',
                        namespace='robot1').processes
    used = {word for word in player.words if word.startswith('-')}
    shown = CliRunner().invoke(app, ['replay', '--help'], terminal_width=200).output
    assert used and all(flag in shown for flag in used)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.name)
def test_parameter_files_are_read_by_ros_as_written(path) -> None:
    wanted = yaml.safe_load(path.read_text())['/**']['ros__parameters']
    context = Context()
    rclpy.init(context=context)
    try:
        node = Node('cooper', context=context, cli_args=['--ros-args', '--params-file', str(path)],
                    automatically_declare_parameters_from_overrides=True)
        read = {name: node.get_parameter(name).value for name in wanted}
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
    assert read == wanted
    assert {name: type(value) for name, value in read.items()} == {
        name: type(value) for name, value in wanted.items()}
    CooperConfig.from_mapping(wanted)
