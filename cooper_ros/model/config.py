"""Sizes of the network, read from the JSON dictionaries of a model folder.

Four facts are not in those files and are never taken from them, because every released
checkpoint has them (reference section 1): two experts per layer, norms on query and key heads,
untied embeddings, and a vision tower one layer shorter than its file says, without rotary
embedding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Mapping

from transformers import Qwen2Config, SiglipVisionConfig


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
        """Read the content of ``llm_config.json``."""
        parsed: Any = Qwen2Config.from_dict(dict(values))
        rope = getattr(parsed, 'rope_parameters', None) or {'rope_theta': parsed.rope_theta}
        return cls(parsed.hidden_size, parsed.intermediate_size, parsed.num_hidden_layers,
                   parsed.num_attention_heads, parsed.num_key_value_heads, parsed.vocab_size,
                   float(parsed.rms_norm_eps), float(rope['rope_theta']))

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
        """Read the content of ``vit_config.json``, whose last layer is never used."""
        parsed: Any = SiglipVisionConfig.from_dict(dict(values))
        return cls(parsed.hidden_size, parsed.intermediate_size, parsed.num_hidden_layers - 1,
                   parsed.num_attention_heads, parsed.patch_size, parsed.image_size,
                   parsed.num_channels, float(parsed.layer_norm_eps))

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
    """Everything that fixes the shapes of the 1,223 + 244 tensors of the published size."""

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
