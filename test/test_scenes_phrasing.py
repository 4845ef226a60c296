"""Questions in other words: the same things, the same truth."""

from __future__ import annotations

import itertools
import re
from typing import Callable

import numpy as np
import pytest

from cooper_ros.scenes.generate import generate
from cooper_ros.scenes.phrasing import rephrase
from cooper_ros.scenes.qa import QuestionAnswer
from cooper_ros.scenes.questions import CATEGORIES

NAME = re.compile(r'\b(?:red|orange|yellow|green|cyan|blue|purple|black) '
                  r'(?:box|ball|can|pill|egg|cup)\b')
# What a question says of directions and sizes, and the words that say the same.
SAME = {'in front': 'nearer|closer|in front', 'behind': 'farther|further|behind', 'left': 'left',
        'right': 'right', 'taller': 'taller', 'bigger': 'bigger|larger', 'hidden': 'hid|occluded',
        'closest': 'clos|near', 'farthest': 'farther|further|farthest', 'closer': 'clos|near'}


@pytest.fixture(scope='module')
def questions() -> list[QuestionAnswer]:
    return [asked for sample in generate(0, 45, 'train', smooth=False, per_category=4)
            for asked in sample.questions]


def below(seed: int) -> Callable[[int], int]:
    rng = np.random.default_rng(seed)
    return lambda end: int(rng.integers(end))


def options(question: str) -> dict[str, str]:
    parts = re.split(r' \(([a-d])\) ', question)
    return dict(zip(parts[1::2], parts[2::2]))


def test_the_same_things_are_named_in_the_same_order(questions: list[QuestionAnswer]) -> None:
    for number, asked in enumerate(questions):
        other = rephrase(asked, below(number))
        named, wanted = (NAME.findall(text) for text in (other.question, asked.question))
        assert sorted(set(named)) == sorted(set(wanted)), (asked, other)
        assert re.findall(r'\d\.\d+', other.question) == re.findall(r'\d\.\d+', asked.question)
        assert '{' not in other.question and (other.kind != 'exact' or '(' not in other.question)
        assert (other.facts, other.tools, other.category) == (
            asked.facts, asked.tools, asked.category)


def test_the_truth_stays(questions: list[QuestionAnswer]) -> None:
    for number, asked in enumerate(questions):
        other, told = rephrase(asked, below(number)), options(asked.question)
        if other.kind == 'exact':
            right = told[asked.answer]
            assert right == other.answer or right.startswith(f'{other.answer} ')
            assert [text for text in told.values() if text.startswith(other.answer)] == [right]
            spoken = other.question.lower()
            assert asked.category == 'spatial_grid' or other.answer in spoken, other
        else:
            assert other.answer in (asked.answer, f'{asked.answer} {asked.unit}')
            assert (other.answer == asked.answer) == (not asked.unit or 'meter' in other.question)


def test_words_of_direction_keep_their_sense(questions: list[QuestionAnswer]) -> None:
    seen = set()
    for number, asked in enumerate(questions):
        other = rephrase(asked, below(number)).question.lower()
        for word, same in SAME.items() if asked.category != 'spatial_grid' else ():
            if other != asked.question and re.search(rf'\b{word}\b', asked.question):
                assert re.search(same, other), (asked, other)
                seen.add(word)
    assert seen == set(SAME)


@pytest.mark.parametrize('category', CATEGORIES)
def test_every_category_is_asked_in_several_ways(questions: list[QuestionAnswer],
                                                 category: str) -> None:
    asked = [entry for entry in questions if entry.category == category][:150]
    others = [rephrase(entry, below(number)) for number, entry in enumerate(asked)]
    assert len({shape(entry) for entry in others} - {shape(entry) for entry in asked}) >= 2


def shape(asked: QuestionAnswer) -> str:
    """A question without what it names."""
    return NAME.sub('X', re.sub(r'[\d.]+', 'N', asked.question.lower()))


@pytest.mark.parametrize('question, answer, wanted, said', [
    ('which is closer to the camera? (a) red box (b) blue can', 'b',
     'which is closer, the red box or the blue can?', 'blue can'),
    ('where is the red egg seen from the camera? (a) left of the blue can (b) right of the blue '
     'can', 'a', 'is the red egg left or right of the blue can?', 'left'),
    ('where is the red egg seen from the camera? (a) in front of the blue can (b) behind the blue '
     'can', 'a', 'is the red egg in front of or behind the blue can?', 'in front'),
    ('where in the image is the red egg? (a) top left (b) middle left (c) top center (d) top '
     'right', 'd', 'where in the image is the red egg?', 'top right')])
def test_options_become_words(question: str, answer: str, wanted: str, said: str) -> None:
    asked = QuestionAnswer('relative_distance', 'mcq', question, answer, '', 'f.', ())
    other = rephrase(asked, lambda end: 0)
    assert (other.question, other.answer, other.kind) == (wanted, said, 'exact')


def test_sentences_begin_with_a_capital_letter_or_have_none() -> None:
    asked = QuestionAnswer('reach', 'yes_no', 'an arm at the camera is 0.97 meters long. is the '
                           'blue box in reach?', 'yes', '', 'f.', ('depth',))
    forms = itertools.cycle((0, 1))
    assert rephrase(asked, lambda end: next(forms)).question == (
        'My arm is 0.97 meters long. can I reach the blue box?')
    assert rephrase(asked, lambda end: 0).question == (
        'my arm is 0.97 meters long. can i reach the blue box?')


def test_what_has_no_other_words_stays() -> None:
    asked = QuestionAnswer('counting', 'number_int', 'what?', '2', '', '2.', ())
    assert rephrase(asked, lambda end: 0) == asked
