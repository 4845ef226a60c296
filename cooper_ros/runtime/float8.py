"""Linear weights in float8 (e4m3, one scale per output channel), by torchao.

On a GPU that multiplies float8 (compute capability 8.9 or newer) inputs are rounded to float8 too,
one scale per token, and the product runs there. On a CPU, and in number types that the GPU's
kernel does not return, only the weights are float8 and every product widens them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cooper_ros.errors import BadOption, NotReady

CAPABILITY = (8, 9)
MULTIPLE = 16  # of both widths of a layer; the kernel takes no others
LEAST = 1e-12  # largest value a row is taken to have at least; without it zeros become NaN
REMEDY = 'quantise the original checkpoint to int8'


def check_widths(shapes: set[tuple[int, ...]]) -> None:
    """Refuse layers that no float8 kernel takes.

    Raises:
        BadOption: a width of a layer is no multiple of 16.
    """
    odd = sorted({width for shape in shapes for width in shape if width % MULTIPLE})
    if odd:
        raise BadOption('fp8 kernels do not take the widths of this network',
                        value=', '.join(map(str, odd)), limit=f'multiples of {MULTIPLE}',
                        remedy='quantise to int8')


def check_device(device: torch.device | str) -> None:
    """Refuse a GPU that cannot multiply float8.

    Raises:
        BadOption: its compute capability is below 8.9.
    """
    device = torch.device(device)
    if device.type == 'cuda' and torch.cuda.get_device_capability(device) < CAPABILITY:
        major, minor = torch.cuda.get_device_capability(device)
        raise BadOption('this GPU cannot multiply fp8', value=f'SM{major}{minor}',
                        limit='SM89 or newer, or device cpu', remedy=REMEDY)


def to_float8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight ``[O, I]`` as float8_e4m3fn and its scales ``[O, 1]`` in float32.

    Raises:
        NotReady: torchao is not installed.
    """
    torchao = _torchao()
    made = torchao.Float8Tensor.from_hp(weight.float(), granularity=torchao.PerRow(),
                                        hp_value_lb=LEAST, kernel_preference=_plain_torch())
    return made.qdata, made.scale


def from_float8(stored: Tensor, scale: Tensor, dtype: torch.dtype,
                dynamic: bool | None = None) -> Tensor:
    """The inverse: a torchao tensor ``[O, I]`` that computes in ``dtype``.

    Args:
        stored, scale: of :func:`to_float8`.
        dtype: of inputs and results.
        dynamic: round inputs to float8 and multiply there; None does so on a GPU in bfloat16.

    Raises:
        NotReady: torchao is not installed.
    """
    torchao = _torchao()
    if dynamic is None:
        dynamic = stored.is_cuda and dtype == torch.bfloat16
    config = inputs = None
    if dynamic:
        config, inputs = torchao.Float8MMConfig(use_fast_accum=True), _input_rule(torchao)
    return torchao.Float8Tensor(stored, scale, [1, stored.shape[1]], config, inputs,
                                _plain_torch(), dtype)


def _input_rule(torchao: Any) -> Any:
    """How inputs are rounded: one scale per token."""
    from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs
    return QuantizeTensorToFloat8Kwargs(granularity=torchao.PerRow(), hp_value_lb=LEAST,
                                        kernel_preference=_plain_torch())


def _plain_torch() -> Any:
    """torch's own kernels, whatever else is installed: the ones that are tested."""
    from torchao.quantization.quantize_.common import KernelPreference
    return KernelPreference.TORCH


def _torchao() -> Any:
    try:
        import torchao.quantization
    except ImportError as error:
        raise NotReady('quantised weights need torchao', value=error,
                       remedy='pip install --no-deps -r requirements/quant.txt') from error
    return torchao.quantization
