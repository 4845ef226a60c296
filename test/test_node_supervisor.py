"""The worker process and its supervision, without ROS: real processes, real kills."""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Iterator

import numpy as np
import pytest

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer, Event, Failure, TextDelta
from cooper_ros.errors import (
    BadCheckpoint,
    BadImage,
    Busy,
    Canceled,
    EngineLost,
    ErrorCode,
    NotReady,
)
from cooper_ros.node import process, supervisor
from cooper_ros.node.messages import Job, Loaded
from cooper_ros.node.requests import Request
from cooper_ros.node.supervisor import FAILED, READY, Supervisor
from cooper_ros.node.worker import merge_text

FACTORY = 'support.scripted:ScriptedEngine'
PICTURE = np.full((4, 6, 3), (10, 20, 30), np.uint8)
PATIENCE_S = 60


class Caller:
    """Makes requests and collects what comes back."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.inbox: queue.Queue[Event] = queue.Queue()

    def ask(self, question: str, limit: int = 4, budget_s: float = 0.0,
            image: Callable[[], np.ndarray] = lambda: PICTURE) -> Request:
        """Submit one question."""
        request = Request(question, 'ask', question, {'seed': 7}, image, self.inbox.put, budget_s)
        self.supervisor.submit(request, limit)
        return request

    def end(self) -> Answer | Failure:
        """The next end of any request."""
        while not isinstance(event := self.inbox.get(timeout=PATIENCE_S), Answer | Failure):
            pass
        return event

    def text(self) -> None:
        """Wait until a request is at work."""
        while not isinstance(self.inbox.get(timeout=PATIENCE_S), TextDelta):
            pass


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    latest = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < latest, 'it never happened'
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    config = CooperConfig(model_path=str(tmp_path), worker_restarts=2)
    supervisor = Supervisor(FACTORY, config, lambda level, text: None, grace_s=0.5)
    yield Caller(supervisor)
    supervisor.stop()
    supervisor.join(PATIENCE_S)


def test_answers_with_the_settings_of_the_request(caller: Caller) -> None:
    caller.ask('what colour?')
    end = caller.end()
    assert isinstance(end, Answer) and end.text == '10 20 30 seed 7'


def test_a_killed_worker_costs_only_the_request_it_held(caller: Caller) -> None:
    caller.ask('crash')
    caller.ask('and now?')
    lost, good = caller.end(), caller.end()
    assert lost.error_code == ErrorCode.ENGINE_LOST and 'exit code -9' in lost.error_msg
    assert isinstance(good, Answer) and good.complete
    assert caller.supervisor.status().restarts == 1


def test_a_lost_device_costs_only_the_request_that_lost_it(caller: Caller) -> None:
    """A process whose CUDA context is broken fails for ever; a defect of ours does not."""
    for question in ('bug', 'fault', 'and now?'):
        caller.ask(question)
    ends = [caller.end() for _ in range(3)]
    assert [end.error_code for end in ends] == [ErrorCode.INTERNAL, ErrorCode.ENGINE_LOST, 0]
    assert 'exit code 3, the GPU has failed' in ends[1].error_msg
    assert caller.supervisor.status().restarts == 1


def test_an_idle_worker_that_dies_is_replaced(caller: Caller) -> None:
    eventually(lambda: caller.supervisor.status().state == READY)
    first = caller.supervisor.status().pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: caller.supervisor.status().restarts == 1)
    caller.ask('still there?')
    assert caller.end().error_code == 0 and caller.supervisor.status().pid != first


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_are_left_to_the_node(tmp_path: Path, number: int) -> None:
    """From its first moment on, when Python has not even begun there."""
    _, wake = multiprocessing.Pipe()
    with process.EngineProcess(FACTORY, CooperConfig(model_path=str(tmp_path)), wake) as worker:
        os.kill(worker.pid, number)
        while not isinstance(worker.receive(PATIENCE_S), Loaded):
            pass
        os.kill(worker.pid, number)
        worker.send(Job('one', 'ask', PICTURE, 'what colour?', {'seed': 7}))
        while not isinstance(worker.receive(PATIENCE_S), Answer):
            pass
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()  # ours is as it was


def test_a_program_that_ends_takes_its_worker_along(tmp_path: Path) -> None:
    """multiprocessing would ask it by SIGTERM, and wait for ever."""
    words = f"""
import multiprocessing, sys
from cooper_ros.config import CooperConfig
from cooper_ros.node.process import EngineProcess
if __name__ == '__main__':
    rope, wake = multiprocessing.Pipe()
    worker = EngineProcess({FACTORY!r}, CooperConfig(model_path=sys.argv[1]), wake)
    while worker.receive(60) is None:
        pass
    print(worker.pid)
"""
    (tmp_path / 'ends.py').write_text(words)
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, tmp_path / 'ends.py', tmp_path], check=True,
                          stdout=subprocess.PIPE, timeout=PATIENCE_S,
                          env={**os.environ, 'PYTHONPATH': path})
    assert gone(int(done.stdout))


def test_gives_up_after_too_many_deaths(caller: Caller) -> None:
    for _ in range(3):
        caller.ask('crash')
    codes = [caller.end().error_code for _ in range(3)]
    assert codes == [ErrorCode.ENGINE_LOST] * 3
    eventually(lambda: caller.supervisor.status().state == FAILED)
    with pytest.raises(EngineLost, match='too often.*worker_restarts 2.*configure again'):
        caller.ask('hello?')


def test_cancel_of_a_running_and_of_a_waiting_request(caller: Caller) -> None:
    running, waiting = caller.ask('slow'), caller.ask('what colour?')
    caller.text()
    caller.supervisor.cancel(waiting, Canceled('no longer needed'))
    assert caller.end().request_id == 'what colour?'
    caller.supervisor.cancel(running, Canceled('no longer needed'))
    end = caller.end()
    assert isinstance(end, Answer) and end.error_code == ErrorCode.CANCELED and not end.complete


def test_what_was_taken_back_is_not_begun(caller: Caller) -> None:
    request = Request('late', 'ask', 'what colour?', {}, lambda: PICTURE, caller.inbox.put)
    request.reason = Canceled('no longer needed')
    caller.supervisor.queue.put(request)  # as when its turn comes before the next sweep
    with pytest.raises(Canceled):
        caller.supervisor._serve(SimpleNamespace(send=lambda job: 1 / 0), request)
    assert caller.end().error_code == ErrorCode.CANCELED


def test_a_worker_that_ignores_its_cancel_is_killed(caller: Caller) -> None:
    request = caller.ask('hang')
    caller.text()
    caller.supervisor.cancel(request, Canceled('no longer needed'))
    assert 'does not stop' in caller.end().error_msg
    caller.ask('and now?')
    assert caller.end().error_code == 0


def test_a_frozen_worker_does_not_hold_those_who_write_to_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, 'SILENCE_S', 1.0)
    _, wake = multiprocessing.Pipe()
    large = Job('one', 'ask', np.zeros((2000, 2000, 3), np.uint8), 'what colour?', {})
    with process.EngineProcess(FACTORY, CooperConfig(model_path=str(tmp_path)), wake) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(EngineLost, match='hangs'):
            worker.send(large)
        pid = worker.pid
    eventually(lambda: gone(pid))


def test_what_cannot_be_killed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a driver hangs in the kernel."""
    monkeypatch.setattr(process, 'KILL_S', 0.0)
    _, wake = multiprocessing.Pipe()
    worker = process.EngineProcess(FACTORY, CooperConfig(model_path=str(tmp_path)), wake)
    spared = worker._process
    monkeypatch.setattr(spared, 'kill', lambda: None)
    with pytest.raises(EngineLost, match=f'cannot be killed.*{worker.pid}'):
        worker.__exit__(EngineLost, None, None)
    os.kill(spared.pid, signal.SIGKILL)
    spared.join()


def test_who_asked_does_not_wait_for_a_worker_that_hangs(
        caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, 'REPLY_S', 0.0)
    eventually(lambda: caller.supervisor.status().state == READY)
    caller.ask('hang', budget_s=0.1)
    end = caller.end()
    assert end.error_code == ErrorCode.DEADLINE and 'did not stop when' in end.error_msg
    request = caller.ask('hang')  # waits until the hanging worker was replaced
    caller.text()
    caller.supervisor.cancel(request, Canceled('no longer needed'))
    assert caller.end().error_code == ErrorCode.CANCELED
    caller.ask('and now?')
    assert caller.end().error_code == 0


def test_a_worker_past_its_deadline_is_killed(caller: Caller) -> None:
    eventually(lambda: caller.supervisor.status().state == READY)
    caller.ask('hang', budget_s=0.1)
    assert caller.end().error_code == ErrorCode.ENGINE_LOST


def test_time_runs_out_in_the_queue_too(caller: Caller) -> None:
    blocker = caller.ask('slow')
    caller.text()
    caller.ask('what colour?', budget_s=0.05)
    end = caller.end()
    assert end.error_code == ErrorCode.DEADLINE and 'in the queue' in end.error_msg
    caller.supervisor.cancel(blocker, Canceled('test is over'))


def unserved(supervisor: Supervisor) -> str:
    """What somebody hears who asks one that will not be ready before it is told to."""
    caller = Caller(supervisor)
    caller.ask('what colour?', budget_s=0.02)
    end = caller.end()
    assert end.error_code == ErrorCode.NOT_READY
    return end.error_msg


def test_a_request_does_not_wait_for_ever_for_a_model(tmp_path: Path) -> None:
    config = CooperConfig(model_path=str(tmp_path))
    loading = Supervisor('support.preparing:PreparingEngine', config, lambda *said: None)
    assert 'still loading' in unserved(loading)
    loading.stop()
    loading.join(PATIENCE_S)


def test_a_request_does_not_wait_for_ever_for_the_device(tmp_path: Path) -> None:
    let_go = threading.Event()
    former = SimpleNamespace(join=lambda seconds: let_go.wait(0.01))
    later = Supervisor(FACTORY, CooperConfig(model_path=str(tmp_path)), lambda *said: None,
                       after=former)
    assert 'still loading' in unserved(later) and not later.status().pid
    later.stop()
    let_go.set()
    later.join(PATIENCE_S)


def test_what_runs_in_the_background_takes_no_room_and_gives_way(caller: Caller) -> None:
    map_of_now = Request('live', 'ask', 'slow', {'seed': 7}, lambda: PICTURE, caller.inbox.put,
                         background=True)
    caller.supervisor.submit(map_of_now, 0)
    caller.text()
    caller.ask('what colour?', limit=0)
    first, second = caller.end(), caller.end()
    assert (first.request_id, first.error_code) == ('live', ErrorCode.CANCELED)
    assert isinstance(second, Answer) and second.complete


def test_the_queue_is_bounded(caller: Caller) -> None:
    blocker = caller.ask('slow')
    caller.text()
    for number in range(2):
        caller.ask(f'question {number}', limit=2)
    for _ in range(200):
        with pytest.raises(Busy, match='2 waiting; allowed: queue_size 2'):
            caller.ask('one more', limit=2)
    assert caller.supervisor.status().refused == 200
    caller.supervisor.cancel(blocker, Canceled('go on'))
    assert [caller.end().request_id for _ in range(3)] == ['slow', 'question 0', 'question 1']


def test_errors_keep_their_codes(caller: Caller) -> None:
    def bad_image() -> np.ndarray:
        raise BadImage('step is too small', value=3)

    caller.ask('memory')
    caller.ask('bug')
    caller.ask('what colour?', image=bad_image)
    caller.ask('what colour?')
    codes = [caller.end().error_code for _ in range(4)]
    assert codes == [ErrorCode.OUT_OF_MEMORY, ErrorCode.INTERNAL, ErrorCode.BAD_IMAGE, 0]
    assert caller.supervisor.status().restarts == 0


def test_a_picture_that_fails_in_an_unknown_way_costs_one_request(caller: Caller) -> None:
    def odd() -> np.ndarray:
        raise MemoryError('cannot allocate')
    caller.ask('what colour?', image=odd)
    caller.ask('and now?')
    failed, good = caller.end(), caller.end()
    assert failed.error_code == ErrorCode.INTERNAL and 'MemoryError; got ca' in failed.error_msg
    assert good.error_code == 0 and caller.supervisor.status().restarts == 0


def test_a_broken_model_folder_is_reported_and_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / 'broken').touch()
    said: list[str] = []
    supervisor = Supervisor(FACTORY, CooperConfig(model_path=str(tmp_path)),
                            lambda level, text: said.append(text))
    eventually(lambda: supervisor.status().state == FAILED)
    with pytest.raises(BadCheckpoint, match='key missing; got a.weight'):
        Caller(supervisor).ask('what colour?')
    assert supervisor.status().restarts == 0 and 'a.weight' in said[-1]


def test_refusals_keep_nothing_of_what_was_refused(tmp_path: Path) -> None:
    (tmp_path / 'broken').touch()
    made = Supervisor(FACTORY, CooperConfig(model_path=str(tmp_path)), lambda *words: None)
    made.join(PATIENCE_S)

    def refused() -> weakref.ref[np.ndarray]:
        picture = np.zeros((2, 2))
        with pytest.raises(BadCheckpoint):
            made.check_room(len(picture))
        return weakref.ref(picture)

    kept = [refused() for _ in range(3)]
    gc.collect()
    assert [picture() is None for picture in kept[:2]] == [True, True]


def test_a_worker_that_dies_while_loading_is_given_up(tmp_path: Path) -> None:
    (tmp_path / 'deadly').touch()
    config = CooperConfig(model_path=str(tmp_path), worker_restarts=1)
    supervisor = Supervisor(FACTORY, config, lambda level, text: None)
    eventually(lambda: supervisor.status().state == FAILED)
    assert supervisor.status().restarts == 1


def test_stop_ends_worker_and_requests(tmp_path: Path) -> None:
    caller = Caller(Supervisor(FACTORY, CooperConfig(model_path=str(tmp_path)),
                               lambda level, text: None))
    caller.ask('slow')
    caller.text()
    pid = caller.supervisor.status().pid
    caller.supervisor.stop()
    assert caller.end().error_code == ErrorCode.NOT_READY
    caller.supervisor.join(PATIENCE_S)
    assert gone(pid)
    with pytest.raises(NotReady, match='stopped'):
        caller.ask('hello?')


def test_text_that_comes_fast_is_joined_without_loss() -> None:
    events: list[Event] = [TextDelta('r', n / 1000, 1 + n // 60, f'{n} ') for n in range(100)]
    events.append(Failure('r', 0.1, 300, ''))
    merged = list(merge_text(iter(events), every_s=0.02))
    assert ''.join(e.text for e in merged if isinstance(e, TextDelta)) == ''.join(
        f'{n} ' for n in range(100))
    assert len(merged) < 12 and isinstance(merged[-1], Failure)
    assert {e.turn for e in merged[:-1]} == {1, 2}
