"""Which engines a checkpoint needs, what they will cost, and building each of them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from cooper_ros.errors import BadOption, OutOfDisk
from cooper_ros.runtime.engines.build import Told, build_engine
from cooper_ros.runtime.engines.cache import BuiltEngine, EngineCache
from cooper_ros.runtime.engines.flavour import ANY_GPU, Flavour, check_precision, gpu_name
from cooper_ros.runtime.engines.key import BuildOptions, EngineKey
from cooper_ros.runtime.files import CACHE_REMEDY, room, write_whole
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.graphs.digest import check_seal, file_digest, plain_digest, sealed
from cooper_ros.runtime.graphs.spec import CONTEXT, GraphSpec, Limits, profiles_of
from cooper_ros.runtime.locks import locked
from cooper_ros.runtime.names import TENSORRT, TORCH_TENSORRT

# Measured with TensorRT-RTX 1.7.1 on 2 cores (AMD EPYC), tiny to 7B-wide graphs, see docs.
SECONDS_PER_GRAPH, SECONDS_PER_GB = 1.0, 4.0
ENGINE_PER_WEIGHTS, ENGINE_OVERHEAD = 1.02, 3 << 20
HOST_PER_WEIGHTS = 3.0  # builder copies; docs of Torch-TensorRT say 3 to 5
HOST_BASE = int(0.8 * (1 << 30))  # libraries and builder: tiny graphs peak at 0.76 to 0.88 GB
PARSER = 'onnx'  # TensorRT's own converter, which reads that format
BY = ' by '  # in a key, between the versions of TensorRT and of another converter than its own
CONVERTERS = {TENSORRT: PARSER, TORCH_TENSORRT: TORCH_TENSORRT}  # by runtime
FINGERPRINTS, GRAPHS = 'fingerprints.json', 'graphs'  # beside the engines in their folder
# Graphs keep marker ids and the size of the vocabulary, so the tokenizer counts too.
_MODEL_FILES = ('*.safetensors', '*.safetensors.index.json', 'llm_config.json',
                'vit_config.json', 'cooper.json', 'tokenizer.json', 'tokenizer_config.json',
                'added_tokens.json', 'vocab.json', 'merges.txt')


def default_cache() -> Path:
    """Where engines go unless told otherwise: the user's cache folder."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'cooper_ros' / 'engines'


@dataclass(frozen=True)
class Estimate:
    """What one engine will cost: bytes on disk, seconds and bytes of host memory to build."""

    bytes: int
    seconds: float
    host_bytes: int

    @classmethod
    def of(cls, onnx_file: Path, profiles: int = 1) -> Estimate:
        """From the size of the exported weights.

        Args:
            onnx_file: the exported graph.
            profiles: optimisation profiles; each comes with its own copy of the weights.
        """
        files = (onnx_file, onnx_file.with_name(onnx_file.name + '.data'))
        weights = sum(file.stat().st_size for file in files if file.exists())
        engine = profiles * weights
        return cls(int(engine * ENGINE_PER_WEIGHTS) + ENGINE_OVERHEAD,
                   SECONDS_PER_GRAPH + engine / 1e9 * SECONDS_PER_GB,
                   HOST_BASE + int(engine * HOST_PER_WEIGHTS))


@dataclass(frozen=True)
class Job:
    """One engine to be built."""

    spec: GraphSpec
    arch: str
    key: EngineKey
    estimate: Estimate


@dataclass(frozen=True)
class Plan:
    """Engines for every graph of a checkpoint: for which sizes, and how they are built.

    Attributes:
        bundle: exported graphs.
        flavour: which TensorRT.
        context: tokens of the longest context.
        side: pixels of the largest picture side; 0 for what the network can take.
        options: how they are built.
        converter: what makes TensorRT's network of a graph: ``onnx`` (its own parser) or
            ``torch_tensorrt`` (the converters of Torch-TensorRT).
        converted_by: version of Torch-TensorRT; the one that is installed where empty.
    """

    bundle: Bundle
    flavour: Flavour
    context: int = CONTEXT
    side: int = 0
    options: BuildOptions = BuildOptions()
    converter: str = PARSER
    converted_by: str = ''

    @property
    def limits(self) -> Limits:
        """Sizes the engines must serve."""
        return Limits.of(self.bundle.config, context=self.context, side=self.side)

    def key(self, graph: str, arch: str) -> EngineKey:
        """The key of one engine.

        Raises:
            BadOption: there is no such graph.
        """
        specs = self.bundle.specs()
        if graph not in specs:
            raise BadOption('there is no such graph', value=graph, limit=', '.join(specs))
        return EngineKey.of(specs[graph], model=self.bundle.model, limits=self.limits,
                            precision=self.bundle.precision, flavour=self.maker[0],
                            version=self.maker[1], gpu=device_name(self.flavour), arch=arch,
                            options=self.options)

    @property
    def maker(self) -> tuple[str, str]:
        """Name and version of all that decides what an engine computes."""
        if self.converter == PARSER:
            return self.flavour.name, self.flavour.version
        from cooper_ros.runtime.engines.torch_tensorrt import version
        return (f'{self.flavour.name} by Torch-TensorRT',
                f'{self.flavour.version}{BY}{self.converted_by or version()}')

    def jobs(self, archs: Sequence[str], graphs: Sequence[str] = ()) -> Iterator[Job]:
        """Engines to build: every graph (or those named) for every architecture.

        Raises:
            BadOption: there is no such graph, or the flavour or the precision does not go with
                an architecture.
        """
        for arch in archs:
            self.flavour.check_architecture(arch)
            check_precision(arch, self.bundle.precision)
            for name in graphs or self.bundle.specs():
                key, spec = self.key(name, arch), self.bundle.specs()[name]
                profiles = profiles_of(spec, self.limits, decode=self.options.decode_profile)
                yield Job(spec, arch, key, Estimate.of(self.bundle.graph(name), len(profiles)))

    def build(self, job: Job, cache: EngineCache, *, force: bool = False,
              modules: Mapping[str, nn.Module] | None = None,
              unchanged: Callable[[], None] | None = None,
              told: Told = lambda phase, fraction: None) -> Path:
        """Build one engine into the cache, unless a sound one is there.

        Args:
            job: which.
            cache: where to.
            force: build although a sound one exists.
            modules: the graphs as PyTorch modules, which Torch-TensorRT starts from.
            unchanged: called when it is built and before it is stored; raises where the files
                that the modules lie in are no longer those of the key.
            told: see :func:`build_engine`.

        Raises:
            EngineBuild: TensorRT refused.
            BadCheckpoint: the exported graph is damaged, or the checkpoint changed meanwhile.
            OutOfDisk: the engine does not fit the disk.
        """
        timings = cache.folder / f'{self.flavour.name}-{self.flavour.version}-{job.arch}.timings'

        def made() -> BuiltEngine:
            with room(cache.folder, job.estimate.bytes, f'the engine of graph {job.spec.name}',
                      CACHE_REMEDY):
                engine = build_engine(
                    self.flavour, job.spec, self._source(job.spec.name, modules),
                    arch=job.arch, precision=self.bundle.precision, limits=self.limits,
                    options=self.options, timing_cache=timings, told=told)
            if unchanged is not None:
                unchanged()
            return engine

        return cache.store(job.key, made, force=force)

    def _source(self, graph: str, modules: Mapping[str, nn.Module] | None) -> Path | nn.Module:
        """What the converter starts from: a proved file, or a module."""
        if self.converter == PARSER:
            return self.bundle.prove_graph(graph)
        assert modules is not None
        return modules[graph]


def device_name(flavour: Flavour) -> str:
    """The GPU that engines are bound to, with its processors: torch calls every Orin the same."""
    name = gpu_name(flavour)
    if name == ANY_GPU:
        return name
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f'{name}, {found.multi_processor_count} SMs'


def model_fingerprint(folders: Sequence[Path], memory: Path,
                      told: Callable[[Path], None] = lambda path: None) -> str:
    """Fingerprint of the files of a checkpoint.

    Args:
        folders: model folder, then base folder if any.
        memory: file that remembers digests by path, size, number and times of change, so that
            29 GB are read once and not at every start; where it cannot be written they are read
            again. (The time of the last write alone can be set, and `cp -p` does.)
        told: called before a file is read.
    """
    known, found, fresh = _remembered(memory), {}, {}
    for path in _model_files(folders):
        sign = _sign(path)
        if sign not in known:
            told(path)
            known[sign] = file_digest(path)
            if _sign(path) == sign:  # else nobody knows which of its contents that was
                fresh[sign] = known[sign]
        found[path.name] = known[sign]
    if fresh:
        _remember(memory, fresh)
    return plain_digest(found)


def _sign(path: Path) -> str:
    """What tells that a file changed; opened, for only then does a network file system look."""
    with path.open('rb') as stream:
        stat = os.fstat(stream.fileno())
    return ':'.join(map(str, (path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns,
                              stat.st_ino)))


def _remember(memory: Path, fresh: Mapping[str, str]) -> None:
    """Add digests to the file, beside what other processes have added meanwhile."""
    try:
        with locked(memory.with_suffix('.lock')):
            write_whole(memory, sealed({'files': {**_remembered(memory), **fresh}}).encode())
    except (OSError, OutOfDisk):
        pass  # a full disk or a folder of somebody else: nothing is wrong with the checkpoint


def _model_files(folders: Sequence[Path]) -> list[Path]:
    """Files that decide what the network computes; earlier folders hide later ones."""
    found: dict[str, Path] = {}
    for folder in folders:
        for pattern in _MODEL_FILES:
            for path in folder.glob(pattern):
                found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def _remembered(memory: Path) -> dict[str, str]:
    """Digests by sign; none from a file that says something else than was written."""
    try:
        if not memory.is_file():  # a pipe would wait for a writer
            return {}
        values = json.loads(memory.read_text())
        check_seal(values)
        return {str(sign): str(digest) for sign, digest in values['files'].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
