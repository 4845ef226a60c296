#!/bin/bash
# Source ROS, the workspace and the Python environment, then run what was asked for.
set -e
. "/opt/ros/$ROS_DISTRO/setup.bash"
. /ws/venv/bin/activate
. /ws/install/setup.bash
exec "$@"
