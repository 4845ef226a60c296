"""A deeper network starts by doing what the one it was made of does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.tiny import SPECIALS, tiny_config

from cooper_ros.errors import BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import LatentItem, TextItem, VisionItem, pack
from cooper_ros.model.training_forward import forward_train
from cooper_ros.training.starting import STACKS, deepen

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
