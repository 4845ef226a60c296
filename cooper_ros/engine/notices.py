"""What loading says while it goes on, for those above the engine."""

from cooper_ros.runtime.notice import Notice as Notice
from cooper_ros.runtime.notice import Tell as Tell
