"""What models write around an answer: lines, explanations, markup, other numbers."""

from __future__ import annotations

import doctest

import pytest

from cooper_ros.scoring import letters, markup, quantities, stated, yes_no
from cooper_ros.scoring.answer_rules import (
    doubtful,
    find_letter,
    find_quantity,
    find_yes_no,
    kind_of,
    read_answer,
    score,
)
from cooper_ros.scoring.judge import Claim
from cooper_ros.scoring.numerals import in_digits
from cooper_ros.training.checker import RuleChecker

THINGS = {'a': 'the red box', 'b': 'the blue can'}
SIDES = {'a': 'left', 'b': 'left front', 'c': 'right', 'd': 'behind'}
LENGTHS = {'a': '1 m', 'b': '2.5 m', 'c': '4 m'}
CHAIRS, FAR = 'How many chairs are there?', 'How far apart are they, in meters?'


@pytest.mark.parametrize('module', [letters, markup, quantities, stated, yes_no])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted and not outcome.failed


# ---- letters


@pytest.mark.parametrize('text', [
    'A\n\nThe blue can is farther away.', '**A**\n\nThe blue can is farther.',
    'A (the blue can is farther)', 'A because the blue can is farther',
    'Thus, A is the correct answer, not the blue can.', 'A — the blue can is closer.',
    'A is the right option; the blue can is too near.', 'A\nB is nearer.',
    '**Answer:** A\n\nThe blue can is near.', 'I would choose A, as the blue can is nearer.',
    'The correct choice is A since the blue can is near.',
    'Option A is correct. Option B is wrong.', '{"answer": "A"}',
    'Looking at it, the blue can is in front.\n\n**A. the red box**',
    'The red box.\n\nThe blue can is closer.',
    'The answer is the red box, because the blue can is nearer.',
    'The red box is the answer; the blue can is near.',
    'The blue can is at 1 m.\nThe red box is at 2 m.\nTherefore, the red box is farther.',
    'Option A is nearer than the blue can, so the answer is A.', r'\(A\)', r'\text{A}', '> A',
    'Correct option: A', 'Final Answer: **A**', '### Answer\nA', '1. One is far.\n\nHence A.'])
def test_a_letter_is_read_before_what_explains_it(text: str) -> None:
    assert find_letter(text, THINGS) == 'a'


@pytest.mark.parametrize('text, letter', [
    ('A blue can is farther', 'b'), ('the answer is a blue can', 'b'), ('Answer: a blue can', 'b'),
    ('A (small) blue can is farther', 'b'), ('B, a closer look shows the red box is near', 'b'),
    ('B\n\nA red box is nearer.', 'b'), ('B the blue can is farther than the red box', 'b'),
    ('A. the red box\nB. the blue can', None), ('A\nB', None),
    ('The answer is the red box or the blue can', None), ('The red box or the blue can', None),
    ('The red box, the blue can. Therefore it is farther than the blue can.', None)])
def test_articles_lists_and_two_names_pick_no_letter(text: str, letter: str | None) -> None:
    assert find_letter(text, THINGS) == letter


@pytest.mark.parametrize('options, text, letter', [
    (SIDES, 'It is to the left front of the sofa.', 'b'), (SIDES, 'left or left front', None),
    (SIDES, 'A. 3 m\nB. 2 m\nC. 1 m\nD. 4 m\n\nC', 'c'),
    (SIDES, 'A. 3 m\nB. 2 m\nC. 1 m\nD. 4 m\nC. right', 'c'),
    (LENGTHS, '2.5 meters\n\nThe chair is about 1 m.', 'b'),
    (LENGTHS, 'The answer is 2.5 m, as a chair is 1 m', 'b'),
    ({'a': 'Yes', 'b': 'No'}, 'Yes, there is no lid.', 'a'),
    ({'a': '2', 'b': '3'}, '3\n\nThere are 2 red ones and 1 blue one', 'b')])
def test_options_are_read_by_what_is_stated(options: dict[str, str], text: str,
                                            letter: str | None) -> None:
    assert find_letter(text, options) == letter


# ---- yes or no


@pytest.mark.parametrize('text, said', [
    ('Yes\nThe door is not closed.', 'yes'), ('Yes (it is not closed)', 'yes'),
    ('Yes — it is not closed', 'yes'), ('Yes - it is not closed', 'yes'),
    ('No (the true distance is 3 m)', 'no'), ('Answer: Yes, it is not closed.', 'yes'),
    ('**Yes** it is not closed', 'yes'), ('**Answer:** Yes\nNot closed.', 'yes'),
    ('The final answer is: No. It is true that ...', 'no'), (r'\text{Yes}, it is not', 'yes'),
    ('It is not closed.\n\nYes', 'yes'), ('Based on this, the answer is yes; it is not.', 'yes'),
    ('### No\nIt is true.', 'no'), ('- Yes, no lid', 'yes'),
    ('I cannot tell the correct answer.', None), ('Yes/No', None),
    ('No one is there, true.', None), ('That is not true.', None)])
def test_yes_and_no_end_at_lines_brackets_and_dashes(text: str, said: str | None) -> None:
    assert find_yes_no(text) == said


# ---- which number of several


@pytest.mark.parametrize('text', [
    'There are 3 chairs and 2 tables.', 'A total of 3 chairs (2 on the left, 1 on the right).',
    'I see three chairs: one red, one blue, and one green.', '3 (three) chairs and 2 tables',
    'There are three (3) chairs and 2 tables.', '3\n\nThere are 2 on the left, 1 on the right.',
    'I see three chairs; the nearest is 2 m away.', 'There are 3 chairs within 2 meters.',
    'There are **3** chairs in image 1.', 'There are 3 chairs on the 2nd floor.',
    'In total, there are 3 chairs: 2 red and 1 blue.', 'Total: 3 (2 red, 1 blue)',
    '2 on the left and 1 on the right, so 3 in total', 'The answer is 3. There are also 2 tables.',
    '3 chairs.\n\n- 2 at the table\n- 1 at the wall', '- Chairs: 3\n- Tables: 2',
    'The number of chairs is 3, with 2 tables.', 'Answer: **3** (2 red ones, 1 blue one)',
    '2 + 1 = 3', 'There are 2 chairs on the left, and 1 on the right: 3.',
    '2 at the table and 1 at the wall.\nTherefore, there are 3 chairs.', 'Answer: 2 + 1 = 3 in all'
])
def test_the_count_that_a_text_states(text: str) -> None:
    assert score(text, '3', CHAIRS) == 1 and not doubtful(text, '3', CHAIRS)
    assert RuleChecker().scores([Claim(CHAIRS, '3', text)]) == [1]


@pytest.mark.parametrize('question, text, count', [
    ('How many red chairs are there?', '2 red chairs and 3 blue chairs', 2),
    ('How many red chairs are there?', 'There are 5 chairs, of which 2 are red.', 2),
    ('How many people do you see?', '4 people, 2 men and 2 women', 4),
    ('How many knives are there?', 'I see 2 knives and 3 forks', 2),
    ('How many boxes does he hold?', '1 box, 3 cans', 1),
    ('How many objects are on the table?', '3 objects on the table: 2 cups, 1 plate', 3),
    ('Count the chairs.', '3 chairs, 2 tables', 3),
    ('How many steps?', 'It is 2.5 m, so 5 steps', 5), ('How many?', '3 chairs and 2 tables', 2),
    ('', '3 chairs and 2 tables', 2)])
def test_counts_of_what_the_question_asks_for(question: str, text: str, count: int) -> None:
    reading = read_answer(text, str(count), question)
    assert reading is not None and reading.quantity.value == count


@pytest.mark.parametrize('text', [
    '2.5 meters\n\nExplanation: chair height about 1 meter.',
    '**2.5 meters**\n\n1 m is the height of the chair', 'Answer: 2.5 m (the chair is 1 m)',
    'The chair is 1 m high.\n\n**Answer: 2.5 m**', 'The result is 2.5 m, for 1 m chairs',
    'The answer is: about 1.5 m + 1 m = 2.5 m', '1.5 m + 1 m = 2.5 m', '1.25 m × 2 ≈ 2.5 m.',
    'The chair is 1 m. It is 2.5 times that, so 2.5 m', '2.5 m (8.2 ft)', '2.5 m, or 250 cm'])
def test_the_length_that_a_text_states(text: str) -> None:
    for asked in (FAR, ''):
        assert score(text, '2.5 m', asked) == 1 and not doubtful(text, '2.5 m', asked)
        assert RuleChecker(tolerance=0.01).scores([Claim(asked, '2.5 m', text)]) == [1]


def test_a_bare_number_on_a_line_is_before_lengths_in_its_explanation() -> None:
    assert score('2.5\n\nThe chair is 1 m tall.', '2.5', FAR) == 1


@pytest.mark.parametrize('text, last', [
    ('The chair is 2.5 m. The table is 1 m.', 1), ('2 or 3 chairs', 3), ('Red: 2, blue: 3', 3),
    ('The answer is 2 or 3', 3), ('3 chairs on the left and 2 chairs on the right', 2),
    ('There are no chairs, 2 tables and 4 lamps', 4)])
def test_a_number_of_several_is_a_guess_unless_it_stands_in_a_box(text: str, last: int) -> None:
    """Without a judge the last one counts, as ever."""
    reading = read_answer(text, '3', CHAIRS)
    assert reading is not None and reading.quantity.value == last
    assert doubtful(text, '3', CHAIRS)
    assert not doubtful(f'<answer>{text}</answer>', '3', CHAIRS)
    assert not doubtful(rf'\boxed{{{text}}}', '3', CHAIRS)


# ---- markup, dashes, powers


@pytest.mark.parametrize('text, value, unit', [
    ('1.5-meter', 1.5, 'm'), ('a two-meter gap', 2, 'm'), ('**1.5**-meter gap', 1.5, 'm'),
    ('3 **meters**', 3, 'm'), ('**3** m', 3, 'm'), ('3 *meters*', 3, 'm'), ('__3 m__', 3, 'm'),
    ('`3` m', 3, 'm'), ('2.5 (meters)', 2.5, 'm'), ('2.5 [m]', 2.5, 'm'),
    ('2.5 (in meters)', 2.5, 'm'), ('a 6-foot-tall man', 6, 'ft'), ('3-m to 4-m', 3.5, 'm'),
    ('1 × 10^3 mm', 1000, 'mm'), ('1.5 x 10^3 mm', 1500, 'mm'), ('1,5 × 10^3 mm', 1500, 'mm'),
    (r'$1.5\times10^{-3}$ m', 0.0015, 'm'), ('2 · 10² cm', 200, 'cm'), ('10^3 mm', 1000, 'mm'),
    ('−1.5 m', -1.5, 'm'), ('1.5\u2011meter', 1.5, 'm'), ('2-3 meters', 2.5, 'm'),
    ('1.5~2 m', 1.75, 'm'), ('about ~2 m', 2, 'm'), ('5\'-9"', 5.75, 'ft'),
    ('6 ft. 0 in.', 6, 'ft'),
    (r'\(2.5\,\text{m}\)', 2.5, 'm'), (r'\(2.5\) m', 2.5, 'm'),
    (r'\[2.5 \quad \mathrm{m}\]', 2.5, 'm'), ('2 x 3 m', 3, 'm'), ('2 * 3 = 6', 6, '')])
def test_units_behind_markup_and_dashes(text: str, value: float, unit: str) -> None:
    found = find_quantity(text)
    assert found is not None and (found.value, found.unit) == (pytest.approx(value), unit)


def test_an_inch_is_no_centimetre() -> None:
    assert score('about a 30-inch gap', '30', 'how far apart are they, in cm?') == 0
    assert score('about a 30-inch gap', '76.2', 'how far apart are they, in cm?') == 1


@pytest.mark.parametrize('text', ['on 2024-05-06', 'a 3-in-1 tool', 'box_2', '2-3 meters', 'B-2'])
def test_dashes_of_dates_names_and_ranges_stay(text: str) -> None:
    assert in_digits(text) == text


@pytest.mark.parametrize('text', [
    '**' * 9_000, '1*' * 9_000, '1~' * 9_000, '_' * 20_000, '`' * 20_000, 'answer is ' * 3_000,
    'answer (' * 3_000, 'total of 1 ' * 3_000, 'So.\n' * 5_000, 'so ' * 6_000, 'A\n' * 5_000,
    'A' + ' ' * 20_000 + 'x', 'A' + '(' * 20_000, '1 red chair ' * 2_000, '10^' * 6_000,
    '1x10' * 5_000, 'yes no ' * 4_000, 'no answer: ' * 3_000, '1 ' + 'x' * 20_000,
    '1 = ' * 5_000, '1\n' * 9_000, '-' * 20_000 + '1', 'yes' + '-' * 20_000 + 'no',
    'approx' * 40 + ' x 5', '1 m (' + 'approx' * 40 + ' x 5 m', 'therefore 1 ' * 3_000,
    '3 (three) ' * 3_000, 'A. x\n' * 4_000, 'number of a b c ' * 2_000])
def test_long_texts_are_read_in_no_time(text: str) -> None:
    for kind, truth in (('mcq', 'B'), ('yes_no', 'yes'), ('number', '77'), ('number_int', '77')):
        question = f'{CHAIRS} A. 76 B. 77' if kind == 'mcq' else CHAIRS
        assert score(text, truth, question, kind) in (0, 1)
    assert kind_of(text)
