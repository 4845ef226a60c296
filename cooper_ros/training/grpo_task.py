"""Stage ``grpo``: sampled answers, the cooperative reward, policy updates (reference section 11).

The network that samples is the network that trains; where that is in shards, or computes in
bfloat16 on a GPU, it is a copy that lives for the rollouts of a step. Gradients are taken group by
group inside :meth:`GrpoTask.loss`, so that the activations of one group exist at a time; what the
loop gets back is the value alone. Written here rather than on trl's GRPOTrainer because that one
scores a single text per rollout, not text between pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cooper_ros.engine.engine import CooperEngine
from cooper_ros.engine.events import Answer, DepthMap
from cooper_ros.engine.settings import draw_options, offline
from cooper_ros.errors import BadOption
from cooper_ros.scenes.questions import CATEGORIES
from cooper_ros.scoring.judge import Claim
from cooper_ros.training.actor import Actor
from cooper_ros.training.checker import Checker, JudgeChecker, make_checker
from cooper_ros.training.data import frame_store
from cooper_ros.training.datasets.cooper_set import RlSet
from cooper_ros.training.datasets.samples import RlSample
from cooper_ros.training.grpo import grpo_loss, log_prob_gap, score_group
from cooper_ros.training.policy import freeze_generation, open_policy
from cooper_ros.training.previews import answer_sheet
from cooper_ros.training.processes import mean_over_processes, training_device
from cooper_ros.training.questions import (
    Chosen,
    Questions,
    SceneQuestions,
    hold_out,
    scattered,
    with_flags,
)
from cooper_ros.training.reward_function import Reward
from cooper_ros.training.rewards import (
    RewardGroup,
    RewardOptions,
    RewardRollout,
    advantages,
)
from cooper_ros.training.rollouts import Group, RolloutOptions
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.sharding import gathered, is_sharded
from cooper_ros.training.starting import kept_start, part_way
from cooper_ros.training.task import batch_indices, require_samples, sample_generators
from cooper_ros.training.typed import build, check_ranges

MODE_OF_STYLE = {'interleaved': 'auto', 'text': 'text', 'maps': 'maps'}
NamedTerms = Mapping[str, float]  # of one rollout


@dataclass(frozen=True)
class GrpoOptions:
    """Settings of this stage; ``batch`` of the run is the number of groups per step,
    over all processes.

    Attributes:
        rollout: fields of :class:`~..rollouts.RolloutOptions`.
        reward: fields of :class:`~..rewards.RewardOptions`, ``function`` among them; the style
            follows the rollout's.
        checker: fields of :class:`~..checker.RuleChecker`, and ``judge``.
        drawing: drawing settings of :class:`~cooper_ros.config.CooperConfig`, such as
            ``flow_points``.
        questions: ``RL_data.jsonl`` or a folder with it; empty for the scenes of ``data``.
        images: folder of its pictures, if not beside it.
        flags: file of ``cooper data flags``; empty for the flags of the questions.
        flagged_only: train on the questions alone that it names. The others have no exploration
            reward, but by a flag of their own.
        categories: which questions about scenes are asked, in training and validation; empty for
            all. Groups that always succeed, or never, teach nothing.
        epsilon: clipping range of the ratio. Nothing is clipped: with one update per batch of
            rollouts the ratio is 1 when its gradient is taken.
        unbiased: follow the gradient of the expected reward itself (Liu et al. 2025,
            arXiv 2503.20783): gains are not divided by the spread of their group, nor sums over
            words by their number. Published: off.
        learned: how far from the start (0) to the trained weights (1) the exported ones stand; may
            be chosen after training, but with ``parallel: fsdp`` below 1 only from the beginning.
            Going back part of the way restores what no question asks for, which drifts in
            training, sooner than it undoes what was learned.
        freeze: name prefixes of weights that do not train; published: none but the autoencoder.
        freeze_gen: leave the generation expert and its adapters as they are. The reward reaches
            them only through the picture they read, and what they draw gets worse; published: off.
        recompute: trade time for memory.
        learned_together: rollouts of a group whose activations exist at a time, 0 for all; each
            such part reads the prefix once more. The gradient does not depend on it.
        valid_questions: questions of a validation; of scenes, from all over those of
            ``data.valid``; of a file, its last ones. These do not train, and neither do others
            about their pictures, where the set can spare them.

    Raises:
        BadOption: a value is unknown, out of its range or not for this stage.
    """

    rollout: Mapping[str, Any] = field(default_factory=dict)
    reward: Mapping[str, Any] = field(default_factory=dict)
    checker: Mapping[str, Any] = field(default_factory=dict)
    drawing: Mapping[str, Any] = field(default_factory=dict)
    questions: str = ''
    images: str = ''
    flags: str = ''
    flagged_only: bool = False
    categories: tuple[str, ...] = ()
    epsilon: float = 0.2
    unbiased: bool = False
    learned: float = 1.0
    freeze: tuple[str, ...] = ()
    freeze_gen: bool = False
    recompute: bool = False
    learned_together: int = 0
    valid_questions: int = 32

    def __post_init__(self) -> None:
        check_ranges(self, (
            ('learned', 0 < self.learned <= 1, '0 < learned <= 1'),
            ('epsilon', 0 < self.epsilon < math.inf, '> 0'),
            ('learned_together', self.learned_together >= 0, '>= 0'),
            ('valid_questions', self.valid_questions >= 0, '>= 0')), 'task')
        if self.flagged_only and not self.flags:
            raise BadOption('task.flagged_only needs a file of flags', value='flags: ""',
                            limit='what cooper data flags wrote',
                            remedy='name it as task.flags, or leave flagged_only out')
        for name in sorted({'sample_posterior', 'time_budget_s'} & set(self.drawing)):
            raise BadOption(f'task.drawing.{name} cannot be set', value=self.drawing[name],
                            limit='rollouts read the mean of the autoencoder, and end by tokens')
        for name in self.categories:
            if name not in CATEGORIES:
                raise BadOption('unknown category', value=name, limit=', '.join(CATEGORIES))


class GrpoTask:
    """See :class:`~cooper_ros.training.task.Task`."""

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.options = options = grpo_options(settings.task)
        self.rollout = build(RolloutOptions, options.rollout, 'task.rollout')
        self.reward = Reward(build(RewardOptions, {'style': self.rollout.style,
                                                   **options.reward}, 'task.reward'))
        self.checker = make_checker(options.checker)
        if isinstance(self.checker, JudgeChecker):
            self.checker.require()
        self.config = offline(**options.drawing, sample_posterior=False,
                              max_turn_tokens=self.rollout.max_turn_tokens)
        self.policy = open_policy(settings.start, settings.vae, options.freeze,
                                  training_device(settings.device))
        self.module = self.policy.network
        self._start = self._kept_start()
        if options.freeze_gen:
            freeze_generation(self.module)
        self.train, self.valid = _questions(settings, options)
        require_samples(len(self.train))
        self.parts = self.policy.parts()
        self.rollout = replace(self.rollout, max_turn_tokens=min(
            self.rollout.max_turn_tokens, self.parts.card.max_turn_tokens))
        self.actor = Actor(self.parts, self.rollout, draw_options(self.config, self.parts.card))

    def samples(self, step: int) -> int:
        """Groups of a step."""
        return self.settings.batch

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Sample, score and learn from one batch of groups.

        Raises:
            BadOption: a judge is configured and has never judged anything, or the reward
                function returned what is no reward.
        """
        chosen = batch_indices(len(self.train), self.settings.batch, self.settings.seed, step)
        rows = [self.train.sample(index) for index in chosen.tolist()]
        noises = sample_generators(self.settings.batch, generator)
        with gathered(self.module):
            groups = self.actor.groups([(row.image, row.question, noise)
                                        for row, noise in zip(rows, noises)])
        terms = self._rewards(rows, groups)
        judged = _judged(self.checker)
        self.module.train()
        return {**self._learn(groups, terms), **_statistics(groups, terms), **judged}

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Greedy accuracy and maps per question; the first question as a sheet."""
        engine = CooperEngine(self.parts, self.config)  # a fresh cache: the weights have moved
        mode = MODE_OF_STYLE[self.rollout.style]
        claims, maps, pictures = [], 0, {}
        for index in range(len(self.valid)):
            row = self.valid.sample(index)
            last = list(engine.ask(row.image, row.question, mode=mode,
                                   max_turns=self.rollout.max_turns))[-1]
            answer = last if isinstance(last, Answer) else None
            claims.append(Claim(row.question, row.answer, answer.reasoning[-1] if answer else ''))
            maps += len(answer.maps) if answer else 0
            if answer and not pictures:
                pictures = {'rollout': answer_sheet(row.image, row.question, row.answer, answer)}
        right = self.checker.scores(claims)
        count = max(1, len(right))
        return {'valid_accuracy': sum(right) / count, 'valid_maps': maps / count}, pictures

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a complete model folder, ``learned`` of the way from the start to the weights."""
        if self.options.learned < 1:
            assert self._start is not None  # it is wanted
            weights = part_way(load_file(self._start), weights, self.options.learned)
        self.policy.export(folder, weights)

    def _kept_start(self) -> Path | None:
        """Where the start is kept, for the export; `learned` may be chosen then. Of a network that
        is trained in shards only if it is chosen from the beginning: that file is as large."""
        learned, parallel = self.options.learned, self.settings.parallel
        if learned == 1 and parallel == 'fsdp':
            return None
        return kept_start(Path(self.settings.folder), self.module.state_dict, learned < 1)

    def _rewards(self, rows: Sequence[RlSample], groups: Sequence[Group]
                 ) -> list[list[NamedTerms]]:
        claims = [Claim(row.question, row.answer, rollout.texts[-1])
                  for row, group in zip(rows, groups) for rollout in group.rollouts]
        right, size = self.checker.scores(claims), self.rollout.group
        return [self.reward.terms(_rated(row, group, right[number * size:(number + 1) * size],
                                         self.reward.options))
                for number, (row, group) in enumerate(zip(rows, groups))]

    def _learn(self, groups: Sequence[Group], terms: Sequence[Sequence[NamedTerms]]
               ) -> dict[str, Tensor]:
        """Backward passes of all groups with a signal; means over them, detached."""
        total = len(groups) * self.rollout.group
        loss, seen = torch.zeros(()), [torch.zeros(2)]
        for group, rewards in zip(groups, terms):
            gain = advantages([sum(entry.values()) for entry in rewards],
                              not self.options.unbiased)
            if not any(gain) and not is_sharded(self.module):
                continue  # all members did equally well: nothing to learn
            found = torch.stack([self._learn_part(part, torch.tensor(gains), total)
                                 for part, gains in self._parts(group, gain)]).sum(0)
            loss = loss + found[0]
            seen += [found[1:3] / found[3]] if any(gain) else []
        means = torch.stack(seen).sum(0) / mean_over_processes([len(seen) - 1])[0]
        return {'loss': loss, 'entropy': means[0], 'log_prob_gap': means[1]}

    def _parts(self, group: Group, gain: Sequence[float]
               ) -> Iterator[tuple[Group, Sequence[float]]]:
        """A group cut into what is learned from at a time, as many parts in every process."""
        size = self.options.learned_together or len(group.rollouts)
        for first in range(0, len(group.rollouts), size):
            part = slice(first, first + size)
            yield replace(group, rollouts=group.rollouts[part]), gain[part]

    def _learn_part(self, part: Group, gain: Tensor, total: int) -> Tensor:
        """Backward pass; loss, sums of entropy and gap, and the number of tokens ``[4]``."""
        found = self.module(partial(self._pass, part, gain))
        loss = found['loss'] / total
        loss.backward()
        return torch.stack([loss.detach(), *found['sums']]).cpu()

    def _pass(self, group: Group, gain: Tensor) -> dict[str, Tensor]:
        scored = score_group(self.module, group, self.policy.loaded.specials,
                             self.policy.loaded.vocabulary, recompute=self.options.recompute,
                             temperature=self.rollout.temperature)
        length = self.rollout.max_turn_tokens if self.options.unbiased else None
        tokens = torch.ones_like(scored.entropy)
        gaps = log_prob_gap(scored, group) * tokens
        return {'loss': grpo_loss(scored, gain, self.options.epsilon, length=length),
                'sums': torch.stack([scored.entropy, gaps, tokens]).sum(1)}


def grpo_options(values: Mapping[str, Any]) -> GrpoOptions:
    """Check the ``task`` part of a training file.

    Raises:
        BadOption: an unknown setting, or a value out of its range.
    """
    return build(GrpoOptions, values, 'task')


def _questions(settings: TrainSettings, options: GrpoOptions) -> tuple[Questions, Questions]:
    """Questions to train on, and others to validate with."""
    if options.questions:
        rows = RlSet(Path(options.questions),
                                Path(options.images) if options.images else None)
        train, valid = hold_out(rows, rows.pictures(), options.valid_questions)
    else:
        train, valid = (_scenes(settings, options, split) for split in ('train', 'validation'))
        valid = Chosen(valid, scattered(len(valid), options.valid_questions))
    if options.flags:
        train = with_flags(train, Path(options.flags), options.flagged_only)
    return train, valid


def _scenes(settings: TrainSettings, options: GrpoOptions, split: str) -> SceneQuestions:
    data = settings.data
    count = data.train if split == 'train' else data.valid
    store = frame_store(data.folder, split, data.seed, count, data.questions,
                        data.canonical_focal)
    return SceneQuestions(store, f'{split}/{data.seed}', options.categories)


def _rated(row: RlSample, group: Group, right: Sequence[float], options: RewardOptions
           ) -> RewardGroup:
    """A sampled group as a reward function sees it."""
    rollouts = tuple(
        RewardRollout(tuple(rollout.texts), tuple(len(turn.ids) for turn in rollout.turns),
                      tuple(rollout.maps), accuracy, rollout.turns[-1].ended)
        for rollout, accuracy in zip(group.rollouts, right))
    return RewardGroup(row.data_id, row.question, row.answer, row.category, row.flag, row.image,
                       rollouts, options)


def _statistics(groups: Sequence[Group], terms: Sequence[Sequence[NamedTerms]]
                ) -> dict[str, Tensor]:
    """What the published run logs, as means over rollouts."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    flat = [entry for entries in terms for entry in entries]
    totals = [[sum(entry.values()) for entry in entries] for entries in terms]
    values = {
        'reward': [total for group in totals for total in group],
        'reward_std': [np.std(group) for group in totals],
        **{f'reward_{name}': [entry[name] for entry in flat] for name in sorted(flat[0])},
        'turns': [len(rollout.turns) for rollout in rollouts],
        'maps': [len(rollout.maps) for rollout in rollouts],
        'depth_maps': [sum(isinstance(drawn, DepthMap) for drawn in rollout.maps)
                       for rollout in rollouts],
        'tokens': [sum(len(turn.ids) for turn in rollout.turns) for rollout in rollouts],
        'cut_off': [not rollout.turns[-1].ended for rollout in rollouts]}
    return {name: torch.tensor(float(np.mean(entries))) for name, entries in values.items()}


def _judged(checker: Checker) -> dict[str, Tensor]:
    """The share of the last claims that the judge did not judge; nothing where there is none."""
    if not isinstance(checker, JudgeChecker):
        return {}
    checker.require_verdicts()
    return {'judge_failed': torch.tensor(checker.failed_share)}


