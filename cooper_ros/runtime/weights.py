"""Tensors on disk: one safetensors file or several, and their strict way into a module."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cooper_ros.errors import BadCheckpoint
from cooper_ros.runtime.card import read_json
from cooper_ros.runtime.files import PART, refusals_named, room, sync_file, sync_folder

NETWORK_FILES = ('ema.safetensors', 'model.safetensors')
VAE_FILE = 'ae.safetensors'
VAE_PREFIXES = ('encoder.', 'decoder.')
SHOWN = 5
PLAIN = {'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16,
         'BF16': torch.bfloat16}  # as safetensors calls what weights are stored in


@dataclass(frozen=True)
class Weights:
    """Tensors of one module, not read yet.

    Attributes:
        shapes: of every tensor by key.
        files: the file that holds it.
        types: its number type as safetensors calls it, such as ``BF16``.
    """

    shapes: Mapping[str, tuple[int, ...]]
    files: Mapping[str, Path]
    types: Mapping[str, str]

    @property
    def name(self) -> str:
        """File names, for messages."""
        return ', '.join(sorted({path.name for path in self.files.values()})) or 'no file'

    def shape(self, key: str, axes: int) -> tuple[int, ...]:
        """Shape of one tensor that has so many axes.

        Raises:
            BadCheckpoint: it is missing, empty, or has another number of axes.
        """
        if key not in self.shapes:
            raise BadCheckpoint(f'{self.name} lacks a tensor that sizes are read from',
                                value=f'missing: {key}', limit='the published layout',
                                remedy='copy the file again')
        shape = self.shapes[key]
        if len(shape) != axes or not all(shape):
            raise BadCheckpoint(f'{self.name} has a tensor that no sizes can be read from',
                                value=f'{key} {list(shape)}', limit=f'{axes} sizes above 0',
                                remedy='use the files that belong together')
        return shape

    def part(self, wanted: Callable[[str], bool]) -> Weights:
        """The tensors whose keys are wanted."""
        return replace(self, shapes={key: shape for key, shape in self.shapes.items()
                                     if wanted(key)},
                       files={key: path for key, path in self.files.items() if wanted(key)})

    def tensors(self, device: torch.device | str,
                dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
        """Read tensors one by one, each already where and what it shall be.

        Raises:
            BadCheckpoint: a weight is NaN or infinite.
        """
        for path in sorted(set(self.files.values())):
            with safe_open(path, framework='pt', device=str(device)) as file:
                for key in file.keys():
                    if self.files.get(key) == path:
                        yield key, cast(key, file.get_tensor(key), dtype)

    def read(self, key: str, dtype: torch.dtype) -> Tensor:
        """One tensor on the CPU.

        The file is opened for it alone: one that stays open keeps in memory what was read of it.

        Raises:
            BadCheckpoint: a weight is NaN or infinite.
        """
        with safe_open(self.files[key], framework='pt') as file:
            return cast(key, file.get_tensor(key), dtype)


def cast(key: str, stored: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor in its number type, in which plain numbers must be finite.

    Args:
        key: its name, for the message.
        stored: as the file has it.
        dtype: what it shall be; None leaves it.

    Raises:
        BadCheckpoint: a number is NaN or infinite, or becomes infinite in that type.
    """
    made = stored.to(dtype=dtype)
    if made.dtype not in PLAIN.values() or _is_finite(made):
        return made
    if _is_finite(stored):
        raise BadCheckpoint(f'a weight is too large for {_name(made.dtype)}',
                            value=f'{key}: {float(stored.abs().max()):g}',
                            limit=f'at most {torch.finfo(made.dtype).max:g}',
                            remedy='use bfloat16 or float32')
    raise BadCheckpoint('a weight is no finite number', value=f'{key}: NaN or infinite',
                        limit='finite numbers', remedy='copy the file again; if it was trained '
                        'here, take an earlier checkpoint')


def _is_finite(value: Tensor) -> bool:
    """NaN and infinity reach the extremes, which cost a tenth of ``isfinite`` and no copy."""
    return not value.numel() or all(math.isfinite(float(end)) for end in value.aminmax())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def network_weights(folder: Path) -> Weights:
    """Weights of the network in a folder: ``ema`` before ``model``, single before sharded.

    Raises:
        BadCheckpoint: there are none, or a file is damaged or missing.
    """
    for name in NETWORK_FILES:
        if (folder / name).is_file():
            return _read_headers([folder / name], is_vae=False)
    return _read_headers(_indexed(folder), is_vae=False)


def vae_weights(folders: Sequence[Path]) -> Weights:
    """Weights of the autoencoder: ``ae.safetensors`` of the first folder that has it.

    Raises:
        BadCheckpoint: there are none, or the file is damaged.
    """
    for folder in folders:
        if (folder / VAE_FILE).is_file():
            return _read_headers([folder / VAE_FILE], is_vae=True)
    raise BadCheckpoint('the model folder has no autoencoder', value=str(folders[0]),
                        limit=VAE_FILE, remedy='point base_path at the BAGEL-7B-MoT folder')


def check_types(weights: Weights, otherwise: Callable[[str], bool] = lambda key: False) -> None:
    """Refuse tensors that are not stored in a plain floating number type.

    Args:
        weights: as the headers say.
        otherwise: keys of tensors that are stored in a type of their own.

    Raises:
        BadCheckpoint: naming tensors and their types.
    """
    found = [f'{key} {weights.types[key]}' for key in sorted(weights.shapes)
             if weights.types[key] not in PLAIN and not otherwise(key)]
    if found:
        raise BadCheckpoint(f'{weights.name} holds weights of a number type that is not read',
                            value=_listed('of another type', found), limit=', '.join(PLAIN),
                            remedy='store them in one of these; quantised weights are declared '
                                   'in cooper.json, which cooper quantize writes')


def load_strictly(module: nn.Module, weights: Weights, device: torch.device | str,
                  dtype: torch.dtype | None, now: Callable[[str], bool] = lambda key: True
                  ) -> None:
    """Put weights into a module built on the meta device, without a second copy.

    All names and shapes are checked; what is not wanted ``now`` stays on the meta device.

    Raises:
        BadCheckpoint: naming every kind of misfit: missing, extra and misshapen tensors.
    """
    check_fit(module, weights)
    for key, value in weights.part(now).tensors(device, dtype):
        assign(module, key, value)


def assign(module: nn.Module, key: str, value: Tensor) -> None:
    """Make ``value`` the weight of that name, without a copy."""
    place, _, name = key.rpartition('.')
    module.get_submodule(place).load_state_dict({name: value}, strict=False, assign=True)


def check_fit(module: nn.Module, weights: Weights) -> None:
    """Compare names and shapes of weights with those of a module.

    Raises:
        BadCheckpoint: naming every kind of misfit: missing, extra and misshapen tensors.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    missing = sorted(expected.keys() - weights.shapes.keys())
    extra = sorted(weights.shapes.keys() - expected.keys())
    misshapen = [f'{key} {list(weights.shapes[key])} instead of {list(shape)}'
                 for key, shape in sorted(expected.items())
                 if key in weights.shapes and weights.shapes[key] != shape]
    found = [_listed(name, keys) for name, keys in
             (('missing', missing), ('extra', extra), ('misshapen', misshapen)) if keys]
    if found:
        raise BadCheckpoint(f'{weights.name} does not fit the network', value='; '.join(found),
                            limit=f'exactly {len(expected)} tensors',
                            remedy='use the configs that belong to these weights')


def _listed(name: str, keys: Sequence[str]) -> str:
    rest = len(keys) - SHOWN
    return f'{len(keys)} {name}: {", ".join(keys[:SHOWN])}' + (f' and {rest} more' * (rest > 0))


def _indexed(folder: Path) -> list[Path]:
    """Files named by the index of a sharded folder."""
    indexes = sorted(folder.glob('*.safetensors.index.json'))
    if not indexes:
        raise BadCheckpoint('the model folder has no weights', value=str(folder),
                            limit=f'{", ".join(NETWORK_FILES)} or *.safetensors.index.json',
                            remedy='check model_path, and that the download is complete')
    names = read_json(indexes[0]).get('weight_map')
    if not isinstance(names, dict):
        raise BadCheckpoint(f'{indexes[0].name} has no weight_map', value=str(indexes[0]),
                            limit='{"weight_map": {tensor: file, ...}}',
                            remedy='copy the file again')
    if wrong := [f'{key} {name!r}' for key, name in names.items() if not isinstance(name, str)]:
        raise BadCheckpoint(f'{indexes[0].name} names no file for a tensor',
                            value=_listed('without a name', wrong), limit='names of files',
                            remedy='copy the file again')
    paths = [folder / name for name in sorted(set(names.values())) if name != VAE_FILE]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise BadCheckpoint(f'{indexes[0].name} names files that are not there',
                            value=_listed('missing', absent), remedy='copy them again')
    return paths


def _read_headers(paths: Sequence[Path], *, is_vae: bool) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Path] = {}
    types: dict[str, str] = {}
    for path in paths:
        try:
            with safe_open(path, framework='pt') as file:
                for key in file.keys():
                    if is_vae or not key.startswith(VAE_PREFIXES):
                        header = file.get_slice(key)
                        shapes[key], types[key] = tuple(header.get_shape()), header.get_dtype()
                        files[key] = path
        except (OSError, SafetensorError) as error:
            raise BadCheckpoint(f'{path.name} is damaged', value=f'{path}: {error}',
                                limit='a complete safetensors file',
                                remedy='copy the file again') from error
    return Weights(shapes, files, types)


def save_tensors(tensors: Mapping[str, Tensor], path: Path,
                 facts: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that whoever may read new files here can read: whole, or not at
    all.

    The library makes files for their writer alone; but a robot often runs as somebody else.

    Args:
        tensors: by name.
        path: the file.
        facts: words kept beside them.

    Raises:
        OutOfDisk: there is no room; an older file of that name is still there.
        Unwritable: the system refuses; likewise.
    """
    part = path.with_name(f'{path.name}{PART}{os.getpid()}')
    needed = sum(value.numel() * value.element_size() for value in tensors.values())
    with refusals_named(path):
        try:
            with room(path.parent, needed, path.name):
                part.touch()
                rights = part.stat().st_mode
                _write(tensors, part, facts or {})
                part.chmod(rights)
                sync_file(part)
                os.replace(part, path)
        finally:
            with contextlib.suppress(OSError):  # else it hides what went wrong
                part.unlink(missing_ok=True)
        sync_folder(path.parent)


def _write(tensors: Mapping[str, Tensor], path: Path, facts: Mapping[str, str]) -> None:
    try:
        save_file(dict(tensors), path, metadata={'format': 'pt', **facts})
    except SafetensorError as error:  # what the library makes of errors of the system
        raise OSError(str(error)) from error
