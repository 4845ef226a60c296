"""What a compiled engine was built from and for. Equal keys, and only those, are one engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Mapping

from cooper_ros.runtime.graphs.digest import plain_digest
from cooper_ros.runtime.graphs.spec import GraphSpec, Limits, profiles_of

FORMAT = 4  # raised when the same graph of a checkpoint is built into another engine


@dataclass(frozen=True)
class BuildOptions:
    """How TensorRT is asked to build.

    Attributes:
        workspace_mib: scratch memory that layers may use; 0 leaves it to TensorRT.
        weight_streaming: let weights stay in host memory and be brought as they are needed, for
            boards where they do not fit (slower).
        decode_profile: compile kernels of their own for decoding; see
            :func:`~cooper_ros.runtime.graphs.spec.profiles_of` for what it costs.
    """

    workspace_mib: int = 0
    weight_streaming: bool = False
    decode_profile: bool = False


@dataclass(frozen=True)
class EngineKey:
    """Everything that makes one engine different from another.

    Attributes:
        model: fingerprint of the checkpoint.
        graph: name of the graph.
        precision: number type.
        profiles: fingerprint of the sizes it is built for.
        interface: fingerprint of names, shapes and types of inputs and outputs.
        flavour, version: which TensorRT.
        gpu: GPU model, or ``any`` for all of the architecture.
        arch: architecture, ``SM89`` and the like.
        options: fingerprint of how it was built.
        format: of the file beside the engine, and of how graphs are exported and built.
    """

    model: str
    graph: str
    precision: str
    profiles: str
    interface: str
    flavour: str
    version: str
    gpu: str
    arch: str
    options: str
    format: int = FORMAT

    @property
    def name(self) -> str:
        """File name without suffix: readable first, unique last."""
        return f'{self.graph}-{self.precision}-{self.arch}-{plain_digest(asdict(self))[:16]}'

    def differences(self, other: EngineKey) -> list[str]:
        """Every part in which they differ, ours first: ``arch SM89, not SM86``."""
        pairs = ((entry.name, getattr(self, entry.name), getattr(other, entry.name))
                 for entry in fields(self))
        return [f'{name} {_short(ours)}, not {_short(theirs)}' for name, ours, theirs in pairs
                if ours != theirs]

    @classmethod
    def of(cls, spec: GraphSpec, *, model: str, precision: str, limits: Limits, flavour: str,
           version: str, gpu: str, arch: str, options: BuildOptions) -> EngineKey:
        """The key of a graph of a checkpoint on one GPU."""
        spans = [{symbol: span.to_dict() for symbol, span in profile.items()}
                 for profile in profiles_of(spec, limits, decode=options.decode_profile)]
        return cls(model=model, graph=spec.name, precision=precision,
                   profiles=plain_digest(spans),
                   interface=plain_digest(spec.interface(precision)), flavour=flavour,
                   version=version, gpu=gpu, arch=arch, options=plain_digest(asdict(options)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineKey:
        """The inverse of ``dataclasses.asdict``; raises TypeError where parts are missing."""
        return cls(**values)


def _short(value: object) -> str:
    """Fingerprints are told apart by their beginning."""
    text = str(value)
    return text[:12] if len(text) == 64 else text
