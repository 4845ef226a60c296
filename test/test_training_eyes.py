"""Stage see and the start of joint: cells, whitening, lookups, places, the optimiser's memory."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.tiny import tiny_runtime
from torch import nn

from cooper_ros.model.network import Cooper
from cooper_ros.scenes.palette import COLOURS, SHAPES
from cooper_ros.training import precision
from cooper_ros.training.data import FrameStore
from cooper_ros.training.eyes import whiten
from cooper_ros.training.optimiser import Muon, Optimisers, make_optimiser
from cooper_ros.training.placing import place
from cooper_ros.training.probe import probes, seen_objects
from cooper_ros.training.see_task import SIDE, SeeTask, cells_of
from cooper_ros.training.settings import Optim, TrainSettings
from cooper_ros.training.task import step_generator
from cooper_ros.training.typed import build

GRID = (9, 12)


def test_cells_hold_what_the_maps_show(store: FrameStore) -> None:
    cells = cells_of(store, [3], GRID)
    labels = cells.label[0].view(*GRID, SIDE, SIDE).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    rows, columns = (np.arange(SIDE * count) + 0.5 for count in GRID)
    across = (columns * 128 / (SIDE * GRID[1])).astype(int)
    down = (rows * 96 / (SIDE * GRID[0])).astype(int)
    assert np.array_equal(labels, store.labels[3][down[:, None], across])


def test_cells_know_the_object_they_show(store: FrameStore) -> None:
    cells = cells_of(store, list(range(8)), GRID)
    known = cells.shape >= 0
    assert known.any() and not known.all()
    for frame, patch, cell in known.nonzero()[::50].tolist():
        x, y, log_z, log_tall, top = cells.lengths[frame, patch, cell].tolist()
        rows = store.objects[frame]
        nearest = np.nanargmin(np.abs(rows[:, 2] - x) + np.abs(rows[:, 3] - y))
        assert np.allclose(rows[nearest][4:], [np.exp(log_z), np.exp(log_tall), top], atol=1e-5)
        assert rows[nearest][1] == cells.shape[frame, patch, cell]


def test_mirrored_cells_are_those_of_the_mirrored_picture(store: FrameStore) -> None:
    frames = [0, 1]
    turned = dataclasses.replace(
        store, **{name: getattr(store, name)[frames][:, :, ::-1]
                  for name in ('depth', 'labels', 'instance')})
    expected = cells_of(turned, frames, (8, 8))  # cell middles lie symmetric in this grid
    found = cells_of(store, frames, (8, 8)).mirrored(torch.tensor([True, True]))
    differ = (found.label != expected.label).float().mean()
    assert differ < 0.1  # the middle of a cell rounds to the pixel on its other side
    assert torch.equal(cells_of(store, frames, GRID).mirrored(torch.tensor([False, False])).label,
                       cells_of(store, frames, GRID).label)


@pytest.mark.parametrize(('only_maps', 'pictures', 'asked'), [
    (False, 1.0, True), (True, 1.0, False), (True, 0.0, True)])
def test_metres_may_be_asked_of_drawn_maps_only(only_maps: bool, pictures: float, asked: bool,
                                                tmp_path: Path) -> None:
    data = {'folder': str(tmp_path), 'seed': 0, 'train': 2, 'valid': 1, 'questions': 1}
    width = {'hidden_size': 32, 'intermediate_size': 48, 'num_layers': 1, 'num_heads': 2}
    model = {'llm': {**width, 'num_kv_heads': 2}, 'max_latent_size': 8, 'vit_side': 12,
             'vit': {**width, 'patch_size': 14, 'image_size': 168}}
    task = SeeTask(build(TrainSettings, {
        'stage': 'see', 'folder': str(tmp_path / 'run'), 'steps': 1, 'batch': 8, 'data': data,
        'model': model, 'task': {'metres_in_maps_only': only_maps, 'picture_share': pictures}}))
    losses = task.loss(1, step_generator(0, 1))
    assert bool(losses['depth'] > 0) is asked and losses['classes'] > 0


def test_whitened_patches_spread_alike(store: FrameStore) -> None:
    torch.manual_seed(0)
    patches = torch.randn(4000, 12) @ torch.diag(torch.logspace(-1, 1, 12)) + 3
    layer = nn.Linear(12, 6)
    whiten(layer, patches)
    spread = layer(patches).T.cov()
    assert torch.allclose(spread, torch.eye(6) * 0.49, atol=0.02)


def test_lookups_tell_the_truth(store: FrameStore) -> None:
    said = {}
    for frame in range(8):
        things = seen_objects(store.instance[frame], store.objects[frame])
        names = [thing.name for thing in things]
        for question, answer in probes(store.instance[frame], store.objects[frame], 40,
                                       torch.Generator().manual_seed(frame)):
            kind = re.sub('|'.join((*COLOURS, *SHAPES)), '', question)
            name = re.search(rf'({"|".join(COLOURS)}) ({"|".join(SHAPES)})', question).group()
            said.setdefault(kind, []).append(answer)
            if answer in ('yes', 'no'):
                assert (name in names) == (answer == 'yes')
                continue
            thing = things[names.index(name)]
            truth = {'how far': f'{np.linalg.norm(thing.position):.2f} m',
                     'how tall': f'{100 * thing.tall:.0f} cm, top {thing.top:.2f} m'}
            assert answer == truth.get(question[:question.index(' is')], answer)
            if answer.startswith('x '):
                assert np.allclose([float(v) for v in answer.split()[1::2]], thing.position,
                                   atol=0.0051)
    assert len(said) == 5 and {'yes', 'no'} <= set(next(v for v in said.values() if 'no' in v))


def test_latents_look_at_the_patch_that_covers_their_place() -> None:
    config = tiny_runtime().network.config
    config = dataclasses.replace(
        config, llm=dataclasses.replace(config.llm, hidden_size=192, num_heads=6, num_kv_heads=2),
        max_latent_size=8, vit_max_num_patch_per_side=12)
    network = Cooper(config).initialise(0.07)
    place(network)
    attention, head = network.language_model.model.layers[0].self_attn, config.llm.head_dim
    query = F.linear(network.latent_pos_embed.pos_embed, attention.q_proj_moe_gen.weight[:head])
    key = F.linear(network.vit_pos_embed.pos_embed, attention.k_proj.weight[:head])
    found = (F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).T).argmax(-1).view(8, 8)
    middles = (torch.arange(8) + 0.5) * 12 / 8 - 0.5
    for at, coordinate in ((found // 12, middles[:, None]), (found % 12, middles[None])):
        assert ((at - coordinate).abs() <= 0.5).all()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.layers[1](torch.tanh(self.layers[0](x)))))


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stack = Block()


def _trained(steps: list[int], state: dict | None = None) -> tuple[dict, dict]:
    torch.manual_seed(1)
    module = Holder()
    optimiser = make_optimiser(module, Optim(learning_rate=1e-2, eps=1e-8, muon=True))
    assert isinstance(optimiser, Optimisers)
    if state:
        module.load_state_dict(state['model'])
        optimiser.load_state_dict(state['optimiser'])
    for step in steps:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        (module.stack(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return module.state_dict(), optimiser.state_dict()


def test_muon_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, _ = _trained([1, 2, 3, 4])
    model, optimiser = _trained([1, 2])
    torch.save({'model': model, 'optimiser': optimiser}, tmp_path / 'state.pt')
    resumed, _ = _trained([3, 4], torch.load(tmp_path / 'state.pt'))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_muon_leaves_the_outer_layers_to_adam() -> None:
    parts = make_optimiser(Holder(), Optim(muon=True)).parts
    shapes = [sorted(tuple(p.shape) for g in part.param_groups for p in g['params'])
              for part in parts]
    assert shapes == [[(1,), (1, 4), (4,), (4,)], [(4, 4), (4, 4)]]


@pytest.mark.parametrize('muon', [False, True])
def test_only_matrices_decay(muon: bool) -> None:
    module = nn.Sequential(Holder(), nn.LayerNorm(4))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimiser = make_optimiser(module, Optim(learning_rate=0.1, muon=muon, weight_decay=0.5))
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, value in module.state_dict().items():
        kept = 0.95 if value.dim() == 2 else 1.0
        assert torch.allclose(value, before[name] * kept)


@pytest.mark.parametrize('shape', [(8, 24), (24, 8), (16, 16)])
@pytest.mark.parametrize('able', [True, False])
def test_muon_takes_the_steps_of_the_library(shape: tuple[int, int], able: bool,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 bit for bit, in float32 within what bfloat16 rounds."""
    monkeypatch.setattr('cooper_ros.training.optimiser.has_bfloat16', lambda device: able)
    steps = {}
    for kind in (Muon, torch.optim.Muon):
        draw = torch.Generator().manual_seed(3)
        matrix = nn.Parameter(torch.randn(shape, generator=draw))
        start, optimiser = matrix.detach().clone(), kind([matrix], lr=0.1, weight_decay=0.01,
                                                         adjust_lr_fn='match_rms_adamw')
        for _ in range(3):
            matrix.grad = torch.randn(shape, generator=draw)
            optimiser.step()
        steps[kind] = (matrix.detach() - start, optimiser.state_dict())
    (ours, state), (theirs, their_state) = steps.values()
    moments, their_moments = (one['state'][0]['momentum_buffer'] for one in (state, their_state))
    assert torch.allclose(ours, theirs, atol=0 if able else 0.05 * float(theirs.abs().max()))
    assert torch.equal(ours, theirs) is able
    assert torch.equal(moments, their_moments)


def test_what_a_cpu_imitates_is_not_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said, x = [], torch.ones(2, 2)
    for able in (True, False):
        monkeypatch.setattr(precision, 'has_bfloat16', lambda device, able=able: able)
        for wanted in (True, False):
            with precision.mixed(x.device, wanted):
                said.append(((x @ x).dtype, precision.spoken(x.device, wanted)))
    assert said == [(torch.bfloat16, 'bfloat16'), (torch.float32, 'float32'),
                    (torch.float32, 'float32, for this CPU imitates bfloat16'),
                    (torch.float32, 'float32')]
