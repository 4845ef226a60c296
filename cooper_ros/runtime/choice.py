"""``runtime: auto``: the best runtime that this machine has for a checkpoint, and why.

Nothing is loaded. Only what was made and can be checked before use is chosen by itself:
engines and graphs that are in the cache, or that the setting ``engine_missing`` allows to make.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadCheckpoint, BadOption, CooperError, EngineMismatch
from cooper_ros.runtime.card import read_card
from cooper_ros.runtime.graphs.spec import PRECISIONS

AUTO, TORCH, COMPILE, ONNX = 'auto', 'torch', 'compile', 'onnx'
TENSORRT, TORCH_TENSORRT = 'tensorrt', 'torch_tensorrt'
ORDER = (TENSORRT, TORCH_TENSORRT, COMPILE, ONNX, TORCH)  # best first
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
ERROR, BUILD, SERVE = 'error', 'build', 'serve'  # the setting engine_missing
FIRST_MAP = 'first_map'  # of the setting load_drawing


@dataclass(frozen=True)
class Verdict:
    """What became of one candidate."""

    runtime: str
    chosen: bool
    reason: str

    def __str__(self) -> str:
        """One line for log, diagnostics and doctor."""
        return f'{self.runtime} {"chosen" if self.chosen else "passed over"}: {self.reason}'


@dataclass(frozen=True)
class Place:
    """Where a checkpoint is to run, as far as it can be told without loading it.

    Attributes:
        folders: model folder, then base folder if any.
        device: where the network runs.
        precision: number type of the network: ``fp32``, ``fp16`` or ``bf16``.
        quantised: whether its linear layers hold int8 or int4.
        cache: folder of graphs and engines.
        may_make: whether what is missing there may be made.
        context: tokens of the longest context to make engines for; 0 for the usual.
        defers: whether weights that only drawing needs stay on disk.
    """

    folders: tuple[Path, ...]
    device: torch.device
    precision: str
    quantised: bool
    cache: Path
    may_make: bool
    context: int
    defers: bool

    @classmethod
    def of(cls, config: CooperConfig) -> Place:
        """Where these settings put a checkpoint.

        Raises:
            BadOption: CUDA was asked for and is not there.
        """
        from cooper_ros.runtime.engines.plan import default_cache
        folders = tuple(Path(name) for name in (config.model_path, config.base_path) if name)
        device = choose_device('cpu' if config.runtime == ONNX else config.device)
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        return cls(folders, device, names[choose_dtype(config.dtype, device)],
                   _is_quantised(folders[0]),
                   Path(config.engine_cache) if config.engine_cache else default_cache(),
                   config.engine_missing != ERROR, config.context_tokens,
                   config.load_drawing == FIRST_MAP)


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


def _tensorrt(place: Place, converter: str = ONNX) -> str:
    if reason := _no_gpu(place):
        return reason
    from cooper_ros.runtime.engines.find import find_plan
    try:
        found = find_plan(place, converter)
    except EngineMismatch as error:  # not even exported
        return '' if place.may_make else str(error)
    except CooperError as error:  # no TensorRT: named with what to do
        return str(error)
    return '' if found.complete or place.may_make else (
        f'its engines are not in {place.cache}: run `{found.command}`')


def _torch_tensorrt(place: Place) -> str:
    from cooper_ros.runtime.engines.torch_tensorrt import obstacle
    return _no_gpu(place) or obstacle() or _tensorrt(place, TORCH_TENSORRT)


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
    from cooper_ros.runtime.engines.find import find_bundle
    if place.may_make or find_bundle(place, 'fp32') is not None:
        return ''
    return ('its graphs were not exported yet: run `cooper engine export '
            f'{place.folders[0]} --precision fp32`')


_OBSTACLES: dict[str, Callable[[Place], str]] = {
    TENSORRT: _tensorrt, TORCH_TENSORRT: _torch_tensorrt, COMPILE: _compile, ONNX: _onnx,
    TORCH: lambda place: ''}


def _is_quantised(folder: Path) -> bool:
    try:
        return read_card(folder).quantization is not None
    except (BadCheckpoint, OSError):
        return False  # reading the weights will say what is wrong


def choose_device(wanted: str) -> torch.device:
    """The device a setting means.

    Raises:
        BadOption: CUDA was asked for and is not there.
    """
    if wanted == 'cuda' and not torch.cuda.is_available():
        raise BadOption('there is no CUDA device', value=wanted, limit='auto, cpu',
                        remedy='set device to auto, or install torch with CUDA')
    if wanted == 'auto':
        wanted = 'cuda' if torch.cuda.is_available() else 'cpu'
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The number type a setting means on a device."""
    if wanted == 'auto':
        wanted = 'bfloat16' if device.type == 'cuda' else 'float32'
    return DTYPES[wanted]
