"""Benchmarks with bad rows and bad judges: these are counted and said, and end nothing else."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest
from PIL import Image
from support.tiny import tiny_engine
from test_benchmarks_tables import PIXELS, encoded, row, si_table, write
from test_rewards import Server

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadData, BadOption
from cooper_ros.evaluation.benchmarks.adapters import Adapter, Mmvp, QSpatial, SiBench
from cooper_ros.evaluation.benchmarks.run import lines, run, summary
from cooper_ros.evaluation.benchmarks.table import Table
from cooper_ros.scoring.judge import Judge, JudgeSettings

GOOD = {'question': 'q?', 'answer': 'Yes', 'type': 'YN', 'image': encoded(PIXELS),
        'image_path': ''}


def engine() -> CooperEngine:
    return tiny_engine(0, CooperConfig(max_turn_tokens=4))


def table(folder: Path, *changes: dict[str, Any]) -> Table:
    return Table(write(folder / 't.tsv', [{'index': f'r{number}', **GOOD, **change}
                                          for number, change in enumerate(changes)]),
                 SiBench().columns)


# ---- rows


def floating() -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(buffer, 'TIFF')
    return base64.b64encode(buffer.getvalue()).decode()


def test_bad_rows_are_counted_and_harm_no_other(tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    beside = {'image': '', 'image_path': 'gone.png'}
    asked = table(tmp_path, {}, {'image': '%%%%' * 50}, {'type': 'Essay'}, beside,
                  {'image': floating()}, {'image': '', 'image_path': 'x' * 4000}, {})
    out = tmp_path / 'out.jsonl'
    records = run(engine(), SiBench(), asked, mode='direct', out=out)
    assert [record.decided == 'failed' for record in records] == [False, *[True] * 5, False]
    assert all(record.response for record in (records[0], records[-1]))
    said = capsys.readouterr().err
    assert '3 bad rows of 7, the first says: BAD_DATA: unknown type of question' in said
    found = summary(records)
    assert found['decided']['failed'] == 5 and list(found['failures']) == [
        'r1', 'r2', 'r3', 'r4', 'r5']
    text = '\n'.join(lines('sibench', found))
    assert 'failed, counted as wrong: 5' in text and 'r3: BAD_DATA: a picture is missing' in text
    Image.fromarray(PIXELS).save(tmp_path / 'gone.png')
    again = run(engine(), SiBench(), asked, mode='direct', out=out)
    assert again[3].response and [one for one in again if one.response][::2] == [
        records[0], records[-1]]


def test_a_table_of_bad_rows_is_refused_before_the_first_question(tmp_path: Path) -> None:
    asked = table(tmp_path, {'type': 'Essay'}, {'image': ''})
    with pytest.raises(BadData, match='no row can be asked; got 2 bad rows of 2, .*row r0: Essay'):
        run(engine(), SiBench(), asked)


def test_only_the_first_failures_are_listed() -> None:
    found = {'questions': 7, 'pictures': 7, 'draws': 0.0, 'overall': {'questions': 7},
             'decided': dict.fromkeys(('rules', 'judge', 'unread', 'judge_failed', 'failed'), 0),
             'groups': {}, 'failures': {str(number): 'why' for number in range(7)}}
    assert lines('x', found)[-2:] == ['    row 4: why',
                                      '    and 2 more, all of them in the file of --json']


@pytest.mark.parametrize('adapter, cells, words', [
    (SiBench(), {'type': 'Essay', 'answer': 'x'}, 'unknown type'),
    (SiBench(), {'type': 'MCQ', 'answer': ''}, "no answer of type MCQ; got row 1: ''"),
    (SiBench(), {'type': 'Number', 'answer': 'far'}, "no answer of type Number; got row 1: 'far'"),
    (Mmvp(), {'A': 'x', 'B': 'y', 'answer': ''}, 'none of the options; .*allowed: A, B'),
    (Mmvp(), {'A': 'x', 'B': 'y', 'answer': 'C'}, 'none of the options'),
    (QSpatial(), {'answer_value': '3'}, 'the truth is no length')])
def test_truths_that_nothing_can_match_are_refused(adapter: Adapter, cells: dict[str, str],
                                                   words: str) -> None:
    with pytest.raises(BadData, match=words):
        adapter.check(row(question='q', **cells))


@pytest.mark.parametrize('cell, count', [
    ('data:image/png;base64,{}', 1), ('data:image/png;base64,{0}, data:image/png;base64,{0}', 2),
    ("['data:image/png;base64,{0}', '{0}']", 2)])
def test_pictures_as_data_urls(tmp_path: Path, cell: str, count: int) -> None:
    found = table(tmp_path, {'image': cell.format(encoded(PIXELS))})
    pictures = found.pictures(found.rows[0])
    assert len(pictures) == count and all(np.array_equal(PIXELS, one) for one in pictures)


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / 't.tsv'
    path.write_text('question\tanswer\ttype\nq\tA\tMCQ\n', encoding='utf-8-sig')
    assert Table(path, SiBench().columns).rows[0].get('question') == 'q'


def test_rows_of_the_same_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match='same index; got .*t.tsv: 7; allowed: every index once'):
        table(tmp_path, {'index': '7'}, {}, {'index': '7'})


def test_a_record_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    out = tmp_path / 'out.jsonl'
    out.write_bytes(b'\xff\xfe')
    with pytest.raises(BadOption, match='holds no text; got .*out.jsonl.*another --out'):
        run(engine(), SiBench(), table(tmp_path, {}), out=out)


# ---- names, quotes and turned pictures


def test_blank_names_do_not_collide(tmp_path: Path) -> None:
    found = table(tmp_path, {'index': '1'}, {'index': ''}, {'index': ' '}, {'index': '2'})
    assert [one.index for one in found.rows] == ['1', '#2', '#3', '2']
    found = table(tmp_path, {'index': '#2'}, {'index': ''})
    assert [one.index for one in found.rows] == ['#2', '##2']
    path = write(tmp_path / 't.tsv', [GOOD, GOOD])
    assert [one.index for one in Table(path, SiBench().columns).rows] == ['0', '1']


def questions(folder: Path, *lines: str, head: str = 'index\tquestion\tA\tanswer') -> list[str]:
    path = folder / 'q.tsv'
    path.write_text('\n'.join([head, *lines]))
    return [one.get('question') for one in Table(path, ['question']).rows]


@pytest.mark.parametrize('line, question', [
    ('1\t"Which is closer?\tx\tA', '"Which is closer?'),
    ('1\tWhich?\t"x\tA', 'Which?'), ('1\tWhich?\tx\t"A', 'Which?'),
    ('1\t"Which\tx"\tA', '"Which'), ('1\t"say ""x""\t"x\tA', '"say ""x""'),
    ('1\t"so"\t"x\tA', 'so'), ('1\t"say ""x"""\t"x\tA', 'say "x"'),
    ('1\ta 5" box\tx\tA', 'a 5" box')])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_a_stray_quote_swallows_nothing(tmp_path: Path, line: str, question: str, end: str
                                        ) -> None:
    rest = ['2\tWhere?\tx\tA', '3\tWhen "b"?\t"x"\tA']
    path = tmp_path / 'q.tsv'
    for text in ([line, *rest], [*rest, line], [*rest, line, rest[0]], [line]):
        text = [f'{number}{one[one.index(chr(9)):]}' for number, one in enumerate(text)]
        path.write_text(end.join(['index\tquestion\tA\tanswer', *text]), newline='')
        rows = Table(path, ['question']).rows
        assert [one.index for one in rows] == [str(number) for number in range(len(text))]
        assert sorted(one.get('question') for one in rows) == sorted(
            [question, *['Where?', 'When "b"?', 'Where?'][:len(text) - 1]])


@pytest.mark.parametrize('cells', [
    {'question': 'two\nlines', 'A': 'x', 'answer': 'A'},
    {'index': '1', 'question': 'two\nlines', 'A': 'x', 'answer': 'A'},
    {'index': '1', 'A': 'x', 'answer': 'A', 'question': 'two\n\nlines, "b"\n'},
    {'index': '1', 'A': 'x\ny\n', 'question': 'a\tb\nc\td', 'answer': 'A\n'}])
def test_cells_of_several_lines_stay_whole(tmp_path: Path, cells: dict[str, str]) -> None:
    rows = [{**cells, 'index': str(number)} if 'index' in cells else cells for number in range(3)]
    found = Table(write(tmp_path / 't.tsv', rows), ['question']).rows
    assert [one.cells for one in found] == rows


@pytest.mark.parametrize('lines, number', [
    (['1\tq\tx\tA', '2\t"two', '3\tq\tx\tA'], 3), (['1\t"two', 'lines\tx\tA'], 2),
    (['1\tq\tx\t"A', 'more', '2\tq\tx\tA'], 2),
    (['0\t"two', 'lines"\tx\tA', '1\t"q\tx\tA', '2\t"two', 'lines"\tx\tA'], 4)])
def test_a_quote_that_could_hide_rows_is_refused(tmp_path: Path, lines: list[str], number: int
                                                 ) -> None:
    with pytest.raises(BadData, match=f'quote in the table does not close; got .*q.tsv: line '
                                      f'{number}; allowed: "".*double the quote'):
        questions(tmp_path, *lines)


def test_a_header_with_a_stray_quote_hides_no_rows(tmp_path: Path) -> None:
    head = 'index\tquestion\t"A\tanswer'
    assert questions(tmp_path, '1\tq1\tx\tA', '2\tq2\tx\tA', head=head) == ['q1', 'q2']


def test_pictures_of_a_table_are_turned_upright(tmp_path: Path) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(buffer, 'PNG', exif=exif)
    (tmp_path / 'beside.png').write_bytes(buffer.getvalue())
    found = table(tmp_path, {'image': base64.b64encode(buffer.getvalue()).decode()},
                  {'image': '', 'image_path': 'beside.png'})
    for one in found.rows:
        assert np.array_equal(found.pictures(one)[0], np.rot90(PIXELS, -1))


# ---- judges


@pytest.fixture
def judge() -> Iterator[Callable[[Callable[[str], str]], tuple[Judge, Server]]]:
    """A judge that says what a function of the whole request says."""
    made = []

    def make(says: Callable[[str], str]) -> tuple[Judge, Server]:
        made.append(Server(lambda _, body: (200, says(str(body)))))
        return Judge(JudgeSettings(made[-1].url), lambda seconds: None), made[-1]
    yield make
    for entry in made:
        entry.server.shutdown()
        entry.server.server_close()


def test_a_judge_reads_what_rules_cannot(tmp_path: Path, judge: Callable) -> None:
    asked, out = si_table(tmp_path), tmp_path / 'out.jsonl'
    reader, _ = judge(lambda body: 'true' if 'plus' in body or 'q1?' in body else
                      'false' if 'q2?' in body else 'hm')
    found = summary(run(engine(), SiBench(), asked, mode='direct', out=out, judge=reader))
    assert found['decided'] == {'rules': 0, 'judge': 2, 'unread': 0, 'judge_failed': 2,
                                'failed': 0}
    assert found['overall']['score']['mean'] == 0.25
    assert 'judge 2, unread 0, judge_failed 2, failed 0' in lines('sibench', found)[0]
    reader, _ = judge(lambda body: 'true')
    again = run(engine(), SiBench(), asked, mode='direct', out=out, judge=reader)
    assert summary(again)['decided']['judge'] == 4
    assert len(out.read_text().splitlines()) == 4


@pytest.mark.parametrize('said, two, one_five', [
    ('1.1 m', 1, 1), ('1.8 m', 1, 0), ('The answer states 180 cm.', 1, 0), ('3 m', 0, 0),
    ('None.', 0, 0), ('3', 0, 0)])
def test_a_judge_reads_numbers_and_the_measures_stay_the_benchmarks(
        tmp_path: Path, judge: Callable, said: str, two: int, one_five: int) -> None:
    """Every measure is computed from what it read; a length without a unit is none."""
    reader, server = judge(lambda body: 'True' if 'plus' in body else said)
    path = write(tmp_path / 'q.tsv', [{'question': 'How wide?', 'answer_value': '1',
                                       'answer_unit': 'm', 'image': encoded(PIXELS)}])
    records = run(engine(), QSpatial(), Table(path, QSpatial().columns), mode='direct',
                  judge=reader)
    assert [record.decided for record in records] == ['judge']
    found = summary([*records, replace(records[0], decided='rules', scores={
        'delta_2': 1.0, 'delta_1_point_5': 0.0})])['overall']
    assert found['delta_2']['mean'] == (two + 1) / 2
    assert found['delta_1_point_5']['mean'] == one_five / 2
    assert 'Ground truth' not in str(server.asked[-1]) and '1 m' not in str(server.asked[-1])


def test_a_judge_reads_numbers_of_sibench_and_rules_over_the_rest(tmp_path: Path,
                                                                  judge: Callable) -> None:
    reader, _ = judge(lambda body: 'True' if 'plus' in body or 'Ground truth' in body else
                      'hm' if 'lost' in body else '12.4')
    asked = table(tmp_path, {}, {'type': 'Number', 'answer': '10'},
                  {'type': 'Number_Int', 'answer': '10'},
                  {'type': 'Number', 'answer': '10', 'question': 'lost?'})
    records = run(engine(), SiBench(), asked, mode='direct', judge=reader)
    assert [record.scores for record in records] == [
        {'score': 1.0}, {'score': pytest.approx(0.6)}, {'score': 0.0}, {}]
    assert [record.decided for record in records] == ['judge'] * 3 + ['judge_failed']


@pytest.mark.parametrize('adapter, cells, response, guess', [
    (SiBench(), {'type': 'Number_Int', 'answer': '5', 'question': 'How many chairs?'},
     '2 chairs on the left, 3 chairs on the right', 0.0),
    (SiBench(), {'type': 'Number', 'answer': '5'}, 'The gap is 5 m. A chair is 1 m.', 0.0),
    (QSpatial(), {'answer_value': '5', 'answer_unit': 'm'}, 'It is 5 m. A chair is 1 m.', 0.0),
    (SiBench(), {'type': 'Number_Int', 'answer': '2', 'question': 'How many chairs?'},
     'Red: 1, blue: 2', 1.0)])
def test_a_judge_says_which_of_several_numbers_is_meant(
        tmp_path: Path, judge: Callable, adapter: Adapter, cells: dict[str, str], response: str,
        guess: float) -> None:
    """Without one the rules take the last; in an answer block they ask nobody."""
    asked, out = table(tmp_path, cells), tmp_path / 'out.jsonl'
    run(engine(), adapter, asked, mode='direct', out=out)
    unit = ' m' * ('m.' in response)
    for said, block, decided in (('5' + unit, False, 'judge'), ('hm', False, 'judge_failed'),
                                 ('5' + unit, True, 'rules'), ('', False, 'rules')):
        line = {**json.loads(out.read_text()),
                'response': f'<answer>{response}</answer>' if block else response}
        out.write_text(json.dumps(line) + '\n')
        reader = judge(lambda body, said=said: 'True' if 'plus' in body else said)[0]
        reader = reader if said else None
        found = run(engine(), adapter, asked, mode='direct', out=out, judge=reader)
        right = float(cells.get('answer', '5') == '5')
        assert found[0].decided == decided
        assert next(iter(found[0].scores.values()), None) == {
            'judge': right, 'judge_failed': None, 'rules': guess}[decided]


def test_a_judge_that_is_not_there_is_noticed_before_the_first_question(
        tmp_path: Path, judge: Callable) -> None:
    reader, server = judge(lambda body: 'hm')
    out = tmp_path / 'out.jsonl'
    with pytest.raises(BadOption, match='does not judge; got qwen2.5-vl-72b at http.*--judge-url'):
        run(engine(), SiBench(), si_table(tmp_path), mode='direct', out=out, judge=reader)
    assert not out.exists() and len(server.asked) == 5


@pytest.mark.parametrize('gone', [True, False])
def test_no_verdict_at_all_is_an_error_only_where_the_judge_is_gone(
        tmp_path: Path, judge: Callable, gone: bool) -> None:
    easy: list[str] = []

    def says(body: str) -> str:
        if 'plus' not in body:
            return 'hm'
        easy.append(body)
        return 'hm' if gone and len(easy) > 1 else 'True'
    reader, out = judge(says)[0], tmp_path / 'out.jsonl'
    options = dict(mode='direct', limit=2, out=out, judge=reader)
    if gone:
        with pytest.raises(BadOption, match='does not judge'):
            run(engine(), SiBench(), si_table(tmp_path), **options)
    else:
        records = run(engine(), SiBench(), si_table(tmp_path), **options)
        assert [record.decided for record in records] == ['judge_failed'] * 2
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(line['response'] for line in kept) and len(kept) == 2


@pytest.mark.parametrize('url', ['foo', 'localhost:8000/v1', 'http://', 'ftp://x/v1', 'http://a b',
                                 'http://x:port/v1', 'http://[::1/v1', ''])
def test_addresses_are_checked(url: str) -> None:
    with pytest.raises(BadOption, match='no web address.*allowed: http://HOST:PORT/v1'):
        JudgeSettings(url)
