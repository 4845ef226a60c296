"""Running compiled engines on torch CUDA tensors.

Inputs and outputs are bound where torch has put them: the cache is read in place, and new keys
and values land behind its end. One piece of device memory serves all engines, for they never run
at the same time. Decode and flow steps are recorded as CUDA graphs once per bucket of context.

The machines that test this project have no GPU, so nothing in this file but the refusal to start
has ever been executed there; ``benchmarks/gpu_check.py`` proves it where there is one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Mapping

import torch
from torch import Tensor

from cooper_ros.errors import BadOption, EngineMismatch, NotReady, OutOfMemory
from cooper_ros.runtime.engines.build import type_name
from cooper_ros.runtime.engines.cache import EngineCache
from cooper_ros.runtime.engines.flavour import gpu_architecture
from cooper_ros.runtime.engines.plan import Plan
from cooper_ros.runtime.graphs.runtime import GraphRuntime, Tensors
from cooper_ros.runtime.graphs.spec import FLOW, UNDERSTAND, Axis, GraphSpec, dtype_of

BUCKET = 256  # slots; contexts are padded to multiples, so that recorded steps can be replayed
MIB = 1 << 20
RECORDED = 16  # steps kept as CUDA graphs
_IN_PLACE = ('key_', 'value_')  # inputs that a recorded step reads where they lie


@dataclass(frozen=True)
class MemoryPlan:
    """Device memory of loaded engines, in bytes.

    Attributes:
        scratch: shared by all engines.
        weights: of each engine; what streaming leaves in host memory is not counted.
        cache: what 1,024 tokens of one context take beside them.
    """

    scratch: int
    weights: dict[str, int]
    cache: int = 0

    def __str__(self) -> str:
        """One line for log and report."""
        each = ', '.join(f'{name} {size / MIB:.0f}' for name, size in self.weights.items())
        return (f'device memory of engines: {sum(self.weights.values()) / MIB:.0f} MiB of weights '
                f'({each}), {self.scratch / MIB:.0f} MiB of scratch shared by all; every 1,024 '
                f'tokens of a context take {self.cache / MIB:.1f} MiB more')


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
                          limit=f'{free / MIB:,.0f} MiB free', remedy='build in a smaller '
                          'precision or with --weight-streaming, or set runtime to torch')


class LoadedEngine:
    """One engine with its execution context.

    Raises:
        EngineMismatch: TensorRT cannot read it here, or it has another interface.
    """

    def __init__(self, plan: Plan, spec: GraphSpec, content: bytes, rebuild: str,
                 stream_bytes: int | None) -> None:
        module = self._module = plan.flavour.module
        self.spec, self.precision = spec, plan.bundle.precision
        self._runtime = module.Runtime(module.Logger(module.Logger.ERROR))
        self.engine = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise EngineMismatch(f'TensorRT cannot read the engine of graph {spec.name} here',
                                 value=gpu_architecture(), remedy=f'run `{rebuild}`')
        self._check(rebuild)
        if stream_bytes is not None and plan.options.weight_streaming:
            self.engine.weight_streaming_budget_v2 = stream_bytes
        self.context = self.engine.create_execution_context(
            module.ExecutionContextAllocationStrategy.USER_MANAGED)

    @property
    def scratch_bytes(self) -> int:
        """Device memory that it needs while it runs."""
        return int(self.engine.device_memory_size_v2)

    @property
    def weight_bytes(self) -> int:
        """Weights on the device; -1 where this TensorRT does not tell."""
        kinds = getattr(self._module, 'EngineStat', None)
        if kinds is None:
            return -1
        whole = int(self.engine.get_engine_stat(kinds.TOTAL_WEIGHTS_SIZE))
        streamed = int(self.engine.streamable_weights_size)
        return whole - max(0, streamed - int(self.engine.weight_streaming_budget_v2))

    def use(self, scratch: Tensor) -> None:
        """Give it device memory to run in."""
        self.context.set_device_memory(scratch.data_ptr(), scratch.numel())

    def run(self, inputs: Tensors, outputs: Tensors, stream: int) -> None:
        """Run on bound tensors; shapes must be inside the profile.

        Raises:
            BadOption: a shape is outside what the engine was built for.
        """
        for name, value in inputs.items():
            if not self.context.set_input_shape(name, tuple(value.shape)):
                raise BadOption(f'{self.spec.name} was not built for this size of {name}',
                                value=tuple(value.shape), limit=self._limits_of(name),
                                remedy='build with a larger --context or --side')
        for name, value in (*inputs.items(), *outputs.items()):
            self.context.set_tensor_address(name, value.data_ptr())
        if not self.context.execute_async_v3(stream):
            raise NotReady(f'TensorRT failed to run graph {self.spec.name}',
                           remedy='see its log; restart the node')

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

    def _limits_of(self, name: str) -> str:
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        return f'{tuple(low)} .. {tuple(high)}'


@dataclass
class Recorded:
    """One step as a CUDA graph: its own inputs and outputs, and the cache where it lies."""

    graph: Any
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class TensorRtRunner:
    """Runs the engines of a checkpoint; see :class:`~..graphs.runtime.GraphRunner`.

    Args:
        plan: which engines.
        cache: where they are; every one is proved before it is read.
        rebuild: command shown where one must be built again.
        stream_bytes: device memory for weights of each engine built with weight streaming; None
            keeps all of them on the device.
        record: use CUDA graphs.

    Raises:
        NotReady: there is no GPU.
        EngineMismatch: an engine is missing, damaged or for something else.
    """

    name, bucket = 'TensorRT', BUCKET

    def __init__(self, plan: Plan, cache: EngineCache, *, rebuild: str = '',
                 stream_bytes: int | None = None, record: bool = True) -> None:
        if not torch.cuda.is_available():
            raise _no_gpu()
        self.device = torch.device('cuda')
        self.most_tokens, self.record = plan.limits.tokens.high, record
        arch, specs = gpu_architecture(), plan.bundle.specs()
        names = {plan.key(name, arch).name for name in specs}
        check_room(sum(entry.bytes for entry in cache.entries() if entry.name in names),
                   torch.cuda.mem_get_info()[0], plan.options.weight_streaming)
        llm, size = plan.bundle.config.llm, dtype_of(plan.bundle.precision).itemsize
        self._cache_bytes = 2 * 1024 * llm.num_layers * llm.num_kv_heads * llm.head_dim * size
        self.engines = {
            name: LoadedEngine(plan, spec, cache.load(plan.key(name, arch),
                                                      spec.interface(plan.bundle.precision)),
                               rebuild or cache.rebuild, stream_bytes)
            for name, spec in specs.items()}
        most = max(engine.scratch_bytes for engine in self.engines.values())
        self._scratch = torch.empty(most, dtype=torch.uint8, device=self.device)
        for engine in self.engines.values():
            engine.use(self._scratch)
        self._recorded: OrderedDict[tuple, Recorded] = OrderedDict()

    def memory(self) -> MemoryPlan:
        """Device memory in use, and what the cache will take."""
        return MemoryPlan(self._scratch.numel(), {
            name: loaded.weight_bytes for name, loaded in self.engines.items()},
            self._cache_bytes)

    def run(self, graph: str, inputs: Tensors, into: Tensors) -> Tensors:
        """See :class:`~..graphs.runtime.GraphRunner`."""
        engine = self.engines[graph]
        recorded = self.record and _is_step(engine.spec, inputs)
        if recorded:
            outputs: Mapping[str, Tensor] = self._replayed(engine, inputs)
        else:
            outputs = self._outputs(engine, inputs, into)
            engine.run(inputs, outputs, torch.cuda.current_stream().cuda_stream)
        for name, target in into.items():
            if outputs[name].data_ptr() != target.data_ptr():
                target.copy_(outputs[name])
        return {name: value.clone() if recorded and not name.startswith('new_') else value
                for name, value in outputs.items() if name not in into}

    def _outputs(self, engine: LoadedEngine, inputs: Tensors, into: Tensors) -> dict[str, Tensor]:
        """Where results go: the place that was asked for if it is one block, else new memory."""
        sizes = _symbols(engine.spec, inputs)
        found = {}
        for entry in engine.spec.outputs:
            shape, target = entry.sizes(sizes), into.get(entry.name)
            usable = (target is not None and target.is_contiguous()
                      and not _overlap(target, inputs))
            found[entry.name] = target if usable and target is not None else torch.empty(
                shape, dtype=entry.dtype(engine.precision), device=self.device)
        return found

    def _replayed(self, engine: LoadedEngine, inputs: Tensors) -> dict[str, Tensor]:
        places = tuple((value.data_ptr(), tuple(value.shape)) if name.startswith(_IN_PLACE)
                       else tuple(value.shape) for name, value in inputs.items())
        key = (engine.spec.name, *places)
        if key not in self._recorded:
            self._recorded[key] = self._recording(engine, inputs)
            while len(self._recorded) > RECORDED:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(key)
        step = self._recorded[key]
        for name, own in step.inputs.items():
            if not name.startswith(_IN_PLACE):
                own.copy_(inputs[name])
        step.graph.replay()
        return step.outputs

    def _recording(self, engine: LoadedEngine, inputs: Tensors) -> Recorded:
        own = {name: value if name.startswith(_IN_PLACE) else value.clone()
               for name, value in inputs.items()}
        outputs = self._outputs(engine, own, {})
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # TensorRT prepares itself for new sizes in the first run
            engine.run(own, outputs, side.cuda_stream)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            engine.run(own, outputs, torch.cuda.current_stream().cuda_stream)
        return Recorded(graph, own, outputs)


def load_tensorrt_runtime(plan: Plan, cache: EngineCache, *, rebuild: str = '',
                          stream_bytes: int | None = None) -> GraphRuntime:
    """A runtime on compiled engines.

    Raises:
        NotReady: there is no GPU.
        EngineMismatch: an engine is missing, damaged or for something else.
    """
    bundle = plan.bundle
    runner = TensorRtRunner(plan, cache, rebuild=rebuild, stream_bytes=stream_bytes)
    return GraphRuntime(runner, bundle.config, specials=bundle.specials,
                        vocabulary=bundle.vocabulary, precision=bundle.precision,
                        words=bundle.words(), parts=bundle.parts)


def _is_step(spec: GraphSpec, inputs: Tensors) -> bool:
    """Whether a call will come again with the same sizes: decoding, or a flow step."""
    return spec.family == FLOW or (spec.family == UNDERSTAND and inputs['embeds'].shape[1] == 1)


def _no_gpu() -> NotReady:
    return NotReady('compiled engines run on a GPU, and there is none',
                    remedy='set runtime to torch or onnx')


def _symbols(spec: GraphSpec, inputs: Tensors) -> dict[str, int]:
    """Values of the varying sizes, read from the inputs."""
    return {n.symbol: (inputs[entry.name].shape[at] - n.offset) // n.factor
            for entry in spec.inputs for at, n in enumerate(entry.shape) if isinstance(n, Axis)}


def _overlap(target: Tensor, inputs: Tensors) -> bool:
    """Whether writing to ``target`` would change an input while it is read."""
    start, size = target.data_ptr(), target.numel() * target.element_size()
    return any(value.data_ptr() < start + size
               and start < value.data_ptr() + value.numel() * value.element_size()
               for value in inputs.values())
