"""Number types that training computes in."""

from __future__ import annotations

import torch

from cooper_ros.runtime.place import has_bfloat16


def mixed(device: torch.device, wanted: bool = True, *, sharded: bool = False) -> torch.autocast:
    """Autocast to bfloat16 if it is ``wanted`` and fast on the device; float32 otherwise.

    Args:
        device: where.
        wanted: whether bfloat16 is.
        sharded: the weights are in shards. Autocast keeps the bfloat16 copy of every weight until
            its end, which would be a whole network that the shards are there to avoid.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has_bfloat16(device),
                          cache_enabled=not sharded)


def sampled_in(device: torch.device, wanted: bool | None = None) -> torch.dtype:
    """What a network that trains is sampled from in: half the memory where bfloat16 is ``wanted``
    on a GPU; elsewhere the float32 of its weights, which needs no copy.

    Args:
        device: where.
        wanted: None for whether the autocast around the call is on.
    """
    if wanted is None:
        wanted = torch.is_autocast_enabled(device.type)
    return torch.bfloat16 if wanted and device.type == 'cuda' else torch.float32


def spoken(device: torch.device, wanted: bool) -> str:
    """The number type that :func:`mixed` results in, as text."""
    if not wanted:
        return 'float32'
    return 'bfloat16' if has_bfloat16(device) else 'float32, for this CPU imitates bfloat16'
