"""Training batches: places, positions, masks, and that packing changes no number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import SPECIALS, tiny_config, tiny_runtime

from cooper_ros.errors import BadData
from cooper_ros.model import mot
from cooper_ros.model.layout import attention_allowed
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import (
    DroppedImage,
    Item,
    LatentItem,
    PackedBatch,
    TextItem,
    VisionItem,
    pack,
    pack_batch,
)
from cooper_ros.model.training_forward import TrainOutput, forward_train, mean_losses

CONFIG = tiny_config()
SPLITS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(['causal', 'full', 'noise'])),
                  min_size=1, max_size=5)


@pytest.fixture(scope='module')
def network() -> Cooper:
    return tiny_runtime().network


def sample(seed: int, words: int, time: float = 0.3) -> list[Item]:
    """Look at a picture, read a text, draw a picture, write a text."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randint(0, 256, (words + 3,), generator=draw).tolist()
    return [LatentItem(torch.randn(16, 4, 6, generator=draw)),
            VisionItem(torch.randn(3, 28, 42, generator=draw)),
            TextItem(tuple(text[:words])),
            LatentItem(torch.randn(16, 4, 4, generator=draw), loss=True, logit=time),
            TextItem(tuple(text[words:]), loss=True)]


def noise_for(items: int, seed: int) -> torch.Tensor:
    return torch.randn(items, 64, generator=torch.Generator().manual_seed(seed))


def dense(samples: list[list[tuple[int, str]]]) -> torch.Tensor:
    """The mask, built block by block as the reference builds its dense one."""
    total = sum(length for splits in samples for length, _ in splits)
    allowed = torch.zeros(total, total, dtype=torch.bool)
    begin = 0
    for splits in samples:
        at = begin
        for length, mode in splits:
            block = torch.ones(length, length, dtype=torch.bool)
            rows = slice(at, at + length)
            allowed[rows, rows] = block.tril() if mode == 'causal' else block
            allowed[rows, begin:at] = True
            at += length
        at = begin
        for length, mode in splits:
            if mode == 'noise':
                own = allowed[at:at + length, at:at + length].clone()
                allowed[:, at:at + length] = False
                allowed[at:at + length, at:at + length] = own
            at += length
        begin = at
    return allowed


@settings(max_examples=60, deadline=None)
@given(st.lists(SPLITS, min_size=1, max_size=3))
def test_predicate_equals_the_dense_construction(samples: list[list[tuple[int, str]]]) -> None:
    flat = [split for splits in samples for split in splits]
    lengths = [sum(length for length, _ in splits) for splits in samples]
    got = attention_allowed(lengths, *zip(*flat))
    assert torch.equal(got, dense(samples))


def test_positions_follow_the_reference() -> None:
    items = [TextItem((5, 6)), LatentItem(torch.zeros(16, 4, 4), loss=True, logit=0.0),
             LatentItem(torch.zeros(16, 4, 4)), DroppedImage(),
             VisionItem(torch.zeros(3, 14, 28)), TextItem((7,))]
    batch = pack([items, items[:1]], CONFIG, SPECIALS)
    assert batch.positions[0].tolist() == (
        [0, 1, 2, 3] + [4] * 6 + [4] * 6 + [6] * 4 + [7, 8, 9] + [0, 1, 2, 3])
    assert batch.layout.attn_modes == ('causal', 'noise', 'full', 'full', 'causal', 'causal')


def test_labels_are_the_next_tokens_and_the_end_is_not_scored() -> None:
    batch = pack([[TextItem((5, 6), loss=True), TextItem((9,))]], CONFIG, SPECIALS)
    assert batch.text_ids[0].tolist() == [256, 5, 6, 257, 256, 9, 257]
    assert batch.layout.ce_index.tolist() == [0, 1, 2]
    assert batch.labels[0].tolist() == [5, 6, 257]


def test_drawn_times_are_shifted_and_clean_pictures_stay_at_zero() -> None:
    items = [LatentItem(torch.zeros(16, 4, 4)),
             LatentItem(torch.zeros(16, 4, 4), loss=True, logit=0.0)]
    assert pack([items], CONFIG, SPECIALS, timestep_shift=3.0).times[0].tolist() == [0.0, 0.75]


def losses(network: Cooper, batch: PackedBatch) -> TrainOutput:
    with torch.no_grad():
        return forward_train(network, batch)


def test_packing_samples_together_changes_no_number(network: Cooper) -> None:
    samples = [sample(0, 4), sample(1, 7, time=-1.0)]
    noises = [noise_for(10, 0), noise_for(10, 1)]
    together = losses(network, pack(samples, CONFIG, SPECIALS, noise=torch.cat(noises)))
    alone = [losses(network, pack([one], CONFIG, SPECIALS, noise=noise))
             for one, noise in zip(samples, noises)]
    for name in ('ce', 'mse', 'last_hidden'):
        expected = torch.cat([getattr(output, name) for output in alone], dim=1)
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-4, atol=1e-4)


def test_stacking_texts_of_unequal_length_changes_no_number(network: Cooper) -> None:
    samples = [sample(0, 4), sample(1, 7, time=-1.0), sample(2, 5)]
    noise = torch.stack([noise_for(10, seed) for seed in range(3)])
    batch = pack_batch(samples, CONFIG, SPECIALS, noise=noise)
    stacked = losses(network, batch)
    for row, one in enumerate(samples):
        alone = losses(network, pack([one], CONFIG, SPECIALS, noise=noise[row]))
        torch.testing.assert_close(stacked.mse[row], alone.mse[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stacked.ce[row], alone.ce[0], rtol=1e-4, atol=1e-4)
    assert batch.allowed.any(-1).all()  # no row without a key


def test_padded_answers_carry_no_loss(network: Cooper) -> None:
    samples = [[TextItem((1, 2), loss=True)], [TextItem((3, 4, 5, 6), loss=True)]]
    batch = pack_batch(samples, CONFIG, SPECIALS)
    output = losses(network, batch)
    assert batch.labels[0].tolist() == [1, 2, 257, -100, -100]
    assert output.ce[0, 3:].tolist() == [0.0, 0.0]
    mean, _ = mean_losses(output, batch)
    assert float(mean) == pytest.approx(float(output.ce.sum()) / 8)


def test_nothing_sees_the_picture_being_drawn(network: Cooper) -> None:
    items = sample(0, 4)
    changed = list(items)
    changed[3] = replace(items[3], latent=items[3].latent + 1.0)  # type: ignore[call-overload]
    noise = noise_for(10, 0)
    before, after = (losses(network, pack([one], CONFIG, SPECIALS, noise=noise))
                     for one in (items, changed))
    assert torch.equal(before.ce, after.ce)
    assert not torch.equal(before.mse, after.mse)


def test_frozen_understanding_gets_no_gradient_and_loses_no_number(network: Cooper) -> None:
    batch = pack([sample(0, 4)], CONFIG, SPECIALS, noise=noise_for(10, 0))
    plain = losses(network, batch)
    network.zero_grad(set_to_none=True)
    frozen = forward_train(network, batch, freeze_und=True, recompute=True)
    sum(mean_losses(frozen, batch)).backward()  # type: ignore[union-attr]
    assert torch.equal(plain.mse, frozen.mse) and torch.equal(plain.ce, frozen.ce)
    moved = {name for name, parameter in network.named_parameters()
             if parameter.grad is not None and parameter.grad.abs().max() > 0}
    layers = {name for name in moved if 'layers' in name and 'vit_model' not in name}
    assert layers and all('_moe_gen' in name for name in layers)
    assert 'llm2vae.weight' in moved and not any('vit_model' in name for name in moved)


def test_recomputing_keeps_no_layer_and_loses_no_gradient(network: Cooper) -> None:
    """Eyes, connector and decoder run once more in the backward pass, with the same gradients."""
    batch = pack([sample(0, 4)], CONFIG, SPECIALS, noise=noise_for(10, 0))
    parts = [*network.vit_model.vision_model.encoder.layers, network.connector,
             *network.language_model.model.layers]
    runs = [0] * len(parts)

    def count(place: int) -> None:
        runs[place] += 1
    hooks = [part.register_forward_pre_hook(lambda *_, place=place: count(place))
             for place, part in enumerate(parts)]
    grads = []
    for recompute, expected in ((False, 1), (True, 2)):
        network.zero_grad(set_to_none=True)
        runs[:] = [0] * len(parts)
        output = forward_train(network, batch, recompute=recompute)
        sum(mean_losses(output, batch)).backward()  # type: ignore[union-attr]
        assert runs == [expected] * len(parts)
        grads.append({name: value.grad for name, value in network.named_parameters()
                      if value.grad is not None})
    assert grads[0].keys() == grads[1].keys() and any('vit_model' in name for name in grads[0])
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, msg=name)
    for hook in hooks:
        hook.remove()


def test_samples_of_different_kinds_are_refused() -> None:
    with pytest.raises(BadData, match='differ in an item.*group samples'):
        pack_batch([[TextItem((1,))], [TextItem((1,), loss=True)]], CONFIG, SPECIALS)
    with pytest.raises(BadData, match='number of items'):
        pack_batch([[TextItem((1,))], [TextItem((1,)), TextItem((2,))]], CONFIG, SPECIALS)
    with pytest.raises(BadData, match='differ in an item'):
        pack_batch([[VisionItem(torch.zeros(3, 14, 28))], [VisionItem(torch.zeros(3, 28, 14))]],
                   CONFIG, SPECIALS)


def test_long_attention_goes_row_by_row_and_changes_nothing(monkeypatch: pytest.MonkeyPatch
                                                            ) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 13, 8, generator=generator, requires_grad=True)
               for heads in (4, 2, 2))
    allowed = torch.rand(1, 1, 13, 13, generator=generator) > 0.5
    allowed |= torch.eye(13, dtype=torch.bool)
    found = []
    for long in (13, 12):
        monkeypatch.setattr(mot, 'LONG', long)
        monkeypatch.setattr(mot, 'ROWS', 5)
        mixed = mot.MaskedAttention(allowed)(0, q, k, v)
        found.append((mixed, *torch.autograd.grad(mixed.square().sum(), (q, k, v))))
    for whole, parts in zip(*found):
        torch.testing.assert_close(whole, parts)
