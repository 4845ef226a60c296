"""The script that proves engines on a GPU runs here on onnxruntime: the same checks and code."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Callable

import pytest
from support.exported import exported_runtime, tiny_bundle
from support.tiny import tiny_runtime
from torch import nn

from cooper_ros.errors import OutOfMemory
from cooper_ros.runtime.engines.loaded import check_room
from cooper_ros.runtime.engines.runner import MemoryPlan
from cooper_ros.runtime.graphs import bundle as bundles
from cooper_ros.runtime.graphs.runtime import GraphRuntime, Tensors
from cooper_ros.runtime.graphs.spec import BUCKET, GraphSpec
from cooper_ros.runtime.onnx_runtime import OnnxRunner, load_onnx_runtime

SCRIPT = Path(__file__).parents[1] / 'benchmarks' / 'gpu_check.py'


@pytest.fixture(scope='module')
def script() -> ModuleType:
    import sys
    spec = importlib.util.spec_from_file_location('gpu_check', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules['gpu_check'] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


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
    assert verdicts.count('ok') == 3 * 6 + 2 + 2
    assert '| likeliest token agrees | 64 of 64 |' in report.table()


def test_graphs_of_other_weights_fail(script: ModuleType, graphs: GraphRuntime) -> None:
    report, network = script.Report(), tiny_runtime(seed=1)
    script.check_talk(report, graphs, network, 'fp32')
    script.check_drawing(report, graphs, network, 'fp32')
    assert report.failures == ['logits over 64 tokens', 'latents after 8 flow steps',
                               'pixels after 8 flow steps']


def test_times_are_measured(script: ModuleType, graphs: GraphRuntime,
                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, 'REPEATS', 2)
    monkeypatch.setattr(script, 'WARM', 0)
    report = script.Report()
    medians = script.measure(report, 'onnx', graphs)
    assert [what for what, value, _ in report.rows if ' ms median' in value] == [
        'onnx: prefill of 130 tokens', 'onnx: one token',
        'onnx: flow step, 3 branches, 16 tokens', 'onnx: decode a map']
    report = script.Report()
    again = script.measure(report, 'onnx', graphs, {name: 2 * ms for name, ms in medians.items()})
    for (_, value, _), (name, ms) in zip(report.rows, again.items(), strict=True):
        assert value.endswith(f', {2 * medians[name] / ms:.2f} times eager')


def test_the_network_alone_can_be_measured(script: ModuleType, tmp_path: Path) -> None:
    rows = tmp_path / 'rows.json'
    assert script.main(['--random', 'tiny', '--runtime', 'torch', '--precision', 'fp32',
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
        bucket, record, plain = BUCKET, True, ()

        def __init__(self, spoilt: Callable[[Runner, str, tuple], bool]) -> None:
            super().__init__(tiny_bundle(), threads=1)
            self.spoilt, self.calls = spoilt, []

        def run(self, graph: str, inputs: Tensors, into: Tensors) -> Tensors:
            call = (graph, *(tuple(value.shape) for value in inputs.values()))
            spoil = self.record and self.spoilt(self, graph, call)
            self.calls.append(call)
            found = super().run(graph, inputs, into)
            return {name: value + spoil for name, value in found.items()}

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
        script.check_recorded(report, graphs)
        assert report.failures == failures and len(report.rows) == 1
    graphs.runner.plain = ('graph flow runs without CUDA graphs: because',)
    script.check_recorded(report, graphs)
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
