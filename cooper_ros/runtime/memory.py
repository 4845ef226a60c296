"""How much memory weights take, and what running out of it looks like."""

from __future__ import annotations

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


def is_memory_error(error: Exception) -> bool:
    """Whether torch or Python ran out of memory; on a CPU torch only says so in its text."""
    return (isinstance(error, MemoryError | torch.OutOfMemoryError)
            or 'DefaultCPUAllocator' in str(error))
