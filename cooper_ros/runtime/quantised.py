"""Quantised linear layers of both experts: how they lie on disk and how they are put together.

Symmetric, by torchao: int8 and fp8 with one scale per output channel, int4 with one scale per
group of inputs. On disk a layer is ``X.weight`` (int8 or float8_e4m3fn ``[O, I]``; for int4 uint8
``[O, I / 2]``, the even column in the low half) and ``X.weight_scale`` (float32 ``[O, groups]``).
In memory torchao's portable tensors take one byte per weight for all formats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Iterator, Mapping

import torch
from torch import Tensor

from cooper_ros.errors import BadCheckpoint, BadOption, NotReady
from cooper_ros.runtime.card import FP8, INT4, INT8, Quantisation
from cooper_ros.runtime.float8 import check_device, from_float8, to_float8
from cooper_ros.runtime.weights import Weights, cast

GROUP = 128
LEAST_GROUP = 16
SCALE = '_scale'
STORED = {INT8: 'I8', INT4: 'U8', FP8: 'F8_E4M3'}
LINEAR = re.compile(r'language_model\.model\.layers\.\d+\..*_proj(_moe_gen)?\.weight')


def is_quantised(key: str) -> bool:
    """Whether a tensor is a linear weight of an expert; all others stay as they are."""
    return LINEAR.fullmatch(key) is not None


def choose_group(widths: set[int]) -> int:
    """The largest group up to 128 that divides all input widths.

    Raises:
        BadOption: only groups below 16 do.
    """
    group = GROUP
    while group >= LEAST_GROUP:
        if all(width % group == 0 for width in widths):
            return group
        group //= 2
    raise BadOption('no group size divides the widths of this network',
                    value=', '.join(map(str, sorted(widths))),
                    limit=f'multiples of {LEAST_GROUP}', remedy='quantise to int8')


def check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse layers that torchao cannot give a scale for each output.

    Args:
        shapes: of linear layers to quantise to int8, by key.

    Raises:
        BadOption: a layer has a single input; it is named.
    """
    for key, (rows, columns) in sorted(shapes.items()):
        if columns == 1 < rows:
            raise BadOption('int8 does not take a layer with one input', value=f'{key} '
                            f'{[rows, columns]}', limit='2 inputs or more',
                            remedy='keep the original checkpoint')


def quantise(weight: Tensor, how: Quantisation) -> tuple[Tensor, Tensor]:
    """Weight ``[O, I]`` as it lies on disk, and its scales ``[O, groups]`` in float32.

    Raises:
        NotReady: torchao is not installed.
    """
    if how.format == FP8:
        return to_float8(weight)
    kind = _tensor_class()
    block = (1, how.group or weight.shape[1])
    made = kind.from_hp(weight.float(), block, _target(how))
    return (_packed(made.qdata) if how.format == INT4 else made.qdata), made.scale


def restore(stored: Tensor, scale: Tensor, how: Quantisation, dtype: torch.dtype) -> Tensor:
    """The inverse: a torchao tensor ``[O, I]`` that computes in ``dtype``.

    Raises:
        NotReady: torchao is not installed.
    """
    if how.format == FP8:
        return from_float8(stored, scale, dtype)
    data = _unpacked(stored) if how.format == INT4 else stored
    scale = scale.to(dtype)
    block = (1, how.group or data.shape[1])
    zero = torch.zeros_like(scale, dtype=torch.int8)
    return _tensor_class()(data, scale, zero, _target(how), block, dtype, None)


@dataclass(frozen=True)
class QuantisedWeights(Weights):
    """Tensors of a quantised network: scales are folded into the weights they belong to."""

    how: Quantisation | None = None

    def part(self, wanted: Callable[[str], bool]) -> Weights:
        """The tensors whose keys are wanted, with their scales."""
        return super().part(lambda key: wanted(key.removesuffix(SCALE)))

    def tensors(self, device: torch.device | str,
                dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
        """Read tensors one by one; see :meth:`Weights.tensors`."""
        assert self.how is not None
        if self.how.format == FP8:
            check_device(device)
        waiting: dict[str, Tensor] = {}
        for key, value in super().tensors(device, None):
            weight = key.removesuffix(SCALE)
            if not is_quantised(weight):
                yield key, cast(key, value, dtype)
            elif (other := key[:-len(SCALE)] if key != weight else key + SCALE) in waiting:
                stored, scale = ((value, waiting.pop(other)) if key == weight
                                 else (waiting.pop(other), value))
                yield weight, restore(stored, scale, self.how, dtype or torch.float32)
            else:
                waiting[key] = value


def with_scales(weights: Weights, how: Quantisation | None) -> Weights:
    """Weights as the network sees them; unchanged when nothing is quantised.

    Raises:
        BadCheckpoint: scales are missing, left over or of another group size than declared,
            numbers are stored in another format, or a layer is no matrix.
    """
    scales = {key for key in weights.shapes if is_quantised(key.removesuffix(SCALE))
              and key.endswith(SCALE)}
    if how is None:
        return weights  # a scale without a declaration is an extra tensor
    shapes = {key: shape for key, shape in weights.shapes.items() if key not in scales}
    for key in filter(is_quantised, tuple(shapes)):
        _check_type(key, weights.types[key], how)
        rows, columns = weights.shape(key, 2)
        columns *= 2 if how.format == INT4 else 1
        _check_group(key, columns, how)
        wanted = (rows, columns // how.group if how.group else 1)
        found = weights.shapes.get(key + SCALE)
        if found != wanted:
            raise BadCheckpoint(
                'a quantised layer has no scale' if found is None
                else 'the scales of a layer do not fit the declared group size',
                value=f'{key + SCALE}: {"missing" if found is None else list(found)}',
                limit=f'{list(wanted)} for {how.format}, group {how.group or "per channel"}',
                remedy='quantise the checkpoint again')
        shapes[key] = (rows, columns)
    if orphans := sorted(key for key in scales if key.removesuffix(SCALE) not in shapes):
        raise BadCheckpoint('a scale belongs to no layer', value=orphans[0],
                            remedy='quantise the checkpoint again')
    return QuantisedWeights(shapes, weights.files, weights.types, how)


def _check_type(key: str, found: str, how: Quantisation) -> None:
    if found != STORED[how.format]:
        raise BadCheckpoint('a layer is not stored in the declared format',
                            value=f'{key}: {found}',
                            limit=f'{STORED[how.format]} for {how.format}',
                            remedy='quantise the checkpoint again')


def _check_group(key: str, columns: int, how: Quantisation) -> None:
    if how.group and columns % how.group:
        raise BadCheckpoint('the declared group size does not divide a layer',
                            value=f'{key}: {columns} inputs, group {how.group}',
                            limit='groups of one size', remedy='quantise the checkpoint again')


def _target(how: Quantisation) -> torch.dtype:
    return {INT8: torch.int8, INT4: torch.int4}[how.format]


def _packed(data: Tensor) -> Tensor:
    """int8 ``[O, I]`` of -8 .. 7 to uint8 ``[O, I / 2]``."""
    low, high = (data[:, at::2].to(torch.uint8) & 15 for at in (0, 1))
    return low | high << 4


def _unpacked(data: Tensor) -> Tensor:
    halves = torch.stack([data & 15, data >> 4], dim=-1).flatten(1).to(torch.int8)
    return torch.where(halves > 7, halves - 16, halves)


def _tensor_class() -> type:
    try:
        from torchao.quantization import IntxUnpackedToInt8Tensor
    except ImportError as error:
        raise NotReady('quantised weights need torchao', value=error,
                       remedy='pip install --no-deps -r requirements/quant.txt') from error
    return IntxUnpackedToInt8Tensor
