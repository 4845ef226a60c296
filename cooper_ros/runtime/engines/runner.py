"""Running compiled engines on torch CUDA tensors.

Inputs and outputs are bound where torch has put them: the cache is read in place, and new keys
and values land behind its end. One piece of device memory serves all engines, for they never run
at the same time. Decode and flow steps are recorded as CUDA graphs once per bucket of context.

The machines that test this project have no GPU: there, a stand-in for TensorRT and for CUDA
streams runs what is here (``test/test_engines_runner.py``). ``benchmarks/gpu_check.py`` proves it
where there is one.
"""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Iterator

import torch
from torch import Tensor

from cooper_ros.errors import CooperError, NotReady, OutOfMemory
from cooper_ros.runtime.engines.cache import KERNELS, EngineCache
from cooper_ros.runtime.engines.flavour import gpu_architecture
from cooper_ros.runtime.engines.loaded import (
    MIB,
    Context,
    LoadedEngine,
    check_room,
    is_aligned,
    is_token,
    no_room,
    stream_budgets,
)
from cooper_ros.runtime.engines.plan import Plan
from cooper_ros.runtime.graphs.runtime import GraphRuntime, Tensors
from cooper_ros.runtime.graphs.spec import BUCKET, FLOW, Axis, GraphSpec, dtype_of
from cooper_ros.runtime.memory import free_bytes, is_board

DEVICE = 'cuda'
RECORDED = 16  # steps kept as CUDA graphs, each with all parts of the decoder
ROWS = 3  # contexts of a session, and as many copies of them: what streamed weights leave free
_IN_PLACE = ('key_', 'value_')  # inputs that a recorded step reads where they lie


@dataclass(frozen=True)
class MemoryPlan:
    """Device memory of loaded engines, in bytes.

    Attributes:
        scratch: shared by all engines.
        weights: of each engine; what streaming leaves in host memory is not counted.
        cache: what 1,024 tokens of one context take beside them.
        recorded: what steps recorded so far keep for their inputs and outputs.
        plain: graphs that could not be recorded, and why.
    """

    scratch: int
    weights: dict[str, int]
    cache: int = 0
    recorded: int = 0
    plain: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for log and report."""
        each = ', '.join(f'{name} {size / MIB:.0f}' for name, size in self.weights.items())
        return (f'device memory of engines: {sum(self.weights.values()) / MIB:.0f} MiB of weights '
                f'({each}), {self.scratch / MIB:.0f} MiB of scratch shared by all; every 1,024 '
                f'tokens of a context take {self.cache / MIB:.1f} MiB more, and as much again '
                'once several contexts draw together; recorded steps keep '
                f'{self.recorded / MIB:.1f} MiB' + ''.join(f'; {text}' for text in self.plain))


@dataclass
class Recorded:
    """One step as a CUDA graph.

    The cache is not in here: whoever asks for the step again hands it over at the same place, so
    it lives then, and a session that has ended gives its memory back.

    Attributes:
        graph: the CUDA graph.
        context: what it was captured from; nobody else uses it.
        inputs: its own inputs, all but the cache; shared by all steps of the same sizes.
        outputs: likewise.
    """

    graph: Any
    context: Context
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class TensorRtRunner:
    """Runs the engines of a checkpoint; see :class:`~..graphs.runtime.GraphRunner`.

    Args:
        plan: which engines.
        cache: where they are; every one is proved before it is read.
        rebuild: command shown where one must be built again.
        stream_bytes: device memory for weights of each engine built with weight streaming; None
            shares what is free.
        record: use CUDA graphs.

    Attributes:
        steady: whether plain runs use kernels as recorded steps do, which takes time for every
            new size; for comparing the two.

    Raises:
        NotReady: there is no GPU.
        EngineMismatch: an engine is missing, damaged or for something else.
        OutOfMemory: they do not fit.
    """

    name, bucket = 'TensorRT', BUCKET

    def __init__(self, plan: Plan, cache: EngineCache, *, rebuild: str = '',
                 stream_bytes: int | None = None, record: bool = True) -> None:
        if not torch.cuda.is_available():
            raise _no_gpu()
        self.device, self._stream = torch.device(DEVICE), torch.cuda.Stream()
        self.most_tokens, self.record, self.steady = plan.limits.tokens.max, record, False
        self._recorded: OrderedDict[tuple, Recorded] = OrderedDict()
        self._most_recorded = RECORDED * plan.bundle.parts
        self._sizes: set[tuple] = set()  # of all steps recorded so far
        self._fresh = True  # whether kernels may have been compiled that are not kept yet
        self._plain: dict[str, str] = {}
        self._short: set[str] = set()  # graphs that once could not be recorded for want of memory
        llm, size = plan.bundle.config.llm, dtype_of(plan.bundle.precision).itemsize
        self._cache_bytes = 2 * 1024 * llm.num_layers * llm.num_kv_heads * llm.head_dim * size
        self.engines = _loaded(plan, cache, rebuild or cache.rebuild)
        self._share_room(plan.limits.context.max, stream_bytes)
        self._scratch = self._new_scratch()
        for engine in self.engines.values():
            engine.prepare(self._scratch, self._stream.cuda_stream)

    def memory(self) -> MemoryPlan:
        """Device memory in use, and what the cache will take."""
        kept = {value.data_ptr(): value.nbytes for step in self._recorded.values()
                for value in (*step.inputs.values(), *step.outputs.values())}
        return MemoryPlan(self._scratch.numel(), {
            name: loaded.weight_bytes for name, loaded in self.engines.items()},
            self._cache_bytes, sum(kept.values()), tuple(self._plain.values()))

    def forget(self) -> None:
        """Drop recorded steps: their cache is gone, or their memory is needed.

        What was compiled for them is kept.
        """
        if self._recorded:
            self._stream.synchronize()  # the device may not have finished with them
            self._recorded.clear()
        if self._fresh:
            self._fresh = False
            for engine in self.engines.values():
                engine.keep_kernels()

    def run(self, graph: str, inputs: Tensors, into: Tensors) -> Tensors:
        """See :class:`~..graphs.runtime.GraphRunner`.

        New keys and values that nobody wants ``into`` a cache hold until the next run.
        """
        engine = self.engines[graph]
        with torch.inference_mode(), self._own_stream():
            try:
                step = self._step(engine, inputs, into)
                return self._replayed(step, inputs, into) if step else self._once(
                    engine, inputs, into)
            except (torch.OutOfMemoryError, OutOfMemory):
                pass  # and with it goes the traceback, which holds what was half made
            self.forget()
            return self._once(engine, inputs, into)

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """On the default stream TensorRT would wait for the whole device in every run."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def _once(self, engine: LoadedEngine, inputs: Tensors, into: Tensors) -> Tensors:
        """Run without a recording."""
        outputs = self._outputs(engine, inputs, into)
        engine.run(inputs, outputs, self._stream.cuda_stream, steady=self.steady)
        for name, target in into.items():
            if outputs[name] is not target:
                target.copy_(outputs[name])
        return {name: value for name, value in outputs.items() if name not in into}

    def _outputs(self, engine: LoadedEngine, inputs: Tensors, into: Tensors) -> dict[str, Tensor]:
        """Where results go: the place that was asked for if it is one block, else new memory."""
        sizes = _symbols(engine.spec, inputs)
        found = {}
        for entry in engine.spec.outputs:
            shape, target = entry.sizes(sizes), into.get(entry.name)
            usable = (target is not None and target.is_contiguous() and is_aligned(target)
                      and not _overlap(target, inputs))
            found[entry.name] = target if usable and target is not None else torch.empty(
                shape, dtype=entry.dtype(engine.precision), device=self.device)
        return found

    def _replayed(self, step: Recorded, inputs: Tensors, into: Tensors) -> Tensors:
        for name, own in step.inputs.items():
            own.copy_(inputs[name])
        step.graph.replay()
        for name, target in into.items():
            target.copy_(step.outputs[name])
        return {name: value if name.startswith('new_') else value.clone()
                for name, value in step.outputs.items() if name not in into}

    def _step(self, engine: LoadedEngine, inputs: Tensors, into: Tensors) -> Recorded | None:
        """The recording of a call, made when it comes first; None for what runs plainly."""
        name = engine.spec.name
        if not self.record or name in self._plain or not _is_step(engine.spec, inputs, into):
            return None
        key = (name, *((value.data_ptr() if _lies(entry, value) else 0, tuple(value.shape))
                       for entry, value in inputs.items()))
        if key not in self._recorded:
            while len(self._recorded) >= self._most_recorded:
                self._stream.synchronize()
                self._recorded.popitem(last=False)
            step = self._recording(engine, inputs)
            if step is None:
                return None
            self._recorded[key] = step
            if (size := (name, *_shapes(inputs).values())) not in self._sizes:
                self._sizes.add(size)
                self._fresh = True
        self._recorded.move_to_end(key)
        return self._recorded[key]

    def _recording(self, engine: LoadedEngine, inputs: Tensors) -> Recorded | None:
        """Record a step; None, and a line in the log, where that is not possible."""
        stream, name = self._stream.cuda_stream, engine.spec.name
        own, outputs = self._places(engine, inputs)
        try:
            context = engine.context(engine.profile_of(inputs), stream, steady=True)
        except OutOfMemory as error:  # the first time, all that was recorded makes room
            if name not in self._short:
                self._short.add(name)
                raise
            self._give_up(name, error)
            return None
        context.bind({**inputs, **own}, outputs)
        context.execute(stream)  # TensorRT prepares itself for new sizes in the first run
        try:
            return Recorded(self._captured(context), context, own, outputs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, CooperError) as error:  # an operator that must wait for the device
            self._give_up(name, error)
            return None

    def _give_up(self, graph: str, error: Exception) -> None:
        """Never record a graph again, and say why."""
        self._plain[graph] = (f'graph {graph} runs without CUDA graphs: '
                              f'{" ".join(str(error).split())[:200]}')
        logging.getLogger(__name__).warning(self._plain[graph])

    def _captured(self, context: Context) -> torch.cuda.CUDAGraph:
        """What a bound context does, as a CUDA graph; other threads may go on meanwhile."""
        context.require_capturable(self._stream.cuda_stream)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            with _uncollected(), torch.cuda.graph(graph, pool=pool, stream=self._stream,
                                                  capture_error_mode='thread_local'):
                context.execute(self._stream.cuda_stream)
        except BaseException:
            _end_allocating(pool)
            raise
        return graph

    def _places(self, engine: LoadedEngine, inputs: Tensors
                ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Inputs and outputs of a recording: those of another of the same sizes if there is one.

        Outputs of a flow step are as large as the block it draws, and only one step runs at a
        time; so steps that differ in the length of their context alone share them.
        """
        own = {name: value for name, value in inputs.items() if not _lies(name, value)}
        for key, step in self._recorded.items():  # the sizes of inputs decide those of outputs
            if key[0] == engine.spec.name and _shapes(step.inputs) == _shapes(own):
                return step.inputs, step.outputs
        return ({name: value.clone() for name, value in own.items()},
                self._outputs(engine, inputs, {}))

    def _new_scratch(self) -> Tensor:
        """The memory that all engines run in.

        Raises:
            OutOfMemory: there is none.
        """
        size = self._most_scratch()
        try:
            return torch.empty(size, dtype=torch.uint8, device=self.device)
        except torch.OutOfMemoryError as error:
            raise no_room('scratch of the engines', size) from error

    def _most_scratch(self) -> int:
        return max(engine.scratch_bytes for engine in self.engines.values())

    def _share_room(self, context: int, stream_bytes: int | None) -> None:
        """Say how many weights stay on the device, where engines can leave them in host memory.

        Args:
            context: tokens of the longest context, whose cache must find room too.
            stream_bytes: for each engine; None shares what is free.
        """
        sizes = {name: engine.streamable_bytes for name, engine in self.engines.items()}
        for engine in self.engines.values():
            engine.stream(stream_bytes or 0)
        if stream_bytes is not None or not any(sizes.values()):
            return
        # With nothing kept, scratch is at its largest and only fixed weights are counted.
        fixed = sum(engine.weight_bytes for engine in self.engines.values())
        caches = 2 * ROWS * self._cache_bytes * context // 1024
        free = free_bytes() - fixed - self._most_scratch() - caches
        for name, budget in stream_budgets(sizes, free).items():
            self.engines[name].stream(budget)


def load_tensorrt_runtime(plan: Plan, cache: EngineCache, *, rebuild: str = '',
                          stream_bytes: int | None = None) -> GraphRuntime:
    """A runtime on compiled engines.

    Raises:
        NotReady: there is no GPU.
        EngineMismatch: an engine is missing, damaged or for something else.
        OutOfMemory: they do not fit.
    """
    bundle = plan.bundle
    runner = TensorRtRunner(plan, cache, rebuild=rebuild, stream_bytes=stream_bytes)
    return GraphRuntime(runner, bundle.config, specials=bundle.specials,
                        vocabulary=bundle.vocabulary, precision=bundle.precision,
                        words=bundle.words(), parts=bundle.parts)


def _loaded(plan: Plan, cache: EngineCache, rebuild: str) -> dict[str, LoadedEngine]:
    """All engines of a plan, by graph, after a look at the free memory."""
    arch, specs = gpu_architecture(), plan.bundle.specs()
    keys = {name: plan.key(name, arch) for name in specs}
    names = {key.name for key in keys.values()}
    sizes = [entry.bytes for entry in cache.entries() if entry.name in names]
    # Host memory holds the file that is being loaded; on a board it is that of the device.
    twice = max(sizes, default=0) if is_board() else 0
    check_room(sum(sizes) + twice, free_bytes(), plan.options.weight_streaming)
    return {name: LoadedEngine(plan, spec, cache.load(keys[name], spec.interface(
        plan.bundle.precision)), rebuild, cache.folder / f'{keys[name].name}{KERNELS}')
        for name, spec in specs.items()}


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's collector: what it finds may give CUDA memory back, and end a capture."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _end_allocating(pool: Any) -> None:
    """End what a capture that failed began; torch before 2.13 forgets to.

    Its allocator would take every later allocation for part of a capture.
    """
    end = getattr(torch._C, '_cuda_endAllocateToPool', None)
    if end is not None:
        with suppress(RuntimeError):  # a newer torch has ended it itself
            end(torch.cuda.current_device(), pool)


def _is_step(spec: GraphSpec, inputs: Tensors, into: Tensors) -> bool:
    """Whether a call will come again with the same sizes: decoding, or a flow step.

    Pictures that are read go through the flow graph too, into the cache and once each.
    """
    return is_token(spec, inputs) or (spec.family == FLOW and not into)


def _lies(name: str, value: Tensor) -> bool:
    """Whether a recording reads an input where it lies: what is part of the cache."""
    return name.startswith(_IN_PLACE) and is_aligned(value)


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


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
