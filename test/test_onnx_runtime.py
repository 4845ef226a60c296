"""The engine answers the same whether the network runs in PyTorch or in onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.exported import exported_runtime, tiny_bundle
from support.tiny import PROMPTS, byte_codec, tiny_card, tiny_runtime

from cooper_ros.engine.engine import CooperEngine, Parts
from cooper_ros.engine.events import DEPTH, Answer
from cooper_ros.errors import BadImage, BadOption, ContextFull, EngineMismatch
from cooper_ros.runtime.base import Cursor, Runtime
from cooper_ros.runtime.graphs.bundle import Bundle, bundle_name
from cooper_ros.runtime.graphs.digest import weights_digest
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import probe
from cooper_ros.runtime.onnx_runtime import OnnxRunner, load_onnx_runtime

GRID = (3, 4)


@pytest.fixture(scope='module')
def onnx_runtime() -> Runtime:
    return load_onnx_runtime(tiny_bundle(), threads=1)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def conversation(runtime: Runtime) -> list[torch.Tensor]:
    """All that a session can be asked for, over a context that is shared and rewound."""
    session = runtime.session(rows=3, capacity=96)
    pixels = draw(1, 3, 32, 48).clamp(-1, 1)
    latent = runtime.encode_image(pixels, draw(3, 16, 4, 6))
    said = [latent, runtime.encode_image(pixels, None), session.step(2, 7)]
    session.append_latents(0, runtime.embed_latents(latent))
    session.append_vision(0, runtime.encode_vision(draw(2, 3, 28, 42)))
    session.share(0, 1)
    session.append_text(0, [10, 20, 30])
    before = session.cursor(0)
    said += [session.step(0, token) for token in (256, 65, 66)]
    session.rewind(0, before)
    said += [session.step(0, 256)]
    session.rewind(0, before)
    for time in (1.0, 0.25):
        said.append(session.velocity((0, 1, 2), draw(7, 12, 64), time, GRID))
    session.append_text(2, [99] * 9)
    said.append(session.velocity((2, 1), draw(8, 12, 64), 0.5, GRID))
    assert [session.cursor(row) for row in range(3)] == [
        Cursor(8 + 8 + 5, 2 + 5), Cursor(16, 2), Cursor(12, 12)]
    return [*said, runtime.decode_tokens(draw(9, 12, 64), GRID)]


def test_a_session_says_the_same(onnx_runtime: Runtime) -> None:
    with torch.inference_mode():
        for ours, theirs in zip(conversation(onnx_runtime), conversation(exported_runtime()),
                                strict=True):
            near(ours, theirs)


def test_long_text_may_be_fed_in_pieces(onnx_runtime: Runtime,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    ids, logits = list(range(40)), []
    for most in (1 << 30, 7):
        monkeypatch.setattr(OnnxRunner, 'most_tokens', most)
        session = onnx_runtime.session(rows=1, capacity=64)
        session.append_text(0, ids)
        logits.append(session.step(0, 1))
    near(*logits)


def test_padding_to_buckets_changes_nothing(onnx_runtime: Runtime,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    plain = conversation(onnx_runtime)
    monkeypatch.setattr(OnnxRunner, 'bucket', 32)
    for ours, theirs in zip(conversation(onnx_runtime), plain, strict=True):
        near(ours, theirs)


def test_a_full_context_and_a_wrong_picture_are_refused(onnx_runtime: Runtime) -> None:
    session = onnx_runtime.session(rows=1, capacity=8)
    with pytest.raises(ContextFull, match='holds 0 tokens and needs 9 more'):
        session.append_text(0, [1] * 7)
    assert session.cursor(0) == Cursor(0, 0)
    with pytest.raises(BadImage, match='does not fit the network'):
        onnx_runtime.encode_vision(draw(0, 3, 28, 43))
    with pytest.raises(BadOption, match='do not fill the grid'):
        session.velocity((0,), draw(0, 3, 64), 1.0, (2, 2))


def test_bfloat16_graphs_are_refused_with_a_remedy() -> None:
    other = replace(tiny_bundle(), precision='bf16')
    with pytest.raises(BadOption, match='got bf16; allowed: fp32, fp16; remedy: export with'):
        load_onnx_runtime(other)


@pytest.mark.parametrize('mode', ['auto', 'maps'])
def test_the_whole_engine_answers_the_same(onnx_runtime: Runtime, mode: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    answers = []
    for runtime in (exported_runtime(), onnx_runtime):
        engine = CooperEngine(Parts(runtime, byte_codec(), PROMPTS, tiny_card()))
        answers.append(list(engine.ask(picture, 'which?', mode=mode, seed=5))[-1])
    torch_answer, onnx_answer = answers
    assert isinstance(torch_answer, Answer) and isinstance(onnx_answer, Answer)
    assert onnx_answer.reasoning == torch_answer.reasoning and torch_answer.reasoning
    assert onnx_answer.text == torch_answer.text
    assert onnx_answer.confidence == pytest.approx(torch_answer.confidence, rel=1e-3)
    assert len(onnx_answer.maps) == len(torch_answer.maps) == (2 if mode == 'maps' else 0)
    for ours, theirs in zip(onnx_answer.maps, torch_answer.maps):
        same = (np.isclose(ours.relative, theirs.relative, atol=0.01) if ours.kind == DEPTH
                else ours.labels == theirs.labels)
        assert same.mean() > 0.995  # random weights draw noise: a pixel may sit on a boundary


@pytest.mark.parametrize(('place', 'parts', 'command'), [
    ('a cache/graphs', 1, "--precision fp32 --cache '{}/a cache' --force"),
    ('a cache/graphs', 2, "--precision fp32 --cache '{}/a cache' --parts 2 --force"),
    ('elsewhere', 1, '--precision fp32 --force')])
def test_a_graph_that_cannot_be_read_names_what_exports_it_again(
        tmp_path: Path, place: str, parts: int, command: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = replace(tiny_bundle(), folder=tmp_path / place / 'x', parts=parts)
    (tmp_path / 'no.onnx').write_text('no graph')
    monkeypatch.setattr(Bundle, 'prove_graph', lambda bundle, name: tmp_path / 'no.onnx')
    with pytest.raises(EngineMismatch, match='onnxruntime cannot read graph latents') as caught:
        OnnxRunner(bundle, threads=1).run('latents', {}, {})
    assert caught.value.remedy == (
        f'run `cooper engine export CHECKPOINT {command.format(tmp_path)}`')


def test_exported_graphs_are_found_again(tmp_path: Path) -> None:
    """By the weights that they hold."""
    bundle, network = tiny_bundle(), exported_runtime()
    (tmp_path / bundle_name(bundle.model, 'fp32')).symlink_to(bundle.folder)
    model = weights_digest((network.network, network.vae))
    again = load_onnx_runtime(Bundle.find(tmp_path, model, 'fp32'), threads=1)
    assert bundle_name(bundle.model, 'fp16') != bundle_name(bundle.model, 'fp32')
    near(again.embed_latents(draw(1, 16, 4, 4)),
         exported_runtime().embed_latents(draw(1, 16, 4, 4)))


def test_a_probe_tells_graphs_of_other_weights(onnx_runtime: Runtime) -> None:
    runner, specs, right = onnx_runtime.runner, tiny_bundle().specs(), exported_runtime()
    errors = probe(runner, specs, graph_modules(right.network, right.vae), 'fp32', context=20)
    assert list(errors) == list(specs) and max(errors.values()) < 1e-4
    wrong = tiny_runtime(seed=1)
    with pytest.raises(EngineMismatch, match='graph vision does not say what the network says; '
                                             'got error .+; allowed: 0.005 in fp32; remedy: run'):
        probe(runner, specs, graph_modules(wrong.network, wrong.vae), 'fp32')


def test_a_probe_does_not_take_nan_for_an_answer(onnx_runtime: Runtime) -> None:
    broken = tiny_runtime()
    with torch.no_grad():
        broken.network.llm2vae.bias[0] = float('nan')
    specs = {'flow': tiny_bundle().specs()['flow']}
    with pytest.raises(EngineMismatch, match='graph flow .+ got error inf'):
        probe(onnx_runtime.runner, specs, graph_modules(broken.network, broken.vae), 'fp32')
