"""Answer rules: articles and letters, options that are numbers, numbers of every form."""

from __future__ import annotations

import doctest

import pytest

from cooper_ros.scoring import numerals, units
from cooper_ros.scoring.answer_rules import find_letter, find_quantity, kind_of, score
from cooper_ros.scoring.judge import Claim
from cooper_ros.training.checker import RuleChecker

BOXES = 'Which is nearer?\nA. a red box\nB. a blue can'
SLASHED = 'Which is nearer? A. a red box / B. a blue can'
COUNTS, LENGTHS = 'How many? A. 2 / B. 4', 'How far is it?\nA. 2 m\nB. 4 m'
IS_IT = 'Is it near? (a) yes (b) no'


@pytest.mark.parametrize('module', [numerals, units])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted and not outcome.failed


# ---- letters


@pytest.mark.parametrize('question', [BOXES, SLASHED])
@pytest.mark.parametrize('answer, right', [
    ('The answer is a blue can.', 'B'), ('Answer: a red box', 'A'), ('Answer: A blue can.', 'B'),
    ('The answer is a Blue Can', 'B'), ('the answer is a', 'A'), ('Answer: a.', 'A'),
    ('The answer is a because it is nearer than a blue can', 'A'), ('Answer: (b)', 'B'),
    ('the answer is b', 'B'), ('b.', 'B'), ('Option a looks nearer', 'A'), ('choice a', 'A'),
    ('Answer: a\nRed things look near.', 'A')])
def test_an_article_is_no_option(question: str, answer: str, right: str) -> None:
    assert [score(answer, truth, question) for truth in 'AB'] == [right == 'A', right == 'B']
    assert [score(answer, truth, question, 'mcq') for truth in ('a', 'b')] == [right == 'A',
                                                                              right == 'B']


def test_an_article_before_what_is_no_option_is_no_answer() -> None:
    options = {'a': 'red box', 'b': 'blue can'}
    assert find_letter('The answer is a green cup', options) is None
    assert find_letter('The answer is a green cup') is None


# ---- the options of the question come first


@pytest.mark.parametrize('truth, question, answer, wanted', [
    ('4', COUNTS, 'B', 1), ('4', COUNTS, 'A', 0), ('4', COUNTS, '4', 1), ('4', COUNTS, 'four', 1),
    ('4', COUNTS, 'I count two', 0), ('4', COUNTS, '2, 3 or 4', 0), ('four', COUNTS, 'B', 1),
    ('4 m', LENGTHS, 'B', 1), ('4 m', LENGTHS, 'A', 0), ('4 m', LENGTHS, '400 cm', 1),
    ('4 m', LENGTHS, '4', 1), ('4', LENGTHS, 'B', 1), ('4 m', LENGTHS, '4 cm', 0),
    ('Yes', IS_IT, '(a)', 1), ('Yes', IS_IT, '(b)', 0), ('Yes', IS_IT, 'Yes, it is.', 1),
    ('No', IS_IT, 'it is not', 1), ('No', IS_IT, 'I am not sure', 0), ('Yes, it is', IS_IT, 'a', 1)
])
def test_a_truth_that_is_an_option_is_met_by_its_letter_and_by_its_meaning(
        truth: str, question: str, answer: str, wanted: int) -> None:
    assert kind_of(truth, question) == 'mcq'
    assert score(answer, truth, question) == wanted
    assert RuleChecker().scores([Claim(question, truth, answer)]) == [wanted]


def test_a_truth_that_is_none_of_the_options_keeps_its_kind() -> None:
    assert [kind_of(truth, COUNTS) for truth in ('7', '4.5', 'no', 'many')] == [
        'number_int', 'number', 'yes_no', 'exact']


# ---- numbers of something


@pytest.mark.parametrize('truth, answer, wanted', [
    ('4 chairs', r'\boxed{4}', 1), ('4 chairs', 'four', 1), ('4 chairs', '4 wooden chairs', 1),
    ('4 chairs', '4 because I see them', 1), ('4 chairs', '4 if you count', 1),
    ('4 chairs', '4 objects', 1), ('4 chairs', 'There are 4.', 1),
    ('4 chairs', '4 in total', 1), ('4 chairs', '5 chairs', 0),
    ('4 chairs', '4 tables', 0), ('4 chairs', '4 m', 0), ('1 red ball', '1 red chair', 0),
    ('4 wooden chairs', 'four chairs', 1), ('two people', '2 persons', 1),
    ('45 degrees', '45', 1), ('45 degrees', '45°', 1), ('45°', '45 degrees', 1),
    ('45 degrees', r'$45^\circ$', 1), ('45 degrees', '90', 0), ('45 degrees', '45 deg', 1),
    ('2 m tall', '200 cm', 1), ('50%', '50 percent', 1), ('50 percent', r'50\%', 1),
    ('2 steps left', '2 steps right', 0), ('2 steps left', '2', 0),
    ('90 degrees clockwise', '90 degrees', 0)])
def test_a_number_with_a_noun_is_a_number(truth: str, answer: str, wanted: int) -> None:
    """A noun may be left out, but not be another one; a direction may not."""
    assert score(answer, truth) == wanted
    assert RuleChecker().scores([Claim('', truth, answer)]) == [wanted]


@pytest.mark.parametrize('truth, kind', [
    ('4 chairs', 'number_int'), ('45 degrees', 'number'), ('2.5 m away', 'number'),
    ('4 on the table', 'exact'), ('3-seater sofa', 'exact'), ('chair 4', 'exact'),
    ('1st floor', 'exact'), ('4 chairs and 2 tables', 'exact'), ("3 o'clock", 'exact')])
def test_kinds_of_numbers_with_words(truth: str, kind: str) -> None:
    assert kind_of(truth) == kind


# ---- numbers of every form


@pytest.mark.parametrize('text, value, unit', [
    ('1/2 m', 0.5, 'm'), ('1/2m', 0.5, 'm'), ('3 1/2 feet', 3.5, 'ft'), ('3-1/2 in', 3.5, 'in'),
    ('3 and 1/2 feet', 3.5, 'ft'), ('-1/2', -0.5, ''), ('1½ m', 1.5, 'm'), ('½ m', 0.5, 'm'),
    (r'\frac{1}{2} m', 0.5, 'm'), (r'1\frac{1}{2} \text{ m}', 1.5, 'm'), (r'$\dfrac34$', 0.75, ''),
    ('5 ft 9 1/2 in', 5 + 9.5 / 12, 'ft'), ('1/2 to 3/4 m', 0.625, 'm'),
    ('1 000 mm', 1000, 'mm'), ('about 2 500.5 mm', 2500.5, 'mm'), ('5 1 250 mm', 1250, 'mm'),
    ('between 1 and 3/2 m', 1.25, 'm'), ('between 1 1/2 and 2 m', 1.75, 'm'),
    ('1/2 of a meter', 0.5, 'm'),
    ('1,5 m', 1.5, 'm'), ('12,25 m', 12.25, 'm'), ('0,125 m', 0.125, 'm'), ('1,000', 1000, ''),
    ('1,000.5 m', 1000.5, 'm'), ('1.000,5 m', 1000.5, 'm'), ('1,234,567', 1234567, ''),
    ('1.75 ± 0,1 m', 1.75, 'm'), ('1.75 ± 1/2 m', 1.75, 'm'), ('1, 2 and 3', 3, ''),
    ('twenty five', 25, ''), ('twenty-five cm', 25, 'cm'), ('one hundred and five', 105, ''),
    ('a hundred cm', 100, 'cm'), ('two thousand three hundred', 2300, ''), ('two dozen', 24, ''),
    ('between a hundred and two hundred cm', 150, 'cm'), ('2 dozen', 24, ''),
    ('two and a half meters', 2.5, 'm'), ('2 meters and a half', 2.5, 'm'),
    ('half a meter', 0.5, 'm'), ('three quarters of a metre', 0.75, 'm'),
    ('two meters plus or minus ten centimeters', 2, 'm'), ('2 half-open doors', 2, '')])
def test_numbers_of_every_form(text: str, value: float, unit: str) -> None:
    found = find_quantity(text)
    assert found is not None and (found.value, found.unit) == (pytest.approx(value), unit)


@pytest.mark.parametrize('text', ['1/0 m', '3/4/2025', '1.5/2 m', '1,2345 m', '1.2.3', '3 5/2 m',
                                  r'\frac{a}{2} m', '3/4b', 'the twenty third', '1,000,5 m'])
def test_what_could_be_two_things_is_no_number(text: str) -> None:
    assert find_quantity(text) is None


@pytest.mark.parametrize('text, count', [
    ('I cannot see a red one', None), ('the left one', None), ('this one', None),
    ('each one', None), ('no one', None), ('the bigger one', None), ('a wooden one', None),
    ('the wooden one on the left', None), ('I cannot see one', None), ("there isn't one", None),
    ('There is a single one', 1), ('not more than one', 1), ('the number one', 1),
    ("There isn't more than one chair", 1), ('one', 1), ('There is one.', 1),
    ('only one', 1), ('one red ball', 1), ('exactly one', 1),
    ('the table has one', 1), ('a one meter gap', 1), ('each one hundred', 100),
    ('the red one has three legs', 3), ('twenty one', 21)])
def test_a_one_that_stands_for_a_thing_is_no_number(text: str, count: int | None) -> None:
    found = find_quantity(text)
    assert (None if found is None else found.value) == count


@pytest.mark.parametrize('rest', [
    'with high confidence.', 'in this picture.', 'on the left', 'if we look', 'due to its size',
    'based on depth', 'rather than the other', 'given the map', 'then'])
def test_letters_are_read_alike_whichever_they_are(rest: str) -> None:
    for letter in 'ab':
        said = f'The answer is {letter.upper()} {rest}'
        assert find_letter(said, {'a': 'red box', 'b': 'blue can'}) == letter


def test_a_ball_that_is_not_seen_is_not_one_ball() -> None:
    assert score('I cannot see a red one', '1 ball') == 0
    assert score('I cannot see a red one', '1', 'how many balls?') == 0


@pytest.mark.parametrize('text', [
    'one ' * 5_000, 'twenty ' * 4_000, '1/' * 9_000, '1 1/2 ' * 3_000, "don't " * 4_000,
    'the x ' * 4_000, '\\frac{' * 4_000, '1,1.' * 5_000, 'a hundred ' * 3_000, "x'" * 9_000,
    ' ' * 9_000, '2' + ' ' * 9_000 + 'm', '+/-1' * 2_500, '2' + '\n' * 9_000 + 'm',
    '9' * 20_000 + '/3 dozen', '9' * 400 + ' million', '1 and a ' * 3_000, '{\\circ' * 4_000])
def test_long_texts_of_numbers_are_read_in_no_time(text: str) -> None:
    for kind in ('mcq', 'number', 'number_int'):
        assert score(text, '7.5', 'how far in meters? A. 1.5 B. 7.5', kind) == 0
