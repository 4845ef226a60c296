"""What goes wrong under compiled engines is named in TensorRT's own words, and leaves nothing."""

from __future__ import annotations

import gc
import logging
import weakref
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
from support.exported import exported_runtime, tiny_bundle
from support.fake_tensorrt import Cache, Context, Device, plan_of
from test_engines_runner import Load, drawn, filled
from test_onnx_runtime import near

from cooper_ros.errors import CooperError, EngineMismatch, NotReady, OutOfMemory
from cooper_ros.runtime import opening
from cooper_ros.runtime.engines import runner
from cooper_ros.runtime.engines.flavour import require_flavour
from cooper_ros.runtime.engines.runner import load_tensorrt_runtime
from cooper_ros.runtime.engines.words import words_of
from cooper_ros.runtime.graphs.export import example_inputs
from cooper_ros.runtime.graphs.runtime import GraphRuntime

WORDS = 'Error Code 6: API Usage Error (this GPU is unknown)'


@pytest.fixture
def load(device: Device, tmp_path: Path) -> Load:
    def loaded_runtime() -> GraphRuntime:
        plan = plan_of(device, tiny_bundle())
        return load_tensorrt_runtime(plan, Cache(plan, tmp_path))

    return loaded_runtime


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(('change', 'kind', 'said'), [
    ({'driverless': True}, NotReady, f'TensorRT cannot start here; got {WORDS}; remedy: run'),
    ({'unreadable': True}, EngineMismatch, f'graph vision here; got SM89: {WORDS}; remedy: run'),
    ({'unreadable': True, 'free': 1}, OutOfMemory, f'allowed: 0 MiB free (TensorRT: {WORDS})'),
    ({'contexts_left': 0}, OutOfMemory, f'running graph vision; got 0 MiB; allowed: 10,240 MiB '
                                        f'free (TensorRT: {WORDS})')])
def test_what_tensorrt_says_is_in_the_error(load: Load, device: Device, change: dict[str, int],
                                            kind: type[CooperError], said: str,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, 'check_room', lambda *numbers: None)
    vars(device).update(change, words=WORDS)
    with pytest.raises(kind) as caught:
        load()
    assert said in str(caught.value)


def test_a_run_that_fails_says_why_and_nothing_of_before(
        load: Load, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load()
    inputs = example_inputs(tiny_bundle().specs()['latents'], 'fp32')

    def failing(self: Context, stream: int) -> bool:
        device.complain()
        return False

    device.log.log(1, 'of another run')
    monkeypatch.setattr(Context, 'execute_async_v3', failing)
    for words, said in ((WORDS, f'run graph latents; got {WORDS}; remedy: restart the node'),
                        ('', 'run graph latents; remedy: restart the node')):
        device.words = words
        with pytest.raises(NotReady) as caught:
            runtime.runner.run('latents', inputs, {})
        assert str(caught.value).endswith(said)


def test_the_real_tensorrt_tells_its_one_logger() -> None:
    module = require_flavour().module
    words = words_of(module)
    assert words is words_of(module)
    words.forget()
    assert words.last() == ''
    assert module.Runtime(words.handle).deserialize_cuda_engine(b'no engine') is None
    assert 'Error Code' in words.last() and 'Loaded engine size' not in words.last()
    for number in range(99):
        words.handle.log(module.ILogger.ERROR, f'error {number}')
    assert words.last() == 'error 96; error 97; error 98'


def test_engines_that_are_dropped_leave_the_device_at_once(load: Load, no_collector: None) -> None:
    runtime = load()
    session = filled(runtime)
    session.step(0, 7)
    drawn(session)
    engines = [weakref.ref(engine) for engine in runtime.runner.engines.values()]
    scratch = weakref.ref(runtime.runner._scratch)
    del session, runtime
    assert [engine() for engine in engines] == [None] * 6 and scratch() is None


def test_what_is_left_of_refused_engines_is_gone_before_others_are_built(
        device: Device, monkeypatch: pytest.MonkeyPatch, no_collector: None) -> None:
    class Left:
        """Something in a circle, with memory of the device."""

    left = Left()
    left.itself, alive = left, weakref.ref(left)  # type: ignore[attr-defined]
    del left
    seen: list[Any] = []
    monkeypatch.setattr(opening, 'prepare_in_child', lambda request, told: seen.append(alive()))
    opening._prepare(None, print)
    assert seen == [None] and device.emptied == 1


@pytest.mark.parametrize('enabled', [True, False])
def test_nothing_is_collected_while_a_step_is_recorded(load: Load, device: Device, enabled: bool,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    session, seen, execute = filled(load()), [], Context.execute_async_v3

    def watched(self: Context, stream: int) -> bool:
        seen.append((device.capturing is not None, gc.isenabled()))
        return execute(self, stream)

    monkeypatch.setattr(Context, 'execute_async_v3', watched)
    try:
        (gc.enable if enabled else gc.disable)()
        session.step(0, 7)
        assert seen == [(False, enabled), (True, False)] and gc.isenabled() is enabled
    finally:
        gc.enable()


@pytest.mark.parametrize('forgetful', [True, False])
def test_a_capture_that_fails_is_ended_for_torch_too(load: Load, device: Device,
                                                     forgetful: bool) -> None:
    """Its allocator would believe in the capture for ever; a newer one says that it has ended."""
    device.broken_capture, device.forgetful = True, forgetful
    session, theirs = filled(load()), filled(exported_runtime())
    near(session.step(0, 7), theirs.step(0, 7))
    assert device.ended == [(0, 1)]
    device.broken_capture = False
    drawn(session)
    assert device.captures == ['flow'] and len(device.ended) == 1


def test_scratch_that_does_not_fit_is_an_error_of_ours(load: Load, device: Device,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def scarce(*size: Any, **more: Any) -> torch.Tensor:
        if size == (4096,) and more.get('dtype') == torch.uint8:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return empty(*size, **more)

    monkeypatch.setattr(torch, 'empty', scarce)
    device.free = 7 << 20
    with pytest.raises(OutOfMemory, match='no memory for scratch of the engines; got 0 MiB; '
                                          'allowed: 7 MiB free; remedy: build in a smaller'):
        load()


def test_torch_gives_back_what_it_keeps_before_a_context_is_refused(
        load: Load, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    session, theirs = filled(load()), filled(exported_runtime())
    device.contexts_left = 0

    def emptied() -> None:
        device.contexts_left = 1

    monkeypatch.setattr(torch.cuda, 'empty_cache', emptied)
    near(session.step(0, 7), theirs.step(0, 7))
    assert device.captures == ['understand']


def test_a_graph_without_room_for_recordings_runs_plainly(
        load: Load, device: Device, caplog: pytest.LogCaptureFixture) -> None:
    """The first time all recordings make room for it; they shall not do so in every step."""
    runtime = load()
    session, theirs = filled(runtime), filled(exported_runtime())
    session.step(0, 7)
    theirs.step(0, 7)
    device.contexts_left = 0
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            near(drawn(session), drawn(theirs))
    assert device.emptied == 2 and device.synchronised == 1
    (line,) = caplog.messages
    assert line.startswith('graph flow runs without CUDA graphs: OUT_OF_MEMORY')
    assert runtime.runner.memory().plain == (line,)
    device.contexts_left = 1
    session.step(0, 8)
    assert device.captures == ['understand'] * 2
