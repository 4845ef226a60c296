"""The same questions in other words, as people ask them.

The categories of :mod:`..questions` word each question in one or two ways, which keeps scores
comparable. Who trains on these alone understands these alone; here are others with the same truth.
An option that is part of the sentence is answered by its words and not by its letter, and a number
brings its unit where the question does not ask for one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Callable

from cooper_ros.scenes.qa import QuestionAnswer

Below = Callable[[int], int]  # a random number from 0 to below what it is given
Form = tuple[str, tuple[str, ...]]

_OPTION = re.compile(r' \(([a-d])\) ')
_LENGTHS: tuple[Form, ...] = (
    (r'how far is the (?P<a>[\w ]+) from the camera in meters\?'
     r'|how many meters away is the (?P<b>[\w ]+)\?',
     ('how far is the {x}?', 'how far away is the {x}?', 'what is the distance to the {x}?',
      'what distance is the {x} from me?', 'how far is it to the {x}?', 'distance to the {x}?',
      'how many meters is it to the {x}?', 'how far is the {x} from the robot?',
      'what is the distance from the camera to the {x}?')),
    (r'how far is the (?P<a>[\w ]+) from the (?P<b>[\w ]+) in meters\?',
     ('how far apart are the {a} and the {b}?', 'how far is the {a} from the {b}?',
      'what is the distance between the {a} and the {b}?',
      'how far is it from the {a} to the {b}?',
      'how many meters are between the {a} and the {b}?')),
    (r'how tall is the (?P<a>[\w ]+) in centimeters\?'
     r'|how many centimeters tall is the (?P<b>[\w ]+)\?',
     ('how tall is the {x}?', 'how large is the {x} from bottom to top?',
      'what is the size of the {x} from bottom to top?')),
    (r'how high above the floor is the top of the (?P<a>[\w ]+) in meters\?'
     r'|how many meters above the floor is the top of the (?P<b>[\w ]+)\?',
     ('how high is the top of the {x}?', 'how high up is the top of the {x}?',
      'at what height is the top of the {x}?', 'how far above the floor does the {x} end?')),
    (r'is the top of the (?P<a>[\w ]+) higher than the top of the (?P<b>[\w ]+)\?',
     ('does the {a} reach higher than the {b}?', 'is the top of the {a} above that of the {b}?')),
    (r'an arm at the camera (?:reaches|is) (?P<m>[\d.]+) meters(?: long)?\. '
     r'(?:can it reach the (?P<a>[\w ]+)|is the (?P<b>[\w ]+) in reach)\?',
     ('my arm is {m} meters long. can i reach the {x}?', 'can an arm of {m} m reach the {x}?',
      'can i reach the {x} with an arm of {m} meters?', 'is the {x} within {m} meters?',
      'the robot reaches {m} meters. is the {x} in its reach?')))
_SIGHT: tuple[Form, ...] = (
    (r'how many (?P<a>[\w ]+) are there\?|count the (?P<b>[\w ]+)\.',
     ('how many {x} do you see?', 'how many {x} can you see?', 'how many {x} are in the picture?',
      'what is the number of {x}?', 'count all {x}.', 'how many {x}?', 'number of {x}?')),
    (r'is there (?P<a>(?:a|an|anything) [\w ]+)\?',
     ('do you see {a}?', 'can you see {a}?', 'is there {a} in the picture?',
      'is there {a} in the room?', 'is {a} there?')),
    (r'is the (?P<a>[\w ]+) partly hidden\?',
     ('is the {a} occluded?', 'is part of the {a} hidden?', 'is the {a} partly occluded?',
      'is something hiding a part of the {a}?')),
    (r'is the (?P<a>[\w ]+) (?P<s>left|right) of the (?P<b>[\w ]+)\?',
     ('is the {a} to the {s} of the {b}?', 'is the {a} on the {s} of the {b}?',
      'is the {a} further {s} than the {b}?')),
    (r'is the (?P<a>[\w ]+) in front of the (?P<b>[\w ]+)\?',
     ('is the {a} nearer than the {b}?', 'is the {a} closer than the {b}?',
      'is the {a} closer to the camera than the {b}?')),
    (r'is the (?P<a>[\w ]+) behind the (?P<b>[\w ]+)\?',
     ('is the {a} farther than the {b}?', 'is the {a} farther away than the {b}?',
      'is the {a} further from the camera than the {b}?')),
    (r'(?:you stand at|from) the (?P<a>[\w ]+?)(?: and face| you look at) the (?P<b>[\w ]+)\. '
     r'is the (?P<c>[\w ]+) on your (?P<s>left|right)\?',
     ('if i stood at the {a} and faced the {b}, would the {c} be on my {s}?',
      'i stand at the {a} and look at the {b}. is the {c} on my {s}?',
      'seen from the {a}, facing the {b}, is the {c} on the {s}?')))
_CHOICES: tuple[Form, ...] = (
    (r'which is close(?:r|st) to the camera\?',
     ('which is closer, {o}?', 'which is nearer, {o}?', 'which one is closer to me, {o}?',
      'what is closest, {o}?', 'which is nearest to the camera, {o}?', 'what is nearer: {o}?')),
    (r'which is farthe(?:r|st) from the camera\?',
     ('which is farther, {o}?', 'which is farther away, {o}?',
      'which one is further from me, {o}?', 'what is farthest, {o}?')),
    (r'which is close(?:r|st) to the (?P<a>[\w ]+)\?',
     ('which is closer to the {a}, {o}?', 'what is nearest to the {a}, {o}?',
      'is {o} closer to the {a}?')),
    (r'which object is taller\?', ('which is taller, {o}?', 'is {o} taller?')),
    (r'which object is bigger\?', ('which is bigger, {o}?', 'which is larger, {o}?')),
    (r'which top is higher above the floor\?',
     ('which reaches higher, {o}?', 'whose top is higher, {o}?')),
    (r'which object hides part of the (?P<a>[\w ]+)\?',
     ('what hides the {a}, {o}?', 'which object is in front of the {a}, {o}?')),
    (r'where is the (?P<a>[\w ]+) seen from the camera\?',
     ('is the {a} {o}?', 'where is the {a}: {o}?')),
    (r'where in the image is the (?P<a>[\w ]+)\?',
     ('where in the image is the {a}?', 'where is the {a} in the picture?',
      'in which part of the picture is the {a}?')),
    (r'the (?P<a>[\w ]+) faces the camera\. where is the (?P<b>[\w ]+) for it\?',
     ('the {a} faces the camera. is the {b} {o} for it?',
      'the {a} looks at us. where is the {b} for it, {o}?')),
    (r'(?:you stand at|from) the (?P<a>[\w ]+?)(?: and face| you look at) the (?P<b>[\w ]+)\. '
     r'where is the (?P<c>[\w ]+)\?',
     ('if i stood at the {a} and faced the {b}, where would the {c} be, {o}?',
      'i stand at the {a} and look at the {b}. is the {c} on the {o}?')))
_FORMS = [(re.compile(pattern), forms) for pattern, forms in (*_LENGTHS, *_SIGHT)]
_CHOICE_FORMS = [(re.compile(pattern), forms) for pattern, forms in _CHOICES]
_SIDES = ('left', 'right', 'in front', 'behind')


def rephrase(asked: QuestionAnswer, below: Below) -> QuestionAnswer:
    """The same question in other words, or as it is where none are known.

    Args:
        asked: a question as :mod:`..questions` words it.
        below: random numbers.
    """
    stem, *options = _OPTION.split(asked.question)
    words = dict(zip(options[::2], options[1::2]))
    for pattern, forms in _CHOICE_FORMS if words else _FORMS:
        if found := pattern.fullmatch(stem):
            parts = {name: text for name, text in found.groupdict().items() if text}
            parts |= {'x': parts.get('a') or parts.get('b', ''), 'o': _offered([*words.values()])}
            asked = replace(asked, question=forms[below(len(forms))].format(**parts))
            asked = _named(asked, words) if words else _with_unit(asked)
            break
    return replace(asked, question=_capital(asked.question, below))


def _named(asked: QuestionAnswer, words: dict[str, str]) -> QuestionAnswer:
    """The answer in words, as no letters are offered any more."""
    return replace(asked, kind='exact', answer=_short(words[asked.answer]))


def _with_unit(asked: QuestionAnswer) -> QuestionAnswer:
    """A number with its unit, unless the question names it."""
    if not asked.unit or 'meters' in asked.question:
        return asked
    return replace(asked, answer=f'{asked.answer} {asked.unit}')


def _offered(words: list[str]) -> str:
    """Options in a sentence: ``the red box or the blue can``, ``left or right of the can``."""
    if not words:
        return ''
    if _short(words[0]) not in _SIDES:
        named = [f'the {word}' for word in words]
        return ', '.join(named[:-1]) + f' or {named[-1]}'
    first, second = words  # both seen from the same thing, which is named once
    way = first.partition(' the ')[0]
    if ' of the ' in second:
        way = way.removesuffix(' of')
    return f'{way} or {second}'


def _short(option: str) -> str:
    """An option as an answer: a direction without the thing it is seen from."""
    return option.partition(' the ')[0].removesuffix(' of')


def _capital(text: str, below: Below) -> str:
    """With capital letters where they belong, or without any."""
    return (text[0].upper() + text[1:]).replace(' i ', ' I ') if below(2) else text
