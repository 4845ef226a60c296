"""One request at a time: who waits, who is refused, and what an unfinished iterator holds up."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, Callable

import numpy as np
import pytest
from support.tiny import PROMPTS, tiny_engine

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, Event, Failure
from cooper_ros.engine.one_request import OneRequest
from cooper_ros.errors import Busy

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
PATIENCE_S = 60


@pytest.fixture
def engine() -> CooperEngine:
    return tiny_engine()


def in_a_thread(work: Callable[[], Any]) -> Any:
    """The result of some work, which may hang for ever: then the test fails, and goes on."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert found, 'it hangs, or failed'
    return found[0]


@pytest.mark.parametrize('begin', [
    lambda engine: engine.ask(PICTURE, 'which?', request_id='first', mode='direct'),
    lambda engine: engine.draw(PICTURE, 'depth', request_id='first')])
@pytest.mark.parametrize('again', [
    lambda engine: next(engine.ask(PICTURE, 'and now?')),
    lambda engine: engine.estimate_depth(PICTURE), lambda engine: engine.segment(PICTURE),
    lambda engine: next(engine.draw(PICTURE, 'depth')),
    lambda engine: engine.swap(lambda: engine.parts.runtime)])
def test_a_thread_is_not_stuck_behind_its_own_unfinished_request(
        engine: CooperEngine, begin: Callable[[CooperEngine], Any],
        again: Callable[[CooperEngine], Any]) -> None:
    def work() -> Any:
        unfinished = begin(engine)
        next(unfinished)
        with pytest.raises(Busy, match='iterator of this thread.* unfinished; got request first; '
                           '.*remedy: exhaust the iterator, or close it'):
            again(engine)
        unfinished.close()
        again(engine)
        return list(engine.ask(PICTURE, 'which?', mode='direct'))[-1]
    assert isinstance(in_a_thread(work), Answer)


def test_who_consumes_a_request_may_not_ask_within_it(engine: CooperEngine) -> None:
    def work() -> Any:
        events = engine.ask(PICTURE, 'which?', mode='direct')
        for _ in events:
            with pytest.raises(Busy):
                engine.segment(PICTURE)
        return engine.segment(PICTURE)
    assert in_a_thread(work).labels.size


def test_other_threads_wait_for_their_turn(engine: CooperEngine) -> None:
    heard: list[str] = []
    asking = threading.Event()

    def other() -> None:
        asking.set()
        heard.extend(event.request_id for event in engine.ask(
            PICTURE, 'and now?', request_id='second', mode='direct'))

    first = engine.ask(PICTURE, 'which?', request_id='first', mode='direct')
    heard.append(next(first).request_id)
    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    assert asking.wait(PATIENCE_S)
    heard.extend(event.request_id for event in first)
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and set(heard) == {'first', 'second'}
    assert heard == sorted(heard)


def test_an_iterator_may_be_closed_by_another_thread(engine: CooperEngine) -> None:
    unfinished = engine.ask(PICTURE, 'which?', mode='direct')
    next(unfinished)
    in_a_thread(lambda: unfinished.close() or True)
    assert in_a_thread(lambda: engine.segment(PICTURE)).labels.size
    assert engine.segment(PICTURE).labels.size


def last(engine: CooperEngine, **changes: Any) -> Event:
    return list(engine.ask(PICTURE, 'which?', **changes))[-1]


def test_room_is_made_for_the_longest_prompt_in_tokens(engine: CooperEngine) -> None:
    """A byte codec: every one of these characters is three tokens."""
    engine.parts = replace(engine.parts, prompts=replace(
        PROMPTS, think_system='\u5b57' * 2000, interleave_system='a' * 2001))
    assert not isinstance(end := last(engine, mode='text'), Failure), end


def test_a_new_thread_is_not_taken_for_an_old_one_whose_number_it_got() -> None:
    turn, order = OneRequest(), list[str]()
    held = turn.taken('first')
    first = threading.Thread(target=held.__enter__)
    first.start()
    first.join()

    started = threading.Event()

    def ask() -> None:
        started.set()
        with turn.taken('second'):
            order.append('had its turn')

    second = threading.Thread(target=ask)
    second.start()
    started.wait(PATIENCE_S)
    order.append('first ends')
    held.__exit__(None, None, None)
    second.join(PATIENCE_S)
    assert order == ['first ends', 'had its turn']
