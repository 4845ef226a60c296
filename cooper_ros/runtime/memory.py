"""How much memory weights take, and what running out of it looks like."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn


def resident_bytes(*modules: nn.Module) -> int:
    """Bytes of weights that are in memory; what is still on disk counts nothing."""
    return sum(stored_bytes(value) for module in modules for value in module.state_dict().values())


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of one weight as it is held; a quantised one by its parts, not by what it poses as."""
    if tensor.is_meta:
        return 0
    if hasattr(tensor, '__tensor_flatten__'):
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()


def free_bytes() -> int:
    """Bytes that can be had on the GPU.

    A board's GPU has no memory of its own, and CUDA counts as used what the system keeps of files
    in case they are read again; after a checkpoint was read, that is most of it.
    """
    free = int(torch.cuda.mem_get_info()[0])
    return max(free, available_bytes()) if is_board() else free


def is_board() -> bool:
    """Whether the GPU has no memory of its own."""
    return bool(torch.cuda.get_device_properties(torch.cuda.current_device()).is_integrated)


def available_bytes() -> int:
    """Bytes of host memory that can be had; most of what is not free are kept files."""
    try:
        said = Path('/proc/meminfo').read_text(encoding='ascii')
        return int(said.split('MemAvailable:')[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def is_memory_error(error: Exception) -> bool:
    """Whether torch or Python ran out of memory; on a CPU torch only says so in its text."""
    return (isinstance(error, MemoryError | torch.OutOfMemoryError)
            or 'DefaultCPUAllocator' in str(error))
