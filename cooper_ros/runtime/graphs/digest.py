"""Fingerprints: what a compiled engine was made from, so that it is never used for another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Iterable, Mapping

import torch
from torch import Tensor, nn

CHUNK = 1 << 22
SEAL = 'sha256'  # in a description, unless something else has this name there


class Changed(ValueError):
    """A description does not say what was written."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open('rb') as stream:
        while block := stream.read(CHUNK):
            total.update(block)
    return total.hexdigest()


def plain_digest(values: Any) -> str:
    """SHA-256 of plain values (what JSON can hold), independent of key order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sealed(values: Mapping[str, Any], seal: str = SEAL) -> str:
    """A description as it is written: JSON, with a SHA-256 of all that it says.

    Args:
        values: what it says.
        seal: name of the SHA-256 in it.
    """
    said = {name: value for name, value in values.items() if name != seal}
    return json.dumps({**said, seal: plain_digest(said)}, indent=1)


def check_seal(values: Mapping[str, Any], seal: str = SEAL) -> None:
    """Prove that a description says what :func:`sealed` was given.

    Raises:
        Changed: it was changed since, or has no seal.
    """
    said = {name: value for name, value in values.items() if name != seal}
    if values.get(seal) != plain_digest(said):
        raise Changed('what it says was changed')


def weights_digest(modules: Iterable[nn.Module]) -> str:
    """SHA-256 of names, types, shapes and content of all weights, in order of their names."""
    return tensors_digest({f'{number}/{name}': value for number, module in enumerate(modules)
                           for name, value in module.state_dict().items()})


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and content of tensors, in order of their names."""
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(f'{name}:{value.dtype}:{tuple(value.shape)};'.encode())
        for part in _parts(value):
            total.update(part)
    return total.hexdigest()


def _parts(value: Tensor) -> Iterable[memoryview]:
    """The bytes of a tensor, a piece at a time, so that no second copy of it is made."""
    flat = value.detach().reshape(-1).view(torch.uint8) if value.numel() else value.new_empty(0)
    for start in range(0, flat.numel(), CHUNK):
        yield memoryview(flat[start:start + CHUNK].cpu().numpy())
