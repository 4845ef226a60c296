"""``runtime: compile``: the graphs through torch.compile, with the answers of the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_folder import write_model_folder
from support.tiny import tiny_runtime

from cooper_ros.config import CooperConfig
from cooper_ros.errors import NotReady
from cooper_ros.runtime import compiled
from cooper_ros.runtime.compiled import CompiledRunner, compiled_runtime_of
from cooper_ros.runtime.graphs.export import example_inputs
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import probe
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.graphs.spec import graph_specs
from cooper_ros.runtime.load import load_runtime
from cooper_ros.runtime.notice import Notice
from cooper_ros.runtime.torch_runtime import TorchRuntime


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def talk(runtime: TorchRuntime | GraphRuntime) -> list[torch.Tensor]:
    """Reading, writing and one step of drawing, at sizes that differ from call to call."""
    session = runtime.session(rows=2, capacity=64)
    session.append_text(0, [10, 20, 30])
    session.append_text(1, [40])
    said = [session.step(0, token) for token in (256, 65)]
    return [*said, session.velocity((0, 1), draw(3, 6, 64), 0.5, (2, 3))]


def test_what_is_compiled_says_what_the_network_says() -> None:
    """Captured by torch.compile and run without kernels of its own, which take long to make.

    The other graphs are compared in the same way at every start, by the probe.
    """
    network = tiny_runtime()
    runtime = compiled_runtime_of(network, backend='eager', check=False)
    for ours, theirs in zip(talk(runtime), talk(network), strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_inductor_compiles_a_graph_for_all_sizes() -> None:
    """The default backend, with the C++ compiler that `make setup` asks for."""
    network = tiny_runtime()
    runner, specs = CompiledRunner(network), graph_specs(network.config)
    modules = graph_modules(network.network, network.vae)
    for cells in (4, 9, 16):
        found = probe(runner, {'latents': specs['latents']}, modules, 'fp32', cells=cells)
        assert found['latents'] < 1e-4


def test_without_a_compiler_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, '_compiler', lambda: '')
    with pytest.raises(NotReady, match=r'needs a C\+\+ compiler; got none in the path; remedy: '
                                       r'install a C\+\+ compiler \(g\+\+\), or set compile_back'):
        CompiledRunner(tiny_runtime())


def test_a_failing_compiler_is_named_with_its_words() -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list) -> None:
        raise RuntimeError('no room for kernels')

    network = tiny_runtime()
    runner = CompiledRunner(network, broken)
    spec = graph_specs(network.config)['latents']
    with pytest.raises(NotReady, match='cannot compile graph latents; got .*no room for kernels'):
        runner.run('latents', example_inputs(spec, 'fp32'), {})


def test_torch_serves_where_compiling_fails_if_the_setting_says_so(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, '_compiler', lambda: '')
    folder = write_model_folder(tmp_path)
    config, said = CooperConfig(runtime='compile', device='cpu'), list[Notice]()
    with pytest.raises(NotReady, match='needs a C'):
        load_runtime(folder, config)
    loaded = load_runtime(folder, config.replaced(engine_missing='serve'), said.append)
    assert isinstance(loaded.runtime, TorchRuntime) and said[-1].runtime == 'torch'
    assert any(notice.error and 'compile is not used' in notice.text for notice in said)
