"""Weights, gradients and optimiser state in shards over the processes: torch's FSDP2.

Every decoder and vision layer is a unit whose weights are whole only while it computes; what is
left of the network is one more. Weights stay float32 and are gathered as such, autocast computes
in bfloat16, so that a sharded run differs from a plain one by rounding alone. What samples or
draws has a whole copy for as long as it does.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from cooper_ros.errors import BadOption
from cooper_ros.model.network import Cooper
from cooper_ros.runtime.weights import assign
from cooper_ros.training.precision import sampled_in
from cooper_ros.training.processes import world_size


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
    if world_size() == 1:
        return
    if not isinstance(network, Cooper):
        raise BadOption('this stage cannot be sharded', value='parallel: fsdp', limit='ddp')
    mesh = _mesh(device, shards)
    for layer in (*network.vit_model.vision_model.encoder.layers,
                  *network.language_model.model.layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)
    network(lambda: None)  # tells the layers whose parts they are
    reshard(network)


def _mesh(device: torch.device, shards: int) -> DeviceMesh:
    world = world_size()
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


def reshard(module: nn.Module) -> None:
    """Cut what a root keeps whole after a pass, until its backward pass, if there is one."""
    if isinstance(module, FSDPModule):
        module.reshard()


@dataclass
class _Gathering:
    """The whole network that :func:`gathered` offers, made when it is first asked for."""

    dtype: torch.dtype
    network: Cooper | None = None


_gatherings: WeakKeyDictionary[nn.Module, _Gathering] = WeakKeyDictionary()


@contextmanager
def gathered(module: nn.Module, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Let :func:`whole_network` have all weights, until the end.

    Nothing is copied before it is asked for: losses are computed with shards.

    Args:
        module: what trains.
        dtype: of the weights; None for what training around the call samples in.
    """
    device = next(module.parameters()).device
    _gatherings[module] = _Gathering(dtype or sampled_in(device))
    try:
        yield
    finally:
        held = _gatherings.pop(module)
        if held.network is not None:
            held.network.to_empty(device='meta')  # now, not when the last session is collected
        reshard(module)


def whole_network(network: Cooper) -> Cooper:
    """A network whose passes, of any number and order, need no other process.

    It is the network itself where that is whole and of the number type that :func:`gathered`
    names; else a copy, made when it is first asked for, by all processes together.
    """
    held = _gatherings.get(network)
    if held is None:
        return network
    if is_sharded(network) or network.vae2llm.weight.dtype != held.dtype:
        held.network = held.network or _copied(network, held.dtype)
    return held.network or network


def _copied(network: Cooper, dtype: torch.dtype) -> Cooper:
    """Tensor by tensor, each rounded before it travels: no second copy in float32 anywhere."""
    reshard(network)
    with torch.inference_mode(False), torch.no_grad():
        with torch.device('meta'):
            copy = Cooper(network.config)
        for name, value in network.state_dict().items():
            assign(copy, name, whole(value.to(dtype)))
    return copy.requires_grad_(False).eval()


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor; shares its memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """All of a tensor; every process must ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value
