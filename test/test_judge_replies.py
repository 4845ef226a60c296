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
                                        ('1/2 m', '1/2 m'), ('far', None)])
def test_a_number_may_be_none(judge: Callable, said: str, read: str | None) -> None:
    assert judge(said)[0].numbers([CLAIM]) == [read]
