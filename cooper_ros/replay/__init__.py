"""Recordings in, answers out: reads bags, asks the engine, writes a bag. No ROS needed."""
