"""Which of several numbers an answer states as its result, and what it counts."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Iterator, Sequence

from cooper_ros.scoring.numerals import in_digits
from cooper_ros.scoring.quantities import (
    HEDGES,
    MEASURES,
    Quantity,
    Span,
    hedges,
    lone_quantity,
    spans_of,
)
from cooper_ros.scoring.units import UNIT, unit_of

NUMBER, COUNT = 'number', 'number_int'
_ASKED = re.compile(rf'(?:\b(?:in|how many)\s+|\((?:in\s+)?)(?=[a-z])({UNIT})', re.IGNORECASE)
# what follows a number and is no name of what is counted or measured
_NO_NOUN = frozenset(
    'a an the and or but not no than of to from in into on onto at by with for as per is are was '
    'were be can that which who there here total altogether overall visible shown left right up '
    'down front back behind forward forwards backward backwards above below under over inside '
    'outside north south east west clockwise counterclockwise anticlockwise because if since so i '
    'it you we they as when clearly distinct items objects things'.split())
# "how many objects do you see" asks for objects
_ENDS = _NO_NOUN - {'items', 'objects', 'things', 'distinct'} | frozenset(
    'do does did have has had could would will may might must should appear appears seem seems '
    'exist near beside around among between next facing surrounding'.split())
_NOUNS = re.compile(r'(?: [a-z]+){1,3}', re.IGNORECASE)
_PHRASE = re.compile(r'\)?((?: [a-z]+){1,4})', re.IGNORECASE)  # three (3) chairs
_HOW_MANY = re.compile(
    r'\b(?:how many|(?:number|count) of|count(?= the ))(?: of)?'
    r'(?: (?:the|these|those|all|different|distinct|individual|total))*((?: [a-z]+){1,6})',
    re.IGNORECASE)
_PLURALS = {'people': 'person', 'men': 'man', 'women': 'woman', 'children': 'child',
            'mice': 'mouse', 'geese': 'goose', 'feet': 'foot', 'teeth': 'tooth'}
_PLURAL = re.compile('[^s]s$')
_BACK = 90  # characters before a number that may say what it is
_MARKUP = r'[\s:=*"\'(\[≈\\-]*'
_ANSWER = re.compile(
    r'\b(?:answer(?: to (?:the|this|your) question)?|result(?= ?(?:is\b|[:=])))'
    r'(?: (?:is|are|was|would|will|should|must|be|that|there|it|therefore|thus|then))*'
    rf'{_MARKUP}{HEDGES}$', re.IGNORECASE)
_TOTAL = re.compile(
    r'\b(?:total (?:of|is|comes to)|total(?= ?[:=])|in total,?(?: (?:there (?:are|is)|'
    r'i (?:see|count)|we have|you have|it is|that is|that makes))?|'
    rf'total (?:number|count)(?: of(?: [a-z]+){{1,4}}?)?(?: is|(?= ?[:=])))'
    rf'(?: exactly)?{_MARKUP}{HEDGES}$', re.IGNORECASE)
_IN_TOTAL = re.compile(r'(?: (?!of\b|the\b)[a-z]+){0,3}?,? (?:in total|total|altogether|in all)\b',
                       re.IGNORECASE)
_SUM = re.compile(r'(?: [a-z]+){0,3}[\s()\]\[]*(?:[-+*/×x·=≈]|\\times|\\cdot|\\approx)'
                  r'[\s()\]\[≈~]*(?:about|approx\w*)? ?', re.IGNORECASE)
_SO = re.compile(r'(?:(?:^|[,.;:!?]|\band)\s*so|\b(?:thus|therefore|hence))\b'
                 r'(?:(?![.!?;] ).)*$', re.IGNORECASE)
_COLON = re.compile(r'[^,.;:!?]*: ?(?:about |approx\w* )?')
_ENDED = re.compile(r'[\s.!)*]*')
_IS = re.compile(r'(?:\bnumber of((?: [a-z]+){1,8})(?: is| are| ?[:=])|'
                 r'(?:^|[^\w ]) ?([a-z]+(?: [a-z]+){0,2}) ?[:=])'
                 r'(?: exactly| about)?\s*$', re.IGNORECASE)
_ONE_OF = re.compile(r'\d,? or $', re.IGNORECASE)
_OR = re.compile(r'\W*(?:\bor|/)\s*', re.IGNORECASE)
_ORDINAL = re.compile(r'(?:st|nd|rd|th)\b', re.IGNORECASE)
_LABEL = re.compile(r'\b(?:image|picture|photo|frame|figure|fig\.?|step|option|view|camera) ?#?$',
                    re.IGNORECASE)
_LABELS = 12  # characters that hold one of these
_SAME = 0.05  # relative: 1.5 m and 5 feet are one length


@dataclass(frozen=True)
class Reading:
    """The number a text states.

    Attributes:
        quantity: the number and its unit of length.
        noun: words behind it that say what there are so many of.
        sure: False where it is only the last one of several that differ.
    """

    quantity: Quantity
    noun: tuple[str, ...] = ()
    sure: bool = True


def asked_unit(question: str) -> str:
    """The unit a question wants its number in, or empty.

    >>> asked_unit('how tall is the box in centimeters?'), asked_unit('how many chairs?')
    ('cm', '')
    """
    match = _ASKED.search(question)
    return unit_of(match[1]) if match else ''


def find_quantity(text: str) -> Quantity | None:
    """The number an answer states; see :func:`read_number`.

    >>> find_quantity('2 chairs, so the gap is 0.8 m')
    Quantity(value=0.8, unit='m')
    >>> find_quantity('there are three chairs')
    Quantity(value=3.0, unit='')
    """
    reading = read_number(text)
    return None if reading is None else reading.quantity


def read_number(text: str, question: str = '') -> Reading | None:
    r"""The number an answer states.

    One that is said to be the answer or the total, or stands alone on the last or the first line,
    or before the noun that the question asks "how many" of; else the last one with a unit, else
    the last one.

    >>> read_number('3 chairs and 2 tables', 'How many chairs are there?').quantity.value
    3.0
    >>> read_number('2.5 m\n\nA chair is 1 m high.').quantity
    Quantity(value=2.5, unit='m')
    >>> read_number('3 chairs and 2 tables')
    Reading(quantity=Quantity(value=2.0, unit=''), noun=('tables',), sure=False)
    """
    digits, asked = in_digits(text), asked_noun(question)
    spans = _telling(digits, spans_of(digits))
    if not spans:
        return None
    likely, lines = _likely(spans, asked), [line for line in text.splitlines() if line.strip()]
    return (_marked(digits, spans, _ANSWER) or _on_a_line(lines)
            or _of_things(_marked(digits, likely, _TOTAL, _IN_TOTAL), asked)
            or _of_things(_concluded(lines[-1], likely[-1], asked), asked)
            or _of_asked(text, asked)
            or _reading(digits, likely[-1], not _differ([span.quantity for span in likely])))


def asked_noun(question: str) -> tuple[str, ...]:
    """Stems of what a question wants to be counted; empty where it measures.

    >>> asked_noun('How many red chairs are there?'), asked_noun('how many meters?')
    (('red', 'chair'), ())
    """
    match = _HOW_MANY.search(' '.join(question.split()))
    words = _until(_ENDS, match[1]) if match else ()
    many = [place for place, word in enumerate(words) if word in _PLURALS or _PLURAL.search(word)]
    words = words[:many[-1] + 1] if many else words  # how many chairs touch the wall
    if not words or unit_of(words[-1]) or MEASURES.fullmatch(words[-1]):
        return ()
    return tuple(map(_stem, words))


def kind_of_number(text: str, question: str) -> str:
    """The kind of a text that is one quantity, perhaps of some thing, and nothing else; or empty.

    ``4 chairs`` are counted, ``45 degrees`` are measured; a direction changes the meaning.
    """
    digits = in_digits(text)
    spans = spans_of(digits)
    if len(spans) != 1 or not hedges(digits[:spans[0].begin]):
        return ''
    span, noun = spans[0], noun_of(digits, spans[0])
    after = digits[span.end:].strip(' .()')
    if not hedges(after) and not (noun and ' '.join(noun) == after.lower()):
        return ''
    whole = (re.fullmatch(r'[ .()]*\d+', digits[:span.end]) and not asked_unit(question)
             and not (noun and MEASURES.fullmatch(noun[0])))
    return COUNT if whole else NUMBER


def _telling(digits: str, spans: Sequence[Span]) -> Sequence[Span]:
    """Without ordinals and numbers of pictures, if there are others."""
    telling = [span for span in spans if not _ORDINAL.match(digits, span.end)
               and not _LABEL.search(digits[max(0, span.begin - _LABELS):span.begin])]
    return telling or spans


def _before(digits: str, span: Span) -> str:
    return digits[max(0, span.begin - _BACK):span.begin]


def _marked(digits: str, spans: Sequence[Span], ahead: re.Pattern[str],
            behind: re.Pattern[str] | None = None) -> Reading | None:
    """The last number that words before or behind it call the answer."""
    for place in range(len(spans) - 1, -1, -1):
        span = spans[place]
        if ahead.search(_before(digits, span)) or (behind and behind.match(digits, span.end)):
            end = _end_of_sum(digits, spans, place)
            after = spans[end + 1:end + 2]
            hedged = after and _OR.fullmatch(digits[spans[end].end:after[0].begin])
            return None if hedged else _reading(digits, spans[end])
    return None


def _end_of_sum(digits: str, spans: Sequence[Span], place: int) -> int:
    """The result of a calculation that begins here: 1.2 m + 0.8 m = 2 m."""
    result = place
    while place + 1 < len(spans):
        between = digits[spans[place].end:spans[place + 1].begin]
        if not _SUM.fullmatch(between):
            break
        place += 1
        result = place if {*'=≈'} & {*between} else result
    return result


def _on_a_line(lines: Sequence[str]) -> Reading | None:
    """The number that is the last line, else the first one."""
    found = [lone_quantity(line) for line in (lines[-1], lines[0])] if len(lines) > 1 else []
    alone = [quantity for quantity in found if quantity is not None]
    return Reading(alone[0], sure=not _differ(alone)) if alone else None


def _concluded(line: str, last: Span, asked: tuple[str, ...]) -> Reading | None:
    """The last number of the last line, where it is said to follow from those before.

    It has a unit only if the last one of the whole text has.
    """
    digits = in_digits(line)
    spans = _telling(digits, spans_of(digits))
    found = _likely(spans, asked)
    if not found or bool(found[-1].quantity.unit) != bool(last.quantity.unit):
        return None
    span, before = found[-1], [span.end for span in spans if span.end <= found[-1].begin]
    between, after = digits[max(before, default=0):span.begin], digits[span.end:span.end + _BACK]
    follows = _SO.search(between[-_BACK:]) or (before and (
        ({*'=≈'} & {*between} and _SUM.fullmatch(between))
        or (_COLON.fullmatch(between) and _ENDED.fullmatch(after))))
    return _reading(digits, span) if follows else None


def _likely(spans: Sequence[Span], asked: tuple[str, ...]) -> Sequence[Span]:
    """Those without a unit where things are counted, else those with one, if there are any."""
    return [span for span in spans if bool(span.quantity.unit) != bool(asked)] or spans


def _of_things(reading: Reading | None, asked: tuple[str, ...]) -> Reading | None:
    """A reading, unless it counts something else than what is asked for."""
    other = reading and asked and reading.noun and asked[-1] not in map(_stem, reading.noun)
    return None if other else reading


def _of_asked(text: str, asked: tuple[str, ...]) -> Reading | None:
    """The number before what the question asks for; None where several differ."""
    if not asked:
        return None
    digits = in_digits(' ; '.join(text.splitlines()), mixed=True)  # a new line is no next word
    named = [(span, tuple(map(_stem, words))) for span in spans_of(digits)
             for words in _phrases(digits, span) if not span.quantity.unit]
    named = [(span, words) for span, words in named if asked[-1] in words]
    whole = [entry for entry in named if {*asked} <= {*entry[1]}]
    known = {*map(_stem, re.findall('[a-z]+', digits.lower()))}
    if not whole and known & {*asked[:-1]}:
        return None  # "5 chairs, 2 of them red": which chairs are meant is said elsewhere
    exact = [entry for entry in whole if entry[1] == asked]
    for some in (whole or named, exact):
        if some and not _differ([span.quantity for span, _ in some]):
            hedged = _ONE_OF.search(_before(digits, some[-1][0]))
            return None if hedged else _reading(digits, some[-1][0])
    return None


def _reading(digits: str, span: Span, sure: bool = True) -> Reading:
    return Reading(span.quantity, noun_of(digits, span), sure)


def _differ(found: Sequence[Quantity]) -> bool:
    """Whether these are several quantities, and not one said in several units."""
    return any(not math.isclose(one.to(found[0].unit), found[0].value,
                                rel_tol=_SAME if one.unit != found[0].unit else 1e-9)
               for one in found)


def noun_of(digits: str, span: Span) -> tuple[str, ...]:
    """The words right after a number that say what there are so many of; up to three."""
    match = _NOUNS.match(digits, span.end)
    return _until(_NO_NOUN, match[0]) if match else ()


def _phrases(digits: str, span: Span) -> Iterator[tuple[str, ...]]:
    """Names of what a number counts: those behind it, and those of "the number of chairs is"."""
    behind, ahead = _PHRASE.match(digits, span.end), _IS.search(_before(digits, span))
    if behind:
        yield _until(_ENDS, behind[1])
    if ahead:
        yield _until(_ENDS, ahead[1] or ahead[2])


def _until(ends: frozenset[str], words: str) -> tuple[str, ...]:
    return tuple(itertools.takewhile(lambda word: word not in ends,
                                     re.findall('[a-z]+', words.lower())))


def _stem(word: str) -> str:
    """What a word and its plural share: chairs, boxes, knives, berries, people.

    >>> [_stem(one) == _stem(two) for one, two in (('box', 'boxes'), ('knife', 'knives'),
    ...  ('berry', 'berries'), ('person', 'people'), ('glass', 'glasses'), ('car', 'carts'))]
    [True, True, True, True, True, False]
    """
    word = _PLURALS.get(word, word)
    word = word if word.endswith(('ss', 'us', 'is')) else word.removesuffix('s')
    word = word.removesuffix('e')
    return word[:-1] + {'y': 'i', 'f': 'v'}.get(word[-1:], word[-1:])
