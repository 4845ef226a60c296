"""Numbers of every form as plain digits: fractions, decimal commas, number words, LaTeX.

A comma before three digits parts thousands, before one or two it is a decimal comma. Other groups
of digits, dates and odd fractions become ``?``, which no rule takes for a number: an answer that
cannot be decided must not count as a number that nobody said.
"""

from __future__ import annotations

import re

from cooper_ros.scoring.units import UNIT, unit_of

NUMERAL = r'(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:e[-+]?\d+)?'
UNCLEAR = '?'
_LONGEST = 9  # digits of a part of a fraction; nobody means more
_CHARACTERS = {'′': "'", '’': "'", '″': '"', '”': '"', '⁄': '/', '½': ' 1/2', '¼': ' 1/4',
               '¾': ' 3/4', '⅓': ' 1/3', '⅔': ' 2/3', '°': ' degrees ', '%': ' percent ',
               '−': '-', '‑': '-'}  # a minus, and the hyphen that no line is broken at
_PLAIN = str.maketrans(_CHARACTERS)
_QUOTED = re.compile(r'(?<!\w)(["\'])(\d[\d.,]*)\1')  # else the last quote is a unit
_FRAC = re.compile(r'(\d\s*)?\\[dt]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)(\d))')
_DEGREES = re.compile(r'(?:\^ ?)?(?:\{ ?)?\\(?:circ|degree)\b ?\}?')
_LATEX = re.compile(r'\\(?:text(?:bf|it)?|mathrm|mathbf|mbox)\s*\{|\\(?:quad|qquad)\b'
                    r'|\\[,;:! ()[\]]|\\(?=%)|[{}~$]')
# a star between two numbers multiplies them
_MARKUP = re.compile(r'`|\*(?! ?\d)|(?<!\d)(?<!\d )\*|(?<![a-z0-9])_+|_+(?![a-z0-9])',
                     re.IGNORECASE)
_ABOUT_TO = re.compile(r'(\d(?: ?[cm]?m)?)(?:~| ~ )(?=\d)')  # 1~2 m
_RAISED = str.maketrans('⁰¹²³⁴⁵⁶⁷⁸⁹⁻', '0123456789-')
_POWER = re.compile(r'(?<![\w.,])(?:(\d{1,9}(?:[.,]\d{1,9})?) ?(?:×|x|\*|·|\\times|\\cdot) ?)?10'
                    r'(?: ?\^ ?(- ?\d{1,2}|\d{1,2})|(⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,2}))(?![\d.])',
                    re.IGNORECASE)
_UNIT_APART = re.compile(rf'(?<=\d)(?: ?[-–]({UNIT})| ?[(\[] ?(?:in )?({UNIT}) ?[)\]])',
                         re.IGNORECASE)  # 1.5-meter, 2.5 (meters)
_FEET_DASH = re.compile(r"(?<=\d)'-(?=\d+(?:\.\d+)? ?(?:\"|''|in))")  # 5'-9"
_GROUPED = re.compile(r'(?<![\w.])\d(?:[\d.,]*\d)?')
_BLANKS = re.compile(rf'(?<![\w.,])[1-9]\d{{0,2}}(?: \d{{3}})+(?:\.\d+)?(?= ?(?:{UNIT}))',
                     re.IGNORECASE)  # 1 000 mm
_DECIMAL = re.compile(r'\d+(?:\.\d+)?')
_THOUSANDS = re.compile(r'[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?')
_COMMA = re.compile(r'\d+,\d{1,2}|0,\d+|[1-9]\d{0,2}(?:\.\d{3})+,\d+')
_OF_A = r'(?: (?:of )?an?(?= ))?'  # half of a metre
_SLASHED = re.compile(r'(?<![\w.,/])(?:(\d+)[ -]|(?<!between )(\d+) and )?'
                      rf'(\d+(?:\.\d+)?(?: ?/ ?\d+(?:\.\d+)?)+)([a-z]*){_OF_A}', re.IGNORECASE)
_TOLERANCE = re.compile(rf'({UNIT})?\s*(?:±|\\pm|\+/?-|\bplus or minus|,?\s*\bgive or take)\s*'
                        rf'{NUMERAL}(?:\s*({UNIT}))?', re.IGNORECASE)

_ONES = {word: value for value, word in enumerate(
    'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen '
    'fifteen sixteen seventeen eighteen nineteen'.split())}
_TENS = {word: 10 * value for value, word in enumerate(
    'twenty thirty forty fifty sixty seventy eighty ninety'.split(), start=2)}
_VALUES = {**_ONES, **_TENS}
_SMALL = '|'.join(_ONES)
_HUNDRED = (rf'(?:(?:a|{_SMALL})[ -]hundred(?:(?: and)?[ -]@)?|@)').replace(
    '@', rf'(?:(?:{"|".join(_TENS)})(?:[ -](?:{"|".join([*_ONES][1:10])}))?|(?:{_SMALL}))'
         r'\b(?![ -]hundred)')
_NUMBER = (rf'(?:(?:a|{_HUNDRED})[ -]thousand(?:(?: and|,)?[ -]{_HUNDRED})?|{_HUNDRED})'
           r'\b(?![ -]thousand)')
# "one" for a thing that was named before: the red one, each one, a wooden one; or not even one
_BEFORE_ONE = (
    'the|an?|this|that|which|each|every|any|no|another|other|some|same|either|neither|first|'
    'second|third|last|next|red|green|blue|yellow|orange|purple|pink|black|white|brown|gr[ae]y|'
    'silver|gold(?:en)?|beige|dark|light|left|right|middle|cent(?:er|re|ral)|top|bottom|upper|'
    'lower|front|back|near(?:er|est)?|far(?:ther|thest)?|further|furthest|close(?:r|st)?|'
    'big(?:ger|gest)?|large(?:r|st)?|small(?:er|est)?|tall(?:er|est)?|short(?:er|est)?|'
    'long(?:er|est)?|high(?:er|est)?|low(?:est)?|wide(?:r|st)?|round|square|new|old')
_NOT = (r"(?:not|never|without|cannot|\w+n't)(?! (?:more|less|fewer) than )"
        r'(?: (?!but\b|(?:more|less|fewer) than )\w+){0,2} ')
_A_NUMBER = '(?!(?:single|total|number|count|sum|answer|result) )'
_THE = (rf'the {_A_NUMBER}\w+ (?=one(?:$|[^\w -]'
        r'| (?:is|was|on|in|at|by|near|with|to|of|behind|next|that)\b))')
_THING = (rf'(?:(?:{_BEFORE_ONE})[ -]|an? {_A_NUMBER}\w+ |{_THE}|{_NOT})one\b'
          rf'(?![ -](?:{UNIT}|hundred|thousand|dozen|and an? |half|third|quarter))')
_WORDS = re.compile(rf'\b(?:{_THING}|({_NUMBER}))', re.IGNORECASE)
_HALF_A = re.compile(r'\bhalf (?:of )?an?(?= )', re.IGNORECASE)
_PARTS = {'hal': 2, 'thi': 3, 'qua': 4}
_AND_A = re.compile(rf'(?<![\w.])(\d{{1,9}})((?: ?(?:{UNIT}))?) and (?:an?|1) '
                    r'(half|third|quarter)\b', re.IGNORECASE)
_PART = re.compile(rf'(?<![\w.])(\d{{1,9}})[ -](hal(?:f|ves)|thirds?|quarters?)\b(?!-){_OF_A}',
                   re.IGNORECASE)
_TWICE = re.compile(rf'(?<=\d) ?\((?:{_NUMBER})\)', re.IGNORECASE)  # 3 (three)
_SCALES = {'dozen': 12, 'hundred': 100, 'thousand': 1000, 'million': 10**6}
_SCALED = re.compile(rf'(?<![\w.])(\d{{1,9}}(?:\.\d+)?)[ -]({"|".join(_SCALES)})\b', re.IGNORECASE)


def in_digits(text: str, mixed: bool = False) -> str:
    r"""A text with plain digits, and without markup, quotes and tolerances.

    Number words are read only where there are no digits, or everywhere if ``mixed``.

    >>> [in_digits(text) for text in ('3 1/2 feet', r'\frac{1}{2} m', '1,5 m', '1,000')]
    ['3.5 feet', '0.5 m', '1.5 m', '1000']
    >>> [in_digits(text) for text in ('twenty five', 'two and a half feet', '45°')]
    ['25', '2.5 feet', '45 degrees']
    >>> [in_digits(text) for text in ('**1.5**-meter', '2 x 10^3 (mm)', '3 (three)')]
    ['1.5 meter', '2000 mm', '3']
    >>> [in_digits(text) for text in ('I cannot see a red one', '1.2.3', 'on 3/4/25')]
    ['I cannot see a red one', '?', 'on ?']
    """
    text = ' '.join(text.replace('{,}', ',').split())  # in long gaps rules would look for ever
    text = _DEGREES.sub('°', _FRAC.sub(_in_a_line, text)).translate(_PLAIN)
    text = _without_markup(text)
    text = _BLANKS.sub(lambda match: match[0].replace(' ', ''), _POWER.sub(_power, text))
    text = _SLASHED.sub(_fraction, _GROUPED.sub(_ungrouped, text))
    text = _TWICE.sub('', _without_tolerance(text))
    if mixed or not re.search(r'(?<![\w.])\.?\d', text):
        text = _HALF_A.sub('0.5', _WORDS.sub(_value, text))
    text = _PART.sub(_part, _AND_A.sub(_and_a_part, text))
    text = _without_tolerance(_SCALED.sub(_scaled, text))
    return _UNIT_APART.sub(lambda match: f' {match[1] or match[2]}', text)


def _without_markup(text: str) -> str:
    """Without what Markdown and LaTeX put around numbers and units."""
    text = _ABOUT_TO.sub(r'\1-', _MARKUP.sub(' ', text))
    text = ' '.join(_LATEX.sub(' ', _QUOTED.sub(r' \2 ', text)).split())
    return _FEET_DASH.sub("' ", text)


def _without_tolerance(text: str) -> str:
    shorter = _TOLERANCE.sub(lambda match: f' {match[1] or match[2] or ""}', text)
    return ' '.join(shorter.split())


def _in_a_line(match: re.Match[str]) -> str:
    r"""``\frac{1}{2}`` as 1/2; what is no number there is no fraction."""
    over, under = (part.strip() for part in (match[2] or match[4] or '', match[3] or match[5] or
                                             ''))
    known = _DECIMAL.fullmatch(over) and _DECIMAL.fullmatch(under)
    before = f'{match[1].strip()} ' if match[1] else ''
    return before + (f'{over}/{under}' if known else UNCLEAR)


def _ungrouped(match: re.Match[str]) -> str:
    """A number without the commas of thousands and with a decimal point."""
    text = match[0]
    if _DECIMAL.fullmatch(text):
        return text
    if _THOUSANDS.fullmatch(text):
        return text.replace(',', '')
    if _COMMA.fullmatch(text):
        return text.replace('.', '').replace(',', '.')
    parts = text.split(',')
    several = len(parts) > 2 or (len(parts) == 2 and '.' in text)
    if several and all(_DECIMAL.fullmatch(part) and not re.match(r'0\d', part) for part in parts):
        return ', '.join(parts)
    return UNCLEAR  # 1.2.3, or 1,2345


def _power(match: re.Match[str]) -> str:
    """n x 10^k as one number."""
    raised = (match[2] or match[3].translate(_RAISED)).replace(' ', '')
    return _text(float(f'{(match[1] or "1").replace(",", ".")}e{raised}'))


def _fraction(match: re.Match[str]) -> str:
    """a/b or n a/b; dates, scores of several and fractions of fractions are none of these."""
    before, unit = match[1] or match[2], match[4]
    whole, parts = before or '0', [part.strip() for part in match[3].split('/')]
    digits = all(part.isdigit() and len(part) <= _LONGEST for part in (whole, *parts))
    if len(parts) != 2 or not digits or not int(parts[1]):
        return UNCLEAR
    over, under = int(parts[0]), int(parts[1])
    if (before and over >= under) or (unit and not unit_of(unit)):
        return UNCLEAR
    return _text(int(whole) + over / under) + unit


def _value(match: re.Match[str]) -> str:
    """Number words in digits; a "one" that is no number stays."""
    if match[1] is None:
        return match[0]
    total = part = 0
    for word in re.findall('[a-z]+', match[1].lower()):
        if word == 'thousand':
            total, part = 1000 * max(part, 1), 0
        else:
            part = 100 * max(part, 1) if word == 'hundred' else part + _VALUES.get(word, 0)
    return str(total + part)


def _and_a_part(match: re.Match[str]) -> str:
    return _text(int(match[1]) + 1 / _PARTS[match[3][:3].lower()]) + match[2]


def _part(match: re.Match[str]) -> str:
    """Two thirds; a twenty third is no part of anything."""
    under = _PARTS[match[2][:3].lower()]
    return _text(int(match[1]) / under) if int(match[1]) <= under else UNCLEAR


def _scaled(match: re.Match[str]) -> str:
    return _text(float(match[1]) * _SCALES[match[2].lower()])


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
