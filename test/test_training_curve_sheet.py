"""``cooper train curves``: one picture of the logs of runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cooper_ros.errors import BadData, BadOption
from cooper_ros.training.cli import app
from cooper_ros.training.curve_sheet import _title, draw_curves, read_curves
from cooper_ros.training.logs import RunLog


def make_run(folder: Path, values: list[float]) -> Path:
    with RunLog(folder, 0, len(values), every=1) as log:
        for step, value in enumerate(values, start=1):
            log.step(step, {'loss': value}, 1)
        log.line(len(values), {'valid_loss': values[-1], 'auto': 0.5})
    return folder


def test_curves_are_what_the_run_logged(tmp_path: Path) -> None:
    run = make_run(tmp_path / 'run', [3.0, 2.0, 1.5])
    with open(run / 'log.jsonl', 'a', encoding='utf-8') as log:
        log.write('{"step": 4, "lo')  # killed here
    assert read_curves(run) == {'loss': [(1, 3.0), (2, 2.0), (3, 1.5)],
                                'valid_loss': [(3, 1.5)], 'auto': [(3, 0.5)]}
    assert read_curves(run / 'log.jsonl') == read_curves(run)


def test_two_runs_become_one_picture(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, values)
            for name, values in (('a', [3.0, 2.0]), ('b', [3.0, 1.0]))]
    out = tmp_path / 'new' / 'curves.png'
    result = CliRunner().invoke(app, ['curves', *map(str, runs), '--out', str(out)])
    assert result.exit_code == 0, result.output
    both = np.asarray(Image.open(out).convert('RGB'))
    draw_curves(runs[:1], out)
    assert both.std() > 5 and not np.array_equal(both, np.asarray(Image.open(out).convert('RGB')))


def test_one_number_makes_a_smaller_picture(tmp_path: Path) -> None:
    run = make_run(tmp_path / 'run', [3.0, 2.0])
    sizes = []
    for names in ((), ('auto',)):
        draw_curves([run], tmp_path / 'x.png', names)
        sizes.append(Image.open(tmp_path / 'x.png').width)
    assert sizes[0] > sizes[1]
    with pytest.raises(BadData, match='no run has these numbers.*lost.*loss, valid_loss, auto'):
        draw_curves([run], tmp_path / 'x.png', ['lost'])


def test_what_cannot_be_drawn_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadData, match='log of the run cannot be read.*none'):
        draw_curves([tmp_path / 'none'], tmp_path / 'x.png')
    (tmp_path / 'log.jsonl').write_text(json.dumps({'step': 1, 'time': 0.0}) + '\n[]\n')
    with pytest.raises(BadData, match='holds no numbers yet'):
        draw_curves([tmp_path], tmp_path / 'x.png')
    run = make_run(tmp_path / 'run', [1.0])
    with pytest.raises(BadOption, match='cannot be written.*x.docx.*.svg'):
        draw_curves([run], tmp_path / 'x.docx')
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(BadOption, match='matplotlib is not installed.*pip install matplotlib'):
        draw_curves([run], tmp_path / 'x.png')


def test_a_run_is_named_by_what_it_was_begun_with(tmp_path: Path) -> None:
    """Recipes have frames; the batch of a mixture says nothing."""
    assert _title(tmp_path) == str(tmp_path)
    for task, batch in (({'crop': [8, 8]}, ', batch 8'), ({'recipes': {}}, '')):
        kept = {'stage': 'amg', 'seed': 3, 'batch': 8, 'task': task}
        (tmp_path / 'settings.json').write_text(json.dumps(kept))
        assert _title(tmp_path) == f'{tmp_path}: amg, seed 3{batch}'
