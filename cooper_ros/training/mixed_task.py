"""Stages ``amg``, ``sft`` and ``joint``: one task, told apart by the recipes in the YAML.

``amg`` is ``{draw: 1}``, ``sft`` the question recipes, ``joint`` all of them at once, which is
what suits a model small enough to be trained from nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Mapping

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadData, BadOption
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.model.config import VaeConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import PackedBatch
from cooper_ros.model.training_forward import TrainOutput, mean_losses
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.card import ModelCard
from cooper_ros.runtime.tokenizer import special_tokens
from cooper_ros.training.ahead import Ahead
from cooper_ros.training.data import FrameStore, frame_store
from cooper_ros.training.decoded import DrawnTruth, decoded_loss, drawn_truth
from cooper_ros.training.eyes import balance_eyes, open_eyes
from cooper_ros.training.folder import PROMPTS, card, corpus, load_vae, write_folder
from cooper_ros.training.losses import answer_weights, shared_losses
from cooper_ros.training.mixed_options import MixOptions
from cooper_ros.training.naming import Words
from cooper_ros.training.own_maps import own_maps
from cooper_ros.training.pictures import picture_cache
from cooper_ros.training.placing import place
from cooper_ros.training.pointing import Lessons, lessons
from cooper_ros.training.policy import freeze_understanding, freeze_weights
from cooper_ros.training.precision import mixed
from cooper_ros.training.previews import drawing_engine, drawn_maps
from cooper_ros.training.processes import first_before_others, part_of, training_device
from cooper_ros.training.recipes import KIND_OF_TOOL, RECIPES, Source
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.sizes import Sizes, check_views
from cooper_ros.training.starting import (
    copy_experts,
    cut_latents,
    deepen,
    kept_start,
    moved_layers,
    part_way,
    start_weights,
    take_weights,
)
from cooper_ros.training.task import require_export, step_generator, whole_batch
from cooper_ros.training.tokenizer import build_tokenizer, kept_tokenizer
from cooper_ros.training.tree import forward_trees, pack_trees
from cooper_ros.training.typed import build
from cooper_ros.training.vae_task import RGB
from cooper_ros.training.watching import Watch, check_heads, check_moved

LATENT_RECIPES = [name for name, kind in RECIPES.items() if kind.latents]
BALANCE_FRAMES = 32
PREVIEWS = 2  # validation frames whose maps are drawn
VALID_LATENTS = 32  # frames; coding pictures is slow on a CPU, and scores come from elsewhere


@dataclass(frozen=True)
class Sampled:
    """The trees of one step, those of all processes.

    Attributes:
        name: their recipe.
        batch, branch: what :func:`~..tree.pack_trees` made of them.
        learn: where their words should look; None where that is not asked or they name nothing.
        truth: what their maps should look like; None where that is not asked or they draw none.
    """

    name: str
    batch: PackedBatch
    branch: Tensor
    learn: Lessons | None
    truth: DrawnTruth | None

    def rows(self, part: range) -> Sampled:
        """Some of the trees."""
        return replace(self, batch=self.batch.rows(part),
                       learn=self.learn and self.learn.rows_of(part),
                       truth=self.truth and self.truth.rows_of(part))


class MixedTask:
    """See :class:`~cooper_ros.training.task.Task`."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.options = build(MixOptions, settings.task, 'task')
        self.recipes = self.options.recipes
        if settings.parallel == 'fsdp':  # trees do not go through the network's own forward
            raise BadOption('this stage cannot be sharded', value='parallel: fsdp', limit='ddp')
        sizes, self.vae = build(Sizes, settings.model, 'model'), self._autoencoder()
        coded = self.vae.config if self.vae else VaeConfig()
        check_views(sizes.config(1, coded), self.options.vae_rule, self.options.vit_rule,
                    coded=self.vae is not None)
        data = settings.data
        train = frame_store(data.folder, 'train', data.seed, data.train, data.questions,
                            data.canonical_focal)
        valid = frame_store(data.folder, 'validation', data.seed, data.valid, data.questions,
                            data.canonical_focal)
        self.tokenizer = (kept_tokenizer(self.options.tokenizer) if self.options.tokenizer else
                          build_tokenizer(corpus(train), self.options.vocabulary))
        self.specials, self.words = special_tokens(self.tokenizer), Words.of(self.tokenizer)
        self.config = sizes.config(len(self.tokenizer), coded)
        if self.options.point:
            check_heads(self.config)
        self.train, self.valid = (self._source(store, split) for store, split in
                                  ((train, 'train'), (valid, 'validation')))
        self._check_usable()
        self._start = self._kept_start()
        # Own maps are drawn here, before the loop moves what trains.
        self.module = self._network().to(training_device(settings.device))
        if self.options.own_maps:
            self.train, self.valid = map(self._with_own_maps, (self.train, self.valid))
        self.ahead = Ahead(self._training_batch, training_device(settings.device))

    def samples(self, step: int) -> int:
        """Frames of the recipe of a step."""
        return self.recipes[self._recipe(step_generator(self.settings.seed, step))].frames

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy and flow loss of one batch of one recipe, and what else is asked for."""
        whole = self.ahead(step)
        name, options = whole.name, self.options
        mine = whole.rows(part_of(self.recipes[name].frames))
        watch = Watch(mine.learn) if mine.learn else None
        output = forward_trees(self.module, mine.batch, mine.branch, watch)
        ce, mse = shared_losses(output, answer_weights(mine.batch.labels, self.words.box,
                                                       options.answer_weight))
        weighted = {'ce': (options.ce_weight, ce), 'mse': (options.mse_weight, mse)}
        if watch is not None:
            weighted |= {'point': (options.point, watch.error()),
                         'know': (options.know, watch.ignorance())}
        weighted |= {kind: (options.decode[kind], error)
                     for kind, error in self._decoded(mine, output).items()}
        return {'loss': sum(weight * error for weight, error in weighted.values()),
                **{f'{kind}_{name}': error for kind, (_, error) in weighted.items()}}

    def _decoded(self, mine: Sampled, output: TrainOutput) -> dict[str, Tensor]:
        """What drawn maps miss once they are decoded, if that is asked for."""
        if mine.truth is None:
            return {}
        assert self.vae is not None  # there are latents
        return {kind: decoded_loss(output.ends, mine.truth, KIND_OF_TOOL[kind], self.vae,
                                   self.config) for kind in self.options.decode}

    def _training_batch(self, step: int) -> Sampled:
        generator = step_generator(self.settings.seed, step)
        return self.batch(self.train, self._recipe(generator), step, generator)

    def batch(self, source: Source, name: str, step: int, generator: torch.Generator) -> Sampled:
        """Trees of one recipe for one step, those of all processes.

        Making them is little work beside learning from them; so noise and padding are the same
        for any number of processes, and each takes its rows.
        """
        recipe, options = self.recipes[name], self.options
        usable = self._usable(source, name)
        places = whole_batch(len(usable), recipe.frames, self.settings.seed, step)
        frames = [usable[place] for place in places.tolist()]
        trees = [RECIPES[name].tree(source, frame, recipe.questions, generator)
                 for frame in frames]
        batch, branch = pack_trees(trees, self.config, self.specials, generator=generator,
                                   timestep_shift=options.timestep_shift)
        learn = (lessons(trees, frames, source.store, self.words, self.config)
                 if options.point else None)
        truth = drawn_truth(trees, frames, source.store) if options.decode else None
        return Sampled(name, batch, branch, learn if learn and learn.any else None, truth)

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Losses of every recipe on validation frames, with fixed noise."""
        scores = {}
        for name in self.recipes:
            whole = self.batch(self.valid, name, 1, step_generator(self.settings.seed, 0))
            with mixed(self.module.vae2llm.weight.device, self.settings.optim.bfloat16):
                output = forward_trees(self.module, whole.batch, whole.branch)
                ce, mse = mean_losses(output, whole.batch)
                losses = {'ce': ce, 'mse': mse, **self._decoded(whole, output)}
            scores |= {f'valid_{kind}_{name}': error.item() for kind, error in losses.items()}
        return scores, self._drawings() if 'draw' in self.recipes else {}

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a complete model folder, ``learned`` of the way from the start to the weights.

        Raises:
            BadOption: the stage has no autoencoder to export.
        """
        require_export(self.settings)
        assert self.vae is not None  # it is named
        if self.options.learned < 1:
            weights = part_way(self._start_weights(), weights, self.options.learned)
        write_folder(folder, self.config, weights, self.vae, self.tokenizer, self._card())

    def _card(self) -> ModelCard:
        options = self.options
        return card(options.vae_rule, options.vit_rule, options.flow_points,
                    self.settings.data.canonical_focal)

    def _drawings(self) -> dict[str, np.ndarray]:
        return {'maps': drawn_maps(self._engine(), self.valid.store, PREVIEWS)}

    def _engine(self) -> CooperEngine:
        assert self.vae is not None  # the recipes read its latents
        return drawing_engine(self.module, self.vae, self.tokenizer, self.specials, self._card())

    def _with_own_maps(self, source: Source) -> Source:
        """Frames whose traces show what the network draws before it trains."""
        coded = source.cache.latents
        if coded is None:
            raise BadOption('own_maps needs a recipe that reads maps',
                            value=', '.join(self.recipes), limit=', '.join(LATENT_RECIPES))
        options = self.options
        drawn = own_maps(source.store, self._engine(), nn.ModuleList([self.module, self.vae]),
                         options.flow_points, min(options.own_maps, len(coded)),
                         ImageTransform(*options.vit_rule))
        return replace(source, cache=replace(source.cache, own=drawn))

    def _kept_start(self) -> Path | None:
        """Where the start is kept, for when the run goes on or ends; `learned` may be chosen then.
        """
        settings, options = self.settings, self.options
        wanted = options.learned < 1 or options.own_maps > 0
        if wanted and not settings.start:
            raise BadOption('learned and own_maps need a network to start from', value='start: ""',
                            remedy='name a model folder or a run in `start`')
        if not settings.start:
            return None
        with first_before_others():
            return kept_start(Path(settings.folder), self._named_start, wanted)

    def _named_start(self) -> dict[str, Tensor]:
        return start_weights(self.settings.start, self.settings.vae)

    def _start_weights(self) -> dict[str, Tensor]:
        weights = load_file(self._start) if self._start else self._named_start()
        if self.options.point:
            check_moved(moved_layers(weights, self.config))
        return deepen(cut_latents(weights, self.config), self.config)

    def _network(self) -> Cooper:
        torch.manual_seed(self.settings.seed)
        network = Cooper(self.config).initialise(self.options.init_std)
        if self.settings.start:
            take_weights(network, self._start_weights())
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
                              count, self.settings.optim.bfloat16)
        return Source(store, cache, PROMPTS, self.tokenizer.encode, options.conclude,
                      options.rephrase)

    def _usable(self, source: Source, name: str) -> list[int]:
        """Frames that a recipe learns from, or is validated on."""
        limit = self.recipes[name].only_first if source is self.train else 0
        return [frame for frame in source.usable[name] if not limit or frame < limit]

    def _check_usable(self) -> None:
        for split, source in (('train', self.train), ('valid', self.valid)):
            for name in self.recipes:
                if not self._usable(source, name):
                    raise BadData(f'recipe {name} has no frame it can use',
                                  value=f'data.{split}: {len(source.store)}, data.questions: '
                                        f'{self.settings.data.questions}',
                                  limit=RECIPES[name].needs,
                                  remedy=f'raise data.questions, data.{split} or only_first of '
                                         'the recipe, or leave it out')

    def _recipe(self, generator: torch.Generator) -> str:
        names = list(self.recipes)
        weights = torch.tensor([float(self.recipes[name].weight) for name in names])
        return names[int(torch.multinomial(weights, 1, generator=generator))]
