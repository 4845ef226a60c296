"""The engine: a question becomes a stream of events. No ROS in here."""
