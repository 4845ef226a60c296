"""Start the node for one camera.

    ros2 launch cooper_ros cooper.launch.py image_topic:=/camera/image_raw
    ros2 launch cooper_ros cooper.launch.py --show-args
"""

from __future__ import annotations

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from cooper_ros.node.launching import common_arguments, cooper_node, given


def start(context: LaunchContext) -> list[Node]:
    """Return the node; its inputs are named like the camera's outputs."""
    return [cooper_node(context, [('image', given(context, 'image_topic')),
                                  ('camera_info', given(context, 'camera_info_topic'))])]


def generate_launch_description() -> LaunchDescription:
    """Return arguments and node."""
    return LaunchDescription([
        *common_arguments('cooper.yaml'),
        DeclareLaunchArgument('image_topic', default_value='/camera/image_raw',
                              description='pictures; <image_topic>/compressed is heard too'),
        DeclareLaunchArgument('camera_info_topic', default_value='/camera/camera_info',
                              description='camera model that belongs to the pictures'),
        OpaqueFunction(function=start)])
