"""Graphs and engines are compared with what the network said once; it is read for that alone."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_folder import write_model_folder
from safetensors.torch import load_file
from support.tiny import late, tiny_runtime
from test_runtime_choice import forget_answers, pretend_gpu, put_engines, put_graphs

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadCheckpoint, EngineMismatch, OutOfMemory
from cooper_ros.runtime import load
from cooper_ros.runtime.engines import runner
from cooper_ros.runtime.graphs.answers import ANSWERS
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.late_network import LateNetwork
from cooper_ros.runtime.opening import open_runtime
from cooper_ros.runtime.torch_runtime import TorchRuntime

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp('model'))


@pytest.fixture
def config(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CooperConfig:
    """Settings with graphs and engines in the cache, and a GPU as far as keys go."""
    pretend_gpu(monkeypatch)
    config = CooperConfig(model_path=str(model), engine_cache=str(tmp_path / 'cache'),
                          runtime='tensorrt')
    put_graphs(config)
    put_engines(config)
    return config


def counted(network: TorchRuntime) -> tuple[LateNetwork, list[int]]:
    """A network, and how often it was read."""
    reads: list[int] = []
    return LateNetwork(lambda: reads.append(1) or network), reads


def answers_of(config: CooperConfig) -> Path:
    (path,) = Path(config.engine_cache).glob(f'graphs/*/{ANSWERS}')
    return path


@pytest.mark.parametrize('name', ['tensorrt', 'onnx'])
def test_the_network_is_read_once_in_the_life_of_its_graphs(config: CooperConfig,
                                                            name: str) -> None:
    for expected in ([1], []):
        network, reads = counted(tiny_runtime())
        opened = open_runtime(name, network, config, print)
        assert isinstance(opened.runtime, GraphRuntime) and reads == expected


def test_kept_answers_are_still_compared(config: CooperConfig) -> None:
    """The network said them; graphs that say something else are refused without it."""
    open_runtime('tensorrt', late(tiny_runtime(seed=0)), config, print)
    right = answers_of(config).read_bytes()
    forget_answers(config)
    with pytest.raises(EngineMismatch, match='graph vision does not say what the network says'):
        open_runtime('tensorrt', late(tiny_runtime(seed=1)), config, print)
    network, reads = counted(tiny_runtime())
    with pytest.raises(EngineMismatch, match='graph vision does not say what the network says'):
        open_runtime('tensorrt', network, config, print)
    answers_of(config).write_bytes(right)
    open_runtime('tensorrt', network, config, print)
    assert not reads


def test_answers_are_those_to_the_sizes_that_are_asked(config: CooperConfig) -> None:
    """Engines are asked more than graphs: behind long contexts too, as long as they serve."""
    sizes = []
    for name, asks in (('onnx', [1]), ('tensorrt', [1]), ('tensorrt', [])):
        network, reads = counted(tiny_runtime())
        open_runtime(name, network, config, print)
        sizes.append(answers_of(config).stat().st_size)
        assert reads == asks
    assert sizes[0] < sizes[1] == sizes[2]
    put_engines(config, context=512)
    network, reads = counted(tiny_runtime())
    open_runtime('tensorrt', network, config, print)
    assert reads == [1] and answers_of(config).stat().st_size > sizes[2]


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize('harm', [damaged, cut_off])
def test_harmed_answers_are_asked_for_again(config: CooperConfig, harm: Any) -> None:
    open_runtime('tensorrt', late(tiny_runtime()), config, print)
    before = {name: value.clone() for name, value in load_file(answers_of(config)).items()}
    harm(answers_of(config))
    network, reads = counted(tiny_runtime())
    open_runtime('tensorrt', network, config, print)
    after = load_file(answers_of(config))
    assert reads == [1] and before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_another_torch_is_asked_itself(config: CooperConfig,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    open_runtime('tensorrt', late(tiny_runtime()), config, print)
    monkeypatch.setattr(torch, '__version__', '2.99.0')
    network, reads = counted(tiny_runtime())
    open_runtime('tensorrt', network, config, print)
    assert reads == [1]


def test_answers_that_cannot_be_kept_cost_a_line_in_the_log(
        config: CooperConfig, caplog: pytest.LogCaptureFixture) -> None:
    folder = next(path for path in Path(config.engine_cache).glob('graphs/*') if path.is_dir())
    (folder / ANSWERS).mkdir()  # in the way
    with caplog.at_level(logging.WARNING):
        opened = open_runtime('tensorrt', late(tiny_runtime()), config, print)
    assert isinstance(opened.runtime, GraphRuntime)
    assert 'its answers cannot be kept' in caplog.text
    assert [path.name for path in folder.glob(f'{ANSWERS}*')] == [ANSWERS]


def test_network_and_engines_are_never_in_memory_together(
        config: CooperConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    networks: list[weakref.ref[torch.nn.Module]] = []
    real, alive = runner.load_tensorrt_runtime, []

    def read() -> TorchRuntime:
        network = tiny_runtime()
        networks.append(weakref.ref(network.network))
        return network

    def loading(*args: Any, **more: Any) -> GraphRuntime:
        alive.extend(network() is not None for network in networks)
        return real(*args, **more)

    monkeypatch.setattr(runner, 'load_tensorrt_runtime', loading)
    opened = open_runtime('tensorrt', LateNetwork(read), config, print)
    assert isinstance(opened.runtime, GraphRuntime) and alive == [False]


def test_engines_that_do_not_fit_are_gone_before_torch_takes_their_place(
        config: CooperConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[GraphRuntime]] = []
    real, left = runner.load_tensorrt_runtime, []

    def full(*args: Any, **more: Any) -> GraphRuntime:
        runtime = real(*args, **more)
        loaded.append(weakref.ref(runtime))
        raise OutOfMemory('the last engine does not fit')

    def read() -> TorchRuntime:
        left.append([runtime() for runtime in loaded if runtime() is not None])
        return tiny_runtime()

    monkeypatch.setattr(runner, 'load_tensorrt_runtime', full)
    opened = open_runtime('tensorrt', LateNetwork(read), config.replaced(runtime='auto'), print)
    assert isinstance(opened.runtime, TorchRuntime) and left == [[], []]


def test_a_model_folder_is_not_read_for_graphs_that_were_proved(
        config: CooperConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: what is read of the folder, and the same words before and after."""
    real, hollow = load.read_model_folder, []

    def reading(*args: Any, **how: Any) -> Any:
        hollow.append(how.get('hollow', False))
        return real(*args, **how)

    monkeypatch.setattr(load, 'read_model_folder', reading)
    said = []
    for runtime in ('torch', 'onnx', 'onnx'):
        engine = CooperEngine.from_pretrained(config.model_path, config.replaced(runtime=runtime))
        said.append(list(engine.ask(PICTURE, 'which?', mode='direct', seed=5))[-1].text)
    assert said[0] == said[1] == said[2]
    assert hollow == [False, True, False, True]


def test_the_network_is_not_read_for_engines_that_are_not_there(config: CooperConfig) -> None:
    engine = next(Path(config.engine_cache).glob('*.engine'))
    engine.unlink()
    network, reads = counted(tiny_runtime())
    with pytest.raises(EngineMismatch, match='no compiled engine|does not fit'):
        open_runtime('tensorrt', network, config, print)
    assert not reads


def test_a_network_that_cannot_be_read_is_no_fault_of_the_engines(config: CooperConfig) -> None:
    def broken() -> TorchRuntime:
        raise BadCheckpoint('a weight is no finite number', remedy='copy the file again')

    with pytest.raises(BadCheckpoint, match='no finite number; remedy: copy the file again'):
        open_runtime('tensorrt', LateNetwork(broken), config, print)
