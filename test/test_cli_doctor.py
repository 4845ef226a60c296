"""``cooper doctor`` where something is missing that it has a row for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = "sys.modules['torch'] = None"
BROKEN = "sys.path.insert(0, 'broken')"
DOCTOR = """
import sys
{torch}
from cooper_ros.cli import main
main(['doctor', '--model', 'none'])
"""


@pytest.mark.parametrize(('torch', 'detail'), [
    (ABSENT, 'not installed'), (BROKEN, 'cannot be imported: libcudart.so.12: cannot open')])
def test_a_machine_without_torch_gets_the_rest(tmp_path: Path, torch: str, detail: str) -> None:
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'torch.py').write_text(
        "raise OSError('libcudart.so.12: cannot open shared object file')")
    done = subprocess.run([sys.executable, '-c', DOCTOR.format(torch=torch)], cwd=tmp_path,
                          capture_output=True, text=True, env={**os.environ, 'COLUMNS': '200'})
    assert done.returncode == 1 and not done.stderr, done.stderr
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in done.stdout.splitlines()]
    found = {row[0]: row for row in rows if row}
    assert found['torch'][1] == 'missing' and found['torch'][2].startswith(detail)
    assert found['torch'][3]  # what to do
    assert {'Python', 'memory', 'disk', 'rclpy', 'ROS'} < found.keys()
    assert not {'GPU', 'TensorRT', 'runtime torch', 'model'} & found.keys()
    assert 'COOPER 7B' not in done.stdout  # the table of memory needs torch
