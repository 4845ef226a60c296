"""``cooper evaluate`` refuses mistakes before the model loads; what it writes is JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import pytest
from rich.console import Console
from support.tiny import tiny_engine
from test_evaluation_files import HEIGHT, MASK, MILLIMETRES, WIDTH, photo, save
from typer.testing import CliRunner

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadData, BadOption
from cooper_ros.evaluation import scenes_suite
from cooper_ros.evaluation.cli import app
from cooper_ros.evaluation.map_pairs import DEPTH, find_pairs, read_ids, units_of
from cooper_ros.evaluation.scenes_report import show
from cooper_ros.evaluation.scenes_suite import Maps
from cooper_ros.evaluation.suites import run_file_suite


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""
    def load(folder: str, config: CooperConfig) -> CooperEngine:
        raise AssertionError('loaded')
    monkeypatch.setattr(CooperEngine, 'from_pretrained', load)


@pytest.mark.parametrize('words, message', [
    (['--variant', 'txt'], 'no mode and no model folder; got txt; allowed: auto, direct, text'),
    (['--variant', 'runs/nowhere:text'], 'no model folder; got runs/nowhere:text'),
    (['--json', 'nodir/x.json'], '--json cannot be written; got nodir/x.json'),
    (['--json', '.'], '--json cannot be written'),
    (['--suite', 'depth', '.', '--sheet', 'x.foo'], '--sheet is no kind of picture; got x.foo'),
    (['--suite', 'depth', '.', '--sheet', 'nodir/x.png'], '--sheet cannot be written'),
    (['--suite', 'mmvp', '.', '--out', 'nodir/x.jsonl'], '--out cannot be written'),
    (['--suite', 'mmvp', '.', '--judge-url', 'foo'], 'no web address; got foo'),
    (['--suite', 'depth'], 'suite depth needs a folder or a table'),
    (['--seed', '-1'], 'scene seed out of range; got -1; allowed: 0 .. 1073741823'),
    (['--seed', '1073741820', '--count', '5'], 'scene seed out of range; got 1073741824'),
    (['--split', 'tests'], "unknown split; got 'tests'")])
def test_mistakes_are_found_before_the_model_loads(
        never: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[str],
        message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadOption) as refused:
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert message in str(refused.value)


@pytest.mark.parametrize('option', ['--limit', '--maps', '--units'])
def test_counts_are_not_negative(never: None, option: str) -> None:
    done = CliRunner().invoke(app, [option, '-1'])
    assert done.exit_code == 2 and option in done.output


def test_numbers_are_kept_after_every_variant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path
                                              ) -> None:
    def load(folder: str, config: CooperConfig) -> CooperEngine:
        if folder == str(tmp_path):
            raise BadData('the second model is broken')
        return tiny_engine(0, config.replaced(max_question_chars=1))
    monkeypatch.setattr(CooperEngine, 'from_pretrained', load)
    monkeypatch.setattr(scenes_suite, 'constants', dict)
    out = tmp_path / 'scores.json'
    with pytest.raises(BadData):
        CliRunner().invoke(app, ['--count', '1', '--maps', '0', '--variant', 'text', '--variant',
                                 str(tmp_path), '--json', str(out)], catch_exceptions=False)
    found = json.loads(out.read_text())
    assert found['overall']['questions'] and list(found['variants']) == ['text']


# ---- odd files


def never_nan(name: str) -> None:
    raise AssertionError(f'{name} is no JSON')


def test_a_truth_without_contrast_has_no_order(tmp_path: Path,
                                               recwarn: pytest.WarningsRecorder) -> None:
    photo(tmp_path / '1.png')
    save(tmp_path / '1_depth.png', np.full_like(MILLIMETRES, 3000))
    found, text = run_file_suite(tiny_engine(), 'depth', tmp_path)
    read = json.loads(json.dumps(found), parse_constant=never_nan)
    assert read['order'] is None and read['rows'][0]['order'] is None
    assert 'order of pixel pairs right: no truth has depths 10 % apart' in text[-1]
    assert not [one for one in recwarn if one.category is RuntimeWarning]


@pytest.mark.parametrize('notes, words', [
    (b'\xff\xfe\x00', "cannot be read; got .*annotations.json: 'utf-8'"),
    (b'{"depth_scale": "1.2.3"}', "could not convert string to float: '1.2.3'.*--units"),
    (b'{"depth_scale": 0}', 'say no scale; got .*depth_scale 0.0; allowed: > 0'),
    (b'{"depth_scale": nan}', 'say no scale')])
def test_odd_notes_are_said(tmp_path: Path, notes: bytes, words: str) -> None:
    photo(tmp_path / '1.png')
    save(tmp_path / '1_depth.png', MILLIMETRES)
    (tmp_path / 'annotations.json').write_bytes(notes)
    with pytest.raises(BadData, match=f'nothing could be measured; .*{words}'):
        run_file_suite(tiny_engine(), 'depth', tmp_path)


@pytest.mark.parametrize('notes, units', [('1e3', 1000.0), ('"256"', 256.0),
                                          ('null}, {"depth_scale": 5', 5.0)])
def test_notes_are_read_whole(tmp_path: Path, notes: str, units: float) -> None:
    (tmp_path / 'annotations.json').write_text('[{"depth_scale": %s}]' % notes)
    assert units_of(tmp_path / 'd.png') == (units, 'annotations.json')


@pytest.mark.parametrize('odd', [np.nan, np.inf, 1e30])
def test_masks_with_ids_that_are_no_numbers_are_refused(tmp_path: Path, odd: float) -> None:
    path = save(tmp_path / 'm.npy', MASK.astype(np.float32))
    assert np.array_equal(read_ids(path), MASK)
    values = np.where(np.arange(WIDTH) < 2, odd, MASK)
    assert values.shape == (HEIGHT, WIDTH)
    with pytest.raises(BadData, match='some ids are no numbers.*m.npy'):
        read_ids(save(path, values))


def test_blank_lines_of_a_list_are_passed_over(tmp_path: Path) -> None:
    listing = tmp_path / 'list.jsonl'
    line = '{"rgb_image": "1.png", "depth_image": "2.png"}\n'
    listing.write_text(f'{line}\n{line} \n', encoding='utf-8-sig')
    assert len(find_pairs(listing, DEPTH)) == 2
    listing.write_text(f'{line}\n[]\n')
    with pytest.raises(BadData, match='list.jsonl:3'):
        find_pairs(listing, DEPTH)


# ---- a model without metres


def suite_results(metres: bool) -> dict[str, Any]:
    maps, labels = Maps(), np.zeros((4, 4), np.uint8)
    labels[:2] = 1
    maps.add_labels(np.zeros_like(labels), labels)
    if metres:
        maps.add_depth(np.full((4, 4), 2.2), np.full((4, 4), 2.0))
    return {'model': 'm', 'mode': 'auto', 'split': 'test', 'seed': 0, 'scenes': 1,
            'categories': {}, 'overall': {
                'questions': 1, 'score': 0.0, 'interval': (0.0, 1.0), 'majority': 0.0,
                'blind': None, 'draws_depth': 0.0, 'draws_segmentation': 0.0},
            'maps': maps.summary(), 'failures': 0, 'hardware': 'CPU', 'precision': 'float32',
            'seconds_per_question': 1.0}


@pytest.mark.parametrize('metres, said', [
    (False, 'maps of 1 scenes, no alignment: the model has no metres, mIoU 0.2500'),
    (True, 'maps of 1 scenes, no alignment: AbsRel 0.1000, delta1 1.0000, mIoU 0.2500')])
def test_the_miou_of_a_model_without_metres_is_shown(
        metres: bool, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    results = suite_results(metres)
    show(results, Console(width=200))
    assert said in capsys.readouterr().out
    assert json.loads(json.dumps(results))['maps']['frames'] == 1
