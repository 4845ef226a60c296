"""The runtime is chosen with reasons, proved before use, and made ready where that is allowed.

There is no GPU here: where one is needed, TensorRT's runtime alone is replaced, by onnxruntime on
the same graphs. Keys, descriptions and probes are the real ones.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_folder import write_model_folder
from support.exported import redescribe, tiny_bundle
from support.tiny import late, tiny_config, tiny_runtime

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer
from cooper_ros.errors import BadCheckpoint, EngineBuild, EngineMismatch, NotReady, OutOfDisk
from cooper_ros.runtime import choice, opening
from cooper_ros.runtime.choice import ORDER, choose
from cooper_ros.runtime.engines import find, runner
from cooper_ros.runtime.engines.cache import BuiltEngine, EngineCache
from cooper_ros.runtime.engines.flavour import require_flavour
from cooper_ros.runtime.engines.plan import Plan, model_fingerprint
from cooper_ros.runtime.graphs.answers import ANSWERS
from cooper_ros.runtime.graphs.bundle import DESCRIPTION, bundle_name
from cooper_ros.runtime.graphs.digest import file_digest
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.graphs.spec import Limits
from cooper_ros.runtime.notice import Notice
from cooper_ros.runtime.onnx_runtime import load_onnx_runtime
from cooper_ros.runtime.opening import open_runtime
from cooper_ros.runtime.place import Place
from cooper_ros.runtime.prepare import (
    LAST_WORDS,
    Request,
    _read_out,
    exported,
    prepare_in_child,
)
from cooper_ros.runtime.torch_runtime import TorchRuntime

ARCH = 'SM89'
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp('model'))


@pytest.fixture
def config(model: Path, tmp_path: Path) -> CooperConfig:
    return CooperConfig(model_path=str(model), engine_cache=str(tmp_path / 'cache'))


def put_graphs(config: CooperConfig) -> Path:
    """Exported graphs of the checkpoint, which take long to make, into its cache."""
    cache = Path(config.engine_cache)
    cache.mkdir(exist_ok=True)
    model = model_fingerprint([Path(config.model_path)], cache / 'fingerprints.json')
    target = cache / 'graphs' / bundle_name(model, 'fp32')
    shutil.copytree(tiny_bundle().folder, target)
    redescribe(target, model=model)
    return target


def forget_answers(config: CooperConfig) -> None:
    """As if the network had never been asked; another one answers otherwise."""
    for path in Path(config.engine_cache).glob(f'graphs/*/{ANSWERS}'):
        path.unlink()


def put_engines(config: CooperConfig, **changes: Any) -> Plan:
    """Engines with true descriptions; nothing here could run what is inside."""
    place = Place.of(config)
    bundle = find.find_bundle(place, 'fp32')
    plan = Plan(bundle, require_flavour(), **{'context': 64, **changes})
    for job in plan.jobs([ARCH]):
        EngineCache(place.cache).store(job.key, lambda job=job: BuiltEngine(
            b'an engine', job.spec.interface('fp32'),
            {'limits': plan.limits.to_dict(), 'options': vars(plan.options)}))
    return plan


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU as far as keys go; engines are proved, then run by onnxruntime."""
    def load(plan: Plan, cache: EngineCache, *, rebuild: str) -> GraphRuntime:
        for name, spec in plan.bundle.specs().items():
            cache.load(plan.key(name, ARCH), spec.interface('fp32'))
        return load_onnx_runtime(plan.bundle, threads=1)

    monkeypatch.setattr(find, 'gpu_architecture', lambda: ARCH)
    monkeypatch.setattr(runner, 'load_tensorrt_runtime', load)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)


def lines(config: CooperConfig) -> list[str]:
    return [str(verdict) for verdict in choose(config)]


def test_without_anything_torch_is_chosen_and_every_other_has_its_reason(
        config: CooperConfig) -> None:
    assert lines(config) == [
        'tensorrt passed over: there is no GPU', 'torch_tensorrt passed over: there is no GPU',
        'compile passed over: its first questions take minutes; set runtime: compile to have it',
        'onnx passed over: its graphs were not exported yet: run `cooper engine export '
        f'{config.model_path} --cache {config.engine_cache} --precision fp32`',
        'torch chosen: it runs everywhere, and nothing faster can be used here']
    half = config.replaced(dtype='bfloat16')
    assert 'onnx passed over: it computes in fp32, and the setting dtype means bf16' in lines(half)


def test_graphs_that_are_there_or_may_be_made_are_chosen(config: CooperConfig) -> None:
    making = lines(config.replaced(engine_missing='serve'))
    assert 'onnx chosen: the fastest here; what is missing will be made' in making
    put_graphs(config)
    assert lines(config)[-2:] == [
        'onnx chosen: the fastest here, and all it needs is in the cache',
        'torch passed over: onnx is faster']


def test_weights_that_wait_on_disk_wait_in_torch(config: CooperConfig) -> None:
    put_graphs(config)
    found = lines(config.replaced(load_drawing='first_map', engine_missing='build'))
    why = 'passed over: load_drawing is first_map, and graphs hold all weights from the start'
    assert found[0] == f'tensorrt {why}' and found[3] == f'onnx {why}'
    assert found[-1].startswith('torch chosen')


def test_a_setting_needs_no_reason(config: CooperConfig) -> None:
    assert lines(config.replaced(runtime='torch')) == [
        'torch chosen: the setting runtime asks for it']


def test_quantised_weights_run_in_torch(config: CooperConfig, tmp_path: Path) -> None:
    folder = tmp_path / 'quantised'
    shutil.copytree(config.model_path, folder)
    card = json.loads((folder / 'cooper.json').read_text())
    card['quantization'] = {'format': 'int8', 'group': 0}
    (folder / 'cooper.json').write_text(json.dumps(card))
    found = lines(config.replaced(model_path=str(folder), engine_missing='build'))
    assert found[0] == 'tensorrt passed over: quantised weights run in torch only'
    assert found[-1].startswith('torch chosen')
    with pytest.raises(NotReady, match='quantised weights run in torch only; got .+; remedy: set'):
        open_runtime('tensorrt', late(tiny_runtime()),
                     config.replaced(model_path=str(folder)), print)


def test_engines_are_chosen_on_a_gpu_and_torch_where_they_are_missing(
        config: CooperConfig, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    place = replace(Place.of(config), device=torch.device('cuda'))
    monkeypatch.setattr(choice.Place, 'of', lambda config: place)
    assert lines(config)[0].startswith(
        'tensorrt passed over: ENGINE_MISMATCH: no engines were built')
    monkeypatch.setattr(choice.Place, 'of', lambda config: replace(place, may_make=True))
    assert lines(config)[0] == 'tensorrt chosen: the fastest here; what is missing will be made'
    monkeypatch.setattr(choice.Place, 'of', lambda config: place)
    put_graphs(config)
    first = lines(config)
    assert first[0].startswith('tensorrt passed over: its engines are not in')
    assert (f'cooper engine build {config.model_path} --cache {config.engine_cache} --precision '
            'fp32 --context') in first[0]
    assert 'onnx passed over: it computes on the CPU, and a GPU is used' in first
    put_engines(config)
    assert lines(config)[0].startswith('tensorrt chosen: the fastest here, and all it needs')
    assert [verdict.runtime for verdict in choose(config)] == list(ORDER)


def test_nothing_is_made_for_a_gpu_that_this_tensorrt_does_not_know(
        config: CooperConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100: TensorRT for RTX 1.7.1 builds there, and then refuses to load what it built."""
    monkeypatch.setattr(find, 'gpu_architecture', lambda: 'SM90')
    place = replace(Place.of(config), device=torch.device('cuda'), may_make=True)
    monkeypatch.setattr(choice.Place, 'of', lambda config: place)
    found = lines(config)
    assert found[0].startswith('tensorrt passed over: BAD_OPTION: tensorrt-rtx')
    assert 'cannot build for this architecture; got SM90; allowed: SM75' in found[0]
    assert found[-1].startswith('torch chosen')


@pytest.mark.parametrize('sizes', [{'context': 512, 'side': 80}, {'context': 512}])
def test_engines_are_found_whatever_sizes_they_serve(config: CooperConfig, gpu: None,
                                                     sizes: dict[str, int]) -> None:
    put_graphs(config)
    put_engines(config)
    wanted = put_engines(config, **sizes)
    found = find.find_plan(Place.of(config), 'tensorrt')
    assert found.complete and found.plan.limits == wanted.limits  # the longest context
    assert found.plan.limits == Limits.of(tiny_config(), **sizes)
    assert '--context 512' in found.command and ('--side' in found.command) == ('side' in sizes)


def test_engines_that_fit_are_proved_and_used(config: CooperConfig, gpu: None) -> None:
    put_graphs(config)
    put_engines(config)
    opened = open_runtime('tensorrt', late(tiny_runtime()), config, print)
    assert isinstance(opened.runtime, GraphRuntime) and opened.upgrade is None


def test_engines_that_say_something_else_are_refused(config: CooperConfig, gpu: None) -> None:
    put_graphs(config)
    put_engines(config)
    with pytest.raises(EngineMismatch, match='graph vision does not say what the network says; '
                       'got error .+; allowed: 0.005 in fp32; remedy: run `cooper engine build '
                       f'{config.model_path} --cache .+ --force`'):
        open_runtime('tensorrt', late(tiny_runtime(seed=1)),
                     config.replaced(runtime='tensorrt'), print)


def test_a_missing_engine_is_an_error_or_is_built_as_the_setting_says(
        config: CooperConfig, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    put_graphs(config)
    config = config.replaced(runtime='tensorrt')
    network, asked, said = tiny_runtime(), [], []
    with pytest.raises(EngineMismatch, match='no compiled engine for graph .+ run `cooper engine'):
        open_runtime('tensorrt', late(network), config, print)

    def build(request: Request, told: Any) -> None:
        asked.append(request)
        told('engine flow', 0.5)
        told('engine flow', 0.6)
        put_engines(config)

    monkeypatch.setattr(opening, 'prepare_in_child', build)
    building = config.replaced(engine_missing='build')
    opened = open_runtime('tensorrt', late(network), building, said.append)
    assert isinstance(opened.runtime, GraphRuntime)
    assert asked[0].kind == 'tensorrt' and not asked[0].force and asked[0].side == 64
    assert [notice.preparing for notice in said][1:] == [
        'tensorrt: engine flow (50%)', 'tensorrt: engine flow (60%)']
    assert [bool(notice.text) for notice in said] == [True, True, False]  # new steps are logged
    forget_answers(config)
    with pytest.raises(EngineMismatch, match='does not say'):  # built once more, then an error
        open_runtime('tensorrt', late(tiny_runtime(seed=1)), building, print)
    assert asked[1].force


def ask(engine: CooperEngine) -> str:
    end = list(engine.ask(PICTURE, 'which?', mode='direct', seed=5))[-1]
    assert isinstance(end, Answer)
    return end.text


def test_torch_answers_until_the_other_runtime_is_ready(
        config: CooperConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real swap: torch first, onnxruntime afterwards, the same words from both."""
    may_go, said, swapped = threading.Event(), [], threading.Event()

    def build(request: Request, told: Any) -> None:
        told('graph flow', 0.5)
        may_go.wait()
        put_graphs(config)

    def tell(notice: Notice) -> None:
        said.append(notice)
        if 'answers from now on' in notice.text or notice.error:
            swapped.set()

    monkeypatch.setattr(opening, 'prepare_in_child', build)
    serving = config.replaced(runtime='onnx', engine_missing='serve')
    engine = CooperEngine.from_pretrained(config.model_path, serving, tell)
    first = ask(engine)
    assert isinstance(engine.parts.runtime, TorchRuntime) and said[-1].runtime in ('torch', '')
    may_go.set()
    assert swapped.wait(60) and not said[-1].error, said[-1]
    assert ask(engine) == first and isinstance(engine.parts.runtime, GraphRuntime)
    assert said[-1].preparing == '' and 'answers from now on' in said[-1].text
    assert all(notice.choice == said[0].choice for notice in said)


def test_torch_goes_on_when_preparing_fails(config: CooperConfig,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def tell(notice: Notice) -> None:
        if notice.error:
            assert 'torch goes on answering: ENGINE_BUILD: no memory' in notice.text
            assert notice.runtime == 'torch' and not notice.preparing
            failed.set()

    def build(request: Request, told: Any) -> None:
        raise EngineBuild('no memory')

    monkeypatch.setattr(opening, 'prepare_in_child', build)
    engine = CooperEngine.from_pretrained(
        config.model_path, config.replaced(runtime='onnx', engine_missing='serve'), tell)
    assert failed.wait(60) and ask(engine)
    assert isinstance(engine.parts.runtime, TorchRuntime)


def test_torch_goes_on_when_graphs_are_refused_whatever_number_type_was_asked_for(
        config: CooperConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that answers is the one that is asked what is right: it must stay as it is."""
    refused = threading.Event()

    def other(*asked: Any, **more: Any) -> None:
        raise EngineMismatch('graph flow does not say what the network says')

    def tell(notice: Notice) -> None:
        if notice.error:
            assert 'torch goes on answering: ENGINE_MISMATCH: graph flow' in notice.text
            refused.set()

    monkeypatch.setattr(opening, 'prepare_in_child', lambda request, told: put_graphs(config))
    monkeypatch.setattr(opening, 'compare', other)
    engine = CooperEngine.from_pretrained(config.model_path, config.replaced(
        runtime='onnx', engine_missing='serve', dtype='bfloat16'), tell)
    assert refused.wait(60) and ask(engine)
    runtime = engine.parts.runtime
    assert isinstance(runtime, TorchRuntime)
    assert {runtime.dtype} == {value.dtype for module in (runtime.network, runtime.vae)
                               for value in module.parameters()}


def test_the_last_words_of_a_child_are_heard_whatever_bytes_it_writes(
        config: CooperConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte that is no text must not keep the rest in the pipe, which would fill up."""
    (tmp_path / 'sitecustomize.py').write_text(
        'import os\ndef die(by):\n    os.write(2, b"\\xff" * 50_000 + b"\\nof the last words")\n'
        '    os._exit(3)\nos.nice = die\n')
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    with pytest.raises(EngineBuild, match='could not be prepared; got exit code 3') as caught:
        prepare_in_child(Request('onnx', (config.model_path,), 'fp32', config.engine_cache),
                         lambda what, done: None)
    said = caught.value.value
    assert said.endswith('\ufffd\nof the last words') and len(said) < LAST_WORDS + 20


def test_no_more_is_kept_of_what_a_child_writes_than_is_shown() -> None:
    for text in ('a\n' * 50_000, 'a' * 500_000, ''):
        kept: deque[str] = deque(maxlen=LAST_WORDS)
        _read_out(io.StringIO(text), kept)
        assert ''.join(kept)[-LAST_WORDS:] == text[-LAST_WORDS:]
        assert sum(map(len, kept)) <= LAST_WORDS**2


def test_a_child_prepares_and_says_what_went_wrong(config: CooperConfig, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    folder, told = put_graphs(config), []
    request = Request('onnx', (config.model_path,), 'fp32', config.engine_cache)
    prepare_in_child(request, lambda what, done: told.append(what))  # they are there already
    assert folder.is_dir() and told == []
    wrong = replace(request, folders=(config.engine_cache,))
    with pytest.raises(BadCheckpoint, match='could not be prepared; got BAD_CHECKPOINT: .+; '
                       f'remedy: run `cooper engine export {config.engine_cache} --cache'):
        prepare_in_child(wrong, lambda what, done: None)
    (tmp_path / 'sitecustomize.py').write_text(
        'import collections, shutil\n'
        'shutil.disk_usage = lambda folder: collections.namedtuple("Usage", "free")(0)\n')
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    prepare_in_child(request, lambda what, done: None)  # what is there needs no room
    shutil.rmtree(folder)
    with pytest.raises(OutOfDisk, match='got OUT_OF_DISK: no room on disk for exported graphs'):
        prepare_in_child(request, lambda what, done: None)
    (tmp_path / 'sitecustomize.py').write_text('import os\nos.nice = lambda by: os._exit(3)\n')
    with pytest.raises(EngineBuild, match='could not be prepared; got exit code 3'):
        prepare_in_child(request, lambda what, done: None)


def test_damaged_graphs_are_refused_and_made_again(config: CooperConfig,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage is seen by its SHA-256 and needs no permission; what was exported wrongly does."""
    folder, forced, said = put_graphs(config), [], []
    path = folder / 'flow.onnx'
    path.write_bytes(b'x' * path.stat().st_size)

    def build(request: Request, told: Any) -> None:
        forced.append(request.force)
        shutil.rmtree(folder)
        put_graphs(config)

    monkeypatch.setattr(opening, 'prepare_in_child', build)
    opened = open_runtime('onnx', late(tiny_runtime()), config, said.append)
    assert isinstance(opened.runtime, GraphRuntime) and forced == [False]
    assert 'exported graphs are damaged; got flow.onnx; allowed: the SHA-256' in said[0].text
    path.write_bytes(b'x' * path.stat().st_size)
    files = json.loads((folder / DESCRIPTION).read_text())['files']
    redescribe(folder, files={**files, path.name: (files[path.name][0], file_digest(path))})
    with pytest.raises(EngineMismatch, match='onnxruntime cannot read graph flow'):
        open_runtime('onnx', late(tiny_runtime()), config.replaced(runtime='onnx'), print)
    opened = open_runtime('onnx', late(tiny_runtime()), config.replaced(engine_missing='build'),
                          print)
    assert isinstance(opened.runtime, GraphRuntime) and forced == [False, True]


def test_graphs_are_exported_once(config: CooperConfig) -> None:
    folder = put_graphs(config)
    made = exported([Path(config.model_path)], 'fp32', Path(config.engine_cache))
    assert made.folder == folder
