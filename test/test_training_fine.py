"""Drawing in finer latent tokens, batches made ahead, and a decoder that says its class."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from cooper_ros.errors import BadOption
from cooper_ros.model.config import LlmConfig, ModelConfig, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.packing import IGNORED
from cooper_ros.model.patches import patchify, position_ids
from cooper_ros.model.tables import sincos_2d
from cooper_ros.scenes.palette import SCENE_PALETTE, palette_rgb
from cooper_ros.training.ahead import STEPS, Ahead
from cooper_ros.training.starting import cut_latents
from cooper_ros.training.vae_task import class_loss

COARSE, FINE, SIDE = 4, 2, 3


def config(patch: int, side: int) -> ModelConfig:
    return ModelConfig(LlmConfig(32, 48, 1, 2, 1, 64), VitConfig(32, 64, 1, 2, image_size=56),
                       VaeConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1), latent_patch_size=patch,
                       max_latent_size=side, vit_max_num_patch_per_side=4)


@pytest.fixture(scope='module')
def networks() -> tuple[Cooper, Cooper]:
    torch.manual_seed(0)
    coarse = Cooper(config(COARSE, SIDE)).initialise(0.1)
    torch.nn.init.normal_(coarse.llm2vae.weight)
    torch.nn.init.normal_(coarse.llm2vae.bias)
    fine = Cooper(config(FINE, SIDE * COARSE // FINE))
    fine.load_state_dict(cut_latents(coarse.state_dict(), fine.config), strict=True)
    return coarse, fine


def test_a_fine_token_reads_what_a_coarse_one_of_equal_parts_would(
        networks: tuple[Cooper, Cooper]) -> None:
    coarse, fine = networks
    part = torch.randn(16, FINE, FINE)
    whole = part.repeat(1, COARSE // FINE, COARSE // FINE)
    torch.testing.assert_close(fine.vae2llm(patchify(part, FINE)),
                               coarse.vae2llm(patchify(whole, COARSE)), rtol=1e-5, atol=1e-5)


def test_fine_tokens_draw_the_mean_of_a_coarse_ones_parts(networks: tuple[Cooper, Cooper]) -> None:
    coarse, fine = networks
    hidden = torch.randn(1, 32)
    drawn = coarse.velocity(hidden).view(2, FINE, 2, FINE, 16)  # row, column, channel
    torch.testing.assert_close(fine.velocity(hidden)[0], drawn.mean((0, 2)).flatten(),
                               rtol=1e-5, atol=1e-5)


def test_fine_tokens_lie_around_the_place_of_the_coarse_one() -> None:
    assert torch.equal(sincos_2d(SIDE, 32), sincos_2d(SIDE, 32, 1))
    fine, slowest = sincos_2d(2 * SIDE, 32, 2), sincos_2d(SIDE, 32)
    rows = position_ids((2, 2), 2 * SIDE)  # the parts of the first coarse token
    torch.testing.assert_close(fine[rows].mean(0)[:8], slowest[0][:8])  # sines are odd: 0


def test_tokens_that_do_not_fit_are_refused(networks: tuple[Cooper, Cooper]) -> None:
    with pytest.raises(BadOption, match='equal parts.*got 3.*a divisor of 4'):
        cut_latents(networks[0].state_dict(), config(3, 4))


def test_weights_of_the_right_size_stay() -> None:
    weights = Cooper(config(2, 3)).state_dict()
    assert cut_latents(weights, config(2, 3)).items() >= weights.items()


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_batches_come_in_order_and_only_beside_a_device_ahead(device: str) -> None:
    made, first = [], threading.current_thread()

    def make(step: int) -> tuple[int, bool]:
        made.append(step)
        return step * step, threading.current_thread() is first
    ahead = Ahead(make, torch.device(device))
    assert [ahead(step) for step in (1, 2, 3)] == [(n * n, device == 'cpu') for n in (1, 2, 3)]
    if ahead.pool:
        ahead.pool.shutdown()  # waits for what is being made
    assert sorted(made) == list(range(1, 4 if device == 'cpu' else 4 + STEPS))


def test_what_fails_ahead_is_told_when_its_step_comes() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise BadOption('no such frame', value=step)
        return step
    ahead = Ahead(make, torch.device('cuda'))
    assert ahead(1) == 1
    with pytest.raises(BadOption, match='no such frame'):
        ahead(2)


def pictures() -> tuple[Tensor, Tensor]:
    classes = torch.tensor([[[0, 3], [IGNORED, 10]]])
    colours = torch.from_numpy(palette_rgb())[classes.clamp(min=0)].permute(0, 3, 1, 2)
    return colours.float() / 127.5 - 1, classes


def test_a_decoder_is_told_its_mixtures() -> None:
    exact, classes = pictures()
    assert float(class_loss(exact, classes)) < 1e-3
    mixture = exact.clone()
    mixture[0, :, 0, 1] = torch.tensor([1.0, 0, 0])  # red, half way to white
    mixture.requires_grad_()
    loss = class_loss(mixture, classes)
    loss.backward()
    assert float(loss.detach()) > 0.2
    assert (mixture.grad[0, 1:, 0, 1] > 0).all()  # away from white
    assert torch.equal(mixture.grad[0, :, 1, 0], torch.zeros(3))  # no class, no opinion


def test_pictures_without_classes_teach_none() -> None:
    exact, classes = pictures()
    assert float(class_loss(exact, torch.full_like(classes, IGNORED))) == 0
    assert len(SCENE_PALETTE) == 11
