"""Ctrl-C, and errors of ours, while TensorRT runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.exported import tiny_bundle
from support.signals import sigint

from cooper_ros.errors import EngineBuild
from cooper_ros.runtime.engines.build import build_engine
from cooper_ros.runtime.engines.flavour import require_flavour
from cooper_ros.runtime.engines.guard import guarded
from cooper_ros.runtime.graphs.spec import Limits

ROOT = Path(__file__).parents[1]
BUILD = """
import os, signal, sys
from pathlib import Path
from cooper_ros.cli import app, engine
from cooper_ros.runtime.engines import build
from cooper_ros.runtime.graphs.bundle import Bundle

bundle, step, steps = Bundle.load(Path(sys.argv[1])), build.Phases.step, []

def stepping(phases, name, number):
    steps.append(name)
    if len(steps) == 20:
        os.kill(os.getpid(), signal.SIGINT)
    step(phases, name, number)

build.Phases.step = stepping
engine._bundle = lambda *_: bundle
engine.check_sizes = engine.check_source = lambda *_: None
try:
    app.main(['engine', 'build', '.', '--arch', 'SM89', '--precision', 'fp32', '--context', '64',
              '--cache', sys.argv[2]])
finally:
    print('steps', len(steps))
"""


def test_ctrl_c_ends_a_build_and_leaves_nothing(tmp_path: Path) -> None:
    """A real build gets the signal in its 20th step; whole ones have hundreds."""
    with sigint(handled=True):
        done = subprocess.run([sys.executable, '-c', BUILD, tiny_bundle().folder, tmp_path],
                              capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 130 and done.stderr == 'cooper: stopped\n', done.stderr
    assert int(done.stdout.rpartition('steps ')[2]) < 40
    assert [path.suffix for path in tmp_path.iterdir()] == ['.lock']


def test_what_a_call_raises_ends_the_build_and_comes_back() -> None:
    bundle, seen = tiny_bundle(), []

    def told(phase: str, fraction: float) -> None:
        seen.append(fraction)
        raise BrokenPipeError('nobody reads')

    with pytest.raises(BrokenPipeError, match='nobody reads'):
        build_engine(require_flavour(), bundle.specs()['latents'], bundle.graph('latents'),
                     arch='SM89', precision='fp32', limits=Limits.of(bundle.config, context=64),
                     told=told)
    assert len(seen) < 20


def test_a_call_in_a_thread_of_cpp_hears_ctrl_c() -> None:
    """No handler runs in it, and the main thread may wait in C++ meanwhile."""
    heard: list[bool] = []
    with sigint(handled=True), pytest.raises(KeyboardInterrupt):
        with guarded() as guard:
            def call() -> None:
                heard.append(guard.call(lambda: None))
                signal.raise_signal(signal.SIGINT)  # to this thread
                heard.append(guard.call(lambda: None))
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            raise EngineBuild('BuildCanceled')
    assert heard == [True, False]


def test_signals_are_left_as_they_were() -> None:
    with sigint(handled=True):
        with guarded():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.set_wakeup_fd(-1) == -1
    with sigint(handled=False), guarded() as guard:  # a background job
        signal.raise_signal(signal.SIGINT)
        assert guard.call(lambda: None)
