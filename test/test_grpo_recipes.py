"""The recipes in config/train that learn from published sets or by reward say what they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from cooper_ros.training.checker import RuleChecker, make_checker
from cooper_ros.training.corpus_items import corpus_options
from cooper_ros.training.datasets.catalogue import KINDS
from cooper_ros.training.grpo_task import grpo_options
from cooper_ros.training.rewards import RewardOptions
from cooper_ros.training.rollouts import RolloutOptions
from cooper_ros.training.settings import TrainSettings, load_settings

FOLDER = Path(__file__).parents[1] / 'config' / 'train'
GRPO = sorted(FOLDER.glob('*grpo*.yaml'))


def load(path: Path) -> TrainSettings:
    return load_settings(path)


@pytest.mark.parametrize('path', GRPO, ids=lambda path: path.stem)
def test_every_reward_recipe_is_well_formed(path: Path) -> None:
    settings = load(path)
    options = grpo_options(settings.task)
    rollout = RolloutOptions(**options.rollout)
    RewardOptions(**{'style': rollout.style, **options.reward})
    assert isinstance(make_checker(options.checker), RuleChecker)
    assert settings.stage == 'grpo' and settings.start and rollout.group == 8


def test_the_published_numbers_of_grpo() -> None:
    settings = load(FOLDER / 'grpo_7b.yaml')
    options = grpo_options(settings.task)
    assert (settings.optim.learning_rate, settings.optim.betas) == (3e-6, (0.9, 0.999))
    assert settings.batch * options.rollout['group'] == 1024
    assert options.drawing == {'flow_points': 30, 'flow_shift': 3.0, 'cfg_text': 4.0,
                               'cfg_image': 2.0, 'cfg_low': 0.4, 'cfg_high': 1.0,
                               'cfg_renorm': 'global'}  # reference 6.5
    assert options.epsilon == 0.2
    text = load(FOLDER / 'text_grpo_7b.yaml')
    assert text.task['reward'] == {'format_weight': 0.1, 'exploration': 0.0}


@pytest.mark.parametrize('name, steps', [('amg_7b', 6000), ('sft_7b', 600)])
def test_the_published_numbers_of_both_supervised_stages(name: str, steps: int) -> None:
    settings = load(FOLDER / f'{name}.yaml')
    options = corpus_options(settings.task)
    assert set(options.sets) <= set(KINDS) and options.max_tokens == 10240
    optim = settings.optim
    assert (optim.learning_rate, optim.warmup, optim.ema, optim.eps) == (5e-6, 500, 0.995, 1e-15)
    assert not optim.ema_ramp  # the whole decay from the first step on
    assert settings.steps == steps and options.freeze == ('vit_model',)
    shares = [entry.weight for entry in options.sets.values()]
    assert sum(shares) == pytest.approx(1)
