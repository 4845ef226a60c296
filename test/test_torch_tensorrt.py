"""Torch-TensorRT as a maker of engines.

The package is optional and cannot be imported without a GPU in the ordinary way, so what it does
to the graphs is shown by ``benchmarks/torch_tensorrt_check.py``. Here: what the product does where
it is absent or the wrong one, and how its engines are told from others.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable

import pytest
from support.tiny import SPECIALS, tiny_config, tiny_runtime
from torch import nn

from cooper_ros.errors import EngineBuild, NotReady
from cooper_ros.runtime.engines import torch_tensorrt
from cooper_ros.runtime.engines.build import build_engine
from cooper_ros.runtime.engines.flavour import Flavour, require_flavour
from cooper_ros.runtime.engines.plan import Plan
from cooper_ros.runtime.engines.torch_tensorrt import (
    answering_for_a_gpu,
    load,
    obstacle,
    settings,
    with_network,
)
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.spec import Limits, graph_specs

CHECK = Path(__file__).parents[1] / 'benchmarks' / 'torch_tensorrt_check.py'


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, 'version', version)


def test_where_it_is_absent_every_way_in_says_so(absent: None) -> None:
    assert obstacle() == ('Torch-TensorRT is not installed: pip install --no-deps -r '
                          'requirements/ttrt.txt')
    network = tiny_runtime()
    module = graph_modules(network.network, network.vae)['latents']
    spec = graph_specs(tiny_config())['latents']
    with pytest.raises(NotReady, match='Torch-TensorRT cannot be used; got Torch-TensorRT is not '
                                       'installed.+ or set runtime to tensorrt'):
        build_engine(require_flavour(), spec, module, arch='SM89', precision='fp32',
                     limits=Limits.of(tiny_config(), context=64))


def test_one_for_another_torch_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, 'version', lambda package: '2.12.1')
    with pytest.raises(NotReady, match='2.12.1 was made for torch 2.12, not 2.13'):
        load()


def test_a_broken_one_is_named_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise Exception('libnvinfer.so.11: cannot open')  # noqa: TRY002  # as it does

    monkeypatch.setattr(importlib.metadata, 'version', lambda package: '2.13.0')
    monkeypatch.setattr(torch_tensorrt.importlib, 'import_module', broken)
    monkeypatch.setattr(torch_tensorrt, 'require_flavour', lambda: Flavour('tensorrt', '11', 0))
    with pytest.raises(NotReady, match='cannot be imported; got libnvinfer.so.11: cannot open; '
                                       'allowed: 2.13 and 11.0; remedy: install the pair'):
        load()


@pytest.mark.parametrize(('name', 'version', 'written_out'), [
    ('tensorrt', '10.3.0', True), ('tensorrt', '10.14.1', False), ('tensorrt-rtx', '1.7', False)])
def test_attention_is_never_causal_and_written_out_where_there_is_no_layer(
        monkeypatch: pytest.MonkeyPatch, name: str, version: str, written_out: bool) -> None:
    monkeypatch.setattr(torch_tensorrt, 'require_flavour', lambda: Flavour(name, version, None))
    told = settings()
    assert told['decompose_attention'] is written_out and told['attn_bias_is_causal'] is False
    assert told['require_full_compilation'] is True


def pretend_package(monkeypatch: pytest.MonkeyPatch, convert: Callable[..., None],
                    typed: bool) -> None:
    """A Torch-TensorRT that converts like this, with or without a choice of number types."""
    fields = [('min_block_size', int, 5)] + [('use_explicit_typing', bool, False)] * typed
    parts = {'torch_tensorrt': {}, 'torch_tensorrt.dynamo': {
        'convert_exported_program_to_serialized_trt_engine': convert},
        'torch_tensorrt.dynamo._settings': {
            'CompilationSettings': dataclasses.make_dataclass('CompilationSettings', fields)},
        'torch_tensorrt.dynamo.conversion': {},
        'torch_tensorrt.dynamo.conversion._TRTInterpreter': {'TRTInterpreter': Interpreter}}
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition('.')
        if parent:
            setattr(sys.modules[parent], last, module)
    for name, value in (('load', lambda: sys.modules['torch_tensorrt']),
                        ('exported_program', lambda *asked: None), ('_inputs', lambda *asked: []),
                        ('_rename', lambda *asked: None)):
        monkeypatch.setattr(torch_tensorrt, name, value)


class Interpreter:
    builder = None

    def __init__(self) -> None:
        self.ctx = SimpleNamespace(net=None)

    def _construct_trt_network_def(self) -> None:
        pass

    def run(self) -> object:
        raise AssertionError('the network is ours to build')


def losing(*asked: object, **told: object) -> None:
    """As in 2.8 and 2.10."""
    try:
        result = Interpreter().run()
    except Exception:
        logging.getLogger('torch_tensorrt').exception('While interpreting the module')
    print(result)


def naming(*asked: object, **told: object) -> None:
    """As in 2.12."""
    try:
        Interpreter().run()
    except Exception as error:
        raise RuntimeError(f'While interpreting the module got an error: {error}') from error


def converted(use: Callable[[Any, Any], Any]) -> Any:
    return with_network(graph_specs(tiny_config())['latents'], nn.Identity(), 'fp32',
                        Limits.of(tiny_config(), context=64), use)


@pytest.mark.parametrize('convert', [losing, naming])
def test_the_reason_of_a_build_that_failed_is_not_lost(
        convert: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(builder: Any, network: Any) -> None:
        raise EngineBuild('TensorRT could not build graph latents', value='no memory')

    def unknown(builder: Any, network: Any) -> None:
        raise KeyError('aten.roll')

    pretend_package(monkeypatch, convert, typed=True)
    with pytest.raises(EngineBuild, match='TensorRT could not build graph latents; got no memory'):
        converted(refused)
    with pytest.raises(EngineBuild, match="cannot convert graph latents; got KeyError: 'aten.rol"):
        converted(unknown)
    assert converted(lambda builder, network: 'made') == 'made'


@pytest.mark.parametrize('typed', [True, False])
def test_number_types_are_those_of_the_graph_wherever_there_is_a_choice(
        typed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """2.8 builds networks in which TensorRT chooses unless told; 2.13 knows no such word."""
    seen: list[dict[str, Any]] = []

    def convert(*asked: object, **told: Any) -> None:
        seen.append(told)
        naming()

    pretend_package(monkeypatch, convert, typed)
    converted(lambda builder, network: 'made')
    assert [told.get('use_explicit_typing') for told in seen] == [True if typed else None]


def test_its_engines_have_keys_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, 'version', lambda package: '2.13.0')
    bundle = Bundle(Path('graphs'), tiny_config(), SPECIALS, 260, 'fp32', 'a' * 64)
    plan = Plan(bundle, require_flavour(), context=64)
    other = dataclasses.replace(plan, converter='torch_tensorrt')
    said = '; '.join(other.key('flow', 'SM89').differences(plan.key('flow', 'SM89')))
    assert 'flavour tensorrt-rtx by Torch-TensorRT, not tensorrt-rtx' in said
    assert f'{plan.flavour.version} by 2.13.0, not {plan.flavour.version}' in said


def test_a_stand_in_gpu_is_gone_afterwards() -> None:
    import torch
    before = torch.cuda.get_device_capability
    with answering_for_a_gpu((8, 7)):
        assert torch.cuda.get_device_capability() == (8, 7) and torch.cuda.current_device() == 0
        assert not torch.cuda.is_available()
    assert torch.cuda.get_device_capability is before


@pytest.mark.parametrize('fails', [False, True])
def test_nothing_of_a_stand_in_stays(fails: bool) -> None:
    import torch
    before = dict(vars(torch.cuda)), set(vars(torch._C)), os.path.isfile
    try:
        with answering_for_a_gpu(), torch_tensorrt._layout_without_its_runtime():
            assert hasattr(torch._C, '_CudaDeviceProperties')
            assert not os.path.isfile(f'{__file__}/libtorchtrt.so') and os.path.isfile(__file__)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert (dict(vars(torch.cuda)), set(vars(torch._C)), os.path.isfile) == before


def test_what_a_class_inherits_is_not_left_with_it() -> None:
    class Base:
        def run(self) -> int:
            return 1

    class Other(Base):
        pass

    with torch_tensorrt._standing_in(Other, run=lambda self: 2):
        assert Other().run() == 2 and Base().run() == 1
    assert Other().run() == 1 and 'run' not in vars(Other)


@pytest.mark.parametrize('fails', [False, True])
def test_only_its_own_loggers_are_silent_and_only_meanwhile(
        fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    theirs = [logging.getLogger(name) for name in (
        'torch_tensorrt', 'torch_tensorrt.dynamo.conversion',
        'torch_tensorrt [TensorRT Conversion Context]')]
    theirs[0].setLevel(logging.INFO)
    try:
        with torch_tensorrt._silence():
            for logger in (*theirs, logging.getLogger('cooper_ros.node')):
                logger.critical('of %s', logger.name)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert caplog.messages == ['of cooper_ros.node']
    assert [logger.level for logger in theirs] == [logging.INFO, logging.NOTSET, logging.NOTSET]
    theirs[0].setLevel(logging.NOTSET)


def test_a_converter_that_drops_an_input_is_caught() -> None:
    class Network:
        num_inputs, num_outputs = 2, 1

    with pytest.raises(EngineBuild, match='dropped inputs or outputs of graph latents; got 2 and '
                                          '1; allowed: 3 and 1'):
        torch_tensorrt._rename(Network(), graph_specs(tiny_config())['latents'])


def test_the_check_says_what_is_missing(absent: None, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location('torch_tensorrt_check', CHECK)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(['--graph', 'latents']) == 2
    assert 'requirements/ttrt.txt' in capsys.readouterr().err
