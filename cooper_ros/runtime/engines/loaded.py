"""One engine on the device, and the execution contexts that it runs in.

A CUDA graph depends on the sizes, addresses and scratch memory of the context that it was captured
from, so every recorded step gets a context of its own. Plain runs share one per profile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

import torch
from torch import Tensor

from cooper_ros.errors import BadOption, CooperError, EngineMismatch, NotReady, OutOfMemory
from cooper_ros.runtime.engines.build import type_name
from cooper_ros.runtime.engines.flavour import CANNOT_START, gpu_architecture
from cooper_ros.runtime.engines.kernels import kernels_of
from cooper_ros.runtime.engines.plan import Plan
from cooper_ros.runtime.engines.words import Words, words_of
from cooper_ros.runtime.graphs.runtime import Tensors
from cooper_ros.runtime.graphs.spec import UNDERSTAND, GraphSpec
from cooper_ros.runtime.memory import free_bytes

MIB = 1 << 20
ALIGNMENT = 256  # bytes; TensorRT asks it of every address
_SMALLER = 'build in a smaller precision or with --weight-streaming, or set runtime to torch'


def check_room(needed: int, free: int, streaming: bool) -> None:
    """Refuse engines whose weights cannot fit before any of them is loaded.

    Args:
        needed: bytes of all engine files, which are weights for the most part.
        free: bytes of device memory that are free.
        streaming: whether the engines may leave weights in host memory.

    Raises:
        OutOfMemory: naming both.
    """
    if needed > free and not streaming:
        raise OutOfMemory('the engines do not fit the device', value=f'{needed / MIB:,.0f} MiB',
                          limit=f'{free / MIB:,.0f} MiB free', remedy=_SMALLER)


def stream_budgets(sizes: Mapping[str, int], free: int) -> dict[str, int]:
    """Bytes of each engine's weights that stay on the device: all of them, or equal shares.

    TensorRT's own automatic budget would give all that is free to the first engine.

    Args:
        sizes: bytes of weights that can be left in host memory, by graph.
        free: bytes of device memory for them.
    """
    whole = sum(sizes.values())
    there = min(max(free, 0), whole)
    return {name: size * there // max(whole, 1) for name, size in sizes.items()}


def is_aligned(value: Tensor) -> bool:
    """Whether TensorRT takes the address of a tensor."""
    return value.data_ptr() % ALIGNMENT == 0


def is_token(spec: GraphSpec, inputs: Tensors) -> bool:
    """Whether a call decodes a single token."""
    return spec.family == UNDERSTAND and inputs['embeds'].shape[1] == 1


class Context:
    """An execution context of one engine.

    It does not know the :class:`LoadedEngine` that keeps it: in a circle, both would hold device
    memory until Python's collector comes by.

    Args:
        graph: name of the graph.
        engine: TensorRT's own engine.
        handle: TensorRT's own context.
        profile: number of the optimisation profile that it uses.
        words: what TensorRT says of its errors.
    """

    def __init__(self, graph: str, engine: Any, handle: Any, profile: int, words: Words) -> None:
        self._graph, self._engine, self._handle = graph, engine, handle
        self._profile, self._words = profile, words

    def bind(self, inputs: Tensors, outputs: Tensors) -> None:
        """Set sizes and addresses; the tensors must live until what is run has finished.

        Raises:
            BadOption: a shape is outside what the engine was built for.
            NotReady: TensorRT refuses an address.
        """
        self._words.forget()
        for name, value in inputs.items():
            if not self._handle.set_input_shape(name, tuple(value.shape)):
                raise BadOption(f'{self._graph} was not built for this size of {name}',
                                value=tuple(value.shape), limit=self._limits_of(name),
                                remedy='build with a larger --context or --side')
        for name, value in (*inputs.items(), *outputs.items()):
            if not self._handle.set_tensor_address(name, value.data_ptr()):
                raise NotReady(f'TensorRT refuses the memory of {name} of graph {self._graph}',
                               value=hex(value.data_ptr()),
                               limit=f'addresses that are multiples of {ALIGNMENT}',
                               remedy='please report this with the log')

    def execute(self, stream: int) -> None:
        """Run on what is bound.

        Raises:
            NotReady: TensorRT failed.
        """
        if not self._handle.execute_async_v3(stream):
            raise NotReady(f'TensorRT failed to run graph {self._graph}',
                           value=self._words.last() or None, remedy='restart the node')

    def require_capturable(self, stream: int) -> None:
        """Ask TensorRT for RTX whether it can be captured; the other TensorRT cannot be asked.

        Raises:
            NotReady: it cannot.
        """
        ask = getattr(self._handle, 'is_stream_capturable', None)
        if ask is not None and not ask(stream):
            raise NotReady('TensorRT says that it cannot be captured', value=self._graph)

    def _limits_of(self, name: str) -> str:
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        return f'{tuple(low)} .. {tuple(high)}'


class LoadedEngine:
    """One engine; it runs after :meth:`prepare`.

    Args:
        plan: what it is part of.
        spec: its graph.
        content: the serialised engine.
        rebuild: command shown where it must be built again.
        kernels: file of what TensorRT for RTX compiles while it runs.

    Raises:
        EngineMismatch: TensorRT cannot read it here, or it has another interface.
        NotReady: TensorRT cannot start here.
        OutOfMemory: there is no room for it.
    """

    def __init__(self, plan: Plan, spec: GraphSpec, content: bytes, rebuild: str,
                 kernels: Path) -> None:
        self._module = plan.flavour.module
        self.spec, self.precision, self.file_bytes = spec, plan.bundle.precision, len(content)
        self._words = words_of(self._module)
        self._words.forget()
        self._runtime = self._new_runtime()
        self.engine = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise self._unreadable(rebuild)
        self._check(rebuild)
        self._kernels = kernels_of(plan.flavour, self.engine, kernels)
        self._plain: dict[tuple[int, bool], Context] = {}  # by profile and kind of kernels

    @property
    def scratch_bytes(self) -> int:
        """Device memory that it needs while it runs; more when weights are streamed."""
        return int(self.engine.device_memory_size_v2)

    @property
    def streamable_bytes(self) -> int:
        """Weights that may be left in host memory; 0 unless it was built for that."""
        return max(0, int(self.engine.streamable_weights_size))

    @property
    def weight_bytes(self) -> int:
        """Weights on the device; by the size of its file where this TensorRT does not tell."""
        kinds = getattr(self._module, 'EngineStat', None)  # 10.3 and 10.13 have none, 10.16 has
        whole = (self.file_bytes if kinds is None
                 else int(self.engine.get_engine_stat(kinds.TOTAL_WEIGHTS_SIZE)))
        if not self.streamable_bytes:
            return whole
        kept = int(self.engine.weight_streaming_budget_v2)
        return max(0, whole - max(0, self.streamable_bytes - kept))

    def stream(self, budget: int) -> None:
        """Keep so many bytes of streamable weights on the device; before :meth:`prepare`."""
        if self.streamable_bytes:
            self.engine.weight_streaming_budget_v2 = min(budget, self.streamable_bytes)

    def prepare(self, scratch: Tensor, stream: int) -> None:
        """Give it device memory to run in.

        Raises:
            OutOfMemory: there is no room for its weights.
        """
        self._scratch = scratch
        self._plain = {(0, False): self.context(0, stream)}

    def context(self, profile: int, stream: int, *, steady: bool = False) -> Context:
        """A new execution context in the memory that all of them share.

        Args:
            profile: number of its optimisation profile.
            stream: CUDA stream that sets it.
            steady: whether it meets few sizes and often, as what is captured does, so that
                kernels for each are worth their time; see :class:`~.kernels.Kernels`.

        Raises:
            OutOfMemory: there is no room for it.
            NotReady: TensorRT refuses the profile.
        """
        self._words.forget()
        handle = self._new_handle(steady)
        if handle is None:
            torch.cuda.empty_cache()  # TensorRT cannot have what torch keeps for itself
            self._words.forget()
            handle = self._new_handle(steady)
        if handle is None:
            raise no_room(f'running graph {self.spec.name}',
                          self.weight_bytes + self.scratch_bytes, self._words.last())
        handle.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        if profile and not handle.set_optimization_profile_async(profile, stream):
            raise NotReady(f'TensorRT refuses a profile of graph {self.spec.name}', value=profile,
                           remedy='build without --decode-profile')
        return Context(self.spec.name, self.engine, handle, profile, self._words)

    def _new_runtime(self) -> Any:
        try:
            return self._module.Runtime(self._words.handle)
        except TypeError as error:  # what pybind makes of a constructor that gives nothing
            raise NotReady('TensorRT cannot start here', value=self._words.last() or str(error),
                           remedy=CANNOT_START) from error

    def _new_handle(self, steady: bool) -> Any:
        """TensorRT's own context; None where it has no memory for one."""
        strategies = self._module.ExecutionContextAllocationStrategy
        return self.engine.create_execution_context(
            strategies.USER_MANAGED if self._kernels is None else self._kernels.config(steady))

    def keep_kernels(self) -> None:
        """Keep on disk what TensorRT for RTX has compiled so far; others compile nothing."""
        if self._kernels is not None:
            self._kernels.keep()

    def profile_of(self, inputs: Tensors) -> int:
        """Number of the profile for these sizes: single tokens may have one of their own."""
        return int(self.engine.num_optimization_profiles > 1 and is_token(self.spec, inputs))

    def run(self, inputs: Tensors, outputs: Tensors, stream: int, *, steady: bool = False) -> None:
        """Run on tensors where they lie; shapes must be inside the profile.

        Args:
            inputs, outputs: by name.
            stream: CUDA stream to run on.
            steady: see :meth:`context`.

        Raises:
            BadOption: a shape is outside what the engine was built for.
            NotReady: TensorRT failed.
        """
        profile = self.profile_of(inputs)
        kind = profile, steady and self._kernels is not None
        if kind not in self._plain:
            self._plain[kind] = self.context(profile, stream, steady=steady)
        inputs = {name: value if is_aligned(value) else value.clone()
                  for name, value in inputs.items()}
        self._plain[kind].bind(inputs, outputs)
        self._plain[kind].execute(stream)

    def _unreadable(self, rebuild: str) -> CooperError:
        """Why there is no engine: room can be measured, all else TensorRT tells its logger."""
        name, words = self.spec.name, self._words.last()
        if self.file_bytes > free_bytes():
            return no_room(f'the engine of graph {name}', self.file_bytes, words)
        return EngineMismatch(f'TensorRT cannot read the engine of graph {name} here',
                              value=': '.join(filter(None, (gpu_architecture(), words))),
                              remedy=f'run `{rebuild}`')

    def _check(self, rebuild: str) -> None:
        """Compare what the engine itself says with the description of the graph."""
        engine, found = self.engine, []
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            found.append([name, engine.get_tensor_mode(name).name.lower(),
                          list(engine.get_tensor_shape(name)),
                          type_name(engine.get_tensor_dtype(name))])
        wanted = self.spec.interface(self.precision)
        if sorted(found) != sorted(wanted):
            raise EngineMismatch(f'the engine of graph {self.spec.name} has other inputs or '
                                 'outputs', value=[row for row in found if row not in wanted],
                                 limit=[row for row in wanted if row not in found],
                                 remedy=f'run `{rebuild}`')


def no_room(what: str, needed: int, words: str = '') -> OutOfMemory:
    """The error where nothing is given for want of memory.

    Args:
        what: that was to be made.
        needed: bytes of it.
        words: what TensorRT says; it may have had another reason.
    """
    free = f'{free_bytes() / MIB:,.0f} MiB free'
    return OutOfMemory(f'the device has no memory for {what}', value=f'{needed / MIB:,.0f} MiB',
                       limit=f'{free} (TensorRT: {words})' if words else free, remedy=_SMALLER)
