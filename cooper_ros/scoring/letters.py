"""Reading which option an answer picks: by letter, by an option's text or by its meaning."""

from __future__ import annotations

import math
import re
from typing import Iterator, Mapping, Sequence

from cooper_ros.scoring.markup import bare
from cooper_ros.scoring.quantities import Quantity, lone_quantity
from cooper_ros.scoring.stated import find_quantity, kind_of_number, read_number
from cooper_ros.scoring.yes_no import find_yes_no, says_first

OPTION = re.compile(r'(?:(?<=\s)|^)(?:\(([A-H])\)|([A-H])[.):])\s*(.+?)'
                    r'(?=\s+(?:\([A-H]\)|[A-H][.):])\s|\s*$)', re.IGNORECASE | re.DOTALL)
# an "a" with this behind it is an article: a red box, but not "a because"
_A_NOUN = (r'[ \t]+(?!(?:or|and|is|was|because|as|since|which|that|for|but|not|so|it|the|looks|'
           r'seems|with|in|on|at|by|from|to|of|due|given|based|if|then|thus|rather|has|have|can|'
           r'will|would|must)\b)[a-z]')
_LETTER = rf'\W?((?!a{_A_NOUN})[A-H])\b(?!\.\w)'
_ALONE = re.compile(r'^\W*(?:(?:option|choice)\s+)?([A-H])\W*$', re.IGNORECASE)
_BEST = r'(?:(?:correct|right|best|final) )?'
# from the surest to the weakest
_CHOSEN = tuple(re.compile(words, re.IGNORECASE) for words in (
    r'\b(?:answer(?: to (?:the|this) question)?|'
    r'(?:correct|right|best|final|my) (?:option|choice))'
    rf'(?:\s+(?:is|would be|should be|must be))?[\s":=-]{{0,4}}'
    rf'(?:(?:option|choice)\s+)?{_LETTER}',
    rf'(?<![\w.])([A-H])\W? is (?:(?:the|my) {_BEST}(?:answer|option|choice)\b|correct\b)',
    r"\bI(?:'d| would|'ll| will)? (?:choose|select|pick|go with) "
    rf'(?:(?:option|choice) )?{_LETTER}',
    r'\b(?:option|choice)(?: is)?:?\s+\W?([A-H])\b'))
_AHEAD = re.compile(
    r'^\W*(?:(?:option|choice)\s+)?([A-H])(?:[.):,](?=\s|$)|\s+(?:because|since|as it|as the)\b'
    r'|\s*\([^()]*\)\s*(?:$|[.,;:])|\s+[-–—]\s|\s*[–—])', re.IGNORECASE)
_BRACKETED = re.compile(r'\(([A-H])\)', re.IGNORECASE)
_CAPITAL = re.compile(rf'(?<![\w.])([B-H]|A(?!{_A_NOUN}))\b')
_OR_ANOTHER = re.compile(rf'[^\w,/&]*(?:[,/&]|\bor\b|\band\b)\W*(?!a{_A_NOUN})[A-H]\b',
                         re.IGNORECASE)
_ANSWER = re.compile(r'\b(?:answer|option|choice)(?: is|\s?:)\s*', re.IGNORECASE)
_RIGHT = ('answer', 'correct', 'correct answer', 'right answer', 'best answer')
_LETTER_AND = re.compile(r'\W*([A-H])\s', re.IGNORECASE)
_AHEAD_OF = 200  # characters that an option's text may have
_COMPARED = re.compile(r"\b(?:not|than|unlike|except)\b|n't\b", re.IGNORECASE)  # names others
_SO = re.compile(r'(?:^|[.!?\n])\s*(?:so|thus|therefore|hence|consequently|in conclusion)\b'
                 r'[,:]?\s', re.IGNORECASE)


def options_of(question: str) -> dict[str, str]:
    """Letter -> text of the options a question lists.

    >>> options_of('which is closer? (a) red box (b) blue can')
    {'a': 'red box', 'b': 'blue can'}
    >>> options_of('Where is it?' + chr(10) + 'A. on top' + chr(10) + 'B. below')
    {'a': 'on top', 'b': 'below'}
    """
    found = [((match[1] or match[2]).lower(), match[3].strip(' \t\r\n/|'))
             for match in OPTION.finditer(question)]
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
    >>> find_letter('A' + chr(10) + 'The red box is far.', {'a': 'can', 'b': 'red box'})
    'a'
    """
    lines = [' '.join(line.split()) for line in bare(text).splitlines() if line.strip()]
    options = {letter.lower(): bare(words) for letter, words in options.items()}
    if not lines:
        return None
    text = '\n'.join(lines)
    return (_said(lines, options) or _concluded(text, options)
            or (None if _lone(lines) else _by_words(text, options)))


def _lone(lines: Sequence[str]) -> bool:
    """Whether a text is a letter and nothing else."""
    return len(lines) == 1 and bool(_ALONE.match(lines[0]))


def _said(lines: Sequence[str], options: Mapping[str, str]) -> str | None:
    """The option that a text says to be the answer, or that stands alone on an end of it."""
    known, ends = {*options}, [*dict.fromkeys((lines[0], lines[-1]))]
    alone = [match[1] for match in map(_ALONE.match, ends) if match]
    return (_only(alone, known) or _chosen('\n'.join(lines), known) or _ahead(lines, known)
            or _only([*_same_as(ends, options)], known))


def _chosen(text: str, known: set[str]) -> str | None:
    """The one letter that words such as "the answer is" point at."""
    for rule in _CHOSEN:
        letter = _only([match[1] for match in rule.finditer(text)
                        if not _OR_ANOTHER.match(text, match.end(1))], known)
        if letter:
            return letter
    return None


def _ahead(lines: Sequence[str], known: set[str]) -> str | None:
    """The letter that the first or the last line begins with, unless lines list the options."""
    found = {place: match[1].lower() for place, match in enumerate(map(_AHEAD.match, lines))
             if match and not _OR_ANOTHER.match(lines[place], match.end(1))}
    ends, listed = (0, len(lines) - 1), [*found.values()]
    if listed[:2] == ['a', 'b']:
        goes_on = len(listed) == 2 or ord(listed[-1]) == ord(listed[-2]) + 1
        ends = () if goes_on else ends[1:]
    return _only([found[place] for place in ends if place in found], known)


def _same_as(lines: Sequence[str], options: Mapping[str, str]) -> Iterator[str]:
    """Options that are what a line says and nothing else."""
    for line in lines:
        if _AHEAD.match(line):
            continue  # its first letter is no article
        number = lone_quantity(line)
        for letter, words in options.items():
            if same(line, words) or (number is not None and _is_number(words, number)):
                yield letter


def _concluded(text: str, options: Mapping[str, str]) -> str | None:
    """The option that follows the last "therefore" that begins a sentence."""
    place = max((match.end() for match in _SO.finditer(text)), default=0)
    rest = text[place:].strip()
    if not place or not rest:
        return None
    named = None if _COMPARED.search(rest) else _by_words(rest, options)
    return _said(rest.split('\n'), options) or named


def _by_words(text: str, options: Mapping[str, str]) -> str | None:
    """By the options' own words, by letters anywhere, or by what a text means."""
    known, named = {*options}, _named(text, options)
    return (_only([*_answering(text, options)], known) or _only(named, known)
            or _only(_BRACKETED.findall(text), known) or _only(_CAPITAL.findall(text), known)
            or (None if named else _only([*_meant(text, options)], known)))


def _answering(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """Options that mean the yes or no of a text, or that it calls the answer by their words."""
    said = find_yes_no(text) if options and all(map(says_first, options.values())) else None
    for letter, words in options.items():
        if said is not None and find_yes_no(words) == said:
            yield letter
    begin = _LETTER_AND.match(text)
    if begin and _begun(text[begin.end():], options) == begin[1].lower():
        yield begin[1]  # B the blue can
    for letter, words in options.items():
        if any(f' {plain(words)} is {right} ' in f' {plain(text)} ' for right in _RIGHT):
            yield letter
    for match in _ANSWER.finditer(text):
        yield from filter(None, [_begun(text[match.end():], options)])


def _begun(text: str, options: Mapping[str, str]) -> str | None:
    """The option that a text begins with; none where another one follows."""
    rest = plain(text[:_AHEAD_OF]) + ' '
    begun = {plain(words): letter for letter, words in options.items()
             if plain(words) and rest.startswith(plain(words) + ' ')}
    longest = max(begun, key=len, default='')
    hedged = rest[len(longest):].lstrip().startswith(('or ', 'and ', '/ '))
    return None if hedged else begun.get(longest)


def _named(text: str, options: Mapping[str, str]) -> list[str]:
    """Options whose words a text has, where they are no part of another option's words."""
    exact = [letter for letter, words in options.items() if same(text, words)]
    if exact:
        return exact
    found, rest, words = [], f' {plain(text)} ', {letter: f' {plain(one)} '
                                                  for letter, one in options.items()}
    for letter in sorted(words, key=lambda letter: -len(words[letter])):
        if words[letter].strip() and words[letter] in rest:
            found.append(letter)
            if any(other in words[letter] != other for other in words.values()):
                rest = rest.replace(words[letter], ' | ')  # "left front" is no "left"
    return found


def _meant(text: str, options: Mapping[str, str]) -> Iterator[str]:
    """Options that say the same yes or no, or are the number that a text states."""
    if not options:
        return
    said, number = find_yes_no(text), read_number(text)
    for letter, words in options.items():
        if said and says_first(words):
            meant = find_yes_no(words) == said
        else:
            meant = number is not None and number.sure and _is_number(words, number.quantity)
        if meant:
            yield letter


def meaning(text: str, options: Mapping[str, str]) -> str | None:
    """The one option that means the same yes or no, or the same number, as a text."""
    return _only([*_meant(text, options)], {*options})


def _is_number(option: str, said: Quantity) -> bool:
    """Whether an option is a number, and this one."""
    wanted = find_quantity(option) if kind_of_number(option, '') else None
    return wanted is not None and math.isclose(said.to(wanted.unit), wanted.value)


def _only(letters: Sequence[str], known: set[str]) -> str | None:
    """The one letter that is named, if it is an option."""
    found = {letter.lower() for letter in letters}
    if known:
        found &= known
    return found.pop() if len(found) == 1 else None


def same(first: str, second: str) -> bool:
    """Whether two texts are the same words."""
    return plain(first) == plain(second)


def plain(text: str) -> str:
    """Lower case, no articles, no punctuation at word ends."""
    words = (word.strip('.,;:!?()"\'') for word in text.lower().split())
    return ' '.join(word for word in words if word not in ('', 'the', 'a', 'an'))
