"""The sizes a training file asks for under ``model``, and what must fit them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Mapping

from cooper_ros.errors import BadOption
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.model.config import LlmConfig, ModelConfig, VaeConfig, VitConfig
from cooper_ros.model.vae import GROUPS
from cooper_ros.scenes.render import HEIGHT, WIDTH
from cooper_ros.training.typed import build, check_ranges

ROWS = 64  # of the word table: their number is rounded up to a multiple
RULE = 'longest side >= shortest side and stride, all > 0'
Rule = tuple[int, int, int]  # longest side, shortest side and stride of a resize rule


@dataclass(frozen=True)
class Sizes:
    """What is not fixed by the autoencoder and the tokenizer.

    Attributes:
        llm, vit: as in the files of a model folder; the size of the vocabulary is the tokenizer's.
        max_latent_size: latent tokens along the longer side of the largest picture.
        vit_side: patches along the longer side of the largest picture.
        latent_patch_size: cells of a latent token, each way.
    """

    llm: LlmConfig
    vit: VitConfig
    max_latent_size: int
    vit_side: int
    latent_patch_size: int = ModelConfig.latent_patch_size

    def __post_init__(self) -> None:
        llm, vit = self.llm, self.vit
        check_ranges(llm, _heads(llm), 'model.llm')
        check_ranges(vit, (*_heads(vit), ('patch_size', vit.patch_size > 0, '> 0')), 'model.vit')
        check_ranges(llm, (
            ('hidden_size', llm.hidden_size % 4 == 0, 'a multiple of 4, for codes of places'),
            ('num_heads', llm.head_dim % 2 == 0, 'heads of an even width, for rotary places'),
            ('num_kv_heads', llm.num_kv_heads > 0 and llm.num_heads % llm.num_kv_heads == 0,
             f'a divisor of num_heads {llm.num_heads}')), 'model.llm')
        names = ('max_latent_size', 'vit_side', 'latent_patch_size')
        check_ranges(self, ((name, getattr(self, name) > 0, '> 0') for name in names), 'model')
        check_ranges(vit, [('image_size', vit.positions_per_side >= self.vit_side,
                            f'>= {self.vit_side * vit.patch_size}: vit_side patches')],
                     'model.vit')

    def config(self, vocabulary: int, vae: VaeConfig = VaeConfig()) -> ModelConfig:
        """The network that speaks so many tokens and draws what the autoencoder decodes."""
        rows = -(-vocabulary // ROWS) * ROWS
        return ModelConfig(replace(self.llm, vocab_size=rows), self.vit, vae,
                           self.latent_patch_size, self.max_latent_size, self.vit_side)


def _heads(part: LlmConfig | VitConfig) -> list[tuple[str, bool, str]]:
    """Ranges of what both parts have; what is divided by is checked first."""
    names = ('hidden_size', 'intermediate_size', 'num_layers')
    return [*((name, getattr(part, name) > 0, '> 0') for name in names),
            ('num_heads', part.num_heads > 0 and part.hidden_size % part.num_heads == 0,
             f'a divisor of hidden_size {part.hidden_size}')]


def vae_sizes(values: Mapping[str, Any], crop: tuple[int, int]) -> VaeConfig:
    """Sizes of the autoencoder that a training file asks for.

    Args:
        values: its part ``model``.
        crop: height and width of the pictures it trains on; (0, 0) for whole frames.

    Raises:
        BadOption: a size is out of its range, or the pictures cannot be halved so often.
    """
    config = build(VaeConfig, values, 'model')
    halved = config.downsample
    check_ranges(config, (
        ('ch', config.ch > 0 and config.ch % GROUPS == 0, f'a multiple of {GROUPS}, > 0'),
        ('ch_mult', bool(config.ch_mult) and min(config.ch_mult, default=0) > 0
         and not (HEIGHT % halved or WIDTH % halved),
         f'some numbers > 0, between which frames of {WIDTH} x {HEIGHT} can be halved'),
        *((name, getattr(config, name) > 0, '> 0')
          for name in ('num_res_blocks', 'z_channels', 'scale_factor')),
        *((name, getattr(config, name) == 3, '3 colours')
          for name in ('in_channels', 'out_channels'))), 'model')
    if crop[0] % halved or crop[1] % halved or crop[0] > HEIGHT or crop[1] > WIDTH:
        raise BadOption('task.crop does not suit frames and autoencoder', value=list(crop),
                        limit=f'multiples of {halved}, up to [{HEIGHT}, {WIDTH}]')
    return config


def is_rule(rule: Rule) -> bool:
    """Whether a resize rule can be kept."""
    longest, shortest, stride = rule
    return 0 < min(rule) and max(shortest, stride) <= longest


def check_views(config: ModelConfig, vae_rule: Rule, vit_rule: Rule, coded: bool) -> None:
    """Check that the network can read frames after both resize rules.

    Args:
        config: sizes of the network.
        vae_rule, vit_rule: see :data:`Rule`.
        coded: whether latents are made, and of frames as they are.

    Raises:
        BadOption: a rule changes what is coded, or a side is too long or no multiple.
    """
    size = ImageTransform(*vae_rule).size(WIDTH, HEIGHT)
    if coded and size != (WIDTH, HEIGHT):
        raise BadOption('task.vae_rule resizes frames, whose latents are made as they are',
                        value=f'{list(vae_rule)}: {size[0]} x {size[1]}',
                        limit=f'{WIDTH} x {HEIGHT}', remedy='leave vae_rule out')
    token, patch = config.pixels_per_latent_token, config.vit.patch_size
    if coded:
        _check_grid('latent', size, token, config.max_latent_size * token,
                    'change model.latent_patch_size or model.max_latent_size')
    _check_grid('vision', ImageTransform(*vit_rule).size(*size), patch,
                config.vit_max_num_patch_per_side * patch,
                'change task.vit_rule or model.vit_side')


def _check_grid(kind: str, size: tuple[int, int], part: int, most: int, remedy: str) -> None:
    if size[0] % part or size[1] % part or max(size) > most:
        raise BadOption(f'pictures do not suit the {kind} tokens of the network',
                        value=f'{size[0]} x {size[1]}',
                        limit=f'multiples of {part}, up to {most}', remedy=remedy)
