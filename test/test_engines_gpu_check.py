"""The script that proves engines on a GPU runs here on onnxruntime: the same checks and code."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable

import pytest
import torch
from support.exported import exported_runtime, tiny_bundle
from support.fake_tensorrt import Cache, Device, plan_of
from support.tiny import tiny_runtime
from torch import nn

from cooper_ros.errors import NotReady, OutOfMemory
from cooper_ros.model.config import LlmConfig, ModelConfig, SpecialTokens, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.compiled import compiled_runtime_of
from cooper_ros.runtime.engines.loaded import check_room
from cooper_ros.runtime.engines.runner import MemoryPlan, load_tensorrt_runtime
from cooper_ros.runtime.graphs import bundle as bundles
from cooper_ros.runtime.graphs.runtime import GraphRuntime, Tensors
from cooper_ros.runtime.graphs.spec import BUCKET, GraphSpec
from cooper_ros.runtime.onnx_runtime import OnnxRunner, load_onnx_runtime
from cooper_ros.runtime.torch_runtime import TorchRuntime

SCRIPT = Path(__file__).parents[1] / 'benchmarks' / 'gpu_check.py'


@pytest.fixture(scope='module')
def script() -> ModuleType:
    sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script
    spec = importlib.util.spec_from_file_location('gpu_check', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules['gpu_check'] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


@pytest.fixture
def quick(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Measured once each."""
    monkeypatch.setattr(sys.modules['gpu_report'], 'REPEATS', 1)
    monkeypatch.setattr(sys.modules['gpu_report'], 'WARM', 0)
    return script


@pytest.fixture(scope='module')
def graphs() -> GraphRuntime:
    return load_onnx_runtime(tiny_bundle(), threads=1)


def test_good_graphs_pass_every_check(script: ModuleType, graphs: GraphRuntime) -> None:
    report, network = script.Report(), exported_runtime()
    script.check_graphs(report, graphs, network, 'fp32', tiny_bundle().specs(), 1)
    script.check_talk(report, graphs, network, 'fp32')
    script.check_drawing(report, graphs, network, 'fp32')
    assert report.failures == []
    verdicts = [verdict for _, _, verdict in report.rows]
    assert verdicts.count('ok') == 6 + 2 + 3 + 2 + 3 + 2
    assert '; the same 64 of 64 times | ok |' in report.table()
    (first,) = [row for row in report.rows if row[0].startswith('graph flow') and 'used' in row[0]]
    assert first[0] == "graph flow {'context': 256, 'used': 0}"  # what begins a session


@pytest.mark.parametrize('sizes', [{'context': 256}, {'side': 96}, {'side': 32}],
                         ids='{0}'.format)
def test_good_engines_pass_every_check_whatever_sizes_they_serve(
        quick: ModuleType, device: Device, tmp_path: Path, sizes: dict[str, int]) -> None:
    """The stand-in refuses sizes beyond those, as TensorRT does."""
    plan = replace(plan_of(device, tiny_bundle()), **{'context': 512, **sizes})
    plan.flavour.module.plan = plan
    runtime, report = load_tensorrt_runtime(plan, Cache(plan, tmp_path)), quick.Report()
    options = quick.parsed(['--precision', 'fp32', '--context', str(plan.context), '--side',
                            str(plan.side)])
    assert quick.Limits.of(runtime.config, **quick.sizes_of(options)) == plan.limits
    quick.compare(report, runtime, plan.bundle.specs(), exported_runtime(), options, plan.limits)
    quick.measure(report, 'engines', runtime, None, plan.limits)
    assert report.failures == []
    said = [what for what, _, verdict in report.rows if verdict == 'ok']
    assert len(said) == 6 + 2 + 3 + 2 + 3 + 2 + 1
    assert [what for what in said if what.startswith('graph flow')][2] == (
        'graph flow ' + str({'context': plan.limits.context.max, 'tokens': min(
            65, plan.limits.tokens.max), 'cells': min(16, plan.limits.cells.max), 'branches': 1}))


@pytest.mark.parametrize('config', [
    ModelConfig(LlmConfig(32, 64, 1, 2, 1, 40), VitConfig(16, 32, 1, 2, image_size=28),
                VaeConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1), max_latent_size=2,
                vit_max_num_patch_per_side=2),
    ModelConfig(LlmConfig(32, 64, 1, 2, 1, 8), VitConfig(16, 32, 1, 2, image_size=14),
                VaeConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1), max_latent_size=1,
                vit_max_num_patch_per_side=1)], ids=['small', 'smallest'])
def test_small_tables_and_vocabularies_do_for_every_check(quick: ModuleType,
                                                          config: ModelConfig) -> None:
    torch.manual_seed(0)
    network = Cooper(config).initialise(0.2)
    torch.nn.init.normal_(network.llm2vae.weight, std=0.2)
    runtime = TorchRuntime(network, AutoEncoder(config.vae), specials=SpecialTokens(0, 1, 2, 3),
                           vocabulary=config.llm.vocab_size)
    graphs = compiled_runtime_of(runtime, backend='eager', check=False)
    report = quick.Report()
    quick.check_talk(report, graphs, runtime, 'fp32')
    quick.check_drawing(report, graphs, runtime, 'fp32')
    quick.mixed_steps(graphs)
    quick.measure(report, 'torch', runtime)
    assert report.failures == [] and len(report.rows) == 3 + 2 + 4


def test_a_network_is_back_on_its_device_after_an_export_that_failed(
        script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is measured all the same."""
    class Module(nn.Module):
        def cpu(self) -> Module:
            moves.append('cpu')
            return self

        def to(self, *where: object) -> Module:
            moves.append(*where)
            return self

    def failing(*arguments: Any, **more: Any) -> None:
        raise NotReady('graphs cannot be exported here')

    moves: list[object] = []
    network = SimpleNamespace(network=Module(), vae=Module(), device='cuda', specials=None,
                              vocabulary=1)
    monkeypatch.setattr(script, 'export_bundle', failing)
    monkeypatch.setattr(script, 'weights_digest', lambda modules: 'a model')
    with pytest.raises(NotReady):
        script.exported(network, tmp_path, 'fp32', script.Report())
    assert moves == ['cpu', 'cpu', 'cuda', 'cuda']


def test_graphs_of_other_weights_fail(script: ModuleType, graphs: GraphRuntime) -> None:
    report, network = script.Report(), tiny_runtime(seed=1)
    script.check_talk(report, graphs, network, 'fp32')
    script.check_drawing(report, graphs, network, 'fp32')
    assert report.failures == [
        'logits over 64 tokens', 'likeliest token is worse to the network by',
        'latents after 8 flow steps', 'pixels after 8 flow steps']


class Spoilt(OnnxRunner):
    """Graphs of which one says something else and another one fails."""

    def run(self, graph: str, inputs: Tensors, into: Tensors) -> Tensors:
        if graph == 'latents':
            raise RuntimeError('CUDA error:\n an illegal | address')
        return {name: value * (math.nan if graph == 'vision' else 1)
                for name, value in super().run(graph, inputs, into).items()}


def test_a_wrong_graph_hides_no_other(script: ModuleType, graphs: GraphRuntime,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, 'runner', Spoilt(tiny_bundle(), threads=1))
    report = script.Report()
    script.check_graphs(report, graphs, exported_runtime(), 'fp32', tiny_bundle().specs(), 1)
    verdicts = {what: (value, verdict) for what, value, verdict in report.rows}
    assert set(report.failures) == {what for what in verdicts if 'vision' in what
                                    or 'latents' in what} and len(verdicts) == 6 + 2 + 3 + 2
    assert verdicts['graph vision'] == ('inf (at most 0.005)', 'FAIL')
    assert verdicts['graph latents'][0] == 'RuntimeError: CUDA error:\n an illegal | address'
    assert ('| graph latents | RuntimeError: CUDA error: an illegal \\| address | FAIL |'
            in report.table().splitlines())
    assert verdicts['graph flow'][1] == verdicts['graph vae_decode'][1] == 'ok'


def test_what_is_no_number_passes_no_check(script: ModuleType) -> None:
    for number in (math.nan, math.inf):
        for least in (False, True):
            report = script.Report()
            report.check('a', number, 1.0, least)
            assert report.failures == ['a'] and report.rows[0][2] == 'FAIL'
        wrong = torch.tensor([1.0, number])
        right = torch.ones(2)
        assert script.relative_error(wrong, right) == script.relative_error(right, wrong) == (
            math.inf)
    assert script.shortfall(torch.tensor([1.0, 4.0, 3.0]), 2) == 0.25
    assert script.shortfall(torch.tensor([1.0, math.nan]), 0) == math.inf


def test_times_are_measured(quick: ModuleType, graphs: GraphRuntime) -> None:
    script = quick
    report = script.Report()
    medians = script.measure(report, 'onnx', graphs)
    assert [what for what, value, _ in report.rows if ' ms median' in value] == [
        'onnx: prefill of 130 tokens', 'onnx: one token',
        'onnx: flow step, 3 branches, 16 tokens', 'onnx: decode a map']
    report = script.Report()
    again = script.measure(report, 'onnx', graphs, {name: 2 * ms for name, ms in medians.items()})
    for (_, value, _), (name, ms) in zip(report.rows, again.items(), strict=True):
        assert value.endswith(f', {2 * medians[name] / ms:.2f} times eager')


def test_a_measurement_that_fails_or_comes_late_hides_no_other(
        quick: ModuleType, graphs: GraphRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tokens: Any, grid: Any) -> None:
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(graphs, 'decode_tokens', broken)
    report = quick.Report()
    medians = quick.measure(report, 'onnx', graphs, {'one token': 1.0},
                            quick.Limits.of(graphs.config, side=32))
    assert len(medians) == 3 and report.failures == ['onnx: decode a map']
    assert report.rows[3][1] == 'OutOfMemoryError: CUDA out of memory'
    assert report.rows[2][0] == 'onnx: flow step, 3 branches, 4 tokens'
    assert [value.endswith('times eager') for _, value, _ in report.rows] == [
        False, True, False, False]
    report.started -= 481
    assert quick.measure(report, 'onnx', graphs) == {} and len(report.failures) == 1
    assert [value for _, value, _ in report.rows[4:]] == ['skipped after 8 minutes'] * 4


def test_rows_are_on_the_disk_as_they_come(script: ModuleType, tmp_path: Path) -> None:
    report = script.Report(file=tmp_path / 'rows.json')
    for number in (1, 2):
        report.check('error', float(number), 1.0)
        written = json.loads(report.file.read_text())
        assert len(written['rows']) == number and written['failures'] == report.failures


def test_a_step_that_fails_stops_nothing_and_ends_with_status_1(
        quick: ModuleType, graphs: GraphRuntime, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that says "not ready" too, once this machine was found to be ready."""
    def failing(*arguments: Any) -> None:
        raise NotReady('graphs cannot be loaded')

    words = ['--random', 'tiny', '--runtime', 'onnx', '--json', str(tmp_path / 'rows.json')]
    monkeypatch.setattr(quick, 'graphs_of', failing)
    assert quick.main(words) == 1
    written = json.loads((tmp_path / 'rows.json').read_text())
    assert written['failures'] == ['onnx']
    assert ['onnx', 'NOT_READY: graphs cannot be loaded', 'FAIL'] in written['rows']
    assert sum(row[0].startswith('torch eager: ') for row in written['rows']) == 4
    monkeypatch.setattr(quick, 'graphs_of', lambda *arguments: (graphs, {}))
    monkeypatch.setattr(quick, 'check_talk', failing)
    monkeypatch.setattr(quick, 'network_of', lambda *arguments: exported_runtime())
    assert quick.main(words) == 1
    written = json.loads((tmp_path / 'rows.json').read_text())
    assert written['failures'] == ['conversation']
    said = {row[0] for row in written['rows']}
    assert {'latents after 8 flow steps', 'onnx: decode a map', 'whole run'} <= said
    monkeypatch.setattr(quick, 'run', lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quick.main(words)
    assert capsys.readouterr().out.count('| case | tiny random, fp32') == 3


def test_engines_are_loaded_when_all_are_built_and_all_that_are_not_are_named(
        script: ModuleType, device: Device, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    plan, engine, broken = plan_of(device, tiny_bundle()), tmp_path / 'engine', {'flow', 'vision'}
    jobs = [SimpleNamespace(spec=spec) for spec in plan.bundle.specs().values()]
    engine.write_bytes(bytes(1 << 20))

    def build(self: Any, job: Any, cache: Any) -> Path:
        if job.spec.name in broken:
            raise RuntimeError('out of host memory')
        return engine

    monkeypatch.setattr(script, 'gpu_architecture', lambda: 'SM89')
    monkeypatch.setattr(script.Plan, 'jobs', lambda self, archs: jobs)
    monkeypatch.setattr(script.Plan, 'build', build)
    monkeypatch.setattr(script, 'plan_of', lambda bundle, options: plan)
    monkeypatch.setattr(script, 'EngineCache', lambda folder: Cache(plan, folder))
    report, options = script.Report(), script.parsed(['--cache', str(tmp_path / 'cache')])
    assert script.compiled(plan.bundle, options, report) is None
    assert report.failures == ['engine vision', 'engine flow'] and len(report.rows) == 6
    broken.clear()
    report = script.Report()
    assert script.compiled(plan.bundle, options, report).runner.engines
    used = f'{(1 << 20) - (10 << 10)} of {1 << 20} MiB in use, 0 of them held by torch, '
    rows = {what: value for what, value, _ in report.rows[6:]}
    assert list(rows) == ['device memory before engines are loaded', 'loaded and compiled on the '
                          'GPU', 'device memory of engines', 'device memory with engines']
    assert rows['device memory with engines'] == used + 'which used 0 at most'


@pytest.mark.parametrize(('words', 'context', 'side'), [
    ([], 16384, 0), (['--random', 'small'], 16384, 0), (['--random', 'official'], 4096, 512),
    (['--random', 'official', '--context', '512', '--side', '256'], 512, 256)])
def test_engines_are_for_the_sizes_that_are_asked_for(script: ModuleType, words: list[str],
                                                      context: int, side: int) -> None:
    plan = script.plan_of(tiny_bundle(), script.parsed(words))
    assert (plan.context, plan.side) == (context, side)


def test_the_network_alone_can_be_measured(quick: ModuleType, tmp_path: Path) -> None:
    rows = tmp_path / 'rows.json'
    assert quick.main(['--random', 'tiny', '--runtime', 'torch', '--precision', 'fp32',
                        '--json', str(rows)]) == 0
    written = json.loads(rows.read_text())
    assert written['failures'] == []
    assert [what for what, *_ in written['rows'] if what.startswith('torch eager: ')] == [
        'torch eager: prefill of 130 tokens', 'torch eager: one token',
        'torch eager: flow step, 3 branches, 16 tokens', 'torch eager: decode a map']


@pytest.mark.parametrize('damage', [
    lambda folder: (folder / 'flow.onnx').write_bytes(b'cut short'),
    lambda folder: (folder / 'bundle.json').write_text('{'),
    lambda folder: older(folder / 'bundle.json'),
], ids=['damaged', 'undescribed', 'of an older version'])
def test_graphs_that_cannot_be_used_are_exported_again(
        script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        damage: Callable[[Path], None]) -> None:
    made: list[str] = []

    def copied(spec: GraphSpec, module: nn.Module, path: Path, *more: object) -> None:
        made.append(spec.name)
        for suffix in ('', '.data'):
            shutil.copy(f'{tiny_bundle().graph(spec.name)}{suffix}', f'{path}{suffix}')

    tiny_bundle()
    monkeypatch.setattr(bundles, 'export_graph', copied)
    network, report = exported_runtime(), script.Report()
    first = script.exported(network, tmp_path, 'fp32', report)
    assert script.exported(network, tmp_path, 'fp32', report) == first and len(made) == 6
    assert [what for what, _, _ in report.rows] == ['export of all graphs']
    damage(first.folder)
    again = script.exported(network, tmp_path, 'fp32', report)
    again.prove()
    assert again == first and len(made) == 12 and report.failures == []
    assert report.rows[1][0] == 'graphs found' and 'exporting again' in report.rows[1][1]


def older(description: Path) -> None:
    values = json.loads(description.read_text())
    description.write_text(json.dumps({**values, 'format': values['format'] - 1}))


def test_without_a_gpu_it_says_so(script: ModuleType, tmp_path: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(['--cache', str(tmp_path), '--json', str(tmp_path / 'rows.json')]) == 2
    assert 'run on a GPU, and there is none' in capsys.readouterr().err
    assert 'there is none' in (tmp_path / 'rows.json').read_text()


def test_a_gpu_that_tensorrt_does_not_know_is_refused_before_anything_is_made(
        script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(script.torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(script, 'gpu_architecture', lambda: 'SM90')
    monkeypatch.setattr(script.doctor, 'facts', lambda: ())
    assert script.main(['--random', 'tiny', '--cache', str(tmp_path / 'cache')]) == 2
    assert 'cannot build for this architecture; got SM90' in capsys.readouterr().err
    assert not (tmp_path / 'cache').exists()


def test_recorded_steps_must_say_what_plain_ones_say(
        script: ModuleType, graphs: GraphRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner of the test is onnxruntime, spoilt in ways that recordings can be wrong."""
    class Runner(OnnxRunner):
        bucket, record, steady, plain = BUCKET, True, False, ()

        def __init__(self, spoilt: Callable[[Runner, str, tuple], bool]) -> None:
            super().__init__(tiny_bundle(), threads=1)
            self.spoilt, self.calls = spoilt, []

        def run(self, graph: str, inputs: Tensors, into: Tensors) -> Tensors:
            call = (graph, *(tuple(value.shape) for value in inputs.values()))
            assert self.steady  # or they would be compared on other kernels
            spoil = self.record and self.spoilt(self, graph, call)
            self.calls.append(call)
            return {key: value + spoil for key, value in super().run(graph, inputs, into).items()}

        def memory(self) -> MemoryPlan:
            return MemoryPlan(0, {}, plain=self.plain)

    def stale(graph: str) -> Callable[[Runner, str, tuple], bool]:
        """Whether a step comes again after the same graph ran with other sizes."""
        def spoilt(runner: Runner, name: str, call: tuple) -> bool:
            before = [one for one in runner.calls if one[0] == graph]
            return name == graph and call in before and call != before[-1]
        return spoilt

    monkeypatch.setattr(script, 'TensorRtRunner', Runner)
    wrong = ['steps as CUDA graphs differ from plain ones by']
    for spoilt, failures in ((lambda *call: False, []), (lambda *call: True, wrong),
                             (stale('understand'), wrong), (stale('flow'), wrong)):
        monkeypatch.setattr(graphs, 'runner', Runner(spoilt))
        report = script.Report()
        script.check_recorded(report, graphs, 'fp32')
        assert report.failures == failures and len(report.rows) == 1
        assert graphs.runner.record and not graphs.runner.steady
    graphs.runner.plain = ('graph flow runs without CUDA graphs: because',)
    script.check_recorded(report, graphs, 'bf16')
    assert '(at most 0.02)' in report.rows[-2][1]
    assert report.rows[-1] == ('not recorded', *graphs.runner.plain, '')


def test_memory_is_planned_before_engines_are_loaded() -> None:
    plan = MemoryPlan(64 << 20, {'vision': 10 << 20, 'flow': 90 << 20}, 3 << 20, 5 << 19,
                      ('graph flow runs without CUDA graphs: because',))
    assert str(plan) == (
        'device memory of engines: 100 MiB of weights (vision 10, flow 90), 64 MiB of scratch '
        'shared by all; every 1,024 tokens of a context take 3.0 MiB more, and as much again once '
        'several contexts draw together; recorded steps keep 2.5 MiB; graph flow runs without '
        'CUDA graphs: because')
    check_room(5 << 20, 5 << 20, streaming=False)
    check_room(9 << 20, 5 << 20, streaming=True)
    with pytest.raises(OutOfMemory, match='do not fit the device; got 9 MiB; allowed: 5 MiB free; '
                                          'remedy: build in a smaller precision'):
        check_room(9 << 20, 5 << 20, streaming=False)
