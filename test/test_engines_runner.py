"""The runner of compiled engines, on a stand-in for TensorRT and CUDA (see support)."""

from __future__ import annotations

import logging
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from support.exported import exported_runtime, tiny_bundle
from support.fake_tensorrt import Cache, Context, Device, Engine, plan_of
from support.tiny import tiny_config
from test_onnx_runtime import conversation, draw, near

from cooper_ros.errors import BadOption, CooperError, EngineMismatch, NotReady, OutOfMemory
from cooper_ros.runtime import memory
from cooper_ros.runtime.base import Session
from cooper_ros.runtime.engines import loaded, runner
from cooper_ros.runtime.engines.loaded import stream_budgets
from cooper_ros.runtime.engines.runner import load_tensorrt_runtime
from cooper_ros.runtime.graphs.export import example_inputs
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.graphs.spec import BUCKET, Limits

GRID = (2, 3)
Load = Callable[..., GraphRuntime]


@pytest.fixture
def load(device: Device, tmp_path: Path) -> Load:
    def loaded_runtime(stream_bytes: int | None = None, **changes: Any) -> GraphRuntime:
        plan = plan_of(device, tiny_bundle(), **changes)
        return load_tensorrt_runtime(plan, Cache(plan, tmp_path), stream_bytes=stream_bytes)

    return loaded_runtime


def engines(runtime: GraphRuntime) -> dict[str, Engine]:
    return {name: one.engine for name, one in runtime.runner.engines.items()}


def drawn(session: Session, rows: tuple[int, ...] = (0, 1, 2)) -> torch.Tensor:
    return session.velocity(rows, draw(7, 6, 64), 0.5, GRID)


def filled(runtime: GraphRuntime, capacity: int = 500) -> Session:
    """Three contexts of different lengths in the first bucket."""
    session = runtime.session(rows=3, capacity=capacity)
    for row, tokens in enumerate((40, 20, 30)):
        session.append_text(row, [row + 5] * tokens)
    return session


@pytest.mark.parametrize('record', [True, False])
def test_a_session_says_what_torch_says(load: Load, record: bool) -> None:
    runtime = load()
    runtime.runner.record = record
    with torch.inference_mode():
        for ours, theirs in zip(conversation(runtime), conversation(exported_runtime()),
                                strict=True):
            near(ours, theirs)


def test_a_step_comes_again_right_after_others_of_other_sizes(load: Load, device: Device) -> None:
    """The stand-in refuses to replay what was captured from a context that was used since."""
    said = []
    for record in (True, False):
        runtime = load()
        runtime.runner.record = record
        session = filled(runtime)
        start, logits = session.cursor(0), [session.step(0, 7)]
        session.append_text(0, [9] * 20)
        logits += [session.step(0, 8), drawn(session)]
        session.append_text(0, [10] * (BUCKET - 20))
        logits += [session.step(0, 8), drawn(session)]
        session.rewind(0, start)
        said.append([*logits, session.step(0, 7), drawn(session)])
    assert device.captures == ['understand', 'flow'] * 2
    for ours, theirs in zip(*said, strict=True):
        near(ours, theirs)
    near(said[0][0], said[0][-2])


def test_every_recording_has_a_context_of_its_own(load: Load) -> None:
    runtime = load()
    session = filled(runtime)
    session.step(0, 7)
    session.append_text(0, [9] * BUCKET)
    session.step(0, 7)
    contexts = engines(runtime)['understand'].contexts
    assert len(contexts) == 3 and len({context.scratch for context in contexts}) == 1
    assert contexts[0].shapes['embeds'][1] > 1  # the plain one; single tokens are recorded
    steps = list(runtime.runner._recorded.values())
    assert len(steps) == 2 and steps[0].inputs is steps[1].inputs  # one runs at a time


def test_maps_of_one_conversation_are_recorded_once(load: Load, device: Device) -> None:
    session = filled(load())
    for token in (7, 8, 9):
        with torch.inference_mode():
            fresh = {row: [store[:, row].clone() for store in session.cache.slots]
                     for row in range(3)}
        said = drawn(session)
        drawn(session)
        assert device.captures.count('flow') == 1
        for row in range(3):
            near(said[row:row + 1], drawn(session, (row,)))  # where the cache itself lies
            assert all(torch.equal(now[:, row], then)
                       for now, then in zip(session.cache.slots, fresh[row]))
        del device.captures[1:]
        start = session.cursor(0)
        session.step(0, token)
        session.rewind(0, start)
        session.step(1, token)
        session.share(0, 2)


def test_pictures_are_read_into_the_cache_without_a_recording(load: Load, device: Device) -> None:
    runtime = load()
    session = runtime.session(rows=1, capacity=64)
    session.append_latents(0, runtime.embed_latents(draw(1, 16, 4, 6)))
    assert device.captures == [] and ('flow', 0) in device.runs


def test_a_session_that_ends_takes_its_recordings_and_memory_along(load: Load,
                                                                   device: Device) -> None:
    runtime = load()
    session = filled(runtime)
    session.step(0, 7)
    drawn(session)
    memory = weakref.ref(session.cache.slots[0].untyped_storage())
    assert runtime.runner.memory().recorded > 0 and memory() is not None
    del session
    assert memory() is None and device.synchronised == 0
    runtime.session(rows=1, capacity=64).append_text(0, [5])
    assert runtime.runner.memory().recorded == 0 and not runtime.runner._recorded
    assert device.synchronised == 1


def test_a_session_may_end_in_the_middle_of_a_recording(load: Load, device: Device,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's collector runs whenever it likes; nothing may wait for the device just then."""
    runtime = load()
    held, session = [filled(runtime)], filled(runtime)
    held[0].step(0, 7)
    execute = Context.execute_async_v3

    def ending(self: Context, stream: int) -> bool:
        if device.capturing is not None:
            held.clear()
        return execute(self, stream)

    monkeypatch.setattr(Context, 'execute_async_v3', ending)
    session.step(0, 7)
    assert held == [] and device.synchronised == 0 and len(runtime.runner._recorded) == 2
    session.step(0, 8)
    assert device.synchronised == 1 and len(runtime.runner._recorded) == 1


def test_recordings_keep_no_cache_alive(load: Load) -> None:
    runtime = load()
    session = filled(runtime)
    session.step(0, 7)
    (step,) = runtime.runner._recorded.values()
    assert not any(name.startswith(('key_', 'value_')) for name in step.inputs)
    assert 'used' in step.inputs and 'new_key_00' in step.outputs


def test_only_so_many_recordings_are_kept(load: Load, device: Device,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, 'RECORDED', 2)
    runtime = load()
    session = filled(runtime)
    for row in (0, 1, 2, 2, 0):
        session.step(row, 7)
    assert device.captures == ['understand'] * 4 and device.synchronised == 2
    assert len(runtime.runner._recorded) == 2


def test_recordings_are_kept_for_every_part_of_a_decoder(device: Device, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, '_loaded', lambda *args: {})
    monkeypatch.setattr(runner.TensorRtRunner, '_most_scratch', lambda self: 0)
    plan = plan_of(device, replace(tiny_bundle(), parts=2))
    assert runner.TensorRtRunner(plan, Cache(plan, tmp_path))._most_recorded == 32


def test_files_that_the_system_keeps_are_free_memory_on_a_board(device: Device) -> None:
    device.free = 1 << 20
    assert memory.free_bytes() == 1 << 20
    device.integrated = True
    assert memory.free_bytes() > 100 << 20  # MemAvailable of this machine


@pytest.mark.parametrize(('integrated', 'needed'), [(False, 600), (True, 700)])
def test_a_file_that_is_loaded_takes_memory_of_a_board(
        load: Load, device: Device, integrated: bool, needed: int,
        monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(runner, 'check_room', lambda needed, *more: asked.append(needed))
    device.integrated = integrated
    load()
    assert asked == [needed]


def test_what_is_not_aligned_is_copied(load: Load, device: Device) -> None:
    runtime = load()
    inputs = example_inputs(tiny_bundle().specs()['latents'], 'fp32')
    wanted = runtime.runner.run('latents', inputs, {})['tokens']

    def moved(value: torch.Tensor) -> torch.Tensor:
        wider = torch.zeros(value.numel() + 1, dtype=value.dtype)
        wider[1:] = value.flatten()
        return wider[1:].view(value.shape)

    target = moved(torch.zeros_like(wanted))
    assert runtime.runner.run('latents', {name: moved(value) for name, value in inputs.items()},
                              {'tokens': target}) == {}
    assert target.data_ptr() % 64 and torch.equal(target, wanted)


def test_an_address_that_tensorrt_refuses_is_named(load: Load,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load()
    monkeypatch.setattr(Context, 'set_tensor_address', lambda self, name, address: False)
    inputs = example_inputs(tiny_bundle().specs()['latents'], 'fp32')
    with pytest.raises(NotReady, match='refuses the memory of x of graph latents; got 0x.+; '
                                       'allowed: addresses that are multiples of 64; remedy'):
        runtime.runner.run('latents', inputs, {})


def test_a_size_outside_the_profile_is_named(load: Load) -> None:
    inputs = example_inputs(tiny_bundle().specs()['latents'], 'fp32', cells=65)
    with pytest.raises(BadOption, match=r'latents was not built for this size of x; got '
                                        r'\(65, 64\); allowed: \(1, 64\) .. \(64, 64\)'):
        load().runner.run('latents', inputs, {})


@pytest.mark.parametrize('asked', [1, 200, BUCKET, 300])
def test_the_last_token_of_a_context_has_a_profile(load: Load, asked: int) -> None:
    """Contexts are padded to buckets, so the largest one must be a whole bucket."""
    assert Limits.of(tiny_config(), context=asked).context.max % BUCKET == 0
    session = load(context=asked).session(rows=1, capacity=asked + 1)
    if asked > 2:
        session.append_text(0, [5] * (asked - 2))
    session.step(0, 7)
    assert session.cursor(0).length == (asked + 1 if asked > 2 else 1)


@pytest.mark.parametrize(('change', 'why'), [
    ({'capturable': False}, 'TensorRT says that it cannot be captured; got understand'),
    ({'broken_capture': True}, 'CUDA error: operation failed due to a previous error')])
def test_what_cannot_be_captured_runs_plainly(load: Load, device: Device, change: dict[str, bool],
                                              why: str, caplog: pytest.LogCaptureFixture) -> None:
    vars(device).update(change)
    runtime = load()
    session, theirs = filled(runtime), filled(exported_runtime())
    with caplog.at_level(logging.WARNING):
        for token in (7, 8):
            near(session.step(0, token), theirs.step(0, token))
    assert device.captures == [] and len(caplog.messages) == 1
    assert 'graph understand runs without CUDA graphs: ' in caplog.text and why in caplog.text
    assert str(runtime.runner.memory()).endswith(caplog.messages[0])


def test_no_room_for_a_recording_is_no_failure(load: Load, device: Device) -> None:
    runtime = load()
    session, theirs = filled(runtime), filled(exported_runtime())
    session.step(0, 7)
    theirs.step(0, 7)
    device.contexts_left = 0
    near(drawn(session), drawn(theirs))
    assert device.captures == ['understand'] and not runtime.runner._recorded


def test_recordings_make_room_for_a_cache(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load()
    session = filled(runtime)
    session.step(0, 7)
    zeros, refused = torch.zeros, []

    def scarce(*size: Any, **more: Any) -> torch.Tensor:
        if runtime.runner._recorded:
            refused.append(size)
            raise torch.OutOfMemoryError('CUDA out of memory')
        return zeros(*size, **more)

    monkeypatch.setattr(torch, 'zeros', scarce)
    runtime.session(rows=1, capacity=64).step(0, 7)
    assert len(refused) == 1


def test_a_device_without_memory_says_what_is_needed(load: Load, device: Device) -> None:
    device.free, device.contexts_left = 5 << 20, 2
    with pytest.raises(OutOfMemory, match='has no memory for running graph latents; got 0 MiB; '
                                          'allowed: 5 MiB free; remedy: build in a smaller'):
        load()


@pytest.mark.parametrize(('free', 'kind', 'words'), [
    (1, OutOfMemory, 'has no memory for the engine of graph vision; got 0 MiB; allowed: 0 MiB'),
    (10 << 20, EngineMismatch, 'cannot read the engine of graph vision here; got SM89; remedy')])
def test_an_engine_that_cannot_be_read_is_too_large_or_wrong(
        load: Load, device: Device, free: int, kind: type[CooperError], words: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, 'check_room', lambda *numbers: None)
    device.free, device.unreadable = free, True
    with pytest.raises(kind, match=words):
        load()


@pytest.mark.parametrize(('stats', 'streamable', 'kept', 'wanted'), [
    (True, 0, None, 1000), (False, 0, None, len('flow')), (True, 500, 200, 1200),
    (True, 500, 900, 1500)])
def test_weights_are_counted_with_and_without_statistics(
        load: Load, device: Device, stats: bool, streamable: int, kept: int | None,
        wanted: int) -> None:
    """TensorRT 10.3 and 10.13, of JetPack 6 and 7, have none: the file says how large it is."""
    device.streamable = streamable
    plan = load(kept, stats=stats, weight_streaming=bool(streamable)).runner.memory()
    assert plan.weights['flow'] == wanted


def test_budgets_are_shares_of_what_is_free() -> None:
    sizes = {'understand': 600, 'latents': 0, 'flow': 200}
    assert stream_budgets(sizes, 900) == sizes == stream_budgets(sizes, 800)
    assert stream_budgets(sizes, 400) == {'understand': 300, 'latents': 0, 'flow': 100}
    assert set(stream_budgets(sizes, -5).values()) == {0} == set(stream_budgets({'a': 0}, 9
                                                                                ).values())


def test_streamed_weights_take_what_scratch_and_caches_leave(load: Load, device: Device) -> None:
    device.streamable = 1 << 20
    whole = engines(load(weight_streaming=True))
    assert {one.budget for one in whole.values()} == {1 << 20}
    caches = 2 * 3 * 2 * 2 * 2 * 16 * 4 * 512  # copies, rows, kinds, layers, heads, width, bytes
    device.free = caches + 6 * 1000 + 8192 + 6 * 5000
    runtime = load(weight_streaming=True)
    assert {one.budget for one in engines(runtime).values()} == {5000}
    assert runtime.runner.memory().scratch == 8192  # streaming needs more of it
    assert runtime.runner.memory().weights['vision'] == 1000 + 5000
    near(filled(runtime).step(0, 7), filled(exported_runtime()).step(0, 7))
    device.free = 0
    assert {one.budget for one in engines(load(weight_streaming=True)).values()} == {0}
    assert {one.budget for one in engines(load(77, weight_streaming=True)).values()} == {77}


@pytest.mark.parametrize('record', [True, False])
def test_single_tokens_use_the_profile_that_was_built_for_them(load: Load, device: Device,
                                                               record: bool) -> None:
    runtime = load(decode_profile=True)
    runtime.runner.record = record
    session, theirs = filled(runtime), filled(exported_runtime())
    assert set(device.runs) == {('understand', 0)}
    device.runs.clear()
    near(session.step(0, 7), theirs.step(0, 7))
    near(session.step(0, 8), theirs.step(0, 8))
    assert set(device.runs) == {('understand', 1)}
    near(drawn(session), drawn(theirs))
    assert set(device.runs[3 - (not record):]) == {('latents', 0), ('flow', 0)}


def test_a_profile_that_tensorrt_refuses_is_named(load: Load,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load(decode_profile=True)
    monkeypatch.setattr(Context, 'set_optimization_profile_async', lambda self, *asked: False)
    with pytest.raises(NotReady, match='refuses a profile of graph understand; got 1; remedy: '
                                       'build without --decode-profile'):
        filled(runtime).step(0, 7)


def test_work_is_ordered_with_what_comes_before_and_after(load: Load, device: Device) -> None:
    """The stand-in refuses runs on the default stream; each side must wait for the other."""
    runtime, default = load(), device.current
    filled(runtime)
    own = runtime.runner._stream
    assert own is not default and device.current is default
    assert default.waited == [own] * 3 and own.waited == [default] * 3


def test_inputs_of_a_probe_do_for_a_conversation(load: Load) -> None:
    """Recorded outside of inference mode, replayed inside, and the other way round."""
    runtime, specs = load(), tiny_bundle().specs()
    inputs = example_inputs(specs['flow'], 'fp32')
    said = []
    for inside in (True, False, True):
        with torch.inference_mode(inside):
            said.append(runtime.runner.run('flow', inputs, {})['velocity'])
    assert torch.equal(said[0], said[1]) and torch.equal(said[1], said[2])


def test_the_alignment_is_the_one_of_tensorrt() -> None:
    assert loaded.ALIGNMENT == 256
