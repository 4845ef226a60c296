"""Reading yes or no."""

from __future__ import annotations

import re

from cooper_ros.scoring.markup import without_latex

YES_WORDS, NO_WORDS = 'yes|true', 'no|false'
# "I cannot tell the correct answer" says nothing
_YES = re.compile(r'\b(?:yes|true|correct(?!\W{1,3}(?:answer|option|choice)\b))\b', re.IGNORECASE)
_NO = re.compile(r'\b(?:no|not|false|incorrect)\b', re.IGNORECASE)
_EDGE = r'[\s"\'*_`#>:({$\\-]*'
_SAID = rf'({YES_WORDS}|{NO_WORDS})\b'
_ANSWER = r'(?:final |correct )?answer(?: to (?:the|this|your) question)?(?: is|\W{0,4}:)?'
_FIRST = re.compile(  # no two parts may take the same marks, or long rows of them take for ever
    rf'(?:{_EDGE}(?:(?:so|thus|therefore),? )?(?:(?:the|my) )?{_ANSWER})?{_EDGE}{_SAID}'
    r'["\'*_`]*[^\S\n]*(?:$|[,.;:!\n()–—*}$\\]|-(?=\s))', re.IGNORECASE)
_ANSWERED = re.compile(rf'\b{_ANSWER}{_EDGE}\b{_SAID}(?! (?:longer|more|one)\b)', re.IGNORECASE)
_LAST = re.compile(rf'{_EDGE}({YES_WORDS}|{NO_WORDS})\b[\W_]*$', re.IGNORECASE)
_UNSURE = re.compile(
    r'\bnot\s+(?:\w+\s+)?(?:sure|certain|know|clear\s+(?:if|whether|from)'
    r'|possible\s+to\s+(?:tell|say|know)|enough\s+(?:information|context))\b'
    r'|\bno\s+(?:idea|way\s+(?:to|of)\s+(?:tell|know))', re.IGNORECASE)


def find_yes_no(text: str) -> str | None:
    """``yes`` or ``no``: how the text begins, else what it calls the answer, or ends with alone,
    else the only one that occurs.

    >>> find_yes_no('No, it is behind.'), find_yes_no('I think yes'), find_yes_no('yes or no')
    ('no', 'yes', None)
    >>> find_yes_no('it is not'), find_yes_no('I am not sure')
    ('no', None)
    >>> find_yes_no('Yes (it is not closed)'), find_yes_no('It is not true.')
    ('yes', None)
    """
    text = without_latex(text).strip()
    if _UNSURE.search(text):  # then only the words themselves say something
        said = {word.lower() for word in re.findall(r'(?i)\b(?:yes|no)\b', _UNSURE.sub(' ', text))}
        return said.pop() if len(said) == 1 else None
    yes, no = _YES.search(text), _NO.search(text)
    if yes and no:
        return _chosen(text)
    return 'yes' if yes else 'no' if no else None


def says_first(text: str) -> bool:
    """Whether a text begins with yes or no."""
    return bool(_FIRST.match(text.strip()))


def _chosen(text: str) -> str | None:
    """What a text begins with, calls the answer or ends with, where words of both occur."""
    first = _FIRST.match(text)
    said = [first[1]] if first else _ANSWERED.findall(text) or [
        match[1] for match in [_LAST.match(text.rpartition('\n')[2])] if match]
    found = {word.lower() in YES_WORDS.split('|') for word in said}
    return None if len(found) != 1 else 'yes' if found.pop() else 'no'
