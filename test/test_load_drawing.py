"""The drawing half left on disk: nothing of it is in memory before it is needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest
import torch
from model_folder import write_model_folder
from safetensors.torch import load_file, save_file

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, DepthMap, Event, Failure, Loading, MapFinished
from cooper_ros.engine.limits import CancelToken
from cooper_ros.errors import BadCheckpoint, BadOption, ErrorCode
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.memory import resident_bytes
from cooper_ros.runtime.quantise import quantise_folder
from cooper_ros.runtime.weights import Weights

NOW = CooperConfig(device='cpu', dtype='float32')
LATER = NOW.replaced(load_drawing='first_map')
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
KINDS = ('plain', 'sharded', 'int8', 'int4', 'fp8')
DRAWING = ('vae.', 'vae2llm.', 'llm2vae.', 'time_embedder.', 'latent_pos_embed.')
GEN_KEY = 'language_model.model.layers.1.mlp_moe_gen.up_proj.weight'


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp('folders')
    plain = write_model_folder(root / 'plain')
    for name in ('int8', 'int4', 'fp8'):
        quantise_folder(plain, root / name, name, shard_bytes=50_000)
    _shard(Path(shutil.copytree(plain, root / 'sharded')))
    return {name: root / name for name in KINDS}


def _shard(folder: Path) -> None:
    """Every second tensor into the second of two files, so that each holds some of both halves."""
    tensors = load_file(folder / 'ema.safetensors')
    places = {key: f'model-{n % 2}.safetensors' for n, key in enumerate(tensors)}
    for name in set(places.values()):
        save_file({key: value for key, value in tensors.items() if places[key] == name},
                  folder / name)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))
    (folder / 'ema.safetensors').unlink()


def _answer(engine: CooperEngine, mode: str, **more: Any) -> tuple[list[Event], Answer]:
    events = list(engine.ask(PICTURE, 'what is near?', mode=mode, max_turn_tokens=4, **more))
    assert isinstance(events[-1], Answer)
    return events, events[-1]


def _tensors(engine: CooperEngine) -> dict[str, torch.Tensor]:
    runtime = engine.parts.runtime
    return {**runtime.network.state_dict(),
            **{f'vae.{key}': value for key, value in runtime.vae.state_dict().items()}}


@pytest.mark.parametrize('kind', KINDS)
def test_words_are_the_same_without_the_drawing_half_and_maps_with_it(
        kind: str, folders: dict[str, Path]) -> None:
    full, lean = (CooperEngine.from_pretrained(folders[kind], config) for config in (NOW, LATER))
    for mode in ('direct', 'text'):
        (events, one), (lean_events, other) = _answer(full, mode), _answer(lean, mode)
        assert one.reasoning == other.reasoning and one.confidence == other.confidence
        assert not any(isinstance(event, Loading) for event in [*events, *lean_events])
    for key, value in _tensors(lean).items():
        assert value.is_meta == ('_moe_gen' in key or key.startswith(DRAWING)), key
    before = resident_bytes(lean.parts.runtime.network, lean.parts.runtime.vae)
    total = resident_bytes(full.parts.runtime.network, full.parts.runtime.vae)
    drawn, lean_drawn = (engine.estimate_depth(PICTURE) for engine in (full, lean))
    assert np.array_equal(drawn.relative, lean_drawn.relative)
    assert resident_bytes(lean.parts.runtime.network, lean.parts.runtime.vae) == total
    assert before < 0.75 * total
    _, one = _answer(full, 'maps')
    events, other = _answer(lean, 'maps')
    assert not any(isinstance(event, Loading) for event in events)  # once is enough
    assert one.reasoning == other.reasoning
    for left, right in zip(one.maps, other.maps, strict=True):
        assert isinstance(left, DepthMap) == isinstance(right, DepthMap)
        assert np.array_equal(left.colour if isinstance(left, DepthMap) else left.rgb,
                              right.colour if isinstance(right, DepthMap) else right.rgb)


def test_loading_is_told_with_the_memory_before_and_after(folders: dict[str, Path]) -> None:
    engine = CooperEngine.from_pretrained(folders['plain'], LATER)
    runtime = engine.parts.runtime
    before = resident_bytes(runtime.network, runtime.vae)
    told = [event for event in _answer(engine, 'auto')[0] if isinstance(event, Loading)]
    assert told[0].fraction == 0 and told[0].resident == before
    assert told[-1].fraction == 1
    assert told[-1].resident == resident_bytes(runtime.network, runtime.vae)
    assert [event.fraction for event in told] == sorted(event.fraction for event in told)
    assert 3 < len(told) <= 11
    assert 'loading the weights for drawing: 100%' in str(told[-1])


def test_a_cancelled_load_goes_on_where_it_was(folders: dict[str, Path],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CooperEngine.from_pretrained(folders['int4'], LATER)
    token, half = CancelToken(), 0
    for event in engine.ask(PICTURE, 'what?', mode='maps', cancel=token):
        if isinstance(event, Loading) and event.fraction > 0.5:
            token.cancel()
            half = event.resident
    assert isinstance(event, Failure) and event.error_code == ErrorCode.CANCELED
    waiting = {key for key, value in _tensors(engine).items() if value.is_meta}
    assert waiting
    read: list[str] = []
    _watch(monkeypatch, read)
    told = [event for event in _answer(engine, 'maps', max_turns=2)[0]
            if isinstance(event, Loading)]
    assert told[0].resident >= half
    assert {key.removesuffix('_scale') for key in read} == {key.removeprefix('vae.')
                                                            for key in waiting}
    whole = CooperEngine.from_pretrained(folders['int4'], NOW)
    assert np.array_equal(engine.estimate_depth(PICTURE).relative,
                          whole.estimate_depth(PICTURE).relative)


def _watch(monkeypatch: pytest.MonkeyPatch, read: list[str]) -> None:
    real = Weights.tensors

    def tensors(self: Weights, *args: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for key, value in real(self, *args):
            read.append(key)
            yield key, value

    monkeypatch.setattr(Weights, 'tensors', tensors)


def test_no_room_gives_back_what_was_read_and_words_go_on(
        folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CooperEngine.from_pretrained(folders['int8'], LATER)
    runtime = engine.parts.runtime
    before = resident_bytes(runtime.network, runtime.vae)
    real = Weights.tensors

    def tensors(self: Weights, *args: Any) -> Iterator[tuple[str, torch.Tensor]]:
        for count, found in enumerate(real(self, *args)):
            if count == 9:
                raise torch.OutOfMemoryError('no room')
            yield found

    monkeypatch.setattr(Weights, 'tensors', tensors)
    *_, last = engine.ask(PICTURE, 'what?', mode='maps')
    assert isinstance(last, Failure) and last.error_code == ErrorCode.OUT_OF_MEMORY
    assert 'ask in mode direct or text' in last.error_msg
    assert resident_bytes(runtime.network, runtime.vae) == before
    _answer(engine, 'direct')
    monkeypatch.setattr(Weights, 'tensors', real)
    assert any(isinstance(event, MapFinished) for event in engine.draw(PICTURE, 'depth'))


@pytest.mark.parametrize(('name', 'key', 'how', 'message'), [
    ('ema.safetensors', GEN_KEY, 'missing', f'1 missing: {GEN_KEY}'),
    ('ema.safetensors', GEN_KEY, 'misshapen', f'1 misshapen: {GEN_KEY} .127, 64. instead of'),
    ('ae.safetensors', 'decoder.conv_in.bias', 'missing', '1 missing: decoder.conv_in.bias'),
    ('ae.safetensors', '', 'cut', 'ae.safetensors is damaged')])
def test_a_broken_drawing_half_is_found_at_the_start(
        folders: dict[str, Path], tmp_path: Path, name: str, key: str, how: str,
        message: str) -> None:
    path = Path(shutil.copytree(folders['plain'], tmp_path / 'm')) / name
    if how == 'cut':
        path.write_bytes(path.read_bytes()[:-8])
    else:
        tensors = load_file(path)
        value = tensors.pop(key)
        save_file({**tensors, **({key: value[1:].clone()} if how == 'misshapen' else {})}, path)
    with pytest.raises(BadCheckpoint, match=message):
        read_model_folder(path.parent, defer_drawing=True)


@pytest.mark.parametrize('how', ['changed', 'gone'])
def test_files_that_change_before_the_first_map_are_refused(folders: dict[str, Path],
                                                            tmp_path: Path, how: str) -> None:
    folder = Path(shutil.copytree(folders['plain'], tmp_path / 'm'))
    engine = CooperEngine.from_pretrained(folder, LATER)
    path = folder / 'ae.safetensors'
    if how == 'changed':
        tensors = load_file(path)
        save_file({**tensors, 'more': torch.zeros(1)}, tmp_path / 'new')
        (tmp_path / 'new').replace(path)
    else:
        path.unlink()
    with pytest.raises(BadCheckpoint, match='not what they were at the start.*ae.safetensors'):
        engine.estimate_depth(PICTURE)
    _answer(engine, 'direct')


def test_graphs_cannot_leave_weights_on_disk(folders: dict[str, Path]) -> None:
    with pytest.raises(BadOption, match='got runtime onnx, load_drawing first_map'):
        CooperEngine.from_pretrained(folders['plain'], LATER.replaced(runtime='onnx'))
