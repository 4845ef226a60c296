"""Numbers of the reference that need no weights: counts, tables, patches, positions, schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import tiny_config

from cooper_ros.model.config import LlmConfig, ModelConfig, VitConfig
from cooper_ros.model.flow import schedule
from cooper_ros.model.network import Cooper
from cooper_ros.model.patches import interpolated_position_ids, patchify, position_ids, unpatchify
from cooper_ros.model.tables import rope_angles, rotate, sincos_2d, time_features
from cooper_ros.model.vae import AutoEncoder


def test_published_size_has_the_published_tensors() -> None:
    config = ModelConfig.official_7b()
    with torch.device('meta'):
        network, vae = Cooper(config).state_dict(), AutoEncoder(config.vae).state_dict()
    assert (len(network), len(vae)) == (1223, 244)
    assert sum(value.numel() for value in network.values()) == 14_607_260_128
    assert sum(value.numel() for value in vae.values()) == 83_819_683


@pytest.mark.parametrize('key, shape', [
    ('language_model.lm_head.weight', (152064, 3584)),
    ('language_model.model.norm_moe_gen.weight', (3584,)),
    ('language_model.model.layers.27.self_attn.k_proj_moe_gen.bias', (512,)),
    ('language_model.model.layers.0.self_attn.q_norm_moe_gen.weight', (128,)),
    ('language_model.model.layers.3.mlp_moe_gen.gate_proj.weight', (18944, 3584)),
    ('language_model.model.layers.3.input_layernorm_moe_gen.weight', (3584,)),
    ('vit_model.vision_model.embeddings.patch_embedding.weight', (1152, 588)),
    ('vit_model.vision_model.encoder.layers.25.mlp.fc2.weight', (1152, 4304)),
    ('time_embedder.mlp.2.weight', (3584, 3584)),
    ('latent_pos_embed.pos_embed', (4096, 3584)),
    ('vit_pos_embed.pos_embed', (4900, 3584)),
])
def test_published_names_and_shapes(key: str, shape: tuple[int, ...]) -> None:
    with torch.device('meta'):
        tensors = Cooper(ModelConfig.official_7b()).state_dict()
    assert tuple(tensors[key].shape) == shape


def test_layout_switches_of_the_json_are_never_trusted() -> None:
    values = {'hidden_size': 64, 'num_attention_heads': 4, 'num_key_value_heads': 2,
              'num_hidden_layers': 2, 'vocab_size': 300, 'rope_theta': 5e5,
              'tie_word_embeddings': True, 'qk_norm': False, 'layer_module': 'Qwen2DecoderLayer'}
    config = LlmConfig.from_json(values)
    assert (config.head_dim, config.rope_theta) == (16, 5e5)
    assert VitConfig.from_json({'num_hidden_layers': 27}).num_layers == 26


@pytest.mark.parametrize('config', [LlmConfig(), tiny_config().llm, VitConfig(),
                                    tiny_config().vit])
def test_configs_survive_their_json(config: LlmConfig | VitConfig) -> None:
    assert type(config).from_json(config.to_json()) == config


def test_column_is_in_the_first_half_of_the_table() -> None:
    table = sincos_2d(5, 16)
    start, next_column, next_row = table[0], table[1], table[5]
    assert torch.equal(start[8:], next_column[8:]) and not torch.equal(start[:8], next_column[:8])
    assert torch.equal(start[:8], next_row[:8]) and not torch.equal(start[8:], next_row[8:])
    assert table[1, 0] == pytest.approx(0.8414709848)  # sine of 1 at frequency 1


def test_patchify_of_the_reference_ramp() -> None:
    tokens = patchify(torch.arange(48.0).view(3, 4, 4), 2)
    assert tokens[0].tolist() == [0, 16, 32, 1, 17, 33, 4, 20, 36, 5, 21, 37]
    assert tokens.shape == (4, 12)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(1, 5)] * 3), st.integers(1, 3), st.booleans())
def test_unpatchify_is_the_inverse(sizes: tuple[int, int, int], patch: int,
                                   batched: bool) -> None:
    channels, rows, columns = sizes
    shape = (2,) * batched + (channels, rows * patch, columns * patch)
    maps = torch.randn(shape)
    assert torch.equal(unpatchify(patchify(maps, patch), (rows, columns), patch), maps)


def test_position_ids_of_the_reference() -> None:
    assert position_ids((2, 3), 70).tolist() == [0, 1, 2, 70, 71, 72]
    assert interpolated_position_ids((2, 3), 70).tolist() == [0, 23, 46, 2450, 2473, 2496]


def test_rotation_depends_on_distance_only() -> None:
    cos, sin = rope_angles(torch.tensor([3, 10, 103, 110]), 16, 1e4)
    q, k = torch.randn(2, 1, 1, 16)

    def score(i: int, j: int) -> float:
        return float((rotate(q, cos[i], sin[i]) * rotate(k, cos[j], sin[j])).sum())

    assert score(0, 1) == pytest.approx(score(2, 3), abs=1e-4)
    assert score(0, 1) != pytest.approx(score(0, 3), abs=1e-2)


def test_time_zero_is_ones_then_zeros_and_time_is_not_in_thousandths() -> None:
    clean = time_features(torch.zeros(1))[0]
    assert clean.tolist() == [1.0] * 128 + [0.0] * 128
    assert time_features(torch.tensor([0.5]))[0, 128] == pytest.approx(0.4794255386)


def test_schedule_of_the_reference() -> None:
    times = schedule(50, 3.0).tolist()
    assert len(times) == 50 and times[0] == 1.0 and times[-1] == 0.0
    rounded = [round(times[i], 4) for i in (1, 2, 47, 48)]
    assert rounded == [0.9931, 0.9860, 0.1132, 0.0588]
    assert sum(0.4 < t <= 1.0 for t in times[:-1]) == 41
