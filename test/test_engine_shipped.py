"""The model that comes with the package is found from every working folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cooper_ros.engine.shipped import shipped_model

REPOSITORY = Path(__file__).parents[1]
NANO = 'models/cooper-nano'


def test_relative_paths_count_from_here_then_from_where_we_were_installed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{tmp_path / "other"}:{tmp_path / "install"}')
    assert shipped_model(NANO) == str(REPOSITORY / NANO)  # the source tree
    assert shipped_model('models/none') == 'models/none'
    installed = tmp_path / 'install/share/cooper_ros' / NANO
    installed.mkdir(parents=True)
    assert shipped_model(NANO) == str(installed)
    (tmp_path / NANO).mkdir(parents=True)
    assert shipped_model(NANO) == NANO
    assert shipped_model('/no/such') == '/no/such'
