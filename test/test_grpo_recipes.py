"""The recipes in config/train that learn from published sets or by reward say what they should."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cooper_ros.training.checker import RuleChecker, make_checker
from cooper_ros.training.corpus_items import corpus_options
from cooper_ros.training.datasets.catalogue import KINDS
from cooper_ros.training.grpo_task import grpo_options
from cooper_ros.training.rewards import RewardOptions
from cooper_ros.training.rollouts import RolloutOptions
from cooper_ros.training.settings import TrainSettings, load_settings
from cooper_ros.training.trainer import learning_rate

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
    """Reference 6.6 and 11.2 to 11.5."""
    settings, text = (load(FOLDER / f'{name}.yaml') for name in ('grpo_7b', 'text_grpo_7b'))
    options, lean = grpo_options(settings.task), grpo_options(text.task)
    assert asdict(settings.optim) == asdict(settings.optim) | {
        'learning_rate': 3e-6, 'betas': (0.9, 0.999), 'eps': 1e-8, 'clip': 1.0, 'warmup': 0,
        'schedule': 'cosine', 'ema': 0.0}
    assert replace(text.optim, learning_rate=3e-6) == settings.optim
    assert text.optim.learning_rate == 1e-5
    rollout, reward = RolloutOptions(**options.rollout), RewardOptions(**options.reward)
    assert settings.batch * rollout.group == 1024 and settings.steps == 21
    assert (rollout.max_turns, rollout.max_turn_tokens, rollout.temperature) == (3, 4096, 1.0)
    assert (reward.format_weight, reward.exploration, reward.threshold) == (1.0, 0.2, 3)
    assert options.drawing == {'flow_points': 30, 'flow_shift': 3.0, 'cfg_text': 4.0,
                               'cfg_image': 2.0, 'cfg_low': 0.4, 'cfg_high': 1.0,
                               'cfg_renorm': 'global'}  # reference 6.5
    assert options.epsilon == 0.2 and not options.freeze and not lean.freeze
    assert lean.reward == {'format_weight': 0.1, 'exploration': 0.0}


@pytest.mark.parametrize('name, steps', [('amg_7b', 6000), ('sft_7b', 300)])
def test_the_published_numbers_of_both_supervised_stages(name: str, steps: int) -> None:
    """Reference 9.4, 9.5, 10.1 and 10.2; the point that is gone on from."""
    settings = load(FOLDER / f'{name}.yaml')
    options = corpus_options(settings.task)
    assert set(options.sets) <= set(KINDS) and options.max_tokens == 10240
    assert asdict(settings.optim) == asdict(settings.optim) | {
        'learning_rate': 5e-6, 'warmup': 500, 'schedule': 'constant', 'ema': 0.995, 'clip': 1.0,
        'eps': 1e-15, 'betas': (0.9, 0.95)}
    assert not settings.optim.ema_ramp  # the whole decay from the first step on
    assert settings.steps == steps and options.freeze == ('vit_model',) and options.map_latents
    assert (options.timestep_shift, options.ce_weight, options.mse_weight) == (1.0, 1.0, 1.0)
    shares = {key: entry.weight for key, entry in options.sets.items()}
    assert shares == ({'vkitti': 0.05, 'hypersim': 0.45, 'ade20k': 0.5} if name == 'amg_7b' else
                      {'cooper': 1.0})


def test_the_published_learning_rates() -> None:
    """Warm-up of 500 steps, then constant; GRPO falls along a cosine, to 1 % here."""
    sft, grpo = (load(FOLDER / f'{name}.yaml') for name in ('sft_7b', 'grpo_7b'))
    warm = [learning_rate(step, 6000, sft.optim) / 5e-6 for step in (1, 300, 500, 6000)]
    assert warm == pytest.approx([1 / 500, 0.6, 1, 1])
    falling = [learning_rate(step, 21, grpo.optim) / 3e-6 for step in range(1, 22)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == pytest.approx(0.9945, abs=1e-4) and falling[-1] == pytest.approx(0.01)
