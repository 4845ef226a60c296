"""From settings to something that answers: which runtime, device and number type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Sequence

import torch

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption
from cooper_ros.runtime.base import Runtime
from cooper_ros.runtime.card import ModelCard
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.engines.plan import GRAPHS, default_cache
from cooper_ros.runtime.graphs.spec import PRECISIONS
from cooper_ros.runtime.torch_runtime import TorchRuntime

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True)
class LoadedRuntime:
    """Everything an engine needs of a model folder.

    Attributes:
        runtime: runs the network.
        card: what the folder says about itself.
        encode: text to ids, nothing added.
        decode: ids to text, markers kept, nothing tidied.
        begin, end: ids around every text.
    """

    runtime: Runtime
    card: ModelCard
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    begin: int
    end: int


def load_runtime(folder: str | Path, config: CooperConfig) -> LoadedRuntime:
    """Load a model folder as the settings say.

    Raises:
        BadCheckpoint: the folder is incomplete or does not fit the network.
        BadOption: CUDA was asked for and is not there, or a compiled runtime shall leave weights
            on disk.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device('cpu' if config.runtime == 'onnx' else config.device)
    loaded = read_model_folder(folder, config.base_path or None, device=device,
                               dtype=choose_dtype(config.dtype, device),
                               defer_drawing=_defers_drawing(config))
    runtime = choose_runtime(TorchRuntime(loaded.network, loaded.vae, specials=loaded.specials,
                                          vocabulary=loaded.vocabulary, later=loaded.later),
                             folder, config)
    tokenizer = loaded.tokenizer
    assert tokenizer is not None  # without one, reading would have failed

    def encode(text: str) -> Sequence[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False,
                                    clean_up_tokenization_spaces=False))

    return LoadedRuntime(runtime, loaded.card, encode, decode, loaded.specials.bos,
                         loaded.specials.eos)


def _defers_drawing(config: CooperConfig) -> bool:
    if config.load_drawing == 'first_map' and config.runtime not in ('auto', 'torch'):
        raise BadOption('graphs hold all weights from the start',
                        value=f'runtime {config.runtime}, load_drawing {config.load_drawing}',
                        limit='runtime torch',
                        remedy='set load_drawing to start, or runtime to torch')
    return config.load_drawing == 'first_map'


def choose_runtime(network: TorchRuntime, folder: str | Path, config: CooperConfig) -> Runtime:
    """What a setting means by runtime; ``auto`` is torch.

    Raises:
        NotReady: a package or a GPU is missing for it.
        EngineMismatch: compiled engines are missing, damaged or for something else.
    """
    if config.runtime == 'onnx':
        from cooper_ros.runtime.onnx_runtime import onnx_runtime_of
        return onnx_runtime_of(network, default_cache() / GRAPHS, threads=config.threads)
    if config.runtime == 'tensorrt':
        from cooper_ros.runtime.engines.runner import find_tensorrt_runtime
        folders = [Path(name) for name in (folder, config.base_path) if str(name)]
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        return find_tensorrt_runtime(folders, names[network.dtype], default_cache())
    return network


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
