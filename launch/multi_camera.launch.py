"""Start one node, with one engine, for several cameras.

    ros2 launch cooper_ros multi_camera.launch.py cameras:=front,rear
    ros2 launch cooper_ros multi_camera.launch.py cameras:=left,right \
        image_topic:='/rig/{camera}/image_rect' camera_info_topic:='/rig/{camera}/camera_info'
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from cooper_ros.node.launching import camera_names, common_arguments, cooper_node, given


def start(context: LaunchContext) -> list[Node]:
    """Return the node; each camera's inputs are named by the two patterns."""
    names = camera_names(given(context, 'cameras'))
    remappings = [(f'{name}/{own}', given(context, argument).replace('{camera}', name))
                  for name in names
                  for own, argument in (('image', 'image_topic'),
                                        ('camera_info', 'camera_info_topic'))]
    return [cooper_node(context, remappings, {'cameras': names})]


def generate_launch_description() -> LaunchDescription:
    """Return arguments and node."""
    return LaunchDescription([
        *common_arguments('multi_camera.yaml'),
        DeclareLaunchArgument('cameras', default_value='front,rear',
                              description='names of the cameras, separated by commas'),
        DeclareLaunchArgument('image_topic', default_value='/{camera}/image_raw',
                              description='pictures of one camera; {camera} is its name'),
        DeclareLaunchArgument('camera_info_topic', default_value='/{camera}/camera_info',
                              description='camera model of one camera; {camera} is its name'),
        OpaqueFunction(function=start)])
