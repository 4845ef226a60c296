"""What TensorRT for RTX compiles while it runs is kept for the next start, where it can be."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from support.exported import exported_runtime, tiny_bundle
from support.fake_tensorrt import Cache, Context, Device, plan_of
from test_engines_runner import Load, drawn, filled
from test_onnx_runtime import draw, near

from cooper_ros.errors import EngineMismatch
from cooper_ros.runtime.engines.cache import KERNELS
from cooper_ros.runtime.engines.flavour import RTX, STANDARD, require_flavour
from cooper_ros.runtime.engines.runner import load_tensorrt_runtime
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import compare, questions_in_service, said_by
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.graphs.spec import Limits


@pytest.fixture
def load(device: Device, tmp_path: Path) -> Load:
    def loaded_runtime(flavour: str = RTX) -> GraphRuntime:
        plan = plan_of(device, tiny_bundle(), flavour=flavour)
        return load_tensorrt_runtime(plan, Cache(plan, tmp_path))

    return loaded_runtime


def test_kernels_that_were_compiled_in_service_are_kept(load: Load, device: Device,
                                                        tmp_path: Path) -> None:
    def talk() -> None:
        runtime = load()
        session = filled(runtime)
        session.step(0, 7)
        drawn(session)
        runtime.forget()

    talk()
    first = list(device.compiled)
    files = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert len(first) == 4 and len(files) == 6 and all(name.endswith(KERNELS) for name in files)
    talk()
    assert device.compiled == first
    assert files == {path.name: path.stat().st_ino for path in tmp_path.iterdir()}  # as they were


def test_plain_runs_use_the_kernels_that_were_compared(load: Load, device: Device) -> None:
    """Whatever comes in other sizes later; the stand-in refuses kernels of the background."""
    runtime = load()
    filled(runtime)
    first = list(device.compiled)
    session = runtime.session(rows=1, capacity=400)
    for tokens in (3, 30, 300):
        session.append_text(0, [7] * tokens)
    assert device.compiled == first == [('understand', 'any size', 0)]
    session.step(0, 7)
    (recorded,) = device.compiled[1:]
    assert ('embeds', (1, 1, 64)) in recorded


def test_plain_runs_use_the_kernels_of_recorded_ones_where_both_are_compared(
        load: Load, device: Device) -> None:
    runtime = load()
    session = filled(runtime)
    start = session.cursor(0)
    session.step(0, 7)
    session.rewind(0, start)
    first = list(device.compiled)
    runtime.runner.record, runtime.runner.steady = False, True
    near(session.step(0, 7), filled(exported_runtime()).step(0, 7))
    assert device.compiled == first and device.captures == ['understand']
    drawn(session)
    assert [size for size in device.compiled[1:] if 'any size' in size] == []


def met(monkeypatch: pytest.MonkeyPatch, spoilt: str = '') -> set[tuple[str, str]]:
    """Graphs and kinds of kernels that run from now on; those of a kind draw nothing."""
    found, run = set[tuple[str, str]](), Context.run

    def running(self: Context) -> None:
        kind = self.config.dynamic_shapes_kernel_specialization_strategy
        found.add((self.engine.spec.name, kind))
        run(self)
        if (self.engine.spec.name, kind) == ('flow', spoilt):
            tokens = self.shapes['tokens'][1]
            self.memory('velocity', (*self.shapes['used'], tokens, 64))[...] = 0

    monkeypatch.setattr(Context, 'run', running)
    return found


def compared(runtime: GraphRuntime) -> dict[str, float]:
    """As before engines answer."""
    bundle, network = tiny_bundle(), exported_runtime()
    modules = graph_modules(network.network, network.vae)
    asked = questions_in_service(bundle.specs(), 'fp32', limits=Limits.of(bundle.config,
                                                                          context=512))
    return compare(runtime.runner, asked, partial(said_by, modules, network.device), 'fp32')


def test_all_kernels_that_answer_were_compared(load: Load,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that are read into the cache go through other kernels than those that are drawn."""
    runtime, found = load(), met(monkeypatch)
    compared(runtime)
    before = set(found)
    found.clear()
    session = filled(runtime)
    latent = runtime.encode_image(draw(3, 3, 32, 48).clamp(-1, 1), None)
    session.append_latents(0, runtime.embed_latents(latent))
    session.append_vision(0, runtime.encode_vision(draw(4, 3, 28, 42).clamp(-1, 1)))
    session.step(0, 7)
    runtime.decode_tokens(drawn(session)[0], (2, 3))
    assert ('flow', 'none') in found and found <= before


@pytest.mark.parametrize('kind', ['eager', 'none'])
def test_a_graph_that_is_wrong_with_one_kind_of_kernels_is_refused(
        load: Load, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load()
    assert max(compared(runtime).values()) < 1e-5
    met(monkeypatch, spoilt=kind)
    with pytest.raises(EngineMismatch, match='graph flow does not say what the network says'):
        compared(load())


def test_what_is_not_written_into_the_cache_is_an_error(load: Load,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load()
    run = runtime.runner.run
    monkeypatch.setattr(runtime.runner, 'run', lambda graph, inputs, into: run(graph, inputs, {}))
    with pytest.raises(EngineMismatch, match='graph flow does not say .+; got error inf'):
        compared(runtime)


@pytest.mark.parametrize('content', [b'', b'kernels', bytes(32) + b'kernels'])
def test_damaged_kernels_are_compiled_again(load: Load, device: Device, tmp_path: Path,
                                            content: bytes,
                                            caplog: pytest.LogCaptureFixture) -> None:
    load().forget()
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in whole:
        path.write_bytes(content)
    runtime = load()
    assert caplog.text.count('is damaged, or of another machine') == len(whole) == 6
    runtime.forget()
    assert whole == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_kernels_that_cannot_be_kept_are_no_failure(load: Load, device: Device, tmp_path: Path,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.rmdir()
    load().forget()
    assert caplog.text.count('cannot be kept in') == 6
    tmp_path.write_text('no folder')
    near(filled(load()).step(0, 7), filled(exported_runtime()).step(0, 7))
    assert 'kernels are compiled again: ' in caplog.text


def test_tensorrt_itself_gets_its_contexts_as_ever(load: Load, device: Device,
                                                   tmp_path: Path) -> None:
    """The stand-in refuses a runtime configuration there."""
    runtime = load(flavour=STANDARD)
    near(filled(runtime).step(0, 7), filled(exported_runtime()).step(0, 7))
    runtime.forget()
    assert not list(tmp_path.iterdir()) and device.captures == ['understand']


def test_tensorrt_for_rtx_has_what_keeps_kernels() -> None:
    flavour = require_flavour()
    module = flavour.module
    assert flavour.name == RTX and hasattr(module.ICudaEngine, 'create_runtime_config')
    assert {'EAGER', 'NONE'} <= set(module.DynamicShapesKernelSpecializationStrategy.__members__)
    for kind, names in ((module.IRuntimeConfig, (
            'create_runtime_cache', 'set_runtime_cache',
            'set_execution_context_allocation_strategy',
            'dynamic_shapes_kernel_specialization_strategy')),
            (module.IRuntimeCache, ('serialize', 'deserialize'))):
        assert all(hasattr(kind, name) for name in names)
