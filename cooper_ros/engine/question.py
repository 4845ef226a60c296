"""The question is untrusted text: bounded, printable, and free of control tokens."""

from __future__ import annotations

import re

from cooper_ros.errors import BadQuestion

_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]')
_SPECIAL = re.compile(r'<\|[^|<>]*\|>')  # would be read as a control token of the network


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
    cleaned = question
    while _SPECIAL.search(cleaned):  # removing one may put another together
        cleaned = _SPECIAL.sub('', cleaned)
    cleaned = _CONTROL.sub(' ', cleaned).strip()
    if not any(letter.isprintable() and not letter.isspace() for letter in cleaned):
        raise BadQuestion('the question is empty', value=repr(question[:80]),
                          limit='at least one printable character')
    return cleaned
