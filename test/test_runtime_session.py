"""Contexts: what is appended, shared, rewound and drawn, with a tiny random network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable

import pytest
import torch
from support.tiny import tiny_runtime

from cooper_ros.errors import BadImage, BadOption, ContextFull, OutOfMemory
from cooper_ros.model.layout import MARKERS
from cooper_ros.runtime import torch_runtime
from cooper_ros.runtime.base import Cursor
from cooper_ros.runtime.torch_runtime import TorchRuntime, TorchSession

TEXT = [10, 20, 30, 40, 50]
GRID = (3, 4)


@pytest.fixture(scope='module')
def runtime() -> TorchRuntime:
    return tiny_runtime()


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise() -> torch.Tensor:
    return draw(7, 12, 64)


def filled(runtime: TorchRuntime, rows: int = 3, capacity: int = 96) -> TorchSession:
    """Row 0: picture (both kinds) and text; row 1: picture; row 2: text."""
    session = runtime.session(rows=rows, capacity=capacity)
    latents = runtime.embed_latents(runtime.encode_image(draw(1, 3, 32, 48), None))
    session.append_latents(0, latents)
    session.append_vision(0, runtime.encode_vision(draw(2, 3, 28, 42)))
    session.share(0, 1)
    session.append_text(0, TEXT)
    session.append_text(2, TEXT)
    return session


def test_cursors_count_tokens_and_positions(runtime: TorchRuntime) -> None:
    session = filled(runtime)
    assert [session.cursor(row) for row in range(3)] == [
        Cursor(8 + 8 + 7, 2 + 7), Cursor(16, 2), Cursor(7, 7)]


def test_prefill_and_single_steps_agree(runtime: TorchRuntime) -> None:
    session = filled(runtime)
    specials = runtime.specials
    for token in (specials.bos, *TEXT, specials.eos):
        session.step(1, token)
    assert session.cursor(1) == session.cursor(0)
    torch.testing.assert_close(session.step(1, 3), session.step(0, 3), rtol=1e-4, atol=1e-4)


def test_logits_are_cut_to_the_tokenizer(runtime: TorchRuntime) -> None:
    logits = filled(runtime).step(0, 1)
    assert logits.shape == (260,) and logits.dtype == torch.float32


def test_rewinding_forgets_exactly(runtime: TorchRuntime) -> None:
    session = filled(runtime)
    before = session.cursor(0)
    first = [session.step(0, token) for token in (1, 2, 3)]
    session.rewind(0, before)
    session.append_text(0, [99, 98])
    session.rewind(0, before)
    again = [session.step(0, token) for token in (1, 2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_rewinding_never_goes_forward(runtime: TorchRuntime) -> None:
    session = filled(runtime)
    with pytest.raises(BadOption, match='at most 16 tokens'):
        session.rewind(1, session.cursor(0))


@pytest.mark.parametrize('keep', [0, 16])
def test_a_shared_row_goes_on_alike_and_apart(runtime: TorchRuntime, keep: int) -> None:
    session = filled(runtime)
    session.share(0, 1, keep=keep)  # the first 16 tokens are equal already
    assert session.cursor(1) == session.cursor(0)
    other = session.step(1, 5)
    session.step(1, 6)
    assert torch.equal(session.step(0, 5), other)


def test_sharing_copies_the_tail_only(runtime: TorchRuntime) -> None:
    session = filled(runtime)
    with torch.inference_mode():
        session.cache.keys[:, 1, :, :16] += 1.0
    kept = session.cache.keys[:, 1, :, :16].clone()
    session.share(0, 1, keep=16)
    assert torch.equal(session.cache.keys[:, 1, :, :16], kept)
    assert torch.equal(session.cache.keys[:, 1, :, 16:23], session.cache.keys[:, 0, :, 16:23])


def test_sharing_more_than_there_is_in_common_is_refused(runtime: TorchRuntime) -> None:
    with pytest.raises(BadOption, match='0 .. 7'):
        filled(runtime).share(0, 2, keep=8)


def test_rows_of_different_length_draw_as_each_alone(runtime: TorchRuntime) -> None:
    session = filled(runtime)
    together = session.velocity([0, 1, 2], noise(), 0.7, GRID)
    assert together.shape == (3, 12, 64)
    for row in range(3):
        alone = session.velocity([row], noise(), 0.7, GRID)[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_drawing_leaves_no_trace(runtime: TorchRuntime) -> None:
    drawn, plain = filled(runtime), filled(runtime)
    first = drawn.velocity([0, 2], noise(), 0.7, GRID)
    assert drawn.cursor(0) == plain.cursor(0)
    assert torch.equal(drawn.step(0, 5), plain.step(0, 5))
    drawn.rewind(0, Cursor(23, 9))
    assert torch.equal(drawn.velocity([0, 2], noise(), 0.7, GRID), first)


def test_drawing_works_in_an_empty_context(runtime: TorchRuntime) -> None:
    session = runtime.session(rows=1, capacity=14)
    assert session.velocity([0], noise(), 1.0, GRID).isfinite().all()


@pytest.mark.parametrize('grow', [
    lambda runtime, session: session.append_text(0, range(10)),
    lambda runtime, session: session.append_vision(0, torch.zeros(10, 64)),
    lambda runtime, session: session.append_latents(0, torch.zeros(10, 64)),
    lambda runtime, session: session.velocity([1, 0], noise(), 0.5, GRID),
])
def test_a_full_context_says_so_and_stays_usable(
        runtime: TorchRuntime, grow: Callable[[TorchRuntime, TorchSession], None]) -> None:
    session = runtime.session(rows=2, capacity=14)
    session.append_text(0, [1])
    with pytest.raises(ContextFull, match='row 0 holds 3 tokens.*allowed: 14 tokens'):
        grow(runtime, session)
    assert session.cursor(0) == Cursor(3, 3)
    assert session.step(0, 1).isfinite().all()


def test_pictures_that_do_not_fit_are_refused(runtime: TorchRuntime) -> None:
    with pytest.raises(BadImage, match='multiples of 14 up to 140'):
        runtime.encode_vision(torch.zeros(3, 28, 30))
    with pytest.raises(BadImage, match='multiples of 16 up to 128'):
        runtime.encode_image(torch.zeros(3, 144, 16), None)
    with pytest.raises(BadOption, match='do not fill the grid'):
        runtime.session(rows=1, capacity=40).velocity([0], noise(), 0.5, (3, 5))


def test_posterior_noise_is_the_callers(runtime: TorchRuntime) -> None:
    pixels = draw(1, 3, 32, 48).clamp(-1, 1)
    mean = runtime.encode_image(pixels, None)
    sampled = runtime.encode_image(pixels, draw(3, 16, 4, 6))
    assert mean.shape == (16, 4, 6) and not torch.equal(mean, sampled)
    assert torch.equal(sampled, runtime.encode_image(pixels, draw(3, 16, 4, 6)))


def test_decoding_gives_sixteen_pixels_per_token(runtime: TorchRuntime) -> None:
    assert runtime.decode_tokens(noise(), GRID).shape == (3, 48, 64)


def outputs(runtime: TorchRuntime) -> dict[str, torch.Tensor]:
    """One output per kind of context."""
    session = runtime.session(rows=3, capacity=60)
    session.append_text(0, TEXT)
    session.append_vision(1, runtime.encode_vision(draw(2, 3, 28, 42)))
    latents = runtime.embed_latents(runtime.encode_image(draw(1, 3, 32, 48), None))
    session.append_latents(2, latents)
    return {'text': session.step(0, 1), 'vision': session.step(1, 1),
            'latents': session.step(2, 1), 'drawn': session.velocity([0], noise(), 0.5, GRID)}


def changed(name: str) -> set[str]:
    """Which outputs notice a change of every weight whose name holds ``name``."""
    runtime = tiny_runtime()
    before = outputs(runtime)
    with torch.no_grad():
        for key, parameter in runtime.network.named_parameters():
            if name in key:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    after = outputs(runtime)
    return {key for key in before if not torch.equal(before[key], after[key])}


def test_generation_weights_touch_latents_only() -> None:
    assert changed('_moe_gen') == {'latents', 'drawn'}


def test_understanding_weights_reach_a_drawing_through_its_context() -> None:
    assert changed('layers.0.mlp.') == {'text', 'vision', 'latents', 'drawn'}


def test_the_drawn_block_itself_runs_on_generation_weights() -> None:
    """Without a context only the two markers are left of the understanding expert."""
    runtime = tiny_runtime()
    session = runtime.session(rows=1, capacity=20)
    before = session.velocity([0], noise(), 0.5, GRID)
    last = runtime.network.language_model.model.layers[-1]
    with torch.no_grad():
        last.mlp.up_proj.weight.zero_()
        last.self_attn.o_proj.weight.zero_()
    assert torch.equal(session.velocity([0], noise(), 0.5, GRID), before)
    with torch.no_grad():
        last.self_attn.v_proj.weight.add_(1.0)
    assert not torch.equal(session.velocity([0], noise(), 0.5, GRID), before)


def test_bfloat16_stays_near_float32() -> None:
    wide, narrow = outputs(tiny_runtime(std=0.05)), tiny_runtime(std=0.05)
    narrow = TorchRuntime(narrow.network, narrow.vae, specials=narrow.specials, vocabulary=260,
                          dtype=torch.bfloat16)
    for key, value in outputs(narrow).items():
        error = (value.float() - wide[key]).norm() / wide[key].norm()
        assert float(error) < 0.05, key


def test_a_cache_beyond_all_memory_is_named(runtime: TorchRuntime) -> None:
    with pytest.raises(OutOfMemory, match='no memory left.*context_tokens'):
        runtime.session(rows=1, capacity=10**14)  # more than a 64-bit machine can address


@pytest.mark.parametrize('error', [MemoryError(), torch.OutOfMemoryError('CUDA out of memory')])
def test_memory_of_the_host_is_named_too(runtime: TorchRuntime, error: Exception,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(runtime.network, 'embed_vision', full)
    with pytest.raises(OutOfMemory, match='no memory left; got encode_vision; remedy: use small'):
        runtime.encode_vision(draw(2, 3, 28, 42))


def test_markers_are_counted_once() -> None:
    """By the layout of sequences, which training packs by."""
    assert tiny_runtime().markers().shape[1] == MARKERS
    for path in Path(torch_runtime.__file__).parent.rglob('*.py'):
        assert not re.search(r'^MARKERS = [0-9]', path.read_text(), re.MULTILINE), path
