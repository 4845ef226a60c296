"""What training computes in."""

from __future__ import annotations

import torch

from cooper_ros.runtime.place import has_bfloat16


def mixed(device: torch.device, wanted: bool = True) -> torch.autocast:
    """Autocast to bfloat16 if it is ``wanted`` and fast on the device; float32 otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and has_bfloat16(device))


def spoken(device: torch.device, wanted: bool) -> str:
    """What :func:`mixed` comes to, for people."""
    if not wanted:
        return 'float32'
    return 'bfloat16' if has_bfloat16(device) else 'float32, for this CPU imitates bfloat16'
