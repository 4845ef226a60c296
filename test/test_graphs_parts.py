"""A decoder cut into several graphs, one after the other, is the decoder."""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from model_folder import write_model_folder
from support.exported import exported_runtime, redescribe, tiny_bundle
from support.tiny import SPECIALS, tiny_config
from test_onnx_runtime import conversation, near
from torch import nn
from typer.testing import CliRunner

from cooper_ros.cli.engine import app
from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption, EngineMismatch
from cooper_ros.model.network import Cooper
from cooper_ros.runtime.choice import choose
from cooper_ros.runtime.engines import find
from cooper_ros.runtime.engines.build import build_engine
from cooper_ros.runtime.engines.cache import BuiltEngine, EngineCache
from cooper_ros.runtime.engines.flavour import find_flavour, require_flavour
from cooper_ros.runtime.engines.plan import Plan, model_fingerprint
from cooper_ros.runtime.graphs import bundle as bundles
from cooper_ros.runtime.graphs.bundle import Bundle, bundle_name, export_bundle
from cooper_ros.runtime.graphs.export import EXTERNAL_SUFFIX, export_graph
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import probe
from cooper_ros.runtime.graphs.spec import (
    GraphSpec,
    Limits,
    graph_specs,
    layer_parts,
    profiles_of,
)
from cooper_ros.runtime.onnx_runtime import OnnxRunner, load_onnx_runtime
from cooper_ros.runtime.opening import request_of
from cooper_ros.runtime.place import Place
from cooper_ros.runtime.prepare import command_of
from cooper_ros.runtime.torch_runtime import TorchRuntime

CONFIG = replace(tiny_config(), llm=replace(tiny_config().llm, num_layers=3))
PARTS = 3  # a first, a middle and a last one
DECODER = [f'{family}_{part}' for family in ('understand', 'flow') for part in range(PARTS)]
_FOLDER = tempfile.TemporaryDirectory(prefix='cooper_test_parts_')


@functools.cache
def network() -> TorchRuntime:
    """The tiny network with one more layer."""
    torch.manual_seed(0)
    made, tiny = Cooper(CONFIG).initialise(0.2), exported_runtime()
    made.load_state_dict(tiny.network.state_dict(), strict=False)
    return TorchRuntime(made, tiny.vae, specials=SPECIALS, vocabulary=260)


@functools.cache
def bundle() -> Bundle:
    """Its graphs; those of no decoder layer are the tiny network's, for exporting takes long."""
    tiny = tiny_bundle()  # before the other export: one inside another would wait for ever

    def shared(spec: GraphSpec, module: nn.Module, path: Path, *more: Any) -> None:
        if spec.family:
            export_graph(spec, module, path, *more)
        else:
            for suffix in ('', EXTERNAL_SUFFIX):
                shutil.copy(f'{tiny.graph(spec.name)}{suffix}', f'{path}{suffix}')

    runtime = network()
    with mock.patch.object(bundles, 'export_graph', shared):
        return export_bundle(runtime.network, runtime.vae, Path(_FOLDER.name) / 'graphs',
                             specials=SPECIALS, vocabulary=260, precision='fp32', parts=PARTS)


@pytest.mark.parametrize(('layers', 'parts'), [(28, 1), (28, 4), (28, 28), (7, 3), (3, 2)])
def test_every_layer_is_in_one_part(layers: int, parts: int) -> None:
    cut = layer_parts(layers, parts)
    assert [layer for part in cut for layer in part] == list(range(layers))
    assert len(cut) == parts and max(map(len, cut)) - min(map(len, cut)) <= 1


@pytest.mark.parametrize('parts', [0, 4])
def test_more_parts_than_layers_are_refused(parts: int) -> None:
    with pytest.raises(BadOption, match=f'into so many parts; got {parts}; allowed: 1 .. 3, its'):
        graph_specs(CONFIG, parts)


def test_one_part_is_the_graph_as_it_was() -> None:
    assert list(graph_specs(CONFIG)) == ['vision', 'understand', 'latents', 'flow', 'vae_encode',
                                         'vae_decode']
    assert Bundle.load(bundle().folder) == bundle() and bundle().parts == PARTS
    assert [name for name, spec in bundle().specs().items() if spec.family] == DECODER


def test_each_part_says_what_its_layers_say() -> None:
    runtime = network()
    modules = graph_modules(runtime.network, runtime.vae, PARTS)
    errors = probe(OnnxRunner(bundle(), threads=1), bundle().specs(), modules, 'fp32', context=20)
    assert set(errors) == set(bundle().specs()) and max(errors.values()) < 1e-4


def test_a_session_over_parts_says_the_same() -> None:
    runtime = load_onnx_runtime(bundle(), threads=1)
    with torch.inference_mode():
        for ours, theirs in zip(conversation(runtime), conversation(network()), strict=True):
            near(ours, theirs)


@pytest.mark.parametrize('name', DECODER)
def test_every_part_compiles(name: str) -> None:
    spec = bundle().specs()[name]
    built = build_engine(find_flavour(), spec, bundle().graph(name), arch='SM89', precision='fp32',
                         limits=Limits.of(CONFIG, context=64))
    assert built.interface == spec.interface('fp32')


def test_decoding_has_a_profile_in_every_part() -> None:
    limits = Limits.of(CONFIG, context=64)
    for name, spec in bundle().specs().items():
        assert len(profiles_of(spec, limits, decode=True)) == 1 + name.startswith('understand')


def test_engines_in_parts_are_found_by_the_setting(tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_model_folder(tmp_path / 'model')
    config = CooperConfig(model_path=str(model), engine_cache=str(tmp_path), engine_parts=PARTS)
    checkpoint = model_fingerprint([model], tmp_path / 'digests')
    graphs = tmp_path / 'graphs' / bundle_name(checkpoint, 'fp32', PARTS)
    shutil.copytree(bundle().folder, graphs)
    redescribe(graphs, model=checkpoint)
    monkeypatch.setattr(find, 'gpu_architecture', lambda: 'SM89')
    place = Place.of(config)
    plan = Plan(find.find_bundle(place, 'fp32'), require_flavour(), context=64)
    for job in plan.jobs(['SM89']):
        assert not find.find_plan(place, 'tensorrt').complete
        EngineCache(tmp_path).store(job.key, lambda job=job: BuiltEngine(
            b'an engine', job.spec.interface('fp32'),
            {'limits': plan.limits.to_dict(), 'options': vars(plan.options)}))
    found = find.find_plan(place, 'tensorrt')
    assert found.complete and found.plan.limits == plan.limits and '--parts 3' in found.command
    assert 'onnx chosen: the fastest here' in '; '.join(map(str, choose(config)))


def test_the_command_passes_the_parts_on(tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / 'model')
    said = CliRunner().invoke(app, ['export', str(model), '--cache', str(tmp_path),
                                    '--parts', '9'])
    assert said.exit_code == 1 and 'into so many parts; got 9' in str(said.exception)


def test_what_is_to_be_made_names_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                            ) -> None:
    model = write_model_folder(tmp_path / 'model')
    config = CooperConfig(model_path=str(model), engine_cache=str(tmp_path), engine_parts=2)
    monkeypatch.setattr(find, 'gpu_architecture', lambda: 'SM89')
    with pytest.raises(EngineMismatch, match='no engines were built .* --parts 2`'):
        find.find_plan(Place.of(config), 'tensorrt')
    assert '--precision fp32 --parts 2`' in '; '.join(map(str, choose(config)))
    request = request_of('tensorrt', Place.of(config))
    assert request.parts == 2 and ' --parts 2' in command_of(request)
