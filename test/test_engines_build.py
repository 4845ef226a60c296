"""Real engines, built by the real TensorRT for RTX on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support.exported import golden_bundle, half_understand, tiny_bundle
from support.fake_tensorrt import ILogger
from support.tiny import tiny_config

from cooper_ros.errors import BadOption, EngineBuild, NotReady
from cooper_ros.runtime.engines import build
from cooper_ros.runtime.engines.build import Phases, build_engine
from cooper_ros.runtime.engines.cache import EngineCache
from cooper_ros.runtime.engines.flavour import (
    ANY_GPU,
    RTX,
    Flavour,
    architecture_name,
    find_flavour,
    gpu_name,
)
from cooper_ros.runtime.engines.key import BuildOptions
from cooper_ros.runtime.engines.plan import HOST_BASE, Estimate, Plan
from cooper_ros.runtime.engines.runner import load_tensorrt_runtime
from cooper_ros.runtime.graphs.spec import Limits, graph_specs

LIMITS = Limits.of(tiny_config(), context=64)
NAMES = tuple(graph_specs(tiny_config()))
CASES = [*((name, arch) for name in NAMES for arch in ('SM86', 'SM89')), ('understand', 'SM120')]


def test_the_flavour_here_builds_ahead_of_time() -> None:
    flavour = find_flavour()
    assert flavour is not None and flavour.name == RTX and flavour.ahead_of_time
    assert {'SM86', 'SM89', 'SM120'} <= set(flavour.architectures())
    assert gpu_name(flavour) == ANY_GPU


@pytest.mark.parametrize(('name', 'arch'), CASES)
def test_every_graph_compiles(name: str, arch: str) -> None:
    """Width 72 in heads of 12, three layers, tower of width 48; `make engines` has odder ones."""
    bundle, seen = golden_bundle(), []
    limits = Limits.of(bundle.config, context=64)
    built = build_engine(find_flavour(), bundle.specs()[name], bundle.graph(name), arch=arch,
                         precision='fp32', limits=limits,
                         told=lambda phase, fraction: seen.append(fraction))
    weights = sum(path.stat().st_size for path in bundle.folder.glob(f'{name}.onnx*'))
    assert weights * 0.5 < len(built.content) < weights * 2 + (8 << 20)
    assert built.interface == bundle.specs()[name].interface('fp32')
    assert built.facts['limits'] == limits.to_dict() and built.facts['layers'] > 10
    assert len(seen) > 20 and seen == sorted(seen) and seen[-1] == 1.0 and seen[0] < 0.1


def test_half_precision_compiles_with_all_options() -> None:
    options = BuildOptions(workspace_mib=64, weight_streaming=True, decode_profile=True)
    spec = graph_specs(tiny_config())['understand']
    built = build_engine(find_flavour(), spec, half_understand(), arch='SM86', precision='fp16',
                         limits=LIMITS, options=options)
    assert ['key_00', 'input', [1, -1, 2, 16], 'float16'] in built.interface
    assert built.facts['options'] == {'workspace_mib': 64, 'weight_streaming': True,
                                      'decode_profile': True}


@pytest.mark.parametrize(('precision', 'allowed'), [('fp32', False), ('fp16', True)])
def test_what_is_asked_for_in_fp32_is_multiplied_in_fp32(
        precision: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT may use TF32 unless told otherwise; other number types are not concerned."""
    bundle, flavour, seen = tiny_bundle(), find_flavour(), []
    name, path = (('understand', half_understand()) if precision == 'fp16' else
                  ('latents', bundle.graph('latents')))
    monkeypatch.setattr(build, '_remember_timings', lambda flavour, config, path: seen.append(
        config.get_flag(flavour.module.BuilderFlag.TF32)))
    build_engine(flavour, bundle.specs()[name], path, arch='SM89', precision=precision,
                 limits=LIMITS)
    assert seen == [allowed]


def test_numbers_that_tensorrt_cannot_hold_are_an_error_of_ours() -> None:
    bundle = tiny_bundle()
    for limits, options, words in (
            (Limits.of(tiny_config(), context=1 << 31), BuildOptions(), 'Shape provided for max'),
            (LIMITS, BuildOptions(workspace_mib=1 << 44), 'set_memory_pool_limit')):
        with pytest.raises(EngineBuild, match=f'graph understand for SM86; got {words}'):
            build_engine(find_flavour(), bundle.specs()['understand'], bundle.graph('understand'),
                         arch='SM86', precision='fp32', limits=limits, options=options)


def test_engines_for_two_architectures_differ() -> None:
    bundle = tiny_bundle()
    made = [bytes(build_engine(find_flavour(), bundle.specs()['latents'], bundle.graph('latents'),
                               arch=arch, precision='fp32', limits=LIMITS).content)
            for arch in ('SM86', 'SM89')]
    assert made[0] != made[1]


@pytest.mark.parametrize(('arch', 'remedy'), [
    ('SM87', 'build on the device itself with the TensorRT of its JetPack'),
    ('SM110', 'build on the device itself with the TensorRT of its JetPack'),
    ('SM90', 'build on the machine that has this GPU, with its own TensorRT'),
    ('SM42', ''), ('sm89', ''), ('', '')])
def test_other_architectures_are_refused_with_what_to_do(arch: str, remedy: str) -> None:
    with pytest.raises(BadOption) as caught:
        find_flavour().check_architecture(arch)
    assert f'got {arch}; allowed: SM75, SM80, SM86, SM89, SM120, SM121' in str(caught.value)
    assert caught.value.remedy == remedy


@pytest.mark.parametrize(('written', 'name'), [
    ('89', 'SM89'), ('sm89', 'SM89'), ('sm_89', 'SM89'), (' SM_120 ', 'SM120'), ('SM42', 'SM42'),
    ('8.9', '8.9'), ('Orin', 'Orin'), ('', '')])
def test_architectures_may_be_written_as_cuda_does(written: str, name: str) -> None:
    assert architecture_name(written) == name


def test_a_graph_of_another_checkpoint_is_refused() -> None:
    bundle = tiny_bundle()
    with pytest.raises(EngineBuild, match='reads another interface from vision.onnx'):
        build_engine(find_flavour(), bundle.specs()['latents'], bundle.graph('vision'),
                     arch='SM89', precision='fp32', limits=LIMITS)
    with pytest.raises(EngineBuild, match="'float16'"):
        build_engine(find_flavour(), bundle.specs()['latents'], bundle.graph('latents'),
                     arch='SM89', precision='fp16', limits=LIMITS)


@pytest.mark.parametrize(('words', 'said'), [
    ('CUDA initialization failure with error: 35', 'got CUDA initialization failure with error'),
    ('', r'got pybind11::init\(\): factory function returned nullptr')])
def test_a_tensorrt_that_cannot_start_is_an_error_of_ours(words: str, said: str) -> None:
    """Without the driver that it needs, its constructors give nothing."""
    def nothing(log: ILogger) -> None:
        if words:
            log.log(ILogger.ERROR, words)
        raise TypeError('pybind11::init(): factory function returned nullptr')

    module: Any = ModuleType('tensorrt')
    module.ILogger, module.Builder = ILogger, nothing
    module.ComputeCapability = SimpleNamespace(__members__={'SM89': 1})
    with pytest.raises(EngineBuild, match=f'tensorrt-rtx 10 cannot start here; {said}.*; remedy: '
                       'run `cooper doctor`'):
        build_engine(Flavour(RTX, '10', module), tiny_bundle().specs()['latents'],
                     tiny_bundle().graph('latents'), arch='SM89', precision='fp32', limits=LIMITS)


def test_a_damaged_graph_is_refused_in_tensorrts_words(tmp_path: Path) -> None:
    path = tmp_path / 'latents.onnx'
    path.write_bytes(b'no graph')
    with pytest.raises(EngineBuild, match='TensorRT cannot read latents.onnx; got .+; remedy'):
        build_engine(find_flavour(), tiny_bundle().specs()['latents'], path, arch='SM89',
                     precision='fp32', limits=LIMITS)


def test_engines_do_not_run_where_there_is_no_gpu(tmp_path: Path) -> None:
    plan = Plan(tiny_bundle(), find_flavour())
    with pytest.raises(NotReady, match='run on a GPU, and there is none; remedy: set runtime to'):
        load_tensorrt_runtime(plan, EngineCache(tmp_path))


def test_estimates_grow_with_weights(tmp_path: Path) -> None:
    small, large = tmp_path / 'small.onnx', tmp_path / 'large.onnx'
    for path, size in ((small, 10**6), (large, 10**8)):
        path.write_bytes(b'graph')
        path.with_name(path.name + '.data').write_bytes(b'0' * size)
    less, more = Estimate.of(small), Estimate.of(large)
    assert less.bytes < more.bytes and less.seconds < more.seconds
    assert more.host_bytes == pytest.approx(3e8 + HOST_BASE, rel=0.01)
    twice = Estimate.of(large, profiles=2)
    assert twice.bytes == pytest.approx(2 * more.bytes, rel=0.02)
    assert twice.host_bytes == pytest.approx(6e8 + HOST_BASE, rel=0.01)


def test_a_profile_for_decoding_costs_weights_of_its_own() -> None:
    plans = [Plan(tiny_bundle(), find_flavour(), 64, options=BuildOptions(decode_profile=decode))
             for decode in (False, True)]
    small, large = ({job.spec.name: job.estimate.seconds for job in plan.jobs(['SM89'])}
                    for plan in plans)
    assert [name for name in small if small[name] < large[name]] == ['understand']


def test_a_bar_never_goes_back() -> None:
    seen: list[float] = []
    phases = Phases(lambda phase, fraction: seen.append(fraction))
    phases.start('whole', 2)
    phases.start('part', 4)
    for step in range(4):
        phases.step('part', step)
    phases.finish('part')
    phases.step('whole', 0)
    phases.start('other', 2)
    phases.step('other', 0)
    assert seen == [0.125, 0.25, 0.375, 0.5, 0.5, 0.75]
