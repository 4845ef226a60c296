"""Keep every test run to itself: this machine only, a ROS domain of its own, logs in a corner.

Nothing of ROS is imported here, so tests without ROS stay without it. What several files need and
is slow to make (frames, exported graphs) is made here once. Several processes (`pytest -n`) share
the files among them, and each has a ROS domain of its own.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.fake_tensorrt import Device

    from cooper_ros.training.data import FrameStore

GRAPHS = 'tiny graphs'
GOLDEN = 'test_graphs_golden.py'
ORDER = {GRAPHS: -2, 'test_training_stages.py': -2, 'test_training_processes.py': -1, GOLDEN: 1}


def passing_folder(prefix: str) -> str:
    """A folder for as long as this process lives."""
    folder = tempfile.mkdtemp(prefix=prefix)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
WORKER = os.environ.get('PYTEST_XDIST_WORKER', '')  # gw0, gw1 ...; none where there is one process
if not WORKER:  # what follows is handed down to the others
    # Room for ten processes below the domains of a demo, which tests start too.
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 40))
    os.environ['COOPER_TEST_DOMAIN'] = os.environ['ROS_DOMAIN_ID']
    os.environ['COOPER_TEST_GRAPHS'] = passing_folder('cooper_test_graphs_')
    os.environ.setdefault('ROS_LOG_DIR', passing_folder('cooper_ros_log_'))
os.environ['ROS_DOMAIN_ID'] = str(int(os.environ['COOPER_TEST_DOMAIN']) + int(WORKER[2:] or 0))
if os.environ.get('ROS_DISTRO') == 'humble':
    os.environ.setdefault('ROS_LOCALHOST_ONLY', '1')
# Graphs and engines of the user would change which runtime `auto` takes.
os.environ['XDG_CACHE_HOME'] = passing_folder('cooper_test_cache_')
os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')
os.environ.setdefault('OMP_NUM_THREADS', '1')
# The wheels make the virtual environment an ament prefix, and nothing else says so.
os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)


@pytest.fixture(scope='session')
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """Eight training frames with one question per category."""
    from cooper_ros.training.data import frame_store
    return frame_store(tmp_path_factory.mktemp('frames'), 'train', 0, 8, 1)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU that is not there, for the stand-in of TensorRT."""
    from support.exported import tiny_bundle
    from support.fake_tensorrt import Device, pretend_cuda
    tiny_bundle()  # exported while there is no GPU to be seen
    made = Device()
    pretend_cuda(made, monkeypatch)
    return made


@functools.cache
def group(file: str) -> str:
    """What a test file is to share a process with: itself, or all that need the tiny graphs."""
    return GRAPHS if 'tiny_bundle' in Path(file).read_text(encoding='utf-8') else Path(file).name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out groups instead of tests: what they need is slow to make.

    xdist's own groups (`--dist loadgroup`) do nothing under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class InGroups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(str(config.rootpath / nodeid.split('::')[0]))
    return InGroups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no process is left with it at the end.

    What waits for graphs that are exported meanwhile comes last.
    """
    items.sort(key=lambda item: ORDER.get(group(str(item.path)), 0))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin early what takes long and is needed late: the tests of exported graphs."""
    if WORKER in ('', 'gw0') and not session.config.option.collectonly and any(
            item.path.name == GOLDEN for item in session.items):
        from support.exported import begin_exporting
        begin_exporting()
