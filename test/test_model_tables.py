"""Numbers of the reference that need no weights: counts, tables, patches, positions, schedule."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import tiny_config

from cooper_ros.errors import BadCheckpoint
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
              'tie_word_embeddings': True, 'layer_module': 'Qwen2DecoderLayer'}
    config = LlmConfig.from_json(values)
    assert (config.head_dim, config.rope_theta) == (16, 5e5)
    assert VitConfig.from_json({'num_hidden_layers': 27}).num_layers == 26


@pytest.mark.parametrize('config', [LlmConfig(), tiny_config().llm, VitConfig(),
                                    tiny_config().vit])
def test_configs_survive_their_json(config: LlmConfig | VitConfig) -> None:
    assert type(config).from_json(config.to_json()) == config


# Every key of the published files (reference section 1).
PUBLISHED_LLM = {
    'architectures': ['Qwen2ForCausalLM'], 'attention_dropout': 0.0, 'bos_token_id': 151643,
    'eos_token_id': 151645, 'hidden_act': 'silu', 'hidden_size': 3584,
    'initializer_range': 0.02, 'intermediate_size': 18944, 'max_position_embeddings': 32768,
    'max_window_layers': 28, 'model_type': 'qwen2', 'num_attention_heads': 28,
    'num_hidden_layers': 28, 'num_key_value_heads': 4, 'rms_norm_eps': 1e-06,
    'rope_theta': 1000000.0, 'sliding_window': 131072, 'tie_word_embeddings': False,
    'torch_dtype': 'bfloat16', 'transformers_version': '4.43.1', 'use_cache': True,
    'use_sliding_window': False, 'vocab_size': 152064}
PUBLISHED_VIT = {
    'hidden_size': 1152, 'image_size': 980, 'intermediate_size': 4304,
    'model_type': 'siglip_vision_model', 'num_attention_heads': 16, 'num_hidden_layers': 27,
    'patch_size': 14}


@pytest.mark.parametrize('more', [
    {}, {'layer_module': 'Qwen2MoTDecoderLayer', 'qk_norm': True, 'freeze_und': False},
    {'head_dim': 128, 'attention_bias': True, 'is_causal': True, 'rope_scaling': None},
    {'head_dim': None, 'qk_norm': None, 'hidden_act': 'silu', 'rms_norm_eps': 1e-6},
    {'rope_scaling': {'type': 'default'}, 'layer_types': ['full_attention'] * 28},
    {'rope_parameters': {'rope_type': 'default', 'rope_theta': 1000000.0}, 'rope_theta': 1000000}])
def test_published_llm_files_are_read(more: dict[str, object]) -> None:
    assert LlmConfig.from_json({**PUBLISHED_LLM, **more}) == LlmConfig()


@pytest.mark.parametrize('more', [
    {}, {'hidden_act': 'gelu_pytorch_tanh', 'num_channels': 3, 'layer_norm_eps': 1e-6},
    {'attention_dropout': 0.0, 'rope': False}])
def test_published_vit_files_are_read(more: dict[str, object]) -> None:
    assert VitConfig.from_json({**PUBLISHED_VIT, **more}) == VitConfig()


def test_heads_that_share_nothing_may_be_left_out() -> None:
    assert LlmConfig.from_json({**PUBLISHED_LLM, 'num_key_value_heads': None}).num_kv_heads == 28


WHOLE = 'a whole number, 1 .. 1048576'
ALL = 'which is all that this network computes'
REFUSED_LLM = [
    ('num_attention_heads', 0, WHOLE), ('num_attention_heads', -4, WHOLE),
    ('num_attention_heads', True, WHOLE), ('num_key_value_heads', 0, WHOLE),
    ('hidden_size', 3584.0, WHOLE), ('hidden_size', '3584', WHOLE), ('hidden_size', None, WHOLE),
    ('intermediate_size', 2**20 + 1, WHOLE), ('vocab_size', 0, WHOLE),
    ('num_hidden_layers', 0, 'a whole number, 1 .. 1000'),
    ('num_hidden_layers', 10**9, 'a whole number, 1 .. 1000'),
    ('num_attention_heads', 3584, 'heads of an even width, for rotary angles; hidden_size 3584 '
                                  'gives 1'),
    ('num_key_value_heads', 5, 'a divisor of num_attention_heads 28'),
    ('hidden_size', 3585, 'a multiple of num_attention_heads 28'),
    ('rms_norm_eps', 0, 'a number above 0, up to 1'),
    ('rms_norm_eps', float('nan'), 'a number above 0, up to 1'),
    ('rope_theta', float('inf'), r'a number above 0, up to 1e\+12'),
    ('rope_theta', None, r'a number above 0, up to 1e\+12'),
    ('hidden_act', 'gelu', f'"silu", {ALL}'), ('qk_norm', False, f'true, {ALL}'),
    ('attention_bias', False, f'true, {ALL}'), ('is_causal', False, f'true, {ALL}'),
    ('use_sliding_window', True, f'false, {ALL}'),
    ('layer_types', ['full_attention', 'sliding_attention'], '"full_attention" for every layer'),
    ('layer_types', 3, '"full_attention" for every layer'),
    ('rope_scaling', {'type': 'yarn', 'factor': 4.0}, 'null: rotary angles without scaling'),
    ('rope_parameters', {'rope_type': 'default', 'partial_rotary_factor': 0.5},
     'null: rotary angles without scaling'),
    ('rope_scaling', 2, 'null: rotary angles without scaling'),
    ('head_dim', 64, '128, which is hidden_size / num_attention_heads')]
REFUSED_VIT = [
    ('patch_size', 0, 'a whole number, 1 .. 65536'),
    ('image_size', 13, 'at least patch_size 14'),
    ('image_size', 10**6, 'a whole number, 1 .. 65536'),
    ('num_hidden_layers', 1, 'a whole number, 2 .. 1000'),
    ('num_hidden_layers', 27.0, 'a whole number, 2 .. 1000'),
    ('num_attention_heads', 0, WHOLE), ('intermediate_size', 'wide', WHOLE),
    ('hidden_size', 1153, 'a multiple of num_attention_heads 16'),
    ('layer_norm_eps', '1e-6', 'a number above 0, up to 1'),
    ('hidden_act', 'gelu', f'"gelu_pytorch_tanh", {ALL}'), ('num_channels', 1, f'3, {ALL}')]


def _refused(kind: type[LlmConfig | VitConfig], values: dict[str, object], field: str,
             allowed: str) -> None:
    file = {LlmConfig: 'llm_config.json', VitConfig: 'vit_config.json'}[kind]
    got = re.escape(json.dumps(values[field]))
    with pytest.raises(BadCheckpoint, match=f'^BAD_CHECKPOINT: {file}: {field} does not fit this '
                       f'network; got {got}; allowed: {allowed}.*; remedy: use the file'):
        kind.from_json(values)


@pytest.mark.parametrize(('field', 'value', 'allowed'), REFUSED_LLM)
def test_llm_fields_that_do_not_fit_are_named(field: str, value: object, allowed: str) -> None:
    _refused(LlmConfig, {**PUBLISHED_LLM, field: value}, field, allowed)


@pytest.mark.parametrize(('field', 'value', 'allowed'), REFUSED_VIT)
def test_vit_fields_that_do_not_fit_are_named(field: str, value: object, allowed: str) -> None:
    _refused(VitConfig, {**PUBLISHED_VIT, field: value}, field, allowed)


def test_widths_that_the_tables_of_places_cannot_have_are_named() -> None:
    _refused(LlmConfig, {**PUBLISHED_LLM, 'hidden_size': 6, 'num_attention_heads': 3,
                         'num_key_value_heads': 1}, 'hidden_size',
             'a multiple of 4, for codes of places')


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
