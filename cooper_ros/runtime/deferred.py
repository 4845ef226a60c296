"""The drawing half of a model, left on disk until something is to be drawn.

Text answers need the understanding expert, the vision tower and the vocabulary. The generation
expert, the latent adapters and the autoencoder wait here as headers: names and shapes are checked
when the model is loaded, numbers are read on first use.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Sequence

import torch
from safetensors import SafetensorError
from torch import nn

from cooper_ros.errors import BadCheckpoint, OutOfMemory
from cooper_ros.model.mot import GEN
from cooper_ros.runtime.base import LoadStep
from cooper_ros.runtime.memory import is_memory_error, resident_bytes, stored_bytes
from cooper_ros.runtime.weights import Weights, assign

ADAPTERS = ('vae2llm.', 'llm2vae.', 'time_embedder.', 'latent_pos_embed.')


def is_drawing(key: str) -> bool:
    """Whether a tensor of the network serves latents only."""
    return GEN in key or key.startswith(ADAPTERS)


def is_talking(key: str) -> bool:
    """Whether a tensor of the network serves text and vision tokens."""
    return not is_drawing(key)


@dataclass
class DeferredWeights:
    """Modules with weights that are still on disk.

    Attributes:
        parts: each module with the weights it waits for.
        device, dtype: where they go and what they become.
        complete: whether everything is in memory.
    """

    parts: Sequence[tuple[nn.Module, Weights]]
    device: torch.device | str
    dtype: torch.dtype | None
    complete: bool = False
    _marks: dict[Path, tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._marks = {path: _mark(path) for path in self._files()}

    def load(self) -> Iterator[LoadStep]:
        """Read what is missing, tensor by tensor; yields first how things are, then every step.

        An iteration that is given up keeps what it read, and the next one goes on from there.

        Raises:
            BadCheckpoint: a file was changed or taken away since its headers were checked.
            OutOfMemory: there is no room; what was read of it is given back.
        """
        if self.complete:
            return
        self._check_files()
        total = sum(math.prod(shape) for _, weights in self.parts
                    for shape in weights.shapes.values())
        step = LoadStep(0, total, resident_bytes(*(module for module, _ in self.parts)))
        yield step
        try:
            for module, weights in self.parts:
                for count, size in _read_missing(module, weights, self.device, self.dtype):
                    step = LoadStep(step.done + count, total, step.resident + size)
                    yield step
        except (OSError, SafetensorError) as error:
            raise _changed(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            self._give_back()
            raise OutOfMemory('the weights for drawing do not fit', value=str(error)[:200],
                              remedy='ask in mode direct or text, or quantise the checkpoint'
                              ) from error
        self.complete = True

    def load_all(self) -> None:
        """Read what is missing, without telling."""
        with torch.inference_mode(False):  # weights outlive the pass that needs them
            for _ in self.load():
                pass

    def _files(self) -> set[Path]:
        return {path for _, weights in self.parts for path in weights.files.values()}

    def _check_files(self) -> None:
        for path, mark in self._marks.items():
            try:
                same = _mark(path) == mark
            except OSError as error:
                raise _changed(str(error)) from error
            if not same:
                raise _changed(str(path))

    def _give_back(self) -> None:
        for module, weights in self.parts:
            own = module.state_dict()
            for key in weights.shapes:
                assign(module, key, torch.empty(own[key].shape, dtype=own[key].dtype,
                                                device='meta'))


def _read_missing(module: nn.Module, weights: Weights, device: torch.device | str,
                  dtype: torch.dtype | None) -> Iterator[tuple[int, int]]:
    """Numbers and new bytes of every tensor; what an earlier attempt read is only counted."""
    own = module.state_dict()
    missing = weights.part(lambda key: own[key].is_meta)
    for key in weights.shapes.keys() - missing.shapes.keys():
        yield own[key].numel(), 0
    for key, value in missing.tensors(device, dtype):
        assign(module, key, value)
        yield value.numel(), stored_bytes(value)


def _mark(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _changed(value: str) -> BadCheckpoint:
    return BadCheckpoint('weights left on disk are not what they were at the start', value=value,
                         limit='the files that were checked then',
                         remedy='restore the model folder and start again')
