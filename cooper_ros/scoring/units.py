"""Units of length: how answers name them, and what they are in metres."""

from __future__ import annotations

import re

METRES = {'mm': 0.001, 'cm': 0.01, 'm': 1.0, 'km': 1000.0, 'in': 0.0254, 'ft': 0.3048,
          'yd': 0.9144}
_NAMES = {'mm': 'mm|millimet(?:er|re)s?', 'cm': 'cms?|centimet(?:er|re)s?',
          'km': 'km|kilomet(?:er|re)s?', 'm': 'm|met(?:er|re)s?', 'ft': "ft|feet|foot|'(?!')",
          # a bare "in" is a unit only where no other word follows
          'in': r'inch(?:es)?|in(?=\s*(?:$|[.,;)\]}]|(?:tall|wide|long|high|deep|away|apart)\b))'
                r'|"|\'\'', 'yd': 'yards?|yd'}
UNIT = '|'.join(f'(?:{names})(?![a-z])' for names in _NAMES.values())  # without regard to case


def unit_of(name: str) -> str:
    """The unit that a name stands for, a key of ``METRES``; empty for none.

    >>> unit_of('Feet'), unit_of('"'), unit_of('chairs')
    ('ft', 'in', '')
    """
    return next((unit for unit, names in _NAMES.items()
                 if re.fullmatch(names, name, re.IGNORECASE)), '')
