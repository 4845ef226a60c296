"""The documentation is true: generated pages are current, named files and commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')])


def test_interface_page_is_what_a_running_node_offers() -> None:
    done = subprocess.run([sys.executable, 'scripts/make_docs.py', '--check'], cwd=ROOT,
                          env={**os.environ, 'AMENT_PREFIX_PATH': sys.prefix},
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:] or 'run scripts/make_docs.py'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r'\]\(([^)#]+)', page.read_text()):
        if '://' not in target:
            assert (page.parent / target).exists(), f'{page.name} links to {target}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist(page: Path) -> None:
    from cooper_ros.cli.app import app
    known = {command.name for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    for command in re.findall(r'^\s*(?:\.venv/bin/)?cooper ([a-z-]+)', page.read_text(), re.M):
        assert command in known, f'{page.name}: cooper {command}'
