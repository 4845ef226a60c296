"""Reading an answer by rules: lengths with units, option letters, yes or no (reference 12.2).

Rules come first everywhere; a language model is asked only where somebody configures one. Every
function takes free text and returns None where it cannot decide, which counts as wrong.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Iterator, Mapping, Sequence

from cooper_ros.engine.answers import short_answer
from cooper_ros.scoring.numerals import NUMERAL, in_digits
from cooper_ros.scoring.units import METRES, UNIT, unit_of

MCQ, YES_NO, NUMBER, COUNT, EXACT = 'mcq', 'yes_no', 'number', 'number_int', 'exact'
THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
_SLACK = 1e-9  # 0.15 < 1 - 0.85 must not hang on the last bit
# the dash of "1 -2" is not a sign
_NUMBER = re.compile(rf'(?<![\w.])((?:(?<!\d )[-+])?{NUMERAL})(?:\s*({UNIT}))?', re.IGNORECASE)
_TO = re.compile(r'\s*(?:-|–|to)\s*', re.IGNORECASE)
_AND = re.compile(r'\s*(?:,|and)?\s*', re.IGNORECASE)
_BETWEEN = re.compile(r'\bbetween\s+$', re.IGNORECASE)
_AGAIN = re.compile(r'\s*\((?:[^\w)]|about|approx\w*|around|roughly|or|i\.e)*', re.IGNORECASE)
_HEDGES = re.compile(r'(?:about|approx\w*|around|roughly|nearly|almost|between|from|[\s.,()≈])*',
                     re.IGNORECASE)
_ASKED = re.compile(rf'(?:\b(?:in|how many)\s+|\((?:in\s+)?)(?=[a-z])({UNIT})', re.IGNORECASE)
# what follows a number and is no name of what is counted or measured
_NO_NOUN = frozenset(
    'a an the and or but not no than of to from in into on onto at by with for as per is are was '
    'were be can that which who there here total altogether overall visible shown left right up '
    'down front back behind forward forwards backward backwards above below under over inside '
    'outside north south east west clockwise counterclockwise anticlockwise because if since so i '
    'it you we they as when clearly distinct items objects things'.split())
_NOUNS = re.compile(r'(?: [a-z]+){1,3}', re.IGNORECASE)
_MEASURES = re.compile(r'deg(?:rees?)?|percent|square|cubic|(?:milli)?seconds?|minutes?|hours?|'
                       r'kgs?|kilos?|(?:kilo)?grams?|lbs?|pounds?|lit(?:er|re)s?|pixels?')
_PEOPLE = {'people': 'person', 'men': 'man', 'women': 'woman'}
_STEM = 3  # letters that a word and its plural share
_OPTION = re.compile(r'(?:(?<=\s)|^)(?:\(([A-H])\)|([A-H])[.):])\s*(.+?)'
                     r'(?=\s+(?:\([A-H]\)|[A-H][.):])\s|\s*$)', re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(r'^\W*([A-H])\W*$', re.IGNORECASE)
# an "a" with this behind it is an article: a red box, but not "a because"
_A_NOUN = (r'[ \t]+(?!(?:or|and|is|was|because|as|since|which|that|for|but|not|so|it|the|looks|'
           r'seems|with|in|on|at|by|from|to|of|due|given|based|if|then|thus|rather|has|have|can|'
           r'will|would|must)\b)[a-z]')
_CHOSEN = re.compile(rf'\b(?:(?:option|choice)\s+\W?|answer(?:\s+is)?:?\s+\W?(?!a{_A_NOUN}))'
                     r'([A-H])\b', re.IGNORECASE)
_AHEAD = re.compile(r'^\W*([A-H])[.):,](?=\s|$)', re.IGNORECASE)
_BRACKETED = re.compile(r'\(([A-H])\)', re.IGNORECASE)
_CAPITAL = re.compile(rf'(?<![\w.])([B-H]|A(?!{_A_NOUN}))\b')
_OR_ANOTHER = re.compile(r'\W*\s*(?:[,/&]|\bor\b|\band\b)\s*\W*[A-H]\b', re.IGNORECASE)
_YES, _NO = (re.compile(rf'\b(?:{words})\b', re.IGNORECASE) for words in
             ('yes|true|correct', 'no|not|false|incorrect'))
_FIRST = re.compile(r'(yes|true|no|false)\b\s*(?:$|[,.;:!])', re.IGNORECASE)
_UNSURE = re.compile(
    r'\bnot\s+(?:\w+\s+)?(?:sure|certain|know|clear\s+(?:if|whether|from)'
    r'|possible\s+to\s+(?:tell|say|know)|enough\s+(?:information|context))\b'
    r'|\bno\s+(?:idea|way\s+(?:to|of)\s+(?:tell|know))', re.IGNORECASE)


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


@dataclass(frozen=True)
class _Span:
    """A quantity and where it stands in a text."""

    quantity: Quantity
    begin: int
    end: int


def quantities(text: str) -> list[Quantity]:
    """All lengths and numbers of a text in order; number words only where there are no digits.

    A range is its middle, parts of one length are added, and neither a tolerance nor the same
    length once more in brackets counts.

    >>> quantities('about 1.2 m, or 3 to 5 cm')
    [Quantity(value=1.2, unit='m'), Quantity(value=4.0, unit='cm')]
    >>> quantities('5 feet 9 inches'), quantities('between 1 and 2 meters')
    ([Quantity(value=5.75, unit='ft')], [Quantity(value=1.5, unit='m')])
    >>> quantities('1.75 m ± 10 cm'), quantities('1.75 m (5 ft 9 in)')
    ([Quantity(value=1.75, unit='m')], [Quantity(value=1.75, unit='m')])
    """
    return [span.quantity for span in _spans(in_digits(text))]


def _spans(text: str) -> list[_Span]:
    joined: list[_Span] = []
    for match in _NUMBER.finditer(text):
        span = _Span(_quantity(match), *match.span())
        both = _join(joined[-1], span, text) if joined else None
        if both is not None:
            joined.pop()
        joined.append(both or span)
    return _said_once(joined, text)


def _said_once(spans: Sequence[_Span], text: str) -> list[_Span]:
    """Without lengths that repeat the one before in brackets; it takes over their place."""
    found: list[_Span] = []
    for span in spans:
        last = found[-1] if found else span
        again = (last.quantity.unit and span.quantity.unit
                 and _AGAIN.fullmatch(text[last.end:span.begin]))
        if again:
            found.pop()
        found.append(_Span(last.quantity, last.begin, span.end) if again else span)
    return found


def _quantity(match: re.Match[str]) -> Quantity:
    return Quantity(float(match[1].replace(',', '')), unit_of(match[2] or ''))


def _join(first: _Span, second: _Span, text: str) -> _Span | None:
    """Both as one quantity, if they are the ends of a range or the parts of a length."""
    low, high, between = first.quantity, second.quantity, text[first.end:second.begin]
    both = None
    ends = _TO.fullmatch(between) or (between.strip().lower() == 'and'
                                      and _BETWEEN.search(text[:first.begin]))
    if ends and (high.unit or not low.unit):
        both = Quantity((low.to(high.unit) + high.value) / 2, high.unit)
    elif _AND.fullmatch(between) and _continues(low, high):
        both = Quantity(low.value + high.to(low.unit), low.unit)
    return both and _Span(both, first.begin, second.end)


def _continues(whole: Quantity, rest: Quantity) -> bool:
    """Whether a length goes on in a smaller unit: 5 ft 9 in, 1 m 75 cm."""
    units = whole.unit, rest.unit
    same_system = all(units) and len({unit[-1] == 'm' for unit in units}) == 1
    return (same_system and units[0] != units[1] and whole.value % 1 == 0
            and 0 <= rest.to(whole.unit) < 1)


def find_quantity(text: str) -> Quantity | None:
    """The number an answer states: the last one with a unit, else the last one.

    >>> find_quantity('2 chairs, so the gap is 0.8 m')
    Quantity(value=0.8, unit='m')
    >>> find_quantity('there are three chairs')
    Quantity(value=3.0, unit='')
    """
    span = _stated(in_digits(text))
    return None if span is None else span.quantity


def _stated(digits: str) -> _Span | None:
    found = _spans(digits)
    with_unit = [span for span in found if span.quantity.unit]
    return (with_unit or found)[-1] if found else None


def asked_unit(question: str) -> str:
    """The unit a question wants its number in, or empty.

    >>> asked_unit('how tall is the box in centimeters?'), asked_unit('how many chairs?')
    ('cm', '')
    """
    match = _ASKED.search(question)
    return unit_of(match[1]) if match else ''


def options_of(question: str) -> dict[str, str]:
    """Letter -> text of the options a question lists.

    >>> options_of('which is closer? (a) red box (b) blue can')
    {'a': 'red box', 'b': 'blue can'}
    >>> options_of('Where is it?' + chr(10) + 'A. on top' + chr(10) + 'B. below')
    {'a': 'on top', 'b': 'below'}
    """
    found = [((match[1] or match[2]).lower(), match[3].strip(' \t\r\n/|'))
             for match in _OPTION.finditer(question)]
    expected = [chr(ord('a') + place) for place in range(len(found))]
    listed = len(found) > 1 and [letter for letter, _ in found] == expected
    return dict(found) if listed else {}


def find_letter(text: str, options: Mapping[str, str] = {}) -> str | None:
    """The option an answer picks, lower case; by letter, else by an option's text or meaning.

    None where several are named and none of them is chosen, or where it is no option.

    >>> find_letter('(B) the red box'), find_letter('a red box', {'a': 'can', 'b': 'red box'})
    ('b', 'b')
    >>> find_letter('A or D'), find_letter("It is A"), find_letter('Not B, so A')
    (None, 'a', None)
    >>> find_letter('it is four', {'a': '2', 'b': '4'}), find_letter('It is not.', {'a': 'no'})
    ('b', 'a')
    """
    text, known = text.strip(), {letter.lower() for letter in options}
    alone = _ALONE.search(text)
    if alone:
        return _only([alone[1]], known)
    for rule in (_CHOSEN, _AHEAD):
        letter = _only([match[1] for match in rule.finditer(text)
                        if not _OR_ANOTHER.match(text, match.end(1))], known)
        if letter:
            return letter
    named = [letter for letter, words in options.items() if _same(text, words)] or [
        letter for letter, words in options.items() if _inside(words, text)]
    return (_only(named, known) or _only(_BRACKETED.findall(text), known)
            or _only(_CAPITAL.findall(text), known)
            or (None if named else _only([*_meant(text, options)], known)))


def _meant(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """Options that say the same yes or no, or are the one number of a text."""
    if not options:
        return
    said, spans = find_yes_no(text), _spans(in_digits(text))
    for letter, words in options.items():
        if said and _FIRST.match(words):
            same = find_yes_no(words) == said
        else:
            same = len(spans) == 1 and _is_number(words, spans[0].quantity)
        if same:
            yield letter


def _is_number(option: str, said: Quantity) -> bool:
    """Whether an option is a number, and this one."""
    wanted = find_quantity(option) if _kind_of_number(option, '') else None
    return wanted is not None and math.isclose(said.to(wanted.unit), wanted.value)


def _only(letters: Sequence[str], known: set[str]) -> str | None:
    """The one letter that is named, if it is an option."""
    found = {letter.lower() for letter in letters}
    if known:
        found &= known
    return found.pop() if len(found) == 1 else None


def find_yes_no(text: str) -> str | None:
    """``yes`` or ``no``: how the text begins, else the only one that occurs.

    >>> find_yes_no('No, it is behind.'), find_yes_no('I think yes'), find_yes_no('yes or no')
    ('no', 'yes', None)
    >>> find_yes_no('it is not'), find_yes_no('I am not sure')
    ('no', None)
    """
    begin = text.lstrip(' \t\n"\'*(').lower()
    if _UNSURE.search(begin):  # then only the words themselves say something
        said = set(re.findall(r'\b(?:yes|no)\b', _UNSURE.sub(' ', begin)))
        return said.pop() if len(said) == 1 else None
    yes, no, first = _YES.search(begin), _NO.search(begin), _FIRST.match(begin)
    if yes and no and first:
        return 'yes' if first[1] in ('yes', 'true') else 'no'
    if bool(yes) == bool(no):
        return None
    return 'yes' if yes else 'no'


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
    if re.fullmatch(r'\(?[A-Ha-h][.)]?', text) or _OPTION.fullmatch(text):
        return MCQ
    if any(_same(text, words) for words in options.values()):
        return MCQ
    kind = YES_NO if _FIRST.match(text) else _kind_of_number(text, question)
    if kind and _only([*_meant(text, options)], {*options}):
        return MCQ
    return kind or EXACT


def _kind_of_number(text: str, question: str) -> str:
    """The kind of a text that is one quantity, perhaps of some thing, and nothing else; or empty.

    ``4 chairs`` are counted, ``45 degrees`` are measured; a direction changes the meaning.
    """
    digits = in_digits(text)
    spans = _spans(digits)
    if len(spans) != 1 or not _HEDGES.fullmatch(digits[:spans[0].begin]):
        return ''
    span, noun = spans[0], _noun(digits, spans[0])
    after = digits[span.end:].strip(' .()')
    if not _HEDGES.fullmatch(after) and not (noun and ' '.join(noun) == after.lower()):
        return ''
    whole = (re.fullmatch(r'[ .()]*\d+', digits[:span.end]) and not asked_unit(question)
             and not (noun and _MEASURES.fullmatch(noun[0])))
    return COUNT if whole else NUMBER


def _noun(digits: str, span: _Span) -> tuple[str, ...]:
    """The words right after a number that say what there are so many of; up to three."""
    match = _NOUNS.match(digits, span.end)
    words = re.findall('[a-z]+', match[0].lower()) if match else []
    return tuple(itertools.takewhile(lambda word: word not in _NO_NOUN, words))


def _of_other_things(answer: str, truth: str) -> bool:
    """Whether both counts say what they count, and the last word of neither is in the other.

    An answer in a unit of length counts nothing.
    """
    (said, unit), (wanted, _) = _counted(answer), _counted(truth)
    return bool(wanted) and (bool(unit) or bool(said) and (said[-1] not in wanted
                                                          and wanted[-1] not in said))


def _counted(text: str) -> tuple[list[str], str]:
    """Stems of the words behind the number a text states, and its unit of length."""
    digits = in_digits(text)
    span = _stated(digits)
    if span is None:
        return [], ''
    return [_PEOPLE.get(word, word)[:_STEM] for word in _noun(digits, span)], span.quantity.unit


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
        options = options_of(question)
        wanted = find_letter(truth, options) or truth.strip().lower()
        return float(find_letter(answer, options) == wanted)
    if kind == YES_NO:
        return float(find_yes_no(answer) is not None and find_yes_no(answer) == find_yes_no(truth))
    if kind == EXACT:
        return float(_same(answer, truth))
    numbers = find_quantity(answer), find_quantity(truth)
    if numbers[0] is None or numbers[1] is None:
        return 0.0
    found, wanted_number = in_one_unit(numbers[0], numbers[1], question)
    if kind == COUNT:
        return float(found == wanted_number and not _of_other_things(answer, truth))
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
