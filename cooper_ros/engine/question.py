"""The question is untrusted text: bounded, printable, and free of control tokens."""

from __future__ import annotations

import re

from cooper_ros.errors import BadQuestion

_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]')


def clean_question(question: str, max_chars: int) -> str:
    """Return the question without control characters and control tokens.

    Raises:
        BadQuestion: not text, empty after cleaning, or longer than ``max_chars``.
    """
    if not isinstance(question, str):
        raise BadQuestion('the question is not text', value=type(question).__name__, limit='str')
    if len(question) > max_chars:
        raise BadQuestion('the question is too long', value=f'{len(question)} characters',
                          limit=f'{max_chars} characters', remedy='raise max_question_chars')
    cleaned = _CONTROL.sub(' ', _without_tokens(question)).strip()
    if not any(letter.isprintable() and not letter.isspace() for letter in cleaned):
        raise BadQuestion('the question is empty', value=repr(question[:80]),
                          limit='at least one printable character')
    return cleaned


def _without_tokens(text: str) -> str:
    """The text without ``<|...|>``, which the network would read as control tokens.

    Removing one may put another together; in one pass, for a long text may be full of them.
    """
    kept: list[str] = []
    for letter in text:
        kept.append(letter)
        if letter != '>' or kept[-2:-1] != ['|']:
            continue
        begin = len(kept) - 3
        while begin > 0 and kept[begin] not in '|<>':
            begin -= 1
        if begin > 0 and kept[begin - 1:begin + 1] == ['<', '|']:
            del kept[begin - 1:]
    return ''.join(kept)
