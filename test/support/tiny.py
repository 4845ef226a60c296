"""A tiny random network in the official layout: wrong about everything, quick at it."""

from __future__ import annotations

import torch

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine, Parts
from cooper_ros.engine.prompts import Prompts
from cooper_ros.engine.tokens import TextCodec
from cooper_ros.model.config import LlmConfig, ModelConfig, SpecialTokens, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.card import Drawing, ModelCard
from cooper_ros.runtime.late_network import LateNetwork
from cooper_ros.runtime.torch_runtime import TorchRuntime

SPECIALS = SpecialTokens(256, 257, 258, 259)
PROMPTS = Prompts('think, look, answer', 'answer from maps', 'think', 'plan', 'draw depth',
                  'draw segments', 'check and go on')


def tiny_config() -> ModelConfig:
    """As small as a network of this kind can be (reference section 16)."""
    llm = LlmConfig(hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4,
                    num_kv_heads=2, vocab_size=300)
    vit = VitConfig(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2,
                    image_size=140)
    vae = VaeConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1)
    return ModelConfig(llm, vit, vae, max_latent_size=8, vit_max_num_patch_per_side=10)


def tiny_runtime(seed: int = 0, std: float = 0.2) -> TorchRuntime:
    """Random weights large enough that every input matters."""
    torch.manual_seed(seed)
    config = tiny_config()
    network = Cooper(config).initialise(std)
    torch.nn.init.normal_(network.llm2vae.weight, std=std)
    return TorchRuntime(network, AutoEncoder(config.vae), specials=SPECIALS, vocabulary=260)


def late(network: TorchRuntime) -> LateNetwork:
    """A network that is there already."""
    return LateNetwork(lambda: network)


def tiny_card(**changes: object) -> ModelCard:
    """Small pictures, few flow steps, guidance on."""
    values = dict(name='tiny', vae_transform=(64, 48, 16), vit_transform=(56, 42, 14),
                  drawing=Drawing(flow_points=4, flow_shift=3.0, cfg_text=4.0, cfg_image=2.0,
                                  cfg_low=0.0, cfg_high=1.0, cfg_renorm='text_channel',
                                  cfg_renorm_min=0.0),
                  max_turn_tokens=12)
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]


def byte_codec() -> TextCodec:
    """Text is its bytes."""
    return TextCodec(lambda text: list(text.encode()),
                     lambda ids: bytes(i for i in ids if i < 256).decode(errors='replace'),
                     SPECIALS.bos, SPECIALS.eos)


def tiny_engine(seed: int = 0, config: CooperConfig = CooperConfig(),
                **card: object) -> CooperEngine:
    """An engine around it all."""
    return CooperEngine(Parts(tiny_runtime(seed), byte_codec(), PROMPTS, tiny_card(**card)),
                        config)
