"""Weights, gradients and optimiser state in shards over the processes: torch's FSDP2.

Every decoder and vision layer is a unit whose weights are whole only while it computes; what is
left of the network is one more. Weights stay float32 and are gathered as such, autocast computes
in bfloat16, so that a sharded run differs from a plain one by rounding alone.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from cooper_ros.errors import BadOption
from cooper_ros.model.network import Cooper
from cooper_ros.training.processes import place


def shard_network(network: nn.Module, device: torch.device, shards: int = 0) -> None:
    """Cut a network into shards, in place; nothing happens with one process.

    Args:
        network: on its device, the same in all processes.
        device: of this process.
        shards: processes that share one copy of the weights; 0 for all. With fewer than all, the
            groups hold copies of each other (published: 8 of 8).

    Raises:
        BadOption: this network cannot be sharded, or the processes not cut into such groups.
    """
    if place()[1] == 1:
        return
    if not isinstance(network, Cooper):
        raise BadOption('this stage cannot be sharded', value='parallel: fsdp', limit='ddp')
    mesh = _mesh(device, shards)
    for layer in (*network.vit_model.vision_model.encoder.layers,
                  *network.language_model.model.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    network(lambda: None)  # tells the layers whose parts they are
    network.reshard()  # a root stays whole after a pass, until its backward pass


def _mesh(device: torch.device, shards: int) -> DeviceMesh:
    world = place()[1]
    shards = shards or world
    if world % shards:
        raise BadOption('the processes cannot be cut into groups of shards', value=shards,
                        limit=f'a divisor of {world}')
    if shards == world:
        return init_device_mesh(device.type, (world,))
    return init_device_mesh(device.type, (world // shards, shards),
                            mesh_dim_names=('copies', 'shards'))


def is_sharded(module: nn.Module) -> bool:
    """Whether :func:`shard_network` cut it."""
    return isinstance(module, FSDPModule)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Hold all weights whole, so that passes of any number and order need no other process."""
    units = [unit for unit in module.modules() if isinstance(unit, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not module, recurse=False)
            unit.reshard()


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor; shares its memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """All of a tensor; every process must ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value
