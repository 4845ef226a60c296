"""From an ONNX graph to a compiled engine; needs no GPU where the flavour builds ahead of time."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from torch import nn

from cooper_ros.errors import EngineBuild
from cooper_ros.runtime.engines.cache import BuiltEngine
from cooper_ros.runtime.engines.flavour import CANNOT_START, Flavour
from cooper_ros.runtime.engines.guard import Guard, guarded
from cooper_ros.runtime.engines.key import BuildOptions
from cooper_ros.runtime.engines.words import Words, words_of
from cooper_ros.runtime.files import CACHE_FLAG, discard, write_whole
from cooper_ros.runtime.graphs.spec import (
    FP32,
    PROFILE_SHAPES,
    GraphSpec,
    Limits,
    Span,
    TensorSpec,
    profiles_of,
)

MIB = 1 << 20
_TYPES = {'FLOAT': 'float32', 'HALF': 'float16', 'BF16': 'bfloat16', 'INT64': 'int64',
          'INT32': 'int32', 'BOOL': 'bool'}
Told = Callable[[str, float], None]  # phase, fraction done 0..1
_LOG = logging.getLogger(__name__)


@dataclass
class Phases:
    """Nested phases of a build as one fraction."""

    told: Told
    open: list[list[Any]] = field(default_factory=list)  # [name, steps done, steps]
    best: float = 0.0

    def start(self, name: str, steps: int) -> None:
        """A phase begins inside the innermost open one."""
        self.open.append([name, 0, max(steps, 1)])

    def step(self, name: str, step: int) -> None:
        """A phase has finished a step."""
        for phase in self.open:
            if phase[0] == name:
                phase[1] = step + 1
        self.best = max(self.best, self.fraction())  # phases overlap; a bar never goes back
        self.told(self.open[-1][0] if self.open else name, self.best)

    def finish(self, name: str) -> None:
        """A phase ends."""
        self.open = [phase for phase in self.open if phase[0] != name]

    def fraction(self) -> float:
        """How much is done, 0..1; inner phases fill the current step of outer ones."""
        share, done = 1.0, 0.0
        for _, at, steps in self.open:
            done += share * min(at / steps, 1.0)
            share /= steps
        return min(done, 1.0)


def build_engine(flavour: Flavour, spec: GraphSpec, source: Path | nn.Module, *, arch: str,
                 precision: str, limits: Limits, options: BuildOptions = BuildOptions(),
                 timing_cache: Path | None = None,
                 told: Told = lambda phase, fraction: None) -> BuiltEngine:
    """Compile one graph.

    Args:
        flavour: which TensorRT.
        spec: what the graph takes and gives; what TensorRT reads must agree.
        source: an exported graph (``.onnx``, weights beside it), or the module itself, which
            Torch-TensorRT converts.
        arch: architecture, as ``SM89``.
        precision: number type of the graph.
        limits: sizes the engine must serve.
        options: see :class:`BuildOptions`.
        timing_cache: file of kernel timings, for the flavour that measures kernels.
        told: called with the phase and the fraction done.

    Raises:
        BadOption: the flavour cannot build for this architecture.
        EngineBuild: TensorRT refused, or cannot start; its own words are in the message.
        NotReady: a module was given and there is no Torch-TensorRT.
        KeyboardInterrupt: Ctrl-C, at the next step of TensorRT.
    """
    flavour.check_architecture(arch)
    build = _Build(flavour, spec, source, arch, precision, limits, options, timing_cache, told,
                   words_of(flavour.module))
    build.words.forget()
    if isinstance(source, Path):
        with guarded():
            builder = build.builder()
            network, parser = _parsed(flavour.module, builder, build.words, source)
        made = build.compiled(builder, network)
        del parser  # it owns what the network was made from until the build is over
        return made
    from cooper_ros.runtime.engines.torch_tensorrt import with_network
    return with_network(spec, source, precision, limits, build.compiled)


@dataclass(frozen=True)
class _Build:
    """The arguments of :func:`build_engine`, and what TensorRT says."""

    flavour: Flavour
    spec: GraphSpec
    source: Path | nn.Module
    arch: str
    precision: str
    limits: Limits
    options: BuildOptions
    timing_cache: Path | None
    told: Told
    words: Words

    def builder(self) -> Any:
        """TensorRT's own builder.

        Raises:
            EngineBuild: it gives none.
        """
        try:
            return self.flavour.module.Builder(self.words.handle)
        except TypeError as error:  # what pybind makes of a constructor that gives nothing
            raise EngineBuild(f'{self.flavour.name} {self.flavour.version} cannot start here',
                              value=self.words.last() or str(error),
                              remedy=CANNOT_START) from error

    def compiled(self, builder: Any, network: Any) -> BuiltEngine:
        """Compile a network, whoever has made it; see :func:`build_engine`."""
        started = time.monotonic()
        interface = _checked_interface(network, self.spec, self.precision, self.source)
        with self._refusals():
            config = _configured(self.flavour, builder, self.spec, self.arch, self.limits,
                                 self.options)
            if self.precision == FP32:  # else TensorRT multiplies with 10 bits of each number
                config.clear_flag(self.flavour.module.BuilderFlag.TF32)
        _remember_timings(self.flavour, config, self.timing_cache)
        with guarded() as guard, self._refusals():
            config.progress_monitor = _monitor(self.flavour.module, Phases(self.told), guard)
            content = builder.build_serialized_network(network, config)
        if content is None:
            raise self._refused(self.words.last() or 'nothing')
        self.told('done', 1.0)
        return BuiltEngine(memoryview(content), interface, {
            'seconds': round(time.monotonic() - started, 2), 'limits': self.limits.to_dict(),
            'options': asdict(self.options), 'layers': network.num_layers,
            'builder': f'{platform.machine()}, {os.cpu_count()} cores'},
            _timings_writer(self.flavour, config, self.timing_cache))

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Numbers that TensorRT cannot hold come back as errors of Python."""
        try:
            yield
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._refused(str(error).partition('\n')[0]) from error

    def _refused(self, words: str) -> EngineBuild:
        """What TensorRT said, and what helps against that."""
        remedy = ('a smaller --context or --side, or more --parts, needs less memory' if
                  'workspace' not in words else 'give more with --workspace-mib; 0 leaves it to '
                  'TensorRT' if self.options.workspace_mib else
                  'a smaller --context or --side needs less workspace')
        return EngineBuild(f'TensorRT could not build graph {self.spec.name} for {self.arch}',
                           value=words, remedy=remedy)


def _checked_interface(network: Any, spec: GraphSpec, precision: str,
                       source: Path | nn.Module) -> list[list[Any]]:
    """What TensorRT has read, after comparing it with the description of the graph."""
    interface = network_interface(network)
    if interface != spec.interface(precision):
        name = source.name if isinstance(source, Path) else spec.name
        raise EngineBuild(f'TensorRT reads another interface from {name}', value=interface,
                          limit=spec.interface(precision),
                          remedy='export again with `cooper engine build`')
    return interface


def network_interface(network: Any) -> list[list[Any]]:
    """Names, directions, shapes and types of a TensorRT network, as plain values."""
    tensors = [(network.get_input(i), 'input') for i in range(network.num_inputs)]
    tensors += [(network.get_output(i), 'output') for i in range(network.num_outputs)]
    return [[tensor.name, way, list(tensor.shape), type_name(tensor.dtype)]
            for tensor, way in tensors]


def type_name(dtype: Any) -> str:
    """Torch's name of a TensorRT number type."""
    return _TYPES.get(dtype.name, dtype.name)


def _parsed(module: Any, builder: Any, words: Words, path: Path) -> tuple[Any, Any]:
    flags = module.NetworkDefinitionCreationFlag.__members__
    bits = 1 << int(flags['STRONGLY_TYPED'])
    if 'EXPLICIT_BATCH' in flags:
        bits |= 1 << int(flags['EXPLICIT_BATCH'])
    network = builder.create_network(bits)
    parser = module.OnnxParser(network, words.handle)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineBuild(f'TensorRT cannot read {path.name}', value='; '.join(errors)[:400],
                          remedy='export again with `cooper engine build`')
    return network, parser


def _configured(flavour: Flavour, builder: Any, spec: GraphSpec, arch: str, limits: Limits,
                options: BuildOptions) -> Any:
    module, config = flavour.module, builder.create_builder_config()
    for spans in profiles_of(spec, limits, decode=options.decode_profile):
        profile = builder.create_optimization_profile()
        for entry in spec.inputs:
            _set_shape(profile, entry, spans)
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuild(f'TensorRT refuses the sizes of graph {spec.name}',
                              value={name: asdict(span) for name, span in spans.items()})
    if flavour.ahead_of_time:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(module.ComputeCapability, arch), 0)
        if not options.weight_streaming:  # streamed weights need room of their own, in a run
            # else TensorRT for RTX may allocate in a run, which no CUDA graph can record
            config.set_flag(module.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if options.workspace_mib:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE,
                                     options.workspace_mib * MIB)
    if options.weight_streaming:
        config.set_flag(module.BuilderFlag.WEIGHT_STREAMING)
    return config


def _set_shape(profile: Any, entry: TensorSpec, spans: Mapping[str, Span]) -> None:
    if -1 not in entry.pattern():
        return
    shapes = [entry.sizes({symbol: getattr(span, which) for symbol, span in spans.items()})
              for which in PROFILE_SHAPES]
    profile.set_shape(entry.name, *shapes)


def _remember_timings(flavour: Flavour, config: Any, path: Path | None) -> None:
    """Start from known timings; without any where they are damaged or of another machine."""
    if path is None or flavour.ahead_of_time:
        return
    known = b''
    with _best_effort(path):
        known = path.read_bytes() if path.is_file() else b''
    if not _starts_from(config, known):
        _LOG.warning('kernel timings in %s are damaged or of another machine', path)
        _starts_from(config, b'')


def _starts_from(config: Any, known: bytes) -> bool:
    try:
        cache = config.create_timing_cache(known)  # None, or an error, of what is damaged
        return cache is not None and bool(config.set_timing_cache(cache, False))
    except (TypeError, ValueError, RuntimeError):
        return False


def _timings_writer(flavour: Flavour, config: Any, path: Path | None) -> Callable[[], None]:
    """What writes the timings of a build, once its engine is stored."""
    if path is None or flavour.ahead_of_time:
        return lambda: None
    measured = b''
    with _best_effort(path):
        measured = bytes(memoryview(config.get_timing_cache().serialize()))

    def write() -> None:
        with _best_effort(path):
            if path.is_dir():
                discard(path, CACHE_FLAG)
            write_whole(path, measured, CACHE_FLAG)

    return write if measured else lambda: None


@contextlib.contextmanager
def _best_effort(path: Path) -> Iterator[None]:
    """Timings only save time: what is wrong with them never costs an engine."""
    try:
        yield
    except Exception as error:  # of the disk, or whatever TensorRT raises
        _LOG.warning('kernel timings in %s are of no use: %s', path, error)


def _monitor(module: Any, phases: Phases, guard: Guard) -> Any:
    class Monitor(module.IProgressMonitor):  # type: ignore[name-defined,misc]
        """What TensorRT calls."""

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            """A phase begins."""
            guard.call(phases.start, name, steps)

        def step_complete(self, name: str, step: int) -> bool:
            """Go on, or not."""
            return guard.call(phases.step, name, step)

        def phase_finish(self, name: str) -> None:
            """A phase ends."""
            guard.call(phases.finish, name)

    return Monitor()
