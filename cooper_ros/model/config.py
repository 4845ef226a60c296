"""Sizes of the network, read from the JSON dictionaries of a model folder.

Four facts are not in those files and are never taken from them, because every released
checkpoint has them (reference section 1): two experts per layer, norms on query and key heads,
untied embeddings, and a vision tower one layer shorter than its file says, without rotary
embedding. Fields that ask for what the network does not compute are refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Mapping

from transformers import Qwen2Config, SiglipVisionConfig

from cooper_ros.errors import BadCheckpoint

LLM_FILE, VIT_FILE = 'llm_config.json', 'vit_config.json'
# Far above any existing network: a typing error is refused here, not by the memory allocator.
MOST_LAYERS, MOST_WIDTH, MOST_PIXELS = 1000, 2**20, 2**16
_WIDTH, _PIXELS = (1, MOST_WIDTH), (1, MOST_PIXELS)
_LLM_SIZES = {'hidden_size': _WIDTH, 'intermediate_size': _WIDTH, 'vocab_size': _WIDTH,
              'num_attention_heads': _WIDTH, 'num_key_value_heads': _WIDTH,
              'num_hidden_layers': (1, MOST_LAYERS)}
_VIT_SIZES = {'hidden_size': _WIDTH, 'intermediate_size': _WIDTH, 'num_attention_heads': _WIDTH,
              'patch_size': _PIXELS, 'image_size': _PIXELS,
              'num_hidden_layers': (2, MOST_LAYERS)}  # the last one is never used
_LLM_FACTS = {'hidden_act': 'silu', 'qk_norm': True, 'attention_bias': True, 'is_causal': True,
              'use_sliding_window': False}
_VIT_FACTS = {'hidden_act': 'gelu_pytorch_tanh', 'num_channels': 3}
_MOST_EPS, _MOST_THETA = 1, 10**12
_PLAIN_ROPE = {'rope_type': 'default', 'type': 'default'}


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the four markers every segment is wrapped in (reference section 3)."""

    bos: int
    eos: int
    start_of_image: int
    end_of_image: int


@dataclass(frozen=True)
class LlmConfig:
    """The mixture-of-transformers language model; defaults are those of BAGEL-7B-MoT."""

    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_layers: int = 28
    num_heads: int = 28
    num_kv_heads: int = 4
    vocab_size: int = 152064
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LlmConfig:
        """Read the content of ``llm_config.json``.

        Raises:
            BadCheckpoint: a field has a value that this network cannot have.
        """
        _check_llm_fields(values)
        parsed: Any = Qwen2Config.from_dict(dict(values))
        rope = getattr(parsed, 'rope_parameters', None) or {'rope_theta': parsed.rope_theta}
        config = cls(parsed.hidden_size, parsed.intermediate_size, parsed.num_hidden_layers,
                     parsed.num_attention_heads, parsed.num_key_value_heads, parsed.vocab_size,
                     float(parsed.rms_norm_eps), float(rope['rope_theta']))
        _check_llm_heads(config, values.get('head_dim'))
        return config

    def to_json(self) -> dict[str, Any]:
        """Content of an ``llm_config.json`` that other readers of the layout understand."""
        return {'architectures': ['Qwen2ForCausalLM'], 'attention_dropout': 0.0,
                'hidden_act': 'silu', 'hidden_size': self.hidden_size,
                'intermediate_size': self.intermediate_size, 'is_causal': True,
                'layer_module': 'Qwen2MoTDecoderLayer', 'max_position_embeddings': 32768,
                'model_type': 'qwen2', 'num_attention_heads': self.num_heads,
                'num_hidden_layers': self.num_layers, 'num_key_value_heads': self.num_kv_heads,
                'qk_norm': True, 'rms_norm_eps': self.rms_norm_eps,
                'rope_theta': self.rope_theta, 'tie_word_embeddings': False,
                'torch_dtype': 'bfloat16', 'use_cache': True, 'use_sliding_window': False,
                'vocab_size': self.vocab_size}


@dataclass(frozen=True)
class VitConfig:
    """The SigLIP tower; ``num_layers`` counts the layers that exist."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_layers: int = 26
    num_heads: int = 16
    patch_size: int = 14
    image_size: int = 980
    num_channels: int = 3
    layer_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def positions_per_side(self) -> int:
        """Side of the square table of learned positions."""
        return self.image_size // self.patch_size

    @property
    def patch_features(self) -> int:
        """Numbers in one flattened patch."""
        return self.num_channels * self.patch_size**2

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VitConfig:
        """Read the content of ``vit_config.json``, whose last layer is never used.

        Raises:
            BadCheckpoint: a field has a value that this network cannot have.
        """
        _check_sizes(VIT_FILE, values, _VIT_SIZES)
        _check_facts(VIT_FILE, values, _VIT_FACTS)
        _check_real(VIT_FILE, values, 'layer_norm_eps', _MOST_EPS)
        parsed: Any = SiglipVisionConfig.from_dict(dict(values))
        config = cls(parsed.hidden_size, parsed.intermediate_size, parsed.num_hidden_layers - 1,
                     parsed.num_attention_heads, parsed.patch_size, parsed.image_size,
                     parsed.num_channels, float(parsed.layer_norm_eps))
        _check_whole_heads(VIT_FILE, config)
        _check(config.positions_per_side > 0, VIT_FILE, 'image_size', config.image_size,
               f'at least patch_size {config.patch_size}')
        return config

    def to_json(self) -> dict[str, Any]:
        """Content of a ``vit_config.json``, with the unused last layer counted again."""
        return {'hidden_size': self.hidden_size, 'image_size': self.image_size,
                'intermediate_size': self.intermediate_size,
                'layer_norm_eps': self.layer_norm_eps, 'model_type': 'siglip_vision_model',
                'num_attention_heads': self.num_heads, 'num_channels': self.num_channels,
                'num_hidden_layers': self.num_layers + 1, 'patch_size': self.patch_size}


@dataclass(frozen=True)
class VaeConfig:
    """The FLUX image autoencoder (reference section 2.10)."""

    in_channels: int = 3
    out_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159

    @property
    def downsample(self) -> int:
        """Pixels per latent cell, each way."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shapes of the tensors (1,223 + 244 in the published size)."""

    llm: LlmConfig
    vit: VitConfig
    vae: VaeConfig
    latent_patch_size: int = 2
    max_latent_size: int = 64
    vit_max_num_patch_per_side: int = 70
    connector_act: str = 'gelu_pytorch_tanh'

    @property
    def latent_features(self) -> int:
        """Numbers in one latent token (64 as published)."""
        return self.latent_patch_size**2 * self.vae.z_channels

    @property
    def pixels_per_latent_token(self) -> int:
        """Picture pixels one latent token stands for, each way (16 as published)."""
        return self.latent_patch_size * self.vae.downsample

    @classmethod
    def official_7b(cls) -> ModelConfig:
        """BAGEL-7B-MoT, and therefore COOPER-AMG and COOPER."""
        return cls(LlmConfig(), VitConfig(), VaeConfig())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for reports."""
        return asdict(self)


def _check(holds: bool, file: str, field: str, value: object, limit: object) -> None:
    if not holds:
        raise BadCheckpoint(f'{file}: {field} does not fit this network',
                            value=json.dumps(value, default=repr)[:200], limit=limit,
                            remedy='use the file that came with the weights of a COOPER or '
                                   'BAGEL network')


def _check_llm_fields(values: Mapping[str, Any]) -> None:
    """Check each field on its own, before anything is computed from it."""
    grouped = values.get('num_key_value_heads', 0) is not None  # null: as many as query heads
    _check_sizes(LLM_FILE, values, {field: span for field, span in _LLM_SIZES.items()
                                    if grouped or field != 'num_key_value_heads'})
    _check_facts(LLM_FILE, values, _LLM_FACTS)
    _check_real(LLM_FILE, values, 'rms_norm_eps', _MOST_EPS)
    _check_real(LLM_FILE, values, 'rope_theta', _MOST_THETA)
    for field in ('rope_scaling', 'rope_parameters'):
        _check_rope(field, values.get(field))
    layers = values.get('layer_types')
    full = layers is None or isinstance(layers, list) and all(
        kind == 'full_attention' for kind in layers)
    _check(full, LLM_FILE, 'layer_types', layers, '"full_attention" for every layer')


def _check_sizes(file: str, values: Mapping[str, Any],
                 spans: Mapping[str, tuple[int, int]]) -> None:
    for field, (least, most) in spans.items():
        value = values.get(field, least)
        _check(type(value) is int and least <= value <= most, file, field, value,
               f'a whole number, {least} .. {most}')


def _check_facts(file: str, values: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse values that ask for what the network does not do; absent fields and null pass."""
    for field, fact in facts.items():
        value = values.get(field)
        _check(value is None or type(value) is type(fact) and value == fact, file, field, value,
               f'{json.dumps(fact)}, which is all that this network computes')


def _check_real(file: str, values: Mapping[str, Any], field: str, most: float) -> None:
    value = values.get(field, most)
    _check(type(value) in (int, float) and 0 < value <= most, file, field, value,
           f'a number above 0, up to {most:g}')


def _check_rope(field: str, rope: Any) -> None:
    """Accept plain rotary angles, spelled out or not; scaled ones are not computed here."""
    plain = rope is None or isinstance(rope, dict) and all(
        key == 'rope_theta' or value == _PLAIN_ROPE.get(key) for key, value in rope.items())
    _check(plain, LLM_FILE, field, rope,
           'null: rotary angles without scaling are all that this network computes')
    _check_real(LLM_FILE, rope or {}, 'rope_theta', _MOST_THETA)


def _check_whole_heads(file: str, config: LlmConfig | VitConfig) -> None:
    _check(config.hidden_size % config.num_heads == 0, file, 'hidden_size', config.hidden_size,
           f'a multiple of num_attention_heads {config.num_heads}')


def _check_llm_heads(config: LlmConfig, head_dim: Any) -> None:
    """Check fields against each other."""
    _check_whole_heads(LLM_FILE, config)
    heads, width = config.num_heads, config.hidden_size
    _check(heads % config.num_kv_heads == 0, LLM_FILE, 'num_key_value_heads',
           config.num_kv_heads, f'a divisor of num_attention_heads {heads}')
    _check(config.head_dim % 2 == 0, LLM_FILE, 'num_attention_heads', heads,
           f'heads of an even width, for rotary angles; hidden_size {width} gives '
           f'{config.head_dim}')
    _check(width % 4 == 0, LLM_FILE, 'hidden_size', width, 'a multiple of 4, for codes of places')
    _check(head_dim is None or type(head_dim) is int and head_dim == config.head_dim, LLM_FILE,
           'head_dim', head_dim, f'{config.head_dim}, which is hidden_size / num_attention_heads')
