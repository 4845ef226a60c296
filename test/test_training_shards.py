"""Sharded checkpoints of networks of which a part never had a gradient, as in stage grpo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Sequence

import pytest
import torch
from test_grpo_task import likes_low, quiet_progress, settings, weights  # noqa: F401
from torch import nn

from cooper_ros.errors import BadCheckpoint
from cooper_ros.training.grpo_task import GrpoTask
from cooper_ros.training.shards import load_shards, newest_shards, save_shards
from cooper_ros.training.trainer import Trainer


def network() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])


def adam(module: nn.Module) -> torch.optim.AdamW:
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW([
        {'params': [p for p in trained if p.dim() == 2], 'weight_decay': 0.1},
        {'params': [p for p in trained if p.dim() == 1], 'weight_decay': 0.0}], lr=0.1, fused=True)


def learn(module: nn.ModuleList, optimiser: torch.optim.AdamW, layers: Sequence[int]) -> None:
    """A step for each of these layers, which the others have no part in."""
    for layer in layers:
        module[layer](torch.ones(3)).sum().backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.mark.parametrize('before', [(), (0,), (0, 0), (0, 1)])
def test_a_first_gradient_after_a_stop_counts_as_the_first(tmp_path: Path,
                                                           before: Sequence[int]) -> None:
    after, whole = (1, 0, 1), network()
    learn(whole, adam(whole), (*before, *after))
    stopped = network()
    optimiser = adam(stopped)
    learn(stopped, optimiser, before)
    save_shards(tmp_path, stopped, optimiser, {}, 7)
    assert len(optimiser.state) == 2 * len(set(before))  # saving makes none
    again = network()
    optimiser = adam(again)
    assert load_shards(newest_shards(tmp_path), again, optimiser, {}) == 7
    assert len(optimiser.state) == 2 * len(set(before))
    learn(again, optimiser, after)
    assert all(map(torch.equal, again.parameters(), whole.parameters()))


def test_moments_of_which_a_part_is_missing_are_refused(tmp_path: Path) -> None:
    module = network()
    optimiser = adam(module)
    learn(module, optimiser, (0, 1))
    del optimiser.state[module[1].weight]['exp_avg']
    save_shards(tmp_path, module, optimiser, {}, 2)
    again = network()
    with pytest.raises(BadCheckpoint, match='damaged; got .*Missing key .*1.weight.exp_avg'):
        load_shards(newest_shards(tmp_path), again, adam(again), {})


def test_other_trained_weights_are_refused(tmp_path: Path) -> None:
    module = network()
    module[1].requires_grad_(False)
    optimiser = adam(module)
    learn(module, optimiser, (0,))
    save_shards(tmp_path, module, optimiser, {}, 1)
    again = network()
    with pytest.raises(BadCheckpoint, match='does not fit .*other weights trained'):
        load_shards(newest_shards(tmp_path), again, adam(again), {})


@pytest.mark.parametrize('style', ['interleaved', 'text'])
def test_stage_grpo_goes_on_in_shards_as_if_never_stopped(tmp_path: Path, style: str,
                                                          likes_low: None) -> None:  # noqa: F811
    """Nothing asks `llm2vae` for a gradient, and in words only no weight that draws."""
    rollout = {'style': style, 'group': 4, 'max_turns': 1, 'max_turn_tokens': 5}
    runs = [replace(settings(tmp_path, name, rollout=rollout), parallel='fsdp', preview_every=9)
            for name in ('whole', 'stopped')]
    whole = GrpoTask(runs[0])
    Trainer(whole, runs[0]).run(until=2)
    Trainer(GrpoTask(runs[1]), runs[1]).run(until=1)
    again = GrpoTask(runs[1])
    trainer = Trainer(again, runs[1])
    assert trainer.step == 1 and again.module.llm2vae.weight not in trainer.optimiser.state
    trainer.run(until=2)
    found = weights(again)
    assert all(torch.equal(found[name], value) for name, value in weights(whole).items())
