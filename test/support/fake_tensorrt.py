"""A stand-in for TensorRT and for CUDA streams and graphs, on tensors in host memory.

It is strict where the real ones are: a replayed graph whose execution context was touched since
it was captured, a context in an engine whose budget changes, an address that is not aligned, a run
on the default stream, a recorded kernel that only stands in for another and kernels that are
compiled while others run are errors. The numbers come from onnxruntime.
"""

from __future__ import annotations

import ctypes
import functools
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Iterator

import numpy as np
import pytest
import torch

from cooper_ros.runtime.engines import loaded, runner
from cooper_ros.runtime.engines.cache import Entry
from cooper_ros.runtime.engines.flavour import RTX, Flavour
from cooper_ros.runtime.engines.key import BuildOptions
from cooper_ros.runtime.engines.plan import Plan
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.graphs.spec import PROFILE_SHAPES, profiles_of
from cooper_ros.runtime.onnx_runtime import OnnxRunner

ALIGNMENT = 64  # of tensors in host memory
TYPES = {'float32': 'FLOAT', 'int64': 'INT64', 'bool': 'BOOL'}


@dataclass
class Device:
    """What there is to run on, what goes wrong on it, and what was done with it."""

    free: int = 10 << 30
    driverless: bool = False
    unreadable: bool = False
    contexts_left: int = 1000
    capturable: bool = True
    broken_capture: bool = False
    streamable: int = 0  # bytes of each engine
    captures: list[str] = field(default_factory=list)
    runs: list[tuple[str, int]] = field(default_factory=list)  # graph, profile
    current: Any = None
    capturing: Any = None
    synchronised: int = 0
    integrated: bool = False
    compiled: list[tuple] = field(default_factory=list)  # graph and sizes, not found in a cache
    words: str = ''  # what the logger hears when something goes wrong
    log: Any = None
    emptied: int = 0  # how often torch gave its own memory back
    forgetful: bool = False  # torch before 2.13, after a capture that failed
    ended: list[tuple[int, int]] = field(default_factory=list)  # pools, by hand

    def complain(self) -> None:
        if self.words:
            self.log.log(ILogger.ERROR, self.words)


class Stream:
    """A CUDA stream; all of them run at once, in the order of the calls."""

    def __init__(self, device: Device, number: int) -> None:
        self.device, self.cuda_stream = device, number
        self.waited: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited.append(other)

    def synchronize(self) -> None:
        assert self.device.capturing is None
        self.device.synchronised += 1


class CudaGraph:
    """What was captured: contexts as they were."""

    def __init__(self) -> None:
        self.steps: list[tuple[Context, int]] = []

    def replay(self) -> None:
        for context, version in self.steps:
            assert context.version == version, 'its context was changed after the capture'
            context.run()


class Context:
    def __init__(self, engine: Engine, config: RuntimeConfig | None) -> None:
        self.engine, self.config, self.version, self.profile = engine, config, 0, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.scratch = address, size

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream and not self.shapes
        self.profile = profile
        return profile < self.engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name], self.version = shape, self.version + 1
        return all(a <= n <= b for a, n, b in zip(low, shape, high))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name], self.version = address, self.version + 1
        return address % ALIGNMENT == 0

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.device.capturable

    def execute_async_v3(self, stream: int) -> bool:
        device = self.engine.device
        assert stream and stream == device.current.cuda_stream
        assert self.scratch is not None and set(self.addresses) == set(self.engine.entries)
        if device.capturing is None:
            self.run()
        elif device.broken_capture:
            device.complain()
            return False
        else:
            assert self.config is None or self.config.is_eager
            device.capturing.steps.append((self, self.version))
            device.captures.append(self.engine.spec.name)
        return True

    def run(self) -> None:
        spec, engine = self.engine.spec, self.engine
        engine.device.runs.append((spec.name, self.profile))
        if self.config is not None:
            kind = self.config.dynamic_shapes_kernel_specialization_strategy
            assert kind in ('eager', 'none')  # not in the background
            self.compile((spec.name, *(sorted(self.shapes.items()) if self.config.is_eager
                                       else ['any size', self.profile])))
        feed = {entry.name: self.memory(entry.name, self.shapes[entry.name])
                for entry in spec.inputs}
        outputs = engine.answers.run(spec.name, {
            name: torch.from_numpy(value) for name, value in feed.items()}, {})
        for name, value in outputs.items():
            self.memory(name, value.shape)[...] = value.numpy()

    def compile(self, size: tuple) -> None:
        if repr(size) not in self.config.cache.sizes:
            self.config.cache.sizes.append(repr(size))
            self.engine.device.compiled.append(size)

    def memory(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        kind = np.dtype(self.engine.kinds[name])
        size = int(np.prod(shape)) * kind.itemsize
        block = (ctypes.c_byte * size).from_address(self.addresses[name])
        return np.frombuffer(block, dtype=kind).reshape(shape)


class RuntimeCache:
    """Kernels that were compiled, by their sizes."""

    def __init__(self) -> None:
        self.sizes: list[str] = []

    def serialize(self) -> bytes:
        return '\n'.join(['kernels', *self.sizes]).encode()

    def deserialize(self, content: bytes) -> bool:
        kind, *sizes = content.decode().split('\n')
        self.sizes += sizes if kind == 'kernels' else []
        return kind == 'kernels'


class RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = 'lazy'
    allocation, cache = 'static', None

    @property
    def is_eager(self) -> bool:
        return self.dynamic_shapes_kernel_specialization_strategy == 'eager'

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.allocation = strategy

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class Engine:
    device_memory_size_v2 = 4096

    def __init__(self, device: Device, plan: Plan, name: str) -> None:
        self.is_rtx = plan.flavour.name == RTX
        self.device, self.spec = device, plan.bundle.specs()[name]
        self.answers = _answers(str(plan.bundle.folder))
        rows = self.spec.interface('fp32')
        self.entries = {row[0]: row for row in rows}
        self.kinds = {row[0]: row[3] for row in rows}
        self.profiles = profiles_of(self.spec, plan.limits, decode=plan.options.decode_profile)
        self.num_optimization_profiles, self.num_io_tensors = len(self.profiles), len(rows)
        self.streamable_weights_size = self.budget = device.streamable
        self.contexts: list[Context] = []

    def get_tensor_name(self, number: int) -> str:
        return list(self.entries)[number]

    def get_tensor_mode(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.entries[name][1].upper())

    def get_tensor_shape(self, name: str) -> list[int]:
        return self.entries[name][2]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=TYPES[self.entries[name][3]])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        (entry,) = (entry for entry in self.spec.inputs if entry.name == name)
        return [entry.sizes({symbol: getattr(span, which)
                             for symbol, span in self.profiles[profile].items()})
                for which in PROFILE_SHAPES]

    def get_engine_stat(self, kind: str) -> int:
        assert kind == 'total'
        return 1000 + self.device.streamable

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self.budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        assert self.streamable_weights_size and not self.contexts
        self.budget = budget
        self.device_memory_size_v2 = 4096 + (budget < self.streamable_weights_size) * 4096

    def create_runtime_config(self) -> RuntimeConfig:
        assert self.is_rtx  # the other TensorRT has one too, and needs none
        return RuntimeConfig()

    def create_execution_context(self, how: str | RuntimeConfig) -> Context | None:
        config = how if isinstance(how, RuntimeConfig) else None
        assert (config.allocation if config else how) == 'user' and bool(config) == self.is_rtx
        if not self.device.contexts_left:
            self.device.complain()
            return None
        self.device.contexts_left -= 1
        self.contexts.append(Context(self, config))
        return self.contexts[-1]


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)

    def __init__(self) -> None:
        self.made = True


@functools.cache
def _answers(folder: str) -> OnnxRunner:
    return OnnxRunner(Bundle.load(Path(folder)), threads=1)


class Cache:
    """Engines that hold the name of their graph."""

    rebuild = 'cooper engine build CHECKPOINT'

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.folder = folder
        self._names = {plan.key(graph, 'SM89').name: graph for graph in plan.bundle.specs()}

    def entries(self) -> list[Entry]:
        return [Entry(name, None, 100, {}) for name in self._names]

    def load(self, key: Any, interface: list) -> bytes:
        return key.graph.encode()


def tensorrt(device: Device, stats: bool = True) -> Any:
    """The module, as the newest TensorRT for RTX has it, or without statistics of engines."""
    def runtime(log: ILogger) -> Any:
        assert log.made and vars(module).setdefault('log', log) is log  # the first is the last
        device.log = log
        if device.driverless:
            device.complain()
            raise TypeError('pybind11::init(): factory function returned nullptr')
        return SimpleNamespace(deserialize_cuda_engine=read)

    def read(content: bytes) -> Engine | None:
        if device.unreadable:
            device.complain()
            return None
        return Engine(device, module.plan, content.decode())

    module: Any = ModuleType('tensorrt')
    module.Runtime, module.ILogger = runtime, ILogger
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED='user')
    module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER='eager', NONE='none')
    if stats:
        module.EngineStat = SimpleNamespace(TOTAL_WEIGHTS_SIZE='total')
    return module


def plan_of(device: Device, bundle: Bundle, *, context: int = 512, stats: bool = True,
            flavour: str = RTX, **options: Any) -> Plan:
    """A plan whose engines the stand-in makes."""
    module = tensorrt(device, stats)
    module.plan = Plan(bundle, Flavour(flavour, '1.7', module), context,
                       options=BuildOptions(**options))
    return module.plan


def pretend_cuda(device: Device, patch: pytest.MonkeyPatch) -> None:
    """Put the stand-in in the place of the parts of ``torch.cuda`` that the runner uses."""
    default = device.current = Stream(device, 0)
    made = [default]

    def new() -> Stream:
        made.append(Stream(device, len(made)))
        return made[-1]

    @contextmanager
    def entered(stream: Stream) -> Iterator[None]:
        before, device.current = device.current, stream
        yield
        device.current = before

    def emptied() -> None:
        device.emptied += 1

    pretend_capture(device, patch)
    for name, value in (('is_available', lambda: True), ('Stream', new), ('stream', entered),
                        ('current_stream', lambda: device.current), ('CUDAGraph', CudaGraph),
                        ('empty_cache', emptied), ('mem_get_info', lambda: (device.free, 1 << 40)),
                        ('current_device', lambda: 0), ('get_device_name', lambda: 'a GPU'),
                        ('get_device_properties', lambda number: SimpleNamespace(
                            multi_processor_count=1, is_integrated=device.integrated))):
        patch.setattr(torch.cuda, name, value)
    patch.setattr(runner, 'DEVICE', 'cpu')
    patch.setattr(runner, 'gpu_architecture', lambda: 'SM89')
    patch.setattr(loaded, 'gpu_architecture', lambda: 'SM89')
    patch.setattr(loaded, 'ALIGNMENT', ALIGNMENT)


def pretend_capture(device: Device, patch: pytest.MonkeyPatch) -> None:
    """Put the stand-in in the place of torch's capture and of the memory it allocates from."""
    @contextmanager
    def captured(graph: CudaGraph, *, pool: tuple[int, int], stream: Stream,
                 capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == 'thread_local' and stream is device.current
        device.capturing = graph
        try:
            yield
        finally:
            device.capturing = None
            if device.broken_capture:
                raise RuntimeError('CUDA error: operation failed due to a previous error during '
                                   'capture')

    def ended(number: int, pool: tuple[int, int]) -> None:
        device.ended.append(pool)
        if not device.forgetful:
            raise RuntimeError('not currently recording to mempool_id')

    patch.setattr(torch._C, '_cuda_endAllocateToPool', ended, raising=False)
    patch.setattr(torch.cuda, 'graph', captured)
    patch.setattr(torch.cuda, 'graph_pool_handle', lambda: (0, 1))
