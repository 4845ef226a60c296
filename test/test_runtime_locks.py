"""Locks between processes: free when their holder dies, and gone where they shall not stay."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_runtime_files import names

from cooper_ros.runtime.locks import locked_once

HOLDING = """
import sys
from pathlib import Path
from cooper_ros.runtime.locks import locked_once
with locked_once(Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_goes_keeps_out_whoever_waited_for_it(tmp_path: Path) -> None:
    lock, waiting, inside = tmp_path / 'a.lock', threading.Event(), []

    def wait() -> None:
        with locked_once(lock, waiting.set):
            inside.append(lock.is_file())  # its own, which it made again

    with subprocess.Popen([sys.executable, '-c', HOLDING, str(lock)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b'held\n'
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert waiting.wait(20) and not inside
        holder.stdin.close()
    waiter.join(20)
    assert inside == [True] and not names(tmp_path)


def test_a_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    lock = tmp_path / 'a.lock'
    with subprocess.Popen([sys.executable, '-c', HOLDING, str(lock)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b'held\n'
        with lock.open('a') as stream, pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
    with locked_once(lock, lambda: pytest.fail('nobody holds it')):
        assert lock.is_file()
    assert not names(tmp_path)


def test_a_lock_that_vanishes_while_it_is_looked_at_is_taken_all_the_same(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'x.lock'
    path.touch()
    look = Path.lstat

    def removed_meanwhile(self: Path) -> os.stat_result:
        if self == path:
            monkeypatch.undo()
            self.unlink()
        return look(self)
    monkeypatch.setattr(Path, 'lstat', removed_meanwhile)
    with locked_once(path):
        assert path.exists()
