"""Benchmark adapters on small tables in VLMEvalKit's layout, with a real (tiny) engine."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import pytest
from PIL import Image
from support.tiny import tiny_engine

from cooper_ros.errors import BadData, BadOption
from cooper_ros.evaluation.benchmarks.adapters import Mmvp, QSpatial, SiBench, make_adapter
from cooper_ros.evaluation.benchmarks.run import Record, lines, run, summary
from cooper_ros.evaluation.benchmarks.table import Row, Table
from cooper_ros.scoring.scores import wilson

PIXELS = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return base64.b64encode(buffer.getvalue()).decode()


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, columns, delimiter='\t')
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(**cells: str) -> Row:
    return Row('1', {name.replace('_2', '-2'): text for name, text in cells.items()})


def test_pictures_inside_repeated_beside_and_several(tmp_path: Path) -> None:
    (tmp_path / 'images' / 'sub').mkdir(parents=True)
    Image.fromarray(PIXELS[::-1]).save(tmp_path / 'images' / 'sub' / 'a.png')
    path = write(tmp_path / 't.tsv', [
        {'index': '0', 'question': 'two\nlines', 'image': encoded(PIXELS), 'image_path': ''},
        {'index': '1', 'question': 'q', 'image': '0', 'image_path': ''},
        {'index': '2', 'question': 'q', 'image': '', 'image_path': 'sub/a.png , sub/a.png'},
        {'index': '3', 'question': 'q', 'image': '', 'image_path': "['sub/a.png']"},
        {'index': '4', 'question': 'q', 'image': '', 'image_path': 'gone.png'},
        {'index': '5', 'question': 'q', 'image': 'bm90IGEgcGljdHVyZQ==' * 9, 'image_path': ''}])
    table = Table(path, ['question'])
    assert table.rows[0].get('question') == 'two\nlines'
    for index in (0, 1):
        assert np.array_equal(table.pictures(table.rows[index])[0], PIXELS)
    assert len(table.pictures(table.rows[2])) == 2
    assert np.array_equal(table.pictures(table.rows[3])[0], PIXELS[::-1])
    with pytest.raises(BadData, match='gone.png.*--images'):
        table.pictures(table.rows[4])
    with pytest.raises(BadData, match='row 5'):
        table.pictures(table.rows[5])


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / 't.tsv', [{'index': '0', 'question': 'q'}])
    with pytest.raises(BadData, match='lacks columns; got answer, type'):
        Table(path, SiBench().columns)


@pytest.mark.parametrize('kind, answer, response, wanted', [
    ('MCQ', 'B', '<answer>\\boxed{B}</answer>', 1.0), ('MCQ', 'B', '(A)', 0.0),
    ('MCQ', 'B', 'I see nothing', None), ('MCQ', 'B', '<answer>to the left</answer>', 1.0),
    ('YN', 'Yes', '<answer>yes</answer>', 1.0), ('YN', 'No', 'Yes.', 0.0), ('YN', 'No', '?', None),
    ('Number', '10', '<answer>12.4</answer>', 0.6), ('Number', '10', '15', 0.0),
    ('Number_Int', '3', 'three', 1.0), ('Number_Int', '3', '3.5', 0.0),
    ('Number', '10', 'far', None)])
def test_sibench_scores(kind: str, answer: str, response: str, wanted: float | None) -> None:
    found = SiBench().scores(row(type=kind, answer=answer, question='Where? A. right\nB. left'),
                             response)
    assert (None if found is None else found['score']) == wanted


def test_sibench_prompts_add_a_line_for_some_sources_only() -> None:
    adapter = SiBench()
    plain = adapter.prompt(row(question='q?', type='MCQ', data_source='other'))
    assert plain == 'q?'
    asked = [adapter.prompt(row(question='q?', type=kind, data_source='BLINK')).splitlines()
             for kind in ('MCQ', 'YN', 'Number', 'Number_Int')]
    assert all(lines[0] == 'q?' and len(lines) == 2 for lines in asked)
    assert asked[2] == asked[3] and len({lines[1] for lines in asked}) == 3
    with pytest.raises(BadData, match='unknown type'):
        adapter.scores(row(type='Essay', answer='x'), 'x')


def test_mmvp_lists_its_options_and_reads_them() -> None:
    question = row(question='Which way?', A='left', B='right', C='', answer='B')
    assert Mmvp().prompt(question).splitlines()[1:4] == ['Options:', 'A. left', 'B. right']
    assert Mmvp().truth(question) == 'B. right'
    for response, wanted in (('B', 1.0), ('it faces right', 1.0), ('left', 0.0)):
        assert Mmvp().scores(question, response) == {'score': wanted}
    assert Mmvp().scores(question, 'left or right') is None


@pytest.mark.parametrize('answer', ['B', 'b', '(B)', '(b)', 'B.', 'B)', 'B:', '(B).'])
def test_mmvp_reads_the_letter_of_a_truth(answer: str) -> None:
    question = row(question='Which way?', A='left', B='right', answer=answer)
    Mmvp().check(question)
    assert Mmvp().truth(question) == 'B. right'
    assert Mmvp().scores(question, 'B') == {'score': 1.0}
    assert Mmvp().scores(question, 'A') == {'score': 0.0}


@pytest.mark.parametrize('response, two, one_five', [
    ('\\boxed{1.2 m}', 1, 1), ('1.9 meters', 1, 0), ('\\boxed{49 cm}', 0, 0), ('40 inches', 1, 1),
    ('so \\scalar{100} \\distance_unit{centimeters}', 1, 1),
    ('the table is 2 m, hence \\scalar{10} \\distance_unit{mm}', 0, 0), ('0 m', 0, 0)])
def test_qspatial_counts_factors(response: str, two: int, one_five: int) -> None:
    for truth in ({'answer_value': '1', 'answer_unit': 'meter'}, {'answer': "(100, 'cm')"}):
        assert QSpatial().scores(row(question='q', **truth), response) == {
            'delta_2': two, 'delta_1_point_5': one_five}


def test_qspatial_needs_a_unit_and_takes_the_benchmarks_texts(tmp_path: Path) -> None:
    assert QSpatial().scores(row(answer_value='1', answer_unit='m'), 'about 3') is None
    (tmp_path / 'system_prompt.txt').write_text('SYSTEM')
    (tmp_path / 'spatial_prompt_single.txt').write_text('Q: {{ question }}!')
    assert make_adapter('qspatial', tmp_path).prompt(row(question='how far')) == (
        'SYSTEM\nQ: how far!')
    with pytest.raises(BadData):
        make_adapter('qspatial', tmp_path / 'nowhere')
    with pytest.raises(BadOption):
        make_adapter('mmbench')


def si_table(tmp_path: Path, count: int = 4) -> Table:
    return Table(write(tmp_path / 'si.tsv', [
        {'index': str(number), 'question': f'q{number}?', 'answer': 'Yes', 'type': 'YN',
         'category': 'height' if number % 2 else 'occlusion', 'image': encoded(PIXELS)}
        for number in range(count)]), SiBench().columns)


def test_a_run_asks_keeps_and_goes_on(tmp_path: Path) -> None:
    table, out, engine = si_table(tmp_path), tmp_path / 'out.jsonl', tiny_engine()
    first = run(engine, SiBench(), table, mode='direct', limit=2, out=out)
    with open(out, 'a') as file:
        file.write('{"index": "2", "resp')  # killed while writing
    kept = out.read_text().splitlines()[:2]
    everything = run(engine, SiBench(), table, mode='direct', out=out)
    assert [record.index for record in everything] == ['0', '1', '2', '3']
    assert everything[:2] == first and out.read_text().splitlines()[:2] == kept
    assert all(record.response and record.decided == 'unread' for record in everything)
    with pytest.raises(BadOption, match='another run'):
        run(engine, SiBench(), table, mode='text', out=out)


def test_kept_responses_are_scored_by_the_rules_of_today(tmp_path: Path) -> None:
    table, out = si_table(tmp_path, 1), tmp_path / 'out.jsonl'
    record = run(tiny_engine(), SiBench(), table, mode='direct', out=out)[0]
    line = {**json.loads(out.read_text()), 'response': '<answer>Yes</answer>'}
    out.write_text(json.dumps(line) + '\n')
    again = run(tiny_engine(), SiBench(), table, mode='direct', out=out)[0]
    assert record.scores == {} and again.scores == {'score': 1.0} and again.decided == 'rules'


def record(score: float | None, category: str, decided: str = 'rules',
           picture: str = '') -> Record:
    return Record('0', 'p', 't', 'r', {} if score is None else {'score': score}, decided,
                  ('depth',), {'category': category}, 1.0, picture=picture)


def test_a_summary_counts_unread_and_failed_as_wrong() -> None:
    found = summary([record(1.0, 'a'), record(0.5, 'a'), record(None, 'b', 'unread'),
                     record(None, 'b', 'failed'), record(1.0, 'b', 'judge')])
    assert found['overall']['score']['mean'] == 0.5 and found['draws'] == 1.0
    low, high = found['overall']['score']['interval']
    assert 0.1 < low < 0.5 < high < 0.9
    assert found['groups']['category']['a']['score']['mean'] == 0.75
    assert found['groups']['category']['b']['score']['mean'] == pytest.approx(1 / 3)
    assert found['decided'] == {'rules': 2, 'judge': 1, 'unread': 1, 'judge_failed': 0,
                                'failed': 1}
    assert any('category a (n=2) score 75.00' in line for line in lines('x', found))
    with pytest.raises(BadData):
        summary([])


def test_questions_about_one_picture_do_not_narrow_an_interval() -> None:
    """Ten questions about each of ten pictures, right or wrong together, say what ten do."""
    rows = [record(float(number % 2), 'a', picture=f'p{number}') for number in range(10)]
    found = summary(rows * 10)
    assert (found['questions'], found['pictures']) == (100, 10)
    assert found['overall']['score']['mean'] == 0.5
    assert found['overall']['score']['interval'] == pytest.approx((0.2, 0.8), abs=0.03)
    assert found['groups']['category']['a'] == found['overall']
    assert 'x: 100 questions about 10 pictures, decided by rules 100' in lines('x', found)[0]
    each = summary([record(float(number % 2), 'a', picture=f'p{number}') for number in range(100)])
    assert each['overall']['score']['interval'] == wilson(0.5, 100)


def test_rows_know_which_pictures_they_share(tmp_path: Path) -> None:
    other, picture = encoded(PIXELS[::-1]), encoded(PIXELS)
    cells = [(picture, ''), ('0', ''), (f'data:image/png;base64,{picture}', ''), (other, ''),
             (f'["{picture}", "{other}"]', ''), (f'["{other}", "{picture}"]', ''), ('', 'a.png'),
             ('', './a.png'), ('', 'b.png'), ('', ''), ('', '')]
    path = write(tmp_path / 't.tsv', [
        {'index': str(number), 'question': 'q', 'image': image, 'image_path': name}
        for number, (image, name) in enumerate(cells)])
    table = Table(path, ['question'])
    names = [table.picture_name(row) for row in table.rows]
    assert [names.index(name) for name in names] == [0, 0, 0, 3, 4, 4, 6, 6, 8, 9, 10]


def test_records_of_a_run_name_their_picture(tmp_path: Path) -> None:
    table, out = si_table(tmp_path), tmp_path / 'out.jsonl'
    records = run(tiny_engine(), SiBench(), table, mode='direct', out=out)
    assert {record.picture for record in records} == {table.picture_name(table.rows[0])}
    assert summary(records)['pictures'] == 1
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    out.write_text(''.join(json.dumps({key: value for key, value in line.items()
                                       if key != 'picture'}) + '\n' for line in kept))
    assert run(tiny_engine(), SiBench(), table, mode='direct', out=out) == records
