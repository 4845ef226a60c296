"""Words without the marks that Markdown and LaTeX put around them."""

from __future__ import annotations

import re

_LATEX = re.compile(r'\\(?:boxed|text(?:bf|it)?|mathrm|mathbf|mbox)\b|\\[()\[\]]')
_MARKUP = re.compile(r'[*`#$>{}~]+|(?<!\w)_+|_+(?!\w)')


def bare(text: str) -> str:
    r"""A text without markup; its lines stay.

    >>> bare('**Answer:** B'), bare(r'$\text{B}$')
    ('Answer: B', 'B')
    """
    return _MARKUP.sub('', without_latex(text)).strip()


def without_latex(text: str) -> str:
    """A text without the commands of LaTeX that say how words are set."""
    return _LATEX.sub(' ', text)
