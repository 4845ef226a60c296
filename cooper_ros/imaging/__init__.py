"""Pictures, depth and labels as plain arrays: a leaf without ROS, network or engine."""
