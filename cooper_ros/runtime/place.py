"""Where a checkpoint is to run: device, number type and what was made of it, from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.runtime.card import read_card
from cooper_ros.runtime.engines.plan import default_cache
from cooper_ros.runtime.graphs.spec import PRECISIONS
from cooper_ros.runtime.names import ONNX

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
ERROR, BUILD, SERVE = 'error', 'build', 'serve'  # the setting engine_missing
FIRST_MAP = 'first_map'  # of the setting load_drawing


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
        parts: graphs that the decoder's layers are spread over.
        defers: whether weights that only drawing needs stay on disk.
    """

    folders: tuple[Path, ...]
    device: torch.device
    precision: str
    quantised: bool
    cache: Path
    may_make: bool
    context: int
    parts: int
    defers: bool

    @classmethod
    def of(cls, config: CooperConfig) -> Place:
        """Where these settings put a checkpoint.

        Raises:
            BadOption: CUDA was asked for and is not there.
        """
        folders = tuple(Path(name) for name in (config.model_path, config.base_path) if name)
        device = choose_device('cpu' if config.runtime == ONNX else config.device)
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        return cls(folders, device, names[choose_dtype(config.dtype, device)],
                   _is_quantised(folders[0]),
                   Path(config.engine_cache) if config.engine_cache else default_cache(),
                   config.engine_missing != ERROR, config.context_tokens,
                   config.engine_parts, config.load_drawing == FIRST_MAP)


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


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is no slower than float32 there: any GPU, or a CPU whose kernels have it.

    Other CPUs (AVX2 and older) imitate it, ten to forty times slower: 3.6 s instead of 0.09 s for
    a convolution of 64 channels over two 128x96 pictures (AMD EPYC, AVX2, 1 thread, torch 2.13).
    """
    return device.type != 'cpu' or (
        torch.backends.mkldnn.is_available()  # not in torch for Jetson
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The number type a setting means on a device."""
    if wanted == 'auto':
        wanted = 'bfloat16' if device.type == 'cuda' else 'float32'
    return DTYPES[wanted]
