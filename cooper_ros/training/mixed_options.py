"""Settings of stages ``amg``, ``sft`` and ``joint``: :class:`~..mixed_task.MixedTask`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

from cooper_ros.errors import BadOption
from cooper_ros.scenes.questions import CATEGORIES
from cooper_ros.training.recipes import KIND_OF_TOOL, RECIPES
from cooper_ros.training.sizes import RULE, is_rule
from cooper_ros.training.typed import check_ranges


@dataclass(frozen=True)
class Recipe:
    """How often a recipe is drawn, with how many frames and questions per step.

    Attributes:
        weight: share of the steps.
        frames: frames per step, over all processes; at least one for each.
        questions: questions per frame.
        only_first: train on the first so many frames of the data alone, for what is scarce while
            other recipes have plenty; 0 for all. Validation takes no notice.

    Raises:
        BadOption: a value is unknown or out of its range.
    """

    weight: float
    frames: int
    questions: int = 1
    only_first: int = 0

    def __post_init__(self) -> None:
        if min(self.frames, self.questions) < 1 or not self.weight > 0:
            raise BadOption('a recipe needs a weight, frames and questions', value=self,
                            limit='> 0')
        check_ranges(self, (('only_first', self.only_first >= 0, '>= 0'),), 'task.recipes')


@dataclass(frozen=True)
class MixOptions:
    """Settings of these stages.

    Attributes:
        recipes: which samples are made, by name.
        vocabulary: size of the tokenizer trained on the first frames' texts.
        tokenizer: model folder whose tokenizer is taken instead, to go on from its weights.
        vae_rule, vit_rule: longest side, shortest side and stride of the resize rules.
        ce_weight, mse_weight: weights of the two losses.
        answer_weight: how many times the first token in the box of an answer counts; thoughts are
            many tokens, and a letter, a yes or a digit is one.
        timestep_shift: shift of the flow times in training.
        flow_points: grid points of the flow that the exported model draws with, 1 more than steps.
        init_std: spread of fresh weights; about one over the square root of the width, or pictures
            drown in their position table and nothing is learned from them.
        copy_experts: start the generation expert from the understanding one (reference 2.1).
        freeze: name prefixes of weights that do not train.
        freeze_und: train only what serves latents: the generation expert and its adapters. What
            the model says without maps keeps every bit.
        eyes: run folder of stage ``see`` whose vision tower and connector are taken.
        place: start attention so that it finds the same place, see :mod:`..placing`.
        point: weight of the loss on where words look, see :mod:`..pointing`.
        know: weight of the loss on what they then know; counts only with ``point``.
        decode: weight, for ``depth`` and ``segmentation``, of the error that drawn maps have once
            they are decoded, see :mod:`..decoded`; what is not named is not decoded.
        latent_frames: how many frames get latents, for recipes that read or draw them; 0 for all.
        own_maps: of how many frames, from the first on, traces show what the start draws instead
            of the true maps, see :mod:`..own_maps`.
        conclude: categories whose traces over maps say only what thoughts come to, ``3.`` and not
            every object first: for what is answered better at once than after thinking.
        rephrase: share of the questions that are put in other words, see
            :mod:`cooper_ros.scenes.phrasing`.
        learned: how far from the start (0) to the trained weights (1) the exported ones stand; may
            be chosen after training.

    Raises:
        BadOption: a value is unknown or out of its range.
    """

    recipes: Mapping[str, Recipe]
    vocabulary: int = 640
    tokenizer: str = ''
    vae_rule: tuple[int, int, int] = (128, 128, 16)
    vit_rule: tuple[int, int, int] = (112, 112, 14)
    ce_weight: float = 1.0
    mse_weight: float = 1.0
    answer_weight: float = 1.0
    timestep_shift: float = 1.0
    flow_points: int = 5
    init_std: float = 0.02
    copy_experts: bool = False
    freeze: tuple[str, ...] = ()
    freeze_und: bool = False
    eyes: str = ''
    place: bool = False
    point: float = 0.0
    know: float = 0.0
    decode: Mapping[str, float] = field(default_factory=dict)
    latent_frames: int = 0
    own_maps: int = 0
    conclude: tuple[str, ...] = ()
    rephrase: float = 0.0
    learned: float = 1.0

    def __post_init__(self) -> None:
        for name in self.recipes or ('',):
            if name not in RECIPES:
                raise BadOption('no such recipe', value=name, limit=', '.join(RECIPES))
        for name in self.decode:
            if name not in KIND_OF_TOOL:
                raise BadOption('no such map', value=name, limit=', '.join(KIND_OF_TOOL))
        for name in self.conclude:
            if name not in CATEGORIES:
                raise BadOption('unknown category', value=name, limit=', '.join(CATEGORIES))
        weights = ('ce_weight', 'mse_weight', 'answer_weight', 'point', 'know', 'latent_frames',
                   'own_maps')
        check_ranges(self, (
            *((name, getattr(self, name) >= 0, '>= 0') for name in weights),
            ('decode', all(weight >= 0 for weight in self.decode.values()), '>= 0'),
            ('rephrase', 0 <= self.rephrase <= 1, '0 .. 1'),
            ('learned', 0 < self.learned <= 1, '0 < learned <= 1'),
            ('vocabulary', self.vocabulary > 0, '> 0'), ('init_std', self.init_std > 0, '> 0'),
            ('timestep_shift', self.timestep_shift > 0, '> 0'),
            ('flow_points', self.flow_points >= 2, '>= 2'),
            ('vae_rule', is_rule(self.vae_rule), RULE),
            ('vit_rule', is_rule(self.vit_rule), RULE)), 'task')
