"""Several processes that train one network: who is who, shares, means.

`torchrun` or `accelerate launch` starts the processes and tells each its place through the
environment; :func:`join` lets them meet. Everything here is a plain no-op for one process.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager
from datetime import timedelta
from typing import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from cooper_ros.errors import BadOption
from cooper_ros.runtime.place import choose_device

BUCKET = 2**23  # gradient numbers that are averaged together
PATIENCE = timedelta(hours=3)  # the others wait while the first makes data or coded pictures


def rank() -> int:
    """Number of this process among those that train one network, from 0."""
    return dist.get_rank() if _is_joined() else 0


def world_size() -> int:
    """How many processes train one network."""
    return dist.get_world_size() if _is_joined() else 1


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def training_device(wanted: str) -> torch.device:
    """The device a setting means, one GPU per process of a machine.

    Raises:
        BadOption: CUDA was asked for and is not there.
    """
    device = choose_device(wanted)
    if device.type == 'cuda':
        device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0')))
        torch.cuda.set_device(device)
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Meet the other processes, if there are any: NCCL between GPUs, gloo between CPUs."""
    if int(os.environ.get('WORLD_SIZE', '1')) == 1 or dist.is_initialized():
        yield
        return
    backend = 'cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo'
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def leave() -> None:
    """End a process that was one of several, all of whose work is written; one alone goes on.

    Python's own end is left out. A thread of gloo may still be about to drop a tensor, needs
    Python's lock for it, and aborts the process when it finds Python ending (PyTorch issue
    190489): a run that is finished would count as failed, now and then.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        return
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def wait_for_all() -> None:
    """Return when every process has come this far."""
    if world_size() > 1:
        dist.barrier()


def from_first(text: str) -> str:
    """What the first process gives, in all of them."""
    if world_size() == 1:
        return text
    given = [text]
    dist.broadcast_object_list(given, src=0)
    return given[0]


@contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first process make files that the others then find; all see one folder."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def share_of(batch: int) -> range:
    """Places of a whole batch that are this process's.

    Raises:
        BadOption: the batch cannot be cut into equal parts.
    """
    own, world = rank(), world_size()
    if batch % world:
        raise BadOption('a batch must be the same for every process', value=f'batch: {batch}',
                        limit=f'a multiple of {world} processes')
    size = batch // world
    return range(own * size, (own + 1) * size)


def part_of(count: int) -> range:
    """Places of ``count`` samples that are this process's, in parts as equal as can be.

    Raises:
        BadOption: there are fewer samples than processes.
    """
    own, world = rank(), world_size()
    if count < world:
        raise BadOption('a process would have no sample', value=f'frames: {count}',
                        limit=f'at least one for each of {world} processes')
    return range(own * count // world, (own + 1) * count // world)


def mean_over_processes(counts: Sequence[float]) -> list[float]:
    """Mean of each count over all processes; nothing counted is taken as one.

    Gradients are averaged over processes; with these denominators that makes every loss the mean
    over all tokens of all processes (reference 9.4), however unequal their sequences are.
    """
    totals = torch.tensor(counts, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(totals)  # on the CPU: gloo
    return [max(1.0, float(total)) / world_size() for total in totals]


def mean_values(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Means of named numbers over all processes; all must have the same names."""
    numbers = torch.tensor([float(value.detach()) for value in values.values()],
                           dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(numbers)
    return dict(zip(values, (numbers / world_size()).tolist()))


def average_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Give every process the mean gradient of all, in buckets.

    Where one process had no use for a weight, its gradient counts as zero; a weight that no
    process used gets none. torch's DistributedDataParallel counts on one backward pass through
    every weight per step, which groups of rollouts and mixed recipes do not keep to.
    """
    if world_size() == 1:
        return
    used = torch.tensor([float(p.grad is not None) for p in parameters])
    dist.all_reduce(used)
    kept = [p for p, count in zip(parameters, used.tolist()) if count]
    for p in kept:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    for bucket in _buckets([p.grad for p in kept]):
        flat = torch.cat([grad.flatten() for grad in bucket])
        dist.all_reduce(flat)
        flat /= world_size()
        for grad, part in zip(bucket, flat.split([grad.numel() for grad in bucket])):
            grad.copy_(part.view_as(grad))


def _buckets(grads: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for grad in grads:
        bucket.append(grad)
        if sum(part.numel() for part in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
