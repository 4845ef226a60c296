"""Numbers and lengths in a text: with units, as ranges, in parts, said twice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Sequence

from cooper_ros.scoring.numerals import NUMERAL, in_digits
from cooper_ros.scoring.units import METRES, UNIT, unit_of

# the dash of "1 -2" is not a sign
_NUMBER = re.compile(rf'(?<![\w.])((?:(?<!\d )[-+])?{NUMERAL})(?:\s*({UNIT}))?', re.IGNORECASE)
_TO = re.compile(r'\s*(?:-|–|to)\s*', re.IGNORECASE)
_AND = re.compile(r'\s*(?:,|and)?\s*', re.IGNORECASE)
_BETWEEN = re.compile(r'\bbetween\s+$', re.IGNORECASE)
_BACK = 12  # characters that hold a "between"
_AGAIN = re.compile(r'\s*\((?:[^\w)]|about|approx\w*\b|around|roughly|or|i\.e)*', re.IGNORECASE)
HEDGES = r'(?:about|approx\w*\b|around|roughly|nearly|almost|between|from|[\s.,()≈])*'
_HEDGES = re.compile(HEDGES, re.IGNORECASE)
MEASURES = re.compile(r'deg(?:rees?)?|percent|square|cubic|(?:milli)?seconds?|minutes?|hours?|'
                      r'kgs?|kilos?|(?:kilo)?grams?|lbs?|pounds?|lit(?:er|re)s?|pixels?')
# what may stand around a number and say nothing more
_LEAD = re.compile(
    r'[\s=*#>"\'\[\\(-]*(?:(?:so|thus|therefore|hence),? )?'
    r'(?:(?:the )?(?:(?:final|correct) )?(?:answer|result)(?: is| states| would be)?|'
    r"there (?:are|is)|it(?: i|')s|i (?:see|count))?"
    rf'[\s:=*"\'\[\\-]*(?:(?:exactly|only|just|circa) )?{HEDGES}',
    re.IGNORECASE)
_TAIL = re.compile(
    r'(?: ?(?:degrees?|degs?|percent|tall|wide|long|high|deep|away|apart|in total|in all|'
    r'altogether|total))?[\s.,;!)(*"\'\]\\]*', re.IGNORECASE)


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
class Span:
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
    return [span.quantity for span in spans_of(in_digits(text))]


def spans_of(text: str) -> list[Span]:
    """The quantities of a text that is in digits already; see :func:`quantities`."""
    joined: list[Span] = []
    for match in _NUMBER.finditer(text):
        span = Span(_quantity(match), *match.span())
        both = _join(joined[-1], span, text) if joined else None
        if both is not None:
            joined.pop()
        joined.append(both or span)
    return _said_once(joined, text)


def _said_once(spans: Sequence[Span], text: str) -> list[Span]:
    """Without lengths that repeat the one before in brackets; it takes over their place."""
    found: list[Span] = []
    for span in spans:
        last = found[-1] if found else span
        again = (last.quantity.unit and span.quantity.unit
                 and _AGAIN.fullmatch(text[last.end:span.begin]))
        if again:
            found.pop()
        found.append(Span(last.quantity, last.begin, span.end) if again else span)
    return found


def _quantity(match: re.Match[str]) -> Quantity:
    return Quantity(float(match[1].replace(',', '')), unit_of(match[2]) if match[2] else '')


def _join(first: Span, second: Span, text: str) -> Span | None:
    """Both as one quantity, if they are the ends of a range or the parts of a length."""
    low, high, between = first.quantity, second.quantity, text[first.end:second.begin]
    both = None
    before = text[max(0, first.begin - _BACK):first.begin]
    ends = _TO.fullmatch(between) or (between.strip().lower() == 'and' and _BETWEEN.search(before))
    if ends and (high.unit or not low.unit):
        both = Quantity((low.to(high.unit) + high.value) / 2, high.unit)
    elif _AND.fullmatch(between.removeprefix('.' * (low.unit == 'ft'))) and _continues(low, high):
        both = Quantity(low.value + high.to(low.unit), low.unit)
    return both and Span(both, first.begin, second.end)


def _continues(whole: Quantity, rest: Quantity) -> bool:
    """Whether a length goes on in a smaller unit: 5 ft 9 in, 1 m 75 cm."""
    units = whole.unit, rest.unit
    same_system = all(units) and len({unit[-1] == 'm' for unit in units}) == 1
    return (same_system and units[0] != units[1] and whole.value % 1 == 0
            and 0 <= rest.to(whole.unit) < 1)


def lone_quantity(text: str) -> Quantity | None:
    """The quantity that a text is, and says nothing else but that it is the answer; else None.

    >>> lone_quantity('**Answer:** about 1.5 m.'), lone_quantity('three')
    (Quantity(value=1.5, unit='m'), Quantity(value=3.0, unit=''))
    >>> lone_quantity('Error 429: quota'), lone_quantity('The answer states 3 numbers')
    (None, None)
    """
    digits = in_digits(text)
    spans = spans_of(digits)
    if len(spans) != 1 or not _LEAD.fullmatch(digits[:spans[0].begin]):
        return None
    return spans[0].quantity if _TAIL.fullmatch(digits[spans[0].end:]) else None


def hedges(text: str) -> bool:
    """Whether a text is nothing but words such as "about", or empty."""
    return bool(_HEDGES.fullmatch(text))
