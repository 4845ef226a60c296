"""A deeper network starts by doing what the one it was made of does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import SPECIALS, tiny_config
from test_training_run import mixed_values

from cooper_ros.errors import BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import LatentItem, TextItem, VisionItem, pack
from cooper_ros.model.training_forward import forward_train
from cooper_ros.training.checkpoints import save_checkpoint
from cooper_ros.training.mixed_task import MixedTask
from cooper_ros.training.settings import TrainSettings
from cooper_ros.training.starting import LANGUAGE, STACKS, deepen, moved_layers
from cooper_ros.training.typed import build
from cooper_ros.training.watching import check_moved

SHALLOW, DEEP = 3, 5
ITEMS = [VisionItem(torch.randn(3, 28, 42, generator=torch.Generator().manual_seed(0))),
         TextItem((5, 6, 7), loss=True), LatentItem(torch.ones(16, 4, 4), loss=True, logit=0.5)]


def config(layers: int) -> ModelConfig:
    tiny = tiny_config()
    return replace(tiny, llm=replace(tiny.llm, num_layers=layers),
                   vit=replace(tiny.vit, num_layers=layers))


@pytest.fixture
def networks() -> tuple[Cooper, Cooper]:
    torch.manual_seed(0)
    shallow, deep = Cooper(config(SHALLOW)).initialise(0.2), Cooper(config(DEEP))
    for name, value in shallow.named_parameters():
        if name.endswith('bias') or not value.any():  # drawing starts at nothing
            torch.nn.init.normal_(value)
    deep.load_state_dict(deepen(shallow.state_dict(), deep.config), strict=True)
    return shallow, deep


def outputs(network: Cooper) -> tuple[torch.Tensor, torch.Tensor]:
    batch = pack([ITEMS], network.config, SPECIALS, generator=torch.Generator().manual_seed(1))
    output = forward_train(network, batch)
    return output.ce[0], output.mse[0]


def test_a_deeper_network_says_and_draws_the_same(networks: tuple[Cooper, Cooper]) -> None:
    for was, now in zip(*map(outputs, networks)):
        assert was.abs().min() > 0
        torch.testing.assert_close(now, was, rtol=0, atol=0)


def test_new_layers_learn_from_the_first_step(networks: tuple[Cooper, Cooper]) -> None:
    deep = networks[1]
    ce, mse = outputs(deep)
    (ce.sum() + mse.sum()).backward()
    silent = [value for value in deep.parameters() if value.dim() == 2 and not value.any()]
    assert len(silent) == (DEEP - SHALLOW) * (2 + 4)  # attention and MLP, of eyes and two experts
    assert all(value.grad is not None and value.grad.any() for value in silent)


def test_new_layers_are_spread_among_the_old(networks: tuple[Cooper, Cooper]) -> None:
    shallow, deep = (network.state_dict() for network in networks)
    for stack in STACKS:
        norm = next(name for name in shallow if name.startswith(f'{stack}0.')
                    and name.endswith('k_proj.weight')).removeprefix(f'{stack}0.')
        copied = [0, 0, 1, 2, 2]  # groups of 1 and 2, each with a copy of its last
        for place, old in enumerate(copied):
            assert torch.equal(deep[f'{stack}{place}.{norm}'], shallow[f'{stack}{old}.{norm}'])


def test_as_many_layers_or_fewer_are_left_alone() -> None:
    weights = Cooper(config(SHALLOW)).state_dict()
    for layers in (SHALLOW, SHALLOW - 1):
        assert deepen(weights, config(layers)) == weights


def test_more_than_twice_as_deep_is_refused() -> None:
    with pytest.raises(BadOption, match=r'twice as deep.*got 5 layers.*4: the start has 2'):
        deepen(Cooper(config(2)).state_dict(), config(DEEP))


@pytest.mark.parametrize(('found', 'wanted', 'moved'), [
    (6, 6, []), (6, 5, []), (6, 7, []), (6, 8, [3, 4, 5]), (6, 9, [2, 3, 4, 5]),
    (6, 12, [1, 2, 3, 4, 5]), (5, 6, []), (12, 14, list(range(6, 12)))])
def test_layers_behind_the_first_new_one_get_other_numbers(found: int, wanted: int,
                                                           moved: list[int]) -> None:
    weights = {f'{LANGUAGE}{layer}.x': torch.tensor(layer) for layer in range(found)}
    deep = deepen(weights, config(wanted))
    assert list(moved_layers(weights, config(wanted))) == moved
    assert moved == [layer for layer in range(found) if deep[f'{LANGUAGE}{layer}.x'] != layer]


def test_heads_that_were_taught_to_look_are_not_moved() -> None:
    """Lessons know layers by number; a silent copy would take those of the one that learnt."""
    for harmless in (range(6, 6), range(6, 12)):
        check_moved(harmless)
    with pytest.raises(BadOption, match='would move the heads of words that point; got layers 3, '
                                        '4, 5 of the start; allowed: new layers behind layer 5; '
                                        'remedy: add fewer layers'):
        check_moved(range(3, 6))


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """Settings of a network of six layers whose words point, and a run of it to go on from."""
    data = {'folder': str(tmp_path / 'data'), 'seed': 0, 'train': 2, 'valid': 1, 'questions': 0}
    found = {**mixed_values(data, tmp_path, tmp_path / 'run'), 'vae': ''}
    found['model']['llm'] |= {'num_layers': 6, 'num_heads': 6, 'num_kv_heads': 3,
                              'hidden_size': 96}
    found['task'] |= {'point': 0.5, 'know': 1.0,
                      'recipes': {'describe': {'weight': 1, 'frames': 1}}}
    task = MixedTask(build(TrainSettings, found))
    save_checkpoint(tmp_path / 'start', {'ema': task.module.state_dict()})
    return {**found, 'start': str(tmp_path / 'start')}


def test_a_run_whose_words_point_takes_a_new_layer_at_the_end_alone(values: dict[str, Any]
                                                                    ) -> None:
    layers = values['model']['llm']
    layers['num_layers'] = 7
    assert MixedTask(build(TrainSettings, values)).config.llm.num_layers == 7
    layers['num_layers'] = 8
    with pytest.raises(BadOption, match='would move the heads of words that point'):
        MixedTask(build(TrainSettings, values))
    values['task'] |= {'point': 0.0}  # nothing is asked of a layer by its number
    assert MixedTask(build(TrainSettings, values)).config.llm.num_layers == 8
