"""Engines are found, refused and made again as what they are; torch answers where they cannot.

TensorRT's runtime alone is replaced, by onnxruntime on the graphs of ``tiny_bundle()``.
"""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from model_folder import write_model_folder
from support.tiny import late, tiny_card, tiny_runtime
from test_runtime_choice import (
    ARCH,
    forget_answers,
    lines,
    pretend_gpu,
    put_engines,
    put_graphs,
)

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption, EngineMismatch, OutOfMemory
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.runtime import choice, opening
from cooper_ros.runtime.engines import find, flavour, runner
from cooper_ros.runtime.engines.cache import (
    DESCRIPTION,
    ENGINE,
    SEAL,
    BuiltEngine,
    EngineCache,
)
from cooper_ros.runtime.engines.find import Found, find_plan, request_of
from cooper_ros.runtime.engines.key import BuildOptions
from cooper_ros.runtime.engines.plan import FINGERPRINTS, Job, Plan
from cooper_ros.runtime.graphs.answers import ANSWERS
from cooper_ros.runtime.graphs.digest import sealed
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.graphs.spec import CONTEXT, Limits
from cooper_ros.runtime.names import TORCH_TENSORRT
from cooper_ros.runtime.notice import Notice
from cooper_ros.runtime.opening import open_runtime
from cooper_ros.runtime.place import Place
from cooper_ros.runtime.prepare import Request, command_of, prepare
from cooper_ros.runtime.torch_runtime import TorchRuntime

OPTIONS = BuildOptions(workspace_mib=64)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp('a model'))


@pytest.fixture
def config(model: Path, tmp_path: Path) -> CooperConfig:
    """Settings with graphs in the cache, and a GPU as far as keys go."""
    config = CooperConfig(model_path=str(model), engine_cache=str(tmp_path / 'cache'))
    put_graphs(config)
    return config


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, config: CooperConfig) -> list[Request]:
    """What is asked for; whatever of it is unsound or not there is made."""
    asked: list[Request] = []

    def build(request: Request, told: Any) -> None:
        asked.append(request)
        put_engines(config, context=request.context or CONTEXT, side=request.side,
                    options=BuildOptions(request.workspace_mib, request.weight_streaming,
                                         request.decode_profile))

    monkeypatch.setattr(opening, 'prepare_in_child', build)
    return asked


def on_a_gpu(config: CooperConfig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `auto` would say of every runtime where there is a GPU."""
    place = replace(Place.of(config), device=torch.device('cuda'))
    with monkeypatch.context() as patch:
        patch.setattr(choice.Place, 'of', lambda config: place)
        return lines(config)


def found_for(config: CooperConfig) -> Found:
    return find_plan(Place.of(config), 'tensorrt')


def engine_of(plan: Plan, config: CooperConfig, graph: str = 'understand') -> Path:
    return Path(config.engine_cache) / f'{plan.key(graph, ARCH).name}{ENGINE}'


def test_graphs_are_found_where_nothing_can_be_written(config: CooperConfig) -> None:
    """A cache on a full disk or of another user: what is finished is used all the same."""
    memo = Path(config.engine_cache) / FINGERPRINTS
    memo.unlink()
    memo.with_suffix('.lock').unlink()
    memo.with_suffix('.lock').mkdir()
    assert lines(config)[-2].startswith('onnx chosen: the fastest here, and all it needs')
    assert not memo.exists()


def test_what_may_not_be_read_is_not_there(config: CooperConfig,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(folder: Path) -> None:
        raise PermissionError(folder)

    monkeypatch.setattr(find.Bundle, 'load', forbidden)
    assert lines(config)[-1].startswith('torch chosen')


@pytest.mark.parametrize('facts', [
    {}, {'limits': [], 'options': {}}, {'limits': None, 'options': {}},
    {'limits': {'context': {'low': 9, 'usual': 5, 'high': 7}}, 'options': {}},
    {'limits': {'context': {'low': 1, 'usual': 'x', 'high': 7}}, 'options': {}},
    {'limits': {'context': 5}, 'options': {}}, {'limits': 'x', 'options': None}])
def test_one_bad_description_does_not_hide_other_engines(config: CooperConfig,
                                                         facts: dict[str, Any]) -> None:
    good, bad = put_engines(config), put_engines(config, context=512)
    path = engine_of(bad, config).with_suffix(DESCRIPTION)
    path.write_text(sealed(json.loads(path.read_text()) | {'facts': facts}, SEAL))
    found = found_for(config)
    assert found.complete and found.plan.limits == good.limits


def test_the_usual_engines_are_found_by_their_keys_alone(config: CooperConfig) -> None:
    usual = found_for(config).plan
    plan = put_engines(config, context=usual.context, side=usual.side)
    path = engine_of(plan, config).with_suffix(DESCRIPTION)
    path.write_text(sealed(json.loads(path.read_text()) | {'facts': {}}, SEAL))
    assert found_for(config).complete


def test_a_set_whose_description_was_changed_is_made_again(
        config: CooperConfig, asked: list[Request]) -> None:
    """Sizes in it decide whether it is found: one changed number hid the set for good."""
    plan = put_engines(config, context=512)
    path = engine_of(plan, config).with_suffix(DESCRIPTION)
    described = json.loads(path.read_text())
    described['facts']['limits']['context']['high'] += 1
    path.write_text(json.dumps(described))
    (bad,) = (entry for entry in EngineCache(path.parent).entries() if entry.name == path.stem)
    assert 'or a changed one; it is never used' in EngineCache(path.parent).check(bad)
    assert not found_for(config).complete
    put_engines(config, context=512)  # what `cooper engine build` does
    assert found_for(config).plan.limits == plan.limits


def test_what_anyone_may_write_is_not_loaded(config: CooperConfig, asked: list[Request],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything built that would not be loaded either; a file is made again."""
    plan, cache = put_engines(config, context=512), Path(config.engine_cache)
    cache.chmod(0o755)
    engine_of(plan, config).chmod(0o666)
    asking = config.replaced(runtime='tensorrt')
    with pytest.raises(EngineMismatch, match='anyone may have put compiled engine understand.+ '
                       f'here; got .+, which anyone may write; .+run `chmod -R go-w {cache}'):
        open_runtime('tensorrt', late(tiny_runtime()), asking, print)
    said = f'tensorrt passed over: anyone may write {engine_of(plan, config)}: run `chmod -R go-w'
    assert on_a_gpu(config, monkeypatch)[0].startswith(said)
    opened = open_runtime('tensorrt', late(tiny_runtime()),
                          asking.replaced(engine_missing='build'), print)
    assert isinstance(opened.runtime, GraphRuntime)
    assert [(request.context, request.force) for request in asked] == [(512, False)]
    request = found_for(config).request
    cache.chmod(0o777)
    for missing in ('error', 'build'):
        assert on_a_gpu(config.replaced(engine_missing=missing), monkeypatch)[0].startswith(
            f'tensorrt passed over: anyone may write {cache}: run `chmod')
    with pytest.raises(BadOption, match='anyone may write the folder of engines; got .+; remedy: '
                       'run `chmod -R go-w'):
        prepare(request, lambda what, done: None)


def test_damaged_engines_are_made_again_with_their_own_sizes_and_options(
        config: CooperConfig, asked: list[Request]) -> None:
    """The cache prefers them to the usual ones, so making those would heal nothing."""
    put_engines(config)
    plan = put_engines(config, context=512, side=80, options=OPTIONS)
    path = engine_of(plan, config)
    path.write_bytes(b'no engine')
    building = config.replaced(runtime='tensorrt', engine_missing='build')
    opened = open_runtime('tensorrt', late(tiny_runtime()), building, print)
    assert isinstance(opened.runtime, GraphRuntime) and path.read_bytes() == b'an engine'
    (request,) = asked
    assert (request.context, request.side, request.workspace_mib) == (512, 80, 64)
    assert not request.force  # one is damaged, the others stay
    open_runtime('tensorrt', late(tiny_runtime()), building, print)
    assert len(asked) == 1
    forget_answers(config)
    with pytest.raises(EngineMismatch, match='does not say what the network says'):
        open_runtime('tensorrt', late(tiny_runtime(seed=1)), building, print)
    assert asked[1] == replace(request, force=True)  # all are sound, so they are wrong


def test_what_is_asked_for_is_what_is_built(config: CooperConfig,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[Plan, Job, bool]] = []
    monkeypatch.setattr(flavour, 'gpu_architecture', lambda: ARCH)
    monkeypatch.setattr(Plan, 'build', lambda plan, job, cache, force, **more:
                        built.append((plan, job, force)))
    wanted = put_engines(config, context=512, side=80, options=BuildOptions(64, True, True))
    found = found_for(config)
    prepare(found.request, lambda what, done: None)
    assert {plan.limits for plan, _, _ in built} == {wanted.limits}
    assert [job.key for _, job, _ in built] == list(job.key for job in wanted.jobs([ARCH]))


def test_engines_for_a_shorter_context_than_asked_for_are_not_complete(
        config: CooperConfig, asked: list[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    short = put_engines(config, context=256)
    config = config.replaced(context_tokens=300)
    found = found_for(config)
    assert not found.complete and found.plan.context == 300
    said = on_a_gpu(config, monkeypatch)[0]
    assert said.startswith('tensorrt passed over: its engines serve contexts of up to 256 tokens, '
                           'and context_tokens asks for 300: run `cooper engine build ')
    assert '--context 300 ' in said
    with pytest.raises(EngineMismatch, match='are for shorter contexts than context_tokens asks '
                       'for; got 256; allowed: 300 or more; remedy: run `cooper .+--context 300'):
        open_runtime('tensorrt', late(tiny_runtime()), config.replaced(runtime='tensorrt'), print)
    opened = open_runtime('tensorrt', late(tiny_runtime()),
                          config.replaced(engine_missing='build'), print)
    assert isinstance(opened.runtime, GraphRuntime)
    assert [(request.context, request.force) for request in asked] == [(300, False)]
    assert found_for(config).plan.limits != short.limits
    assert found_for(config.replaced(context_tokens=256)).complete


def test_engines_for_smaller_pictures_than_the_checkpoint_makes_are_not_complete(
        config: CooperConfig, asked: list[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    small = put_engines(config, context=512, side=32)
    found = found_for(config)
    assert not found.complete and (found.best.side, found.plan.side) == (32, 64)
    said = on_a_gpu(config, monkeypatch)[0]
    assert said.startswith('tensorrt passed over: its engines serve pictures of up to 32 pixels a '
                           'side, and those of this checkpoint have up to 64: run `cooper engine')
    with pytest.raises(EngineMismatch, match='are for smaller pictures than the checkpoint makes; '
                       'got 32; allowed: 64 or more; remedy: run `cooper .+--side 64'):
        open_runtime('tensorrt', late(tiny_runtime()), config.replaced(runtime='tensorrt'), print)
    opened = open_runtime('tensorrt', late(tiny_runtime()),
                          config.replaced(engine_missing='build'), print)
    assert isinstance(opened.runtime, GraphRuntime)
    assert [(request.side, request.force) for request in asked] == [(64, False)]
    wide = put_engines(config, context=256)  # a shorter context, but for all pictures
    (Path(config.engine_cache) / f'{found.plan.key("flow", ARCH).name}{ENGINE}').unlink()
    assert found_for(config).plan.limits == wide.limits != small.limits


def test_engines_by_torch_tensorrt_run_without_that_package(
        config: CooperConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever version of it has converted; all else must be as ever."""
    monkeypatch.setattr(importlib.metadata, 'version', lambda package: '2.12.1')
    plan = put_engines(config, context=512, converter=TORCH_TENSORRT)
    other = replace(plan, flavour=replace(plan.flavour, version='0.1'), context=1024)
    for job in other.jobs([ARCH]):  # of another TensorRT
        EngineCache(Path(config.engine_cache)).store(job.key, lambda job=job: BuiltEngine(
            b'an engine', job.spec.interface('fp32'),
            {'limits': other.limits.to_dict(), 'options': vars(other.options)}))
    monkeypatch.setattr(importlib.metadata, 'version', lambda package: '2.13.0')
    assert not find_plan(Place.of(config), TORCH_TENSORRT).complete  # one that is here decides
    monkeypatch.setattr(importlib.metadata, 'version', absent)
    found = find_plan(Place.of(config), TORCH_TENSORRT)
    assert found.complete and found.plan.limits == plan.limits
    assert [found.plan.key(name, ARCH) for name in plan.bundle.specs()] == [
        job.key for job in replace(plan, converted_by='2.12.1').jobs([ARCH])]
    opened = open_runtime(TORCH_TENSORRT, late(tiny_runtime()),
                          config.replaced(runtime=TORCH_TENSORRT), print)
    assert isinstance(opened.runtime, GraphRuntime)
    for missing, words in (('error', 'chosen: the fastest here, and all it needs is in the cache'),
                           ('build', 'passed over: tensorrt is faster')):
        said = on_a_gpu(config.replaced(engine_missing=missing), monkeypatch)[1]
        assert said == f'torch_tensorrt {words}'
    assert not find_plan(Place.of(config), 'tensorrt').complete
    engine_of(found.plan, config).unlink()
    said = on_a_gpu(config.replaced(engine_missing='build'), monkeypatch)[1]
    assert said.startswith('torch_tensorrt passed over: Torch-TensorRT is not installed')


def absent(package: str) -> str:
    raise importlib.metadata.PackageNotFoundError(package)


EXPOSED = {'graphs': lambda folder: folder.parent, 'folder': lambda folder: folder,
           'graph': lambda folder: folder / 'flow.onnx',
           'answers': lambda folder: folder / ANSWERS}


@pytest.mark.parametrize('name', ['tensorrt', 'onnx'])
@pytest.mark.parametrize('which', EXPOSED.values(), ids=EXPOSED)
def test_graphs_that_anyone_may_write_are_not_used(
        config: CooperConfig, monkeypatch: pytest.MonkeyPatch, name: str,
        which: Callable[[Path], Path]) -> None:
    """What engines are proved against lies beside them."""
    put_engines(config)
    asking, cache = config.replaced(runtime=name), Path(config.engine_cache)
    open_runtime(name, late(tiny_runtime()), asking, print)
    cache.chmod(0o755)
    (folder,) = (path for path in (cache / 'graphs').iterdir() if path.is_dir())
    exposed = which(folder)
    exposed.chmod(0o777)
    words = (f'anyone may have put the exported graphs here; got {exposed}, which anyone may '
             f'write; allowed: files that only their users may write; remedy: run `chmod -R go-w '
             f'{cache}`, then `cooper engine export '
             f'{shlex.quote(config.model_path)} --cache {cache} --precision fp32 --force`')
    with pytest.raises(EngineMismatch) as caught:
        find.find_bundle(Place.of(config), 'fp32')
    assert words in str(caught.value)
    if name == 'tensorrt':
        with pytest.raises(EngineMismatch, match='anyone may have put the exported graphs here'):
            open_runtime(name, late(tiny_runtime()), asking, print)
        said = on_a_gpu(config, monkeypatch)[0]
    else:
        said = lines(config)[3]
    assert said.startswith(f'{name} passed over: ') and str(exposed) in said
    cache.chmod(0o700)  # what lies in it is as private as the folder
    open_runtime(name, late(tiny_runtime()), asking, print)


@pytest.mark.parametrize('name', ['tensorrt', 'onnx'])
def test_graphs_that_anyone_may_write_are_made_again_but_not_in_such_a_folder(
        config: CooperConfig, asked: list[Request], monkeypatch: pytest.MonkeyPatch,
        name: str) -> None:
    put_engines(config)
    building, cache = config.replaced(runtime=name, engine_missing='build'), Path(
        config.engine_cache)
    cache.chmod(0o755)
    (folder,) = (path for path in (cache / 'graphs').iterdir() if path.is_dir())
    (folder / 'flow.onnx').chmod(0o666)
    monkeypatch.setattr(opening, 'prepare_in_child', lambda request, told: (
        asked.append(request), (folder / 'flow.onnx').chmod(0o644)))
    opened = open_runtime(name, late(tiny_runtime()), building, print)
    assert isinstance(opened.runtime, GraphRuntime)
    (request,) = asked
    assert request.kind == name and not request.force
    (cache / 'graphs').chmod(0o777)
    found = on_a_gpu if name == 'tensorrt' else lambda config, patch: lines(config)[3:]
    assert found(building.replaced(runtime='auto'), monkeypatch)[0].startswith(
        f'{name} passed over: anyone may write {cache}/graphs: run `chmod -R go-w {cache}')
    with pytest.raises(BadOption, match=f'anyone may write the folder of graphs; got {cache}/'
                       f'graphs; .+; remedy: run `chmod -R go-w {cache}`'):
        prepare(request, lambda what, done: None)


def test_torch_answers_where_auto_cannot_open_what_it_chose(config: CooperConfig) -> None:
    put_engines(config)
    said: list[Notice] = []
    opened = open_runtime('tensorrt', late(network := tiny_runtime(seed=1)), config, said.append)
    assert opened.runtime is network and said[-1].error and said[-1].runtime == 'torch'
    assert said[-1].text.startswith('tensorrt is not used, torch answers: ENGINE_MISMATCH: graph '
                                    'vision does not say what the network says')


def test_the_command_to_run_repeats_every_choice(config: CooperConfig, tmp_path: Path) -> None:
    assert command_of(Request('torch_tensorrt', ('a b', 'base'), 'bf16', 'c', 64, 32)) == (
        "cooper engine build 'a b' --cache c --base base --precision bf16 --context 64 --side 32 "
        '--converter torch_tensorrt')
    assert command_of(Request('tensorrt', ('m',), 'fp32', 'c d', 0, 0, 7, True, 512, True, True)
                      ) == ("cooper engine build m --cache 'c d' --precision fp32 --parts 7 "
                            '--workspace-mib 512 --weight-streaming --decode-profile --force')
    base = tmp_path / 'the base'
    base.mkdir()
    config = config.replaced(base_path=str(base), engine_cache=str(tmp_path / 'a cache'),
                             context_tokens=300)
    with pytest.raises(EngineMismatch) as caught:  # other folders, other fingerprint: no graphs
        found_for(config)
    words = (f"run `cooper engine build '{config.model_path}' --cache '{tmp_path}/a cache' "
             f"--base '{base}' --precision fp32")
    assert f'{words} --context 300 --side 64`' in str(caught.value)
    assert any(f'{words.replace("build", "export")}`' in line for line in lines(config))
    assert request_of('onnx', Place.of(config)).context == 0


def test_a_request_names_the_engines_of_a_plan(config: CooperConfig) -> None:
    put_engines(config, context=512, options=OPTIONS)
    found = found_for(config)
    assert found.command.endswith('--context 512 --workspace-mib 64')
    assert found.cache.rebuild == found.command
    assert found.plan.limits == Limits.of(found.plan.bundle.config, context=512)


def full(*args: Any, **more: Any) -> GraphRuntime:
    raise OutOfMemory('the engines do not fit the device', value='9 MiB', limit='5 MiB free')


@pytest.mark.parametrize('settings', [{}, {'engine_missing': 'build'},
                                      {'runtime': 'tensorrt', 'engine_missing': 'serve'}])
def test_torch_answers_where_engines_do_not_fit_beside_it(
        config: CooperConfig, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    put_engines(config)
    monkeypatch.setattr(runner, 'load_tensorrt_runtime', full)
    said: list[Notice] = []
    opened = open_runtime('tensorrt', late(network := tiny_runtime()),
                          config.replaced(**settings), said.append)
    assert opened.runtime is network and isinstance(network, TorchRuntime)
    assert opened.upgrade is None and said[-1].error and said[-1].runtime == 'torch'
    assert said[-1].text == ('tensorrt is not used, torch answers: OUT_OF_MEMORY: the engines do '
                             'not fit the device; got 9 MiB; allowed: 5 MiB free')


def test_engines_that_were_asked_for_and_do_not_fit_are_an_error(
        config: CooperConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    put_engines(config)
    asking = config.replaced(runtime='tensorrt')
    monkeypatch.setattr(runner, 'load_tensorrt_runtime', full)
    with pytest.raises(OutOfMemory, match='the engines do not fit the device'):
        open_runtime('tensorrt', late(tiny_runtime()), asking, print)

    def out_of_memory(*args: Any, **more: Any) -> GraphRuntime:
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

    monkeypatch.setattr(runner, 'load_tensorrt_runtime', out_of_memory)
    with pytest.raises(OutOfMemory, match='tensorrt does not fit the device; got CUDA out of '
                                          'memory.+; remedy: set runtime to torch'):
        open_runtime('tensorrt', late(tiny_runtime()), asking, print)


@pytest.mark.parametrize('wrong', [
    TypeError('pybind11::init(): factory function returned nullptr'), AttributeError('no such')])
def test_torch_answers_under_auto_whatever_goes_wrong(
        config: CooperConfig, wrong: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries raise what they like, and `auto` has promised nothing."""
    def broken(*args: Any, **more: Any) -> GraphRuntime:
        raise wrong

    put_engines(config)
    monkeypatch.setattr(runner, 'load_tensorrt_runtime', broken)
    said: list[Notice] = []
    opened = open_runtime('tensorrt', late(network := tiny_runtime()), config, said.append)
    assert opened.runtime is network and said[-1].error and said[-1].runtime == 'torch'
    assert said[-1].text == f'tensorrt is not used, torch answers: {wrong!r}'
    with pytest.raises(type(wrong)):
        open_runtime('tensorrt', late(network), config.replaced(runtime='tensorrt'), print)


@pytest.mark.parametrize(('rule', 'side'), [
    ((1016, 512, 16), 1024), ((1020, 512, 16), 1024), ((1000, 512, 16), 992),
    ((1024, 512, 16), 1024), ((504, 224, 16), 512), ((120, 60, 16), 128), ((4096, 512, 16), 4096),
    ((64, 512, 16), 64), ((20, 10, 48), 48)])
def test_engines_are_for_the_largest_picture_that_the_rules_make(
        config: CooperConfig, rule: tuple[int, int, int], side: int,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding to the stride may end above the limit, where engines refused the picture."""
    for card in ({'vae_transform': rule, 'vit_transform': (14, 14, 14)},
                 {'vae_transform': (16, 16, 16), 'vit_transform': rule}):
        monkeypatch.setattr(find, 'read_card', lambda folder, card=card: tiny_card(**card))
        assert request_of('tensorrt', Place.of(config)).side == side
    made = [max(ImageTransform(*rule).size(width, height))
            for width in (1, 40, 300, 1024, 5000) for height in (1, 40, 300, 1024, 5000)]
    assert max(made) <= side
