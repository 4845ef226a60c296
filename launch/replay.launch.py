"""Play a recording into the node, on the recording's own time.

    ros2 launch cooper_ros replay.launch.py bag:=drive.mcap image_topic:=/front/image_raw \
        question:='How far is the door?'
    ros2 launch cooper_ros replay.launch.py bag:=drive player:=ros2 speed:=0.5
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown
from launch_ros.actions import Node
from launch_ros.substitutions import ExecutableInPackage

from cooper_ros.node.launching import (
    NODE_NAME,
    PACKAGE,
    common_arguments,
    cooper_node,
    given,
    given_path,
)

# Our player offers pictures reliably and asks when they have arrived: best effort loses some.
# `ros2 bag play` offers what was recorded, which may be best effort.
DELIVERY: dict[str, dict[str, bool]] = {'cooper': {'image_reliable': True}, 'ros2': {}}
PLAYERS = tuple(DELIVERY)


def player(context: LaunchContext) -> ExecuteProcess:
    """Return the process that publishes the recording and /clock."""
    bag, speed = given_path(context, 'bag'), given(context, 'speed')
    if given(context, 'player') == 'ros2':
        return ExecuteProcess(cmd=['ros2', 'bag', 'play', bag, '--clock', '--rate', speed],
                              output='screen')
    words = ['replay', bag, '--live', '--speed', speed, '--rate', given(context, 'question_rate')]
    if given(context, 'question'):
        words += ['--topic', given(context, 'image_topic'), '-q', given(context, 'question')]
    namespace = given(context, 'namespace').strip('/')
    if namespace:  # where the node listens and, beside it, answers; its old answers are left out
        words += ['--question-topic', f'/{namespace}/{NODE_NAME}/question']
    program = ExecutableInPackage(package=PACKAGE, executable='cooper')
    return ExecuteProcess(cmd=[program, *words], output='screen',  # waits for the last answer
                          on_exit=Shutdown(reason='the recording has ended'))


def start(context: LaunchContext) -> list[Node | ExecuteProcess]:
    """Return node and player."""
    node = cooper_node(context, [('image', given(context, 'image_topic')),
                                 ('camera_info', given(context, 'camera_info_topic'))],
                       DELIVERY[given(context, 'player')])
    return [node, player(context)]


def generate_launch_description() -> LaunchDescription:
    """Return arguments, node and player."""
    return LaunchDescription([
        *common_arguments('replay.yaml', use_sim_time=True),
        DeclareLaunchArgument('bag', description='mcap, sqlite3 or ROS 1 bag; file or folder'),
        DeclareLaunchArgument('player', default_value='cooper', choices=PLAYERS,
                              description='cooper: `cooper replay --live`, which also asks and '
                              'reads ROS 1; ros2: `ros2 bag play`, for recordings without '
                              '/clock (Humble cannot leave it out)'),
        DeclareLaunchArgument('speed', default_value='1.0', description='times real time'),
        DeclareLaunchArgument('question', default_value='', description='asked about the '
                              'pictures, player cooper only; empty: nothing is asked '
                              '(with namespace: what was recorded on its question topic)'),
        DeclareLaunchArgument('question_rate', default_value='1.0',
                              description='pictures asked about per second of the recording'),
        DeclareLaunchArgument('image_topic', default_value='/camera/image_raw',
                              description='pictures of the recording'),
        DeclareLaunchArgument('camera_info_topic', default_value='/camera/camera_info',
                              description='camera model of the recording'),
        OpaqueFunction(function=start)])
