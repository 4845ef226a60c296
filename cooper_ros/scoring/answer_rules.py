"""Scoring an answer by rules: lengths with units, option letters, yes or no (reference 12.2).

Rules come first everywhere; a language model is asked only where somebody configures one. Every
function takes free text and returns None where it cannot decide, which counts as wrong.
"""

from __future__ import annotations

import re

from cooper_ros.engine.answers import ANSWER_START, answer_text, short_answer
from cooper_ros.scoring.letters import OPTION, find_letter, meaning, options_of, same
from cooper_ros.scoring.quantities import Quantity
from cooper_ros.scoring.stated import (
    COUNT,
    NUMBER,
    Reading,
    asked_unit,
    find_quantity,
    kind_of_number,
    read_number,
)
from cooper_ros.scoring.yes_no import find_yes_no, says_first

__all__ = ['COUNT', 'EXACT', 'MCQ', 'NUMBER', 'YES_NO', 'Quantity', 'Reading', 'asked_unit',
           'doubtful', 'find_letter', 'find_quantity', 'find_yes_no', 'in_one_unit', 'kind_of',
           'mean_relative_accuracy', 'options_of', 'read_answer', 'read_number', 'score']
MCQ, YES_NO, EXACT = 'mcq', 'yes_no', 'exact'
THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
_SLACK = 1e-9  # 0.15 < 1 - 0.85 must not hang on the last bit
_BOX = '\\boxed{'
_PEOPLE = {'people': 'person', 'men': 'man', 'women': 'woman'}
_STEM = 3  # letters that a word and its plural share


def mean_relative_accuracy(prediction: float, truth: float) -> float:
    """Share of the thresholds 0.50, 0.55 .. 0.95 that the relative error stays below.

    Returns:
        0..1 in tenths; 0 where the truth is 0: as published, the division fails there, and a
        failure scores nothing.

    >>> mean_relative_accuracy(10, 10), mean_relative_accuracy(12.4, 10)
    (1.0, 0.6)
    >>> mean_relative_accuracy(15, 10)
    0.0
    """
    if not truth:
        return 0.0
    error = abs(prediction - truth) / abs(truth)
    return sum(error < 1 - threshold - _SLACK for threshold in THRESHOLDS) / len(THRESHOLDS)


def kind_of(truth: str, question: str = '') -> str:
    """What sort of answer a ground truth is.

    What a question lists decides first: a number may be one of its options.

    >>> [kind_of(text) for text in ('b', 'Yes', '1.83', '4', '12 cm', 'behind the sofa')]
    ['mcq', 'yes_no', 'number', 'number_int', 'number', 'exact']
    >>> [kind_of(text) for text in ('(B) red box', 'Yes, it is.', 'two', 'about 2 meters')]
    ['mcq', 'yes_no', 'number_int', 'number']
    >>> [kind_of(text) for text in ('4 chairs', '45 degrees', '2 m tall', '45 degrees clockwise')]
    ['number_int', 'number', 'number', 'exact']
    >>> kind_of('20', 'how tall is it in centimeters?'), kind_of('4', 'how many? A. 2 B. 4')
    ('number', 'mcq')
    """
    text, options = truth.strip(), options_of(question)
    if re.fullmatch(r'\(?[A-Ha-h][.)]?', text) or OPTION.fullmatch(text):
        return MCQ
    if any(same(text, words) for words in options.values()):
        return MCQ
    kind = YES_NO if says_first(text) else kind_of_number(text, question)
    if kind and meaning(text, options):
        return MCQ
    return kind or EXACT


def _of_other_things(said: Reading, truth: Reading) -> bool:
    """Whether both counts say what they count, and the last word of neither is in the other.

    An answer in a unit of length counts nothing.
    """
    words, wanted = _stems(said), _stems(truth)
    return bool(wanted) and (bool(said.quantity.unit) or bool(words) and (
        words[-1] not in wanted and wanted[-1] not in words))


def _stems(reading: Reading) -> list[str]:
    return [_PEOPLE.get(word, word)[:_STEM] for word in reading.noun]


def read_answer(response: str, truth: str, question: str = '') -> Reading | None:
    """The number that a response states.

    Args:
        response: as in :func:`score`.
        truth: where it is a count, what the question asks for helps to find the number.
        question: what was asked.

    >>> read_answer('3 chairs and 2 tables', '3', 'How many chairs?').quantity.value
    3.0
    """
    counted = kind_of_number(truth, question) == COUNT
    return read_number(short_answer(response), question if counted else '')


def doubtful(response: str, truth: str, question: str = '') -> bool:
    r"""Whether a response names several numbers and nothing says which of them is the answer.

    What stands in a box or an answer block is the answer.

    >>> doubtful('3 chairs and 2 tables', '3'), doubtful('2 + 1 = 3', '3')
    (True, False)
    """
    if ANSWER_START in response or _BOX in answer_text(response):
        return False
    reading = read_answer(response, truth, question)
    return reading is not None and not reading.sure


def score(response: str, truth: str, question: str = '', kind: str = '') -> float:
    """Score one response: MRA for numbers, 1 or 0 for everything else.

    Args:
        response: everything the model said in its last turn, or a short answer.
        truth: ground truth.
        question: options, the unit and the things asked for are read from it.
        kind: ``mcq``, ``yes_no``, ``number``, ``number_int`` or ``exact``; empty to infer it.

    >>> score('<answer>It is \\\\boxed{124 cm}</answer>', '1.0', 'how far, in meters?')
    0.6
    """
    kind, answer = kind or kind_of(truth, question), short_answer(response)
    if kind == MCQ:
        options = options_of(question)
        wanted = find_letter(truth, options) or truth.strip().lower()
        return float(find_letter(answer, options) == wanted)
    if kind == YES_NO:
        return float(find_yes_no(answer) is not None and find_yes_no(answer) == find_yes_no(truth))
    return float(same(answer, truth)) if kind == EXACT else _number_score(
        response, truth, question, kind)


def _number_score(response: str, truth: str, question: str, kind: str) -> float:
    said, right = read_answer(response, truth, question), read_number(truth)
    if said is None or right is None:
        return 0.0
    found, wanted = in_one_unit(said.quantity, right.quantity, question)
    if kind == COUNT:
        return float(found == wanted and not _of_other_things(said, right))
    return mean_relative_accuracy(found, wanted)


def in_one_unit(found: Quantity, wanted: Quantity, question: str) -> tuple[float, float]:
    """Both numbers in the unit of the truth; a truth without one is in the unit asked for.

    >>> in_one_unit(Quantity(1.2, 'm'), Quantity(115.0), 'how tall is it in cm?')
    (120.0, 115.0)
    """
    return found.to(wanted.unit or asked_unit(question)), wanted.value
