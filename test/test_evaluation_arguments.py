"""``cooper evaluate`` refuses mistakes before the model loads; what it writes is JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import pytest
from rich.console import Console
from support.map_files import HEIGHT, MASK, METRES, MILLIMETRES, WIDTH, photo, save
from support.tiny import tiny_engine
from typer.testing import CliRunner

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import DepthMap
from cooper_ros.errors import BadData, BadOption, OutOfDisk
from cooper_ros.evaluation import arguments, cli, names, scenes_suite
from cooper_ros.evaluation.arguments import MODEL_FILES, ids_of, write_json
from cooper_ros.evaluation.cli import app
from cooper_ros.evaluation.depth_units import units_of
from cooper_ros.evaluation.map_pairs import DEPTH, find_pairs, read_ids
from cooper_ros.evaluation.scenes_report import show
from cooper_ros.evaluation.scenes_suite import Maps
from cooper_ros.evaluation.suites import SuiteOptions, make_judge, run_file_suite


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""
    def load(folder: str, config: CooperConfig) -> CooperEngine:
        raise AssertionError('loaded')
    monkeypatch.setattr(CooperEngine, 'from_pretrained', load)


@pytest.mark.parametrize('words, message', [
    (['--variant', 'txt'], 'no mode and no model folder; got txt; allowed: auto, direct, text'),
    (['--variant', '.:text'], 'a folder that holds no model; got . without llm_config.json, pro'),
    (['--suite', 'mmvp', '.', '--count', '100'], '--count does nothing in suite mmvp; allowed: s'),
    (['--suite', 'mmvp', '.', '--other-words'], '--other-words does nothing in suite mmvp'),
    (['--suite', 'depth', '.', '--no-blind'], '--blind does nothing in suite depth'),
    (['--suite', 'mmvp', '.', '--variant', 'text'], '--variant does nothing in suite mmvp'),
    (['--focal', '0.8'], '--focal does nothing in suite scenes; allowed: suite depth'),
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
    (['--split', 'tests'], "unknown split; got 'tests'"),
    (['--suite', 'mmvp', 't.tsv', '--seed', '-5'], 'seed is out of range; got -5; allowed: 0 ..'),
    (['--suite', 'depth', '.', '--seed', '2147483648'], 'seed is out of range; got 2147483648'),
    (['photos'], 'suite scenes takes no folder and no table; got photos; remedy: name the suite'),
    (['--suite', 'mmvp', '.', '--out', '/dev/full'], '--out is no file; got /dev/full; allowed: '),
    (['--out', 'x'], '--out does nothing in suite scenes; got x; allowed: suite sibench, mmvp'),
    (['--judge-url', 'http://a/v1'], '--judge-url does nothing in suite scenes; got http://a/v1'),
    (['--judge-model', 'm'], '--judge-model does nothing in suite scenes'),
    (['--suite', 'mmvp', '.', '--judge-model', 'm'],
     '--judge-model asks nobody without --judge-url; got m; allowed: an address too; remedy'),
    (['--suite', 'depth', '.', '--mode', 'text'],
     '--mode does nothing in suite depth; allowed: suite scenes, sibench, mmvp, qspatial'),
    (['--suite', 'segmentation', '.', '--mode', 'auto'], '--mode does nothing in suite segment'),
    (['--limit', '3'], '--limit does nothing in suite scenes; got 3'),
    (['--depth-set', 'nyu'], '--depth-set does nothing in suite scenes; got nyu'),
    (['--suite', 'depth', '.', '--depth-set', 'NYU'], 'no such --depth-set; got NYU; allowed: vk'),
    (['--units', '1'], '--units does nothing in suite scenes'),
    (['--sheet', 'x.png'], '--sheet does nothing in suite scenes'),
    (['--palette'], '--palette does nothing in suite scenes; got True; allowed: suite segment'),
    (['--suite', 'depth', '.', '--ignore', '0'], '--ignore does nothing in suite depth'),
    (['--suite', 'mmvp', '.', '--templates', 'x'], '--templates does nothing in suite mmvp'),
    (['--suite', 'segmentation', '.', '--ignore', '0;1'],
     '--ignore is no list of ids; got 0;1; allowed: whole numbers, with commas between them')])
def test_mistakes_are_found_before_the_model_loads(
        never: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[str],
        message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadOption) as refused:
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert message in str(refused.value)


def test_a_judge_without_an_address_is_refused_in_python_too(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match='--judge-model asks nobody without --judge-url; got m'):
        make_judge(SuiteOptions(judge_model='m'))
    assert make_judge(SuiteOptions()) is None


def test_the_suites_are_listed_once() -> None:
    """Two lists would drift apart: one is shown by --help, the other is what is accepted."""
    assert cli.SUITES is arguments.SUITES is names.SUITES
    assert set(names.SUITES) == {'scenes', 'depth', 'segmentation', 'sibench', 'mmvp', 'qspatial'}


@pytest.mark.parametrize('text, ids', [('0,255', (0, 255)), (' -1 ', (-1,)), ('', ()),
                                       (None, None)])
def test_ids_to_ignore(text: str | None, ids: tuple[int, ...] | None) -> None:
    assert ids_of(text) == ids


def test_numbers_without_room_are_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(OutOfDisk, match='no room on disk for the file of --json; got /dev/full: '
                                        'No space left.*name another file'):
        write_json('/dev/full', {'a': 1})
    with pytest.raises(BadOption, match='--json cannot be written; got .*: Is a directory'):
        write_json(str(tmp_path), {'a': 1})
    write_json(str(tmp_path / 'x.json'), {'a': 1})
    assert json.loads((tmp_path / 'x.json').read_text()) == {'a': 1}


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
    for name in MODEL_FILES:
        (tmp_path / name).write_text('{}')
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


def noted(folder: Path, scale: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'annotations.json').write_text('{"depth_scale": %s}' % scale)


def test_the_nearest_notes_within_the_dataset_count(tmp_path: Path) -> None:
    place = tmp_path / 'tum' / 'set'
    file = place / 'depth' / 'd.png'
    noted(tmp_path / 'tum', '7')
    assert units_of(file, place) == (1000.0, 'assumed millimetres')
    assert units_of(file, place.parent) == (7.0, 'annotations.json')
    noted(place, '5000.0')
    assert units_of(file, place) == (5000.0, 'annotations.json')
    noted(file.parent, 'null')
    assert units_of(file, place) == (5000.0, 'annotations.json')
    noted(file.parent, '10')
    assert units_of(file, place) == (10.0, 'annotations.json')


def test_names_above_the_dataset_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                              ) -> None:
    place = tmp_path / 'tum' / 'photos'
    (place / 'depth').mkdir(parents=True)
    file = place / 'depth' / 'd.png'
    assert units_of(file, place) == (1000.0, 'assumed millimetres')
    assert units_of(file, place / 'rgb') == (1000.0, 'assumed millimetres')  # a sister of it
    assert units_of(file, place.parent) == (5000.0, "'tum' in the path")
    listing = place.parent / 'list.jsonl'
    listing.touch()
    assert units_of(file, listing) == (5000.0, "'tum' in the path")
    monkeypatch.chdir(place)
    assert units_of(Path('depth/d.png'), Path('.')) == (1000.0, 'assumed millimetres')
    monkeypatch.chdir(place.parent)
    assert units_of(Path('photos/depth/d.png'), Path('.'))[0] == 5000.0


def test_the_depth_suite_reads_units_from_its_folder_on(tmp_path: Path) -> None:
    place = tmp_path / 'tum' / 'photos'
    photo(place / 'rgb' / '1.png')
    save(place / 'depth' / '1.png', MILLIMETRES)
    found = run_file_suite(tiny_engine(), 'depth', place)[0]
    assert found['units'] == ['1000 per metre (assumed millimetres)']
    noted(place, '500')
    found = run_file_suite(tiny_engine(), 'depth', place)[0]
    assert found['units'] == ['500 per metre (annotations.json)']


def test_a_named_data_set_says_the_units_of_its_files(tmp_path: Path) -> None:
    """KITTI has 256 numbers a metre, and people call its folder what they like."""
    place = tmp_path / 'drive' / 'tum'
    photo(place / 'rgb' / '1.png')
    save(place / 'depth' / '1.png', np.rint(METRES * 256).astype(np.uint16))
    options = SuiteOptions(depth_set='kitti')
    found, text = run_file_suite(tiny_engine(), 'depth', place, options)
    assert found['units'] == ['256 per metre (--depth-set kitti)']
    right = found['aligned']['abs_relative_difference']
    assert 'truth in 256 per metre (--depth-set kitti)' in text[0]
    given = run_file_suite(tiny_engine(), 'depth', place, replace(options, units=256.0))[0]
    assert given['units'] == ['256 per metre (given)']
    assert given['aligned']['abs_relative_difference'] == right
    noted(place, '500')
    found = run_file_suite(tiny_engine(), 'depth', place, options)[0]
    assert found['units'] == ['500 per metre (annotations.json)']
    save(place / 'depth' / '1.npy', METRES)
    (place / 'depth' / '1.png').unlink()
    found = run_file_suite(tiny_engine(), 'depth', place, options)[0]
    assert found['units'] == ['1 per metre (floating point)']


@pytest.mark.parametrize('odd', [np.nan, np.inf, 1e30])
def test_masks_with_ids_that_are_no_numbers_are_refused(tmp_path: Path, odd: float) -> None:
    path = save(tmp_path / 'm.npy', MASK.astype(np.float32))
    assert np.array_equal(read_ids(path), MASK)
    values = np.where(np.arange(WIDTH) < 2, odd, MASK)
    assert values.shape == (HEIGHT, WIDTH)
    with pytest.raises(BadData, match='some ids are no whole numbers.*m.npy'):
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
    truth = np.linspace(1, 4, 16).reshape(4, 4)
    maps.add_depth(DepthMap(truth / 10, 1.1 * truth if metres else None, None, labels), truth)
    return {'model': 'm', 'mode': 'auto', 'split': 'test', 'seed': 0, 'scenes': 1,
            'categories': {}, 'held_out': {}, 'overall': {
                'questions': 1, 'scenes': 1, 'score': 0.0, 'interval': (0.0, 1.0), 'majority': 0.0,
                'blind': None, 'draws_depth': 0.0, 'draws_segmentation': 0.0},
            'maps': maps.summary(), 'failures': 0, 'hardware': 'CPU', 'precision': 'float32',
            'seconds_per_question': 1.0}


@pytest.mark.parametrize('metres, said', [
    (False, '  no alignment: the model has no metres'),
    (True, '  no alignment: AbsRel 0.1000, delta1 1.0000, SILog 0.0000')])
def test_maps_are_shown_with_and_without_alignment(
        metres: bool, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    results = suite_results(metres)
    show(results, Console(width=200))
    text = capsys.readouterr().out
    assert f'maps of 1 scenes: segmentation mIoU 0.2500; depth,\n{said}\n' in text
    assert '  scale and shift fitted: AbsRel 0.0000, delta1 1.0000, SILog 0.0000\n' in text
    assert 'as for ALL, from scenes drawn again\n' in text
    assert json.loads(json.dumps(results))['maps']['frames'] == 1
