"""Float8 weights: error bounds, both ways of computing, and where they are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from model_folder import write_model_folder
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear

from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.float8 import check_widths, from_float8, to_float8
from cooper_ros.runtime.quantise import quantise_folder

LARGEST = 448  # of e4m3
FIRST = 'model-00001.safetensors'
KEY = 'language_model.model.layers.1.self_attn.q_proj_moe_gen.weight'


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp('float8')
    plain = write_model_folder(root / 'plain')
    for name in ('fp8', 'int8'):
        quantise_folder(plain, root / name, name)
    return {name: root / name for name in ('plain', 'fp8', 'int8')}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_weight_is_within_half_a_float8_step_and_zeros_stay_zeros() -> None:
    weight = _random(16, 64) * torch.logspace(-3, 2, 16)[:, None]
    weight[3] = 0
    stored, scale = to_float8(weight)
    assert stored.dtype == torch.float8_e4m3fn and scale.shape == (16, 1)
    error = (from_float8(stored, scale, torch.float32).dequantize() - weight).abs()
    # three bits behind the leading one; below 2**-6 of the scale steps are 2**-9
    assert (error <= (weight.abs() / 16).clamp(min=scale * 2**-10) * 1.001).all()
    assert error.max() > 0 and (error[3] == 0).all()


def test_the_gpu_way_rounds_inputs_to_float8_token_by_token() -> None:
    """torch has the kernel for CPUs too; the wanted result is computed without torchao."""
    stored, scale = to_float8(_random(32, 64))
    x = _random(10, 64, seed=1).bfloat16()
    x[:5] *= 100
    bias = _random(32, seed=2).bfloat16()
    steps = x.float().abs().amax(-1, keepdim=True) / LARGEST
    rounded = (x.float() / steps).to(torch.float8_e4m3fn).float() * steps
    wanted, unrounded = (linear(value, stored.float() * scale, bias.float())
                         for value in (rounded, x.float()))
    weight = from_float8(stored, scale, torch.bfloat16, dynamic=True)
    found = linear(x, weight, bias)
    assert found.dtype == torch.bfloat16
    assert _distance(found, wanted) < 0.008 < 0.015 < _distance(found, unrounded)
    nothing = torch.zeros(1, 64, dtype=torch.bfloat16)
    assert torch.equal(linear(nothing, weight, bias)[0], bias)


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Mean over tokens of the relative error."""
    return float(((found.float() - wanted).norm(dim=-1) / wanted.norm(dim=-1)).mean())


def test_a_cpu_widens_the_weights_and_leaves_inputs_alone() -> None:
    stored, scale = to_float8(_random(32, 64))
    x = _random(3, 64, seed=1)
    torch.testing.assert_close(linear(x, from_float8(stored, scale, torch.float32)),
                               linear(x, stored.float() * scale))


@pytest.mark.parametrize('capability', [(8, 7), (7, 5)])
def test_a_gpu_without_float8_is_refused_before_anything_is_read(
        folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
        capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    with pytest.raises(BadOption, match='this GPU cannot multiply fp8; got SM{}{}; allowed: SM89 '
                       'or newer.*remedy: .*to int8'.format(*capability)):
        read_model_folder(folders['fp8'], device='cuda', defer_drawing=True)


def test_widths_that_no_kernel_takes_are_refused() -> None:
    with pytest.raises(BadOption, match='widths of this network; got 24, 40; allowed: multiples '
                       'of 16; remedy: quantise to int8'):
        check_widths({(64, 40), (24, 64)})


def test_numbers_of_another_format_are_refused_at_the_start(folders: dict[str, Path],
                                                            tmp_path: Path) -> None:
    """int8 and fp8 have equal shapes; only the number type tells them apart."""
    folder = Path(shutil.copytree(folders['fp8'], tmp_path / 'm'))
    stored = load_file(folder / FIRST)
    save_file({**stored, KEY: stored[KEY].view(torch.int8)}, folder / FIRST)
    with pytest.raises(BadCheckpoint, match=f'declared format; got {KEY}: I8; allowed: F8_E4M3 '
                       'for fp8'):
        read_model_folder(folder, defer_drawing=True)
    card = json.loads((folder / 'cooper.json').read_text())
    card['quantization']['group'] = 64
    (folder / 'cooper.json').write_text(json.dumps(card))
    with pytest.raises(BadCheckpoint, match='cannot be read; got format fp8, group 64'):
        read_model_folder(folder)
