"""From settings to something that answers: which runtime, device and number type."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Callable, Sequence

import torch

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption
from cooper_ros.runtime.base import Runtime
from cooper_ros.runtime.card import ModelCard
from cooper_ros.runtime.checkpoint import LoadedModel, read_model_folder
from cooper_ros.runtime.choice import choose
from cooper_ros.runtime.late_network import LateNetwork
from cooper_ros.runtime.names import AUTO, COMPILE, ONNX, TORCH
from cooper_ros.runtime.notice import Notice, Tell, silent
from cooper_ros.runtime.opening import Opened, Upgrade, open_runtime
from cooper_ros.runtime.place import FIRST_MAP, choose_device, choose_dtype
from cooper_ros.runtime.torch_runtime import TorchRuntime


@dataclass(frozen=True)
class LoadedRuntime:
    """Everything an engine needs of a model folder.

    Attributes:
        runtime: runs the network.
        card: what the folder says about itself.
        encode: text to ids, nothing added.
        decode: ids to text, markers kept, nothing tidied.
        begin, end: ids around every text.
        upgrade: prepares a faster runtime while this one answers; None where nothing is.
    """

    runtime: Runtime
    card: ModelCard
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    begin: int
    end: int
    upgrade: Upgrade | None = None


def load_runtime(folder: str | Path, config: CooperConfig, tell: Tell = silent) -> LoadedRuntime:
    """Load a model folder as the settings say.

    Args:
        folder: model folder; stands for ``config.model_path``.
        config: settings.
        tell: hears which runtime is chosen and why, and what is prepared.

    Raises:
        BadCheckpoint: the folder is incomplete or does not fit the network.
        BadOption: CUDA was asked for and is not there, or a compiled runtime shall leave weights
            on disk.
        NotReady: a package, a compiler or a GPU is missing for the runtime.
        EngineMismatch: compiled engines are missing, damaged or for something else.
        OutOfMemory: engines do not fit the device; with ``auto`` torch answers then.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    config, defer = config.replaced(model_path=str(folder)), _defers_drawing(config)
    verdicts = choose(config)
    (chosen,) = (verdict.runtime for verdict in verdicts if verdict.chosen)
    choice = '; '.join(map(str, verdicts))

    def say(notice: Notice) -> None:
        tell(replace(notice, choice=choice))

    for verdict in verdicts:
        say(Notice(f'runtime {verdict}'))
    device, dtype = _device_and_dtype(chosen, config)
    read = partial(read_model_folder, folder, config.base_path or None, device=device,
                   dtype=dtype, defer_drawing=defer)
    late = chosen not in (TORCH, COMPILE)  # graphs and engines may do without the network
    loaded = read(hollow=late)
    network = LateNetwork(lambda: _in_torch(read() if late else loaded))
    opened = open_runtime(chosen, network, config, say)
    say(Notice(runtime=TORCH if isinstance(opened.runtime, TorchRuntime) else chosen,
               preparing=chosen if opened.upgrade else ''))
    return _loaded(loaded, opened)


def _device_and_dtype(chosen: str, config: CooperConfig) -> tuple[torch.device, torch.dtype]:
    """Where the network goes and in which numbers: those of the graphs it is compared with.

    For onnxruntime they are float32, whatever the setting ``dtype`` is.
    """
    if chosen == ONNX:
        return torch.device('cpu'), torch.float32
    device = choose_device(config.device)
    return device, choose_dtype(config.dtype, device)


def _in_torch(loaded: LoadedModel) -> TorchRuntime:
    return TorchRuntime(loaded.network, loaded.vae, specials=loaded.specials,
                        vocabulary=loaded.vocabulary, later=loaded.later)


def _defers_drawing(config: CooperConfig) -> bool:
    if config.load_drawing == FIRST_MAP and config.runtime not in (AUTO, TORCH):
        raise BadOption('graphs hold all weights from the start',
                        value=f'runtime {config.runtime}, load_drawing {config.load_drawing}',
                        limit='runtime torch',
                        remedy='set load_drawing to start, or runtime to torch')
    return config.load_drawing == FIRST_MAP


def _loaded(loaded: LoadedModel, opened: Opened) -> LoadedRuntime:
    """The runtime with what stands around it in the folder."""
    tokenizer = loaded.tokenizer
    assert tokenizer is not None  # without one, reading would have failed

    def encode(text: str) -> Sequence[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False,
                                    clean_up_tokenization_spaces=False))

    return LoadedRuntime(opened.runtime, loaded.card, encode, decode, loaded.specials.bos,
                         loaded.specials.eos, opened.upgrade)
