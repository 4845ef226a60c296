"""Quality of service that several topics, services and actions share."""

from __future__ import annotations

from rclpy.qos import QoSProfile

# ROS keeps ten calls or messages by default and drops the rest in silence: whoever asks hears of
# an end, and a refusal is an answer too.
DEEP = QoSProfile(depth=500)
