"""Stages ``amg``, ``sft`` and ``joint``: one task, told apart by the recipes in the YAML.

``amg`` is ``{draw: 1}``, ``sft`` the question recipes, ``joint`` all of them at once, which is
what suits a model small enough to be trained from nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

import numpy as np
import torch
from torch import Tensor

from cooper_ros.errors import BadOption
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.model.config import VaeConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import PackedBatch
from cooper_ros.model.training_forward import mean_losses
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.card import ModelCard
from cooper_ros.runtime.tokenizer import special_tokens
from cooper_ros.training.ahead import Ahead
from cooper_ros.training.data import FrameStore, frame_store
from cooper_ros.training.eyes import balance_eyes, open_eyes
from cooper_ros.training.folder import PROMPTS, card, corpus, load_vae, write_folder
from cooper_ros.training.losses import answer_weights, shared_losses
from cooper_ros.training.naming import Words
from cooper_ros.training.pictures import picture_cache
from cooper_ros.training.placing import place
from cooper_ros.training.pointing import Lessons, lessons
from cooper_ros.training.policy import freeze_understanding, freeze_weights
from cooper_ros.training.precision import mixed
from cooper_ros.training.previews import drawing_engine, drawn_maps
from cooper_ros.training.processes import part_of, training_device
from cooper_ros.training.recipes import RECIPES, Source
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.sizes import Sizes
from cooper_ros.training.starting import copy_experts, cut_latents, start_weights, take_weights
from cooper_ros.training.task import step_generator, whole_batch
from cooper_ros.training.tokenizer import build_tokenizer, kept_tokenizer
from cooper_ros.training.tree import forward_trees, pack_trees
from cooper_ros.training.typed import build
from cooper_ros.training.vae_task import RGB
from cooper_ros.training.watching import Watch, check_heads

LATENT_RECIPES = ('draw', 'auto', 'maps')
BALANCE_FRAMES = 32
PREVIEWS = 2  # validation frames whose maps are drawn
VALID_LATENTS = 32  # frames; coding pictures is slow on a CPU, and scores come from elsewhere


@dataclass(frozen=True)
class Recipe:
    """How often a recipe is drawn, with how many frames and questions per step.

    Attributes:
        weight: share of the steps.
        frames: frames per step, over all processes; at least one for each.
        questions: questions per frame.
    """

    weight: float
    frames: int
    questions: int = 1

    def __post_init__(self) -> None:
        if min(self.frames, self.questions) < 1 or not self.weight > 0:
            raise BadOption('a recipe needs a weight, frames and questions', value=self,
                            limit='> 0')


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
        latent_frames: how many frames get latents, for recipes that read or draw them; 0 for all.
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
    latent_frames: int = 0

    def __post_init__(self) -> None:
        for name in self.recipes or ('',):
            if name not in RECIPES:
                raise BadOption('no such recipe', value=name, limit=', '.join(RECIPES))


class MixedTask:
    """See :class:`~cooper_ros.training.task.Task`."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.options = build(MixOptions, settings.task, 'task')
        self.recipes = self.options.recipes
        if settings.parallel == 'fsdp':  # trees do not go through the network's own forward
            raise BadOption('this stage cannot be sharded', value='parallel: fsdp', limit='ddp')
        sizes, self.vae = build(Sizes, settings.model, 'model'), self._autoencoder()
        data = settings.data
        train = frame_store(data.folder, 'train', data.seed, data.train, data.questions)
        valid = frame_store(data.folder, 'validation', data.seed, data.valid, data.questions)
        self.tokenizer = (kept_tokenizer(self.options.tokenizer) if self.options.tokenizer else
                          build_tokenizer(corpus(train), self.options.vocabulary))
        self.specials, self.words = special_tokens(self.tokenizer), Words.of(self.tokenizer)
        coded = self.vae.config if self.vae else VaeConfig()
        self.config = sizes.config(len(self.tokenizer), coded)
        if self.options.point:
            check_heads(self.config)
        self.train, self.valid = (self._source(store, split) for store, split in
                                  ((train, 'train'), (valid, 'validation')))
        self.module = self._network()
        self.ahead = Ahead(self._training_batch, training_device(settings.device))

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy and flow loss of one batch of one recipe."""
        name, batch, branch, learn = self.ahead(step)
        part, options = part_of(self.recipes[name].frames), self.options
        mine = batch.rows(part)
        watch = Watch(learn.rows_of(part)) if learn else None
        ce, mse = shared_losses(forward_trees(self.module, mine, branch, watch),
                                answer_weights(mine.labels, self.words.box, options.answer_weight))
        losses = {f'ce_{name}': ce, f'mse_{name}': mse}
        whole = options.ce_weight * ce + options.mse_weight * mse
        if watch is not None:
            losses |= {f'point_{name}': watch.error(), f'know_{name}': watch.ignorance()}
            whole = (whole + options.point * losses[f'point_{name}']
                     + options.know * losses[f'know_{name}'])
        return {'loss': whole, **losses}

    def _training_batch(self, step: int) -> tuple[str, PackedBatch, Tensor, Lessons | None]:
        generator = step_generator(self.settings.seed, step)
        name = self._recipe(generator)
        return name, *self.batch(self.train, name, step, generator)

    def batch(self, source: Source, name: str, step: int, generator: torch.Generator
              ) -> tuple[PackedBatch, Tensor, Lessons | None]:
        """Trees of one recipe for one step, those of all processes; and where words should look,
        if they name anything and that is asked of them.

        Making them is little work beside learning from them; so noise and padding are the same
        for any number of processes, and each takes its rows.
        """
        recipe = self.recipes[name]
        usable = source.usable[name]
        places = whole_batch(len(usable), recipe.frames, self.settings.seed, step)
        frames = [usable[place] for place in places.tolist()]
        trees = [RECIPES[name](source, frame, recipe.questions, generator) for frame in frames]
        batch, branch = pack_trees(trees, self.config, self.specials, generator=generator,
                                   timestep_shift=self.options.timestep_shift)
        if not self.options.point:
            return batch, branch, None
        learn = lessons(trees, frames, source.store, self.words, self.config)
        return batch, branch, learn if len(learn.recalling[0].rows) else None

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Losses of every recipe on validation frames, with fixed noise."""
        scores = {}
        for name in self.recipes:
            generator = step_generator(self.settings.seed, 0)
            batch, branch, _ = self.batch(self.valid, name, 1, generator)
            with mixed(self.module.vae2llm.weight.device, self.settings.optim.bfloat16):
                ce, mse = mean_losses(forward_trees(self.module, batch, branch), batch)
            scores |= {f'valid_ce_{name}': float(ce), f'valid_mse_{name}': float(mse)}
        return scores, self._drawings() if 'draw' in self.recipes else {}

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a complete model folder."""
        if self.vae is None:
            raise BadOption('a model folder needs an autoencoder', value='vae: ""',
                            remedy='train stage vae first and name its export in the settings')
        write_folder(folder, self.config, weights, self.vae, self.tokenizer, self._card())

    def _card(self) -> ModelCard:
        return card(self.options.vae_rule, self.options.vit_rule, self.options.flow_points)

    def _drawings(self) -> dict[str, np.ndarray]:
        assert self.vae is not None  # the recipe reads its latents
        engine = drawing_engine(self.module, self.vae, self.tokenizer, self.specials,
                                self._card())
        return {'maps': drawn_maps(engine, self.valid.store, PREVIEWS)}

    def _network(self) -> Cooper:
        torch.manual_seed(self.settings.seed)
        network = Cooper(self.config).initialise(self.options.init_std)
        if self.settings.start:
            weights = start_weights(self.settings.start)
            take_weights(network, cut_latents(weights, self.config))
        if self.options.eyes:
            open_eyes(network, start_weights(self.options.eyes))
            balanced = min(BALANCE_FRAMES, len(self.train.store))
            balance_eyes(network, torch.stack([self.train.cache.pixels(frame, RGB)
                                               for frame in range(balanced)]))
        if self.options.copy_experts:
            copy_experts(network)
        if self.options.place:
            place(network)
        freeze_weights(network, self.options.freeze)
        if self.options.freeze_und:
            freeze_understanding(network)
        return network

    def _autoencoder(self) -> AutoEncoder | None:
        """The frozen autoencoder; none where the recipes do without."""
        settings = self.settings
        if settings.vae:
            return load_vae(Path(settings.vae)).to(training_device(settings.device))
        needing = sorted(set(LATENT_RECIPES) & set(self.recipes))
        if needing:
            raise BadOption('these recipes need an autoencoder', value=', '.join(needing),
                            remedy='name the export of stage vae, or a model folder: vae: FOLDER')
        return None

    def _source(self, store: FrameStore, split: str) -> Source:
        options = self.options
        count = options.latent_frames or len(store)
        count = min(count, VALID_LATENTS) if split == 'validation' else count
        needed = any(name in LATENT_RECIPES for name in self.recipes)
        cache = picture_cache(store, self.vae if needed else None,
                              ImageTransform(*options.vae_rule), ImageTransform(*options.vit_rule),
                              count)
        return Source(store, cache, PROMPTS, self.tokenizer.encode)

    def _recipe(self, generator: torch.Generator) -> str:
        names = list(self.recipes)
        weights = torch.tensor([float(self.recipes[name].weight) for name in names])
        return names[int(torch.multinomial(weights, 1, generator=generator))]
