"""Keep every test run to itself: this machine only, a ROS domain of its own, logs in a corner.

Nothing of ROS is imported here, so tests without ROS stay without it. What several files need and
is slow to make (frames, exported graphs) is made here once.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cooper_ros.training.data import FrameStore

os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
if os.environ.get('ROS_DISTRO') == 'humble':
    os.environ.setdefault('ROS_LOCALHOST_ONLY', '1')
os.environ.setdefault('ROS_LOG_DIR', tempfile.mkdtemp(prefix='cooper_ros_log_'))
# Graphs and engines of the user would change which runtime `auto` takes.
os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp(prefix='cooper_test_cache_')
os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')
os.environ.setdefault('OMP_NUM_THREADS', '1')
# The wheels make the virtual environment an ament prefix, and nothing else says so.
os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)


@pytest.fixture(scope='session')
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """Eight training frames with one question per category."""
    from cooper_ros.training.data import frame_store
    return frame_store(tmp_path_factory.mktemp('frames'), 'train', 0, 8, 1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin early what takes long and is needed late: the tests of exported graphs."""
    if not session.config.option.collectonly and any(
            item.path.name == 'test_graphs_golden.py' for item in session.items):
        from support.exported import begin_exporting
        begin_exporting()
