"""What counts as a reply of a judge: text that says True, False, a number or None."""

from __future__ import annotations

import json
from typing import Callable, Iterator

import pytest
from test_rewards import Server

from cooper_ros.scoring.judge import Claim, Judge, JudgeSettings

CLAIM = Claim('how far?', '2 m', '<answer>near</answer>')


@pytest.fixture
def judge() -> Iterator[Callable[[object], tuple[Judge, Server]]]:
    """A judge whose replies hold one content, whatever it is in JSON."""
    made: list[Server] = []

    def make(content: object) -> tuple[Judge, Server]:
        body = json.dumps({'choices': [{'message': {'content': content}}]})
        made.append(Server(lambda number, asked: (-1, body)))
        return Judge(JudgeSettings(made[-1].url, attempts=3), lambda seconds: None), made[-1]
    yield make
    for entry in made:
        entry.server.shutdown()
        entry.server.server_close()


@pytest.mark.parametrize('content', [None, ['none'], True, 2, {'text': '2 m'}])
def test_a_reply_without_text_is_no_reply(judge: Callable, content: object) -> None:
    """Null is what a server sends that refused; it is not the judge saying that there is none."""
    asked, server = judge(content)
    assert asked.numbers([CLAIM]) == [None] and asked.verdicts([CLAIM]) == [None]
    assert len(server.asked) == 6  # each tried as often as may be


@pytest.mark.parametrize('said, verdict', [('True.', True), ('False.', False), ('true', True),
                                           (' FALSE. ', False), ('Truely', None), ('.', None)])
def test_a_verdict_may_end_in_a_full_stop(judge: Callable, said: str, verdict: bool | None
                                          ) -> None:
    asked, server = judge(said)
    assert asked.verdicts([CLAIM]) == [verdict]
    assert len(server.asked) == (3 if verdict is None else 1)


@pytest.mark.parametrize('said, read', [('None', ''), ('none.', ''), ('1.5 m', '1.5 m'),
                                        ('1/2 m', '1/2 m'), ('far', None), ('**None**', '')])
def test_a_number_may_be_none(judge: Callable, said: str, read: str | None) -> None:
    assert judge(said)[0].numbers([CLAIM]) == [read]


@pytest.mark.parametrize('said', ['1.5 m.', '**1.5 m**', 'Answer: 1.5 m', '1.5 m (150 cm)', '45°',
                                  'about 2 meters', r'\boxed{2}', 'three', '-2', '"1.5 m"', '`3`',
                                  'The answer is 3.', '1 to 2 m'])
def test_a_number_may_stand_in_markup_and_be_called_the_answer(judge: Callable, said: str) -> None:
    assert judge(said)[0].numbers([CLAIM]) == [said]


@pytest.mark.parametrize('said', [
    'Sorry, as an AI trained until 2024 I cannot see pictures.', 'Error code 429: quota',
    'The answer states 3 numbers', '3 chairs and 2 tables', '1 or 2', '500 Internal Server Error',
    'I see 3 of them', '404 not found'])
def test_a_number_in_other_words_is_no_reply(judge: Callable, said: str) -> None:
    asked, server = judge(said)
    assert asked.numbers([CLAIM]) == [None] and len(server.asked) == 3


def test_a_verdict_may_be_bold(judge: Callable) -> None:
    assert judge('**True**')[0].verdicts([CLAIM]) == [True]
