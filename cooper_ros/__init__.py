"""cooper_ros: ask a robot's camera spatial questions, get the answer with its maps."""

__version__ = '0.1.0'
