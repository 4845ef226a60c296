"""``runtime: auto``: the best runtime that this machine has for a checkpoint, and why.

Nothing is loaded. Only what was made and can be checked before use is chosen by itself:
engines and graphs that are in the cache, or that the setting ``engine_missing`` allows to make.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, replace
from typing import Callable

import torch

from cooper_ros.config import CooperConfig
from cooper_ros.errors import CooperError, EngineMismatch
from cooper_ros.runtime.engines.find import find_bundle, find_plan, request_of
from cooper_ros.runtime.engines.plan import GRAPHS
from cooper_ros.runtime.engines.rights import Who, writers
from cooper_ros.runtime.names import AUTO, COMPILE, ONNX, TENSORRT, TORCH, TORCH_TENSORRT
from cooper_ros.runtime.place import Place
from cooper_ros.runtime.prepare import command_of

ORDER = (TENSORRT, TORCH_TENSORRT, COMPILE, ONNX, TORCH)  # best first


@dataclass(frozen=True)
class Verdict:
    """What became of one candidate."""

    runtime: str
    chosen: bool
    reason: str

    def __str__(self) -> str:
        """One line for log, diagnostics and doctor."""
        return f'{self.runtime} {"chosen" if self.chosen else "passed over"}: {self.reason}'


def choose(config: CooperConfig) -> list[Verdict]:
    """Which runtime the settings mean, with a verdict on every candidate.

    Raises:
        BadOption: CUDA was asked for and is not there.
    """
    if config.runtime != AUTO:
        return [Verdict(config.runtime, True, 'the setting runtime asks for it')]
    place = Place.of(config)
    against = {name: _OBSTACLES[name](place) for name in ORDER}
    best = next(name for name in ORDER if not against[name])
    return [Verdict(name, name == best, against[name] or (
        _praise(name, place) if name == best else f'{best} is faster')) for name in ORDER]


def _praise(name: str, place: Place) -> str:
    if name == TORCH:
        return 'it runs everywhere, and nothing faster can be used here'
    return ('the fastest here; what is missing will be made' if place.may_make else
            'the fastest here, and all it needs is in the cache')


def _torch_only(place: Place) -> str:
    if place.quantised:
        return 'quantised weights run in torch only'
    if place.defers:
        return 'load_drawing is first_map, and graphs hold all weights from the start'
    return ''


def _no_gpu(place: Place) -> str:
    if reason := _torch_only(place):
        return reason
    if place.device.type != 'cuda':
        return ('there is no GPU' if not torch.cuda.is_available() else 'the setting device is '
                f'{place.device.type}')
    return ''


def _exposed(place: Place) -> str:
    """Why nothing in the cache is used, and nothing made there: files are made again where anyone
    may write them, but a folder keeps its rights."""
    found = writers(place.cache, (place.cache / GRAPHS,))
    return str(found) if found.who == Who.ANYONE else ''


def _tensorrt(place: Place, name: str = TENSORRT) -> str:
    if reason := _no_gpu(place) or _exposed(place):
        return reason
    try:
        found = find_plan(place, name)
    except EngineMismatch as error:  # no graphs that can be used
        return '' if place.may_make else str(error)
    except CooperError as error:  # no TensorRT: named with what to do
        return str(error)
    if found.writers.who == Who.ANYONE and not place.may_make:
        return str(found.writers)
    return '' if found.complete or place.may_make else (
        f'{found.lacking}: run `{found.command}`')


def _torch_tensorrt(place: Place) -> str:
    from cooper_ros.runtime.engines.torch_tensorrt import obstacle
    if reason := _no_gpu(place):
        return reason
    against = obstacle()
    if not against:
        return _tensorrt(place, TORCH_TENSORRT)
    # Nothing can be built, but what was built needs TensorRT alone.
    return against if _tensorrt(replace(place, may_make=False), TORCH_TENSORRT) else ''


def _compile(place: Place) -> str:
    return 'its first questions take minutes; set runtime: compile to have it'


def _onnx(place: Place) -> str:
    if reason := _torch_only(place):
        return reason
    if place.device.type != 'cpu':
        return 'it computes on the CPU, and a GPU is used'
    if place.precision != 'fp32':
        return f'it computes in fp32, and the setting dtype means {place.precision}'
    try:
        importlib.metadata.version('onnxruntime')
    except importlib.metadata.PackageNotFoundError:
        return 'onnxruntime is not installed'
    if reason := _exposed(place):
        return reason
    try:
        if place.may_make or find_bundle(place, 'fp32') is not None:
            return ''
    except EngineMismatch as error:  # anyone may have put them there
        return str(error)
    return f'its graphs were not exported yet: run `{command_of(request_of(ONNX, place))}`'


_OBSTACLES: dict[str, Callable[[Place], str]] = {
    TENSORRT: _tensorrt, TORCH_TENSORRT: _torch_tensorrt, COMPILE: _compile, ONNX: _onnx,
    TORCH: lambda place: ''}
