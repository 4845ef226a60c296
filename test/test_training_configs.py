"""Every shipped training file names settings that exist, down to the last part."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

import pytest

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption
from cooper_ros.training.checker import make_checker
from cooper_ros.training.corpus_items import corpus_options
from cooper_ros.training.datasets.catalogue import COOPER, draw_kind
from cooper_ros.training.grpo_task import GrpoOptions, grpo_options
from cooper_ros.training.mixed_options import MixOptions
from cooper_ros.training.rewards import RewardOptions
from cooper_ros.training.rollouts import RolloutOptions
from cooper_ros.training.see_task import SeeOptions
from cooper_ros.training.settings import TrainSettings, load_settings
from cooper_ros.training.typed import build
from cooper_ros.training.vae_task import VaeOptions

FILES = sorted((Path(__file__).parents[1] / 'config' / 'train').glob('*.yaml'))
PROCESSES = 8  # that the 7B files are written for


def parts(settings: TrainSettings) -> Mapping[str, Any]:
    """The stage's settings, each part built by what reads it."""
    task = settings.task
    if settings.stage == 'vae':
        return {'task': build(VaeOptions, task)}
    if settings.stage == 'see':
        return {'task': build(SeeOptions, task)}
    if settings.stage == 'grpo':
        options = grpo_options(task)
        return {'task': options, **grpo_parts(options)}
    if 'sets' in task:
        options = corpus_options(task)
        for name in options.sets:
            assert name == COOPER or draw_kind(name)
        return {'task': options, 'drawing': CooperConfig().replaced(**options.drawing)}
    return {'task': build(MixOptions, task)}


def grpo_parts(options: GrpoOptions) -> dict[str, Any]:
    """What stage grpo builds out of its options."""
    rollout = build(RolloutOptions, options.rollout)
    return {'rollout': rollout, 'checker': make_checker(options.checker),
            'reward': build(RewardOptions, {'style': rollout.style, **options.reward}),
            'drawing': CooperConfig().replaced(**options.drawing)}


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_a_shipped_file_names_known_settings(path: Path) -> None:
    settings = load_settings(path)
    assert parts(settings)
    assert f'train {settings.stage} --config config/train/{path.name}' in path.read_text()
    if path.stem.endswith('_7b'):
        assert settings.batch % PROCESSES == 0 and settings.parallel == 'fsdp'


@pytest.mark.parametrize('size', ['7b', 'nano'])
def test_the_rows_of_the_paper_are_configurations(size: str) -> None:
    """COOPER and the reasoning-enhanced row differ from their start by these files alone; the
    perception-enhanced one is the start, or `nano_maps_grpo.yaml`, asked with maps."""
    names = (('grpo_7b', 'text_grpo_7b') if size == '7b' else
             ('nano_grpo', 'nano_text_grpo', 'nano_maps_grpo'))
    made = [parts(load_settings(path)) for name in names for path in FILES if path.stem == name]
    assert [part['rollout'].style for part in made] == ['interleaved', 'text', 'maps'][:len(names)]
    assert made[0]['reward'].exploration == 0.2 and made[1]['reward'].exploration == 0
    assert [part['reward'].format_weight for part in made[:2]] == [1.0, 0.1]
    assert all(part['rollout'].group == 8 for part in made)


@pytest.mark.parametrize(('changes', 'name'), [
    ({'rollout': {'speed': 1}}, 'speed'), ({'reward': {'kindness': 1}}, 'kindness'),
    ({'drawing': {'flow_dots': 1}}, 'flow_dots'), ({'haste': 1}, 'haste'),
    ({'rollout': {'group': '8'}}, "group has the wrong type; got '8'; allowed: int"),
    ({'checker': {'grade': 5}}, 'task.checker.grade'), ({'unbiased': 1}, 'task.unbiased'),
    ({'checker': {'judge': {'model': 'x'}}}, 'needs url too'),
    ({'categories': 'counting'}, 'task.categories'), ({'categories': [1]}, 'task.categories')])
def test_a_wrong_name_anywhere_is_refused(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(BadOption, match=name):
        grpo_parts(grpo_options(changes))


@pytest.mark.parametrize(('recipes', 'words'), [
    ({}, 'no such recipe'), ({'dream': {'weight': 1, 'frames': 1}}, 'no such recipe; got dream'),
    ({'draw': {'weight': 1}}, 'task.recipes.draw is incomplete; .*needs frames'),
    ({'draw': {'weight': 0, 'frames': 1}}, 'a recipe needs a weight'),
    ({'draw': {'weight': 1, 'frames': 1, 'pictures': 2}}, 'unknown .*recipes.draw; got pictures')])
def test_a_wrong_recipe_is_refused(recipes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        build(MixOptions, {'recipes': recipes}, 'task')
