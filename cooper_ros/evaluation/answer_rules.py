"""Reading an answer by rules: lengths with units, option letters, yes or no (reference 12.2).

Rules come first everywhere; a language model is asked only where somebody configures one. Every
function takes free text and returns None where it cannot decide, which counts as wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Mapping

from cooper_ros.engine.answers import short_answer
from cooper_ros.evaluation import scoring

MCQ, YES_NO, NUMBER, COUNT, EXACT = 'mcq', 'yes_no', 'number', 'number_int', 'exact'
METRES = {'mm': 0.001, 'cm': 0.01, 'm': 1.0, 'km': 1000.0, 'in': 0.0254, 'ft': 0.3048,
          'yd': 0.9144}
_NAMES = {'mm': 'mm|millimet(?:er|re)s?', 'cm': 'cms?|centimet(?:er|re)s?',
          'km': 'km|kilomet(?:er|re)s?', 'm': 'm|met(?:er|re)s?', 'ft': "ft|feet|foot|'",
          # a bare "in" is a unit only where no word follows
          'in': r'inch(?:es)?|in(?=\s*(?:$|[.,;)\]}]))|"|\'\'', 'yd': 'yards?|yd'}
_UNIT = '|'.join(f'(?P<{unit}>(?:{names})(?![a-z]))' for unit, names in _NAMES.items())
_NUMERAL = r'[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:e[-+]?\d+)?'
_NUMBER = re.compile(rf'(?<![\w.])({_NUMERAL})(?:\s*(?:-|–|to)\s*({_NUMERAL}))?\s*(?:{_UNIT})?',
                     re.IGNORECASE)
_LATEX = re.compile(r'\\(?:text|mathrm)\s*\{|\\[,;! ]|[{}~$]')
_ASKED = re.compile(rf'(?:\b(?:in|how many)\s+|\((?:in\s+)?)(?:{_UNIT})', re.IGNORECASE)
_WORDS = {word: value for value, word in enumerate(
    'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen '
    'fifteen sixteen seventeen eighteen nineteen twenty'.split())}
_WORD = re.compile(rf'\b({"|".join(_WORDS)})\b', re.IGNORECASE)
_OPTION = re.compile(r'(?:(?<=\s)|^)(?:\(([A-H])\)|([A-H])[.):])\s*(.+?)'
                     r'(?=\s+(?:\([A-H]\)|[A-H][.):])\s|\s*$)', re.IGNORECASE | re.DOTALL)
_LETTER = (re.compile(r'^\W*([A-H])\W*$', re.IGNORECASE),
           re.compile(r'^\W*([A-H])[.):,]', re.IGNORECASE),
           re.compile(r'\(([A-H])\)', re.IGNORECASE),
           re.compile(r'\b(?:option|choice|answer(?:\s+is)?:?)\s+\W?([A-H])\b', re.IGNORECASE),
           re.compile(r'\b([B-H])\b'))  # a lone A may be the article
_YES, _NO = (re.compile(rf'\b(?:{words})\b', re.IGNORECASE) for words in
             ('yes|true|correct', 'no|not|false|incorrect'))


@dataclass(frozen=True)
class Quantity:
    """A number and its unit (``mm``, ``cm``, ``m``, ``km``, ``in``, ``ft``, ``yd`` or empty)."""

    value: float
    unit: str = ''

    def to(self, unit: str) -> float:
        """The value in another unit; unchanged if either has none.

        >>> round(Quantity(1.5, 'm').to('cm'), 6)
        150.0
        """
        if not (unit and self.unit):
            return self.value
        return self.value * METRES[self.unit] / METRES[unit]


def quantities(text: str) -> list[Quantity]:
    """All numbers of a text in order; a range such as ``2-3 m`` is its middle.

    >>> quantities('about 1.2 m, or 3 to 5 cm')
    [Quantity(value=1.2, unit='m'), Quantity(value=4.0, unit='cm')]
    """
    return [_quantity(match) for match in _NUMBER.finditer(_LATEX.sub(' ', text))]


def _quantity(match: re.Match[str]) -> Quantity:
    low, high = (None if group is None else float(group.replace(',', ''))
                 for group in match.group(1, 2))
    unit = next((name for name in _NAMES if match.group(name)), '')
    assert low is not None
    return Quantity(low if high is None else (low + high) / 2, unit)


def find_quantity(text: str) -> Quantity | None:
    """The number an answer states: the last one with a unit, else the last one, else a word.

    >>> find_quantity('2 chairs, so the gap is 0.8 m')
    Quantity(value=0.8, unit='m')
    >>> find_quantity('there are three chairs')
    Quantity(value=3.0, unit='')
    """
    found = quantities(text)
    with_unit = [quantity for quantity in found if quantity.unit]
    if found:
        return (with_unit or found)[-1]
    words = _WORD.findall(text)
    return Quantity(float(_WORDS[words[-1].lower()])) if words else None


def asked_unit(question: str) -> str:
    """The unit a question wants its number in, or empty.

    >>> asked_unit('how tall is the box in centimeters?'), asked_unit('how many chairs?')
    ('cm', '')
    """
    match = _ASKED.search(question)
    if match is None:
        return ''
    return next(name for name in _NAMES if match.group(name))


def options_of(question: str) -> dict[str, str]:
    """Letter -> text of the options a question lists.

    >>> options_of('which is closer? (a) red box (b) blue can')
    {'a': 'red box', 'b': 'blue can'}
    >>> options_of('Where is it?' + chr(10) + 'A. on top' + chr(10) + 'B. below')
    {'a': 'on top', 'b': 'below'}
    """
    found = [((match[1] or match[2]).lower(), match[3].strip())
             for match in _OPTION.finditer(question)]
    expected = [chr(ord('a') + place) for place in range(len(found))]
    listed = len(found) > 1 and [letter for letter, _ in found] == expected
    return dict(found) if listed else {}


def find_letter(text: str, options: Mapping[str, str] = {}) -> str | None:
    """The option an answer picks, lower case; by letter, else by an option's text.

    >>> find_letter('(B) the red box'), find_letter('a red box', {'a': 'can', 'b': 'red box'})
    ('b', 'b')
    """
    text = text.strip()
    for rule in _LETTER[:2]:
        match = rule.search(text)
        if match:
            return match[1].lower()
    named = [letter for letter, words in options.items() if _same(text, words)] or [
        letter for letter, words in options.items() if _inside(words, text)]
    if len(named) == 1:
        return named[0].lower()
    for rule in _LETTER[2:]:
        letters = {letter.lower() for letter in rule.findall(text)}
        if len(letters) == 1:
            return letters.pop()
    return None


def find_yes_no(text: str) -> str | None:
    """``yes`` or ``no``: how the text begins, else the only one that occurs.

    >>> find_yes_no('No, it is behind.'), find_yes_no('I think yes'), find_yes_no('yes or no')
    ('no', 'yes', None)
    """
    begin = text.lstrip(' \t\n"\'*(').lower()
    yes, no = _YES.search(begin), _NO.search(begin)
    if yes and no and re.match(r'(?:yes|no)\b\s*[,.;:!]', begin):
        return 'yes' if begin.startswith('yes') else 'no'
    if bool(yes) == bool(no):
        return None
    return 'yes' if yes else 'no'


def mean_relative_accuracy(prediction: float, truth: float) -> float:
    """See :func:`~..scoring.mean_relative_accuracy`; a truth of 0 scores nothing.

    >>> mean_relative_accuracy(10, 10), mean_relative_accuracy(12.4, 10)
    (1.0, 0.6)
    >>> mean_relative_accuracy(15, 10)
    0.0
    """
    if not truth:
        return 0.0  # as published: the division fails, and a failure scores nothing
    return scoring.mean_relative_accuracy(prediction, truth)


def kind_of(truth: str, question: str = '') -> str:
    """What sort of answer a ground truth is.

    >>> [kind_of(text) for text in ('b', 'Yes', '1.83', '4', '12 cm', 'behind the sofa')]
    ['mcq', 'yes_no', 'number', 'number_int', 'number', 'exact']
    >>> kind_of('20', 'how tall is it in centimeters?')
    'number'
    """
    text = truth.strip()
    if re.fullmatch(r'\(?[A-Ha-h][.)]?', text):
        return MCQ
    if text.lower() in ('yes', 'no', 'true', 'false'):
        return YES_NO
    match = _NUMBER.fullmatch(text)
    if match is None:
        return EXACT
    whole = re.fullmatch(r'\d+', text) and not asked_unit(question)
    return COUNT if whole else NUMBER


def score(response: str, truth: str, question: str = '', kind: str = '') -> float:
    """Score one response: MRA for numbers, 1 or 0 for everything else.

    Args:
        response: everything the model said in its last turn, or a short answer.
        truth: ground truth.
        question: options and the unit asked for are read from it.
        kind: ``mcq``, ``yes_no``, ``number``, ``number_int`` or ``exact``; empty to infer it.

    >>> score('<answer>It is \\\\boxed{124 cm}</answer>', '1.0', 'how far, in meters?')
    0.6
    """
    kind, answer = kind or kind_of(truth, question), short_answer(response)
    if kind == MCQ:
        wanted = find_letter(truth) or truth.strip().lower()
        return float(find_letter(answer, options_of(question)) == wanted)
    if kind == YES_NO:
        return float(find_yes_no(answer) is not None and find_yes_no(answer) == find_yes_no(truth))
    if kind == EXACT:
        return float(_same(answer, truth))
    numbers = find_quantity(answer), find_quantity(truth)
    if numbers[0] is None or numbers[1] is None:
        return 0.0
    found, wanted_number = in_one_unit(numbers[0], numbers[1], question)
    if kind == COUNT:
        return float(found == wanted_number)
    return mean_relative_accuracy(found, wanted_number)


def in_one_unit(found: Quantity, wanted: Quantity, question: str) -> tuple[float, float]:
    """Both numbers in the unit of the truth; a truth without one is in the unit asked for.

    >>> in_one_unit(Quantity(1.2, 'm'), Quantity(115.0), 'how tall is it in cm?')
    (120.0, 115.0)
    """
    return found.to(wanted.unit or asked_unit(question)), wanted.value


def _same(first: str, second: str) -> bool:
    return _plain(first) == _plain(second)


def _inside(words: str, text: str) -> bool:
    return f' {_plain(words)} ' in f' {_plain(text)} '


def _plain(text: str) -> str:
    """Lower case, no articles, no punctuation at word ends."""
    words = (word.strip('.,;:!?()"\'') for word in text.lower().split())
    return ' '.join(word for word in words if word not in ('', 'the', 'a', 'an'))
