"""What goes into a graph and comes out of it, and between which sizes: plain data.

Example inputs, dynamic axes of the export, optimisation profiles of TensorRT and the check of a
compiled engine are all derived from these descriptions, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Mapping, Sequence

import torch

from cooper_ros.errors import BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.model.layout import MARKERS

NETWORK = 'network'  # number type: that of the weights
FLOAT32, INT64, BOOL = 'float32', 'int64', 'bool'
FP32 = 'fp32'
PRECISIONS = {FP32: torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
UNDERSTAND, FLOW = 'understand', 'flow'  # families of graphs that run the decoder
CONTEXT = 16384  # tokens of the longest context that engines serve unless told otherwise
BUCKET = 256  # slots; engines get contexts in multiples of it, so that steps come again alike
PROFILE_SHAPES = ('min', 'opt', 'max')  # attributes of a span, in the order of TensorRT
_STORED = ('low', 'usual', 'high')  # their names in keys and descriptions of engines, which last
KINDS = {FLOAT32: torch.float32, INT64: torch.int64, BOOL: torch.bool}


def dtype_of(precision: str) -> torch.dtype:
    """Torch number type of a precision name.

    Raises:
        BadOption: the name is unknown.
    """
    if precision not in PRECISIONS:
        raise BadOption('unknown precision', value=precision, limit=', '.join(PRECISIONS))
    return PRECISIONS[precision]


def padded(slots: int, bucket: int = BUCKET) -> int:
    """So many slots rounded up to whole buckets, at least one."""
    return -(-max(slots, 1) // bucket) * bucket


@dataclass(frozen=True)
class Axis:
    """A size that varies from call to call: ``factor * symbol + offset``."""

    symbol: str
    factor: int = 1
    offset: int = 0

    def size(self, sizes: Mapping[str, int]) -> int:
        """The size when symbols have these values."""
        return self.factor * sizes[self.symbol] + self.offset


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: as in the ONNX file and the engine.
        shape: fixed sizes and axes.
        kind: ``network`` for the type of the weights, else the type itself.
    """

    name: str
    shape: tuple[int | Axis, ...]
    kind: str = NETWORK

    def sizes(self, values: Mapping[str, int]) -> tuple[int, ...]:
        """The shape when symbols have these values."""
        return tuple(n.size(values) if isinstance(n, Axis) else n for n in self.shape)

    def dtype(self, precision: str) -> torch.dtype:
        """The torch number type."""
        return KINDS.get(self.kind) or dtype_of(precision)

    def pattern(self) -> tuple[int, ...]:
        """The shape with -1 for every axis, as compiled engines report it."""
        return tuple(-1 if isinstance(n, Axis) else n for n in self.shape)


@dataclass(frozen=True)
class GraphSpec:
    """Inputs and outputs of one graph, in order.

    Attributes:
        name: as in the file names.
        inputs, outputs: its tensors; what an output called ``next_x`` gives is the input ``x`` of
            the next part.
        family: ``understand`` or ``flow``, for a graph that runs layers of the decoder: all of
            them, or one of several parts in their order.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    family: str = ''

    def symbols(self) -> tuple[str, ...]:
        """Names of the sizes that vary, in order of appearance."""
        found = [n.symbol for spec in self.inputs for n in spec.shape if isinstance(n, Axis)]
        return tuple(dict.fromkeys(found))

    def interface(self, precision: str) -> list[list[Any]]:
        """Names, directions, shapes and types, as plain values that can be compared."""
        return [[spec.name, way, list(spec.pattern()), str(spec.dtype(precision)).split('.')[-1]]
                for way, specs in (('input', self.inputs), ('output', self.outputs))
                for spec in specs]


@dataclass(frozen=True)
class Span:
    """Values of one symbol, named as in TensorRT's profiles.

    Attributes:
        min: the least.
        opt: the usual one, for which kernels are chosen.
        max: the greatest.

    Raises:
        BadOption: the three are not in order.
    """

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise BadOption('a span of sizes must grow', value=(self.min, self.opt, self.max),
                            limit='1 <= min <= opt <= max')

    @classmethod
    def up_to(cls, most: int, opt: int | None = None) -> Span:
        """From one, with half the greatest as usual unless said otherwise."""
        return cls(1, min(opt or max(most // 2, 1), most), most)

    def to_dict(self) -> dict[str, int]:
        """Plain values, for keys and metadata."""
        return dict(zip(_STORED, (self.min, self.opt, self.max)))

    @classmethod
    def from_dict(cls, values: Mapping[str, int]) -> Span:
        """The inverse of :meth:`to_dict`; raises KeyError or TypeError where a part is missing."""
        return cls(*(values[name] for name in _STORED))


@dataclass(frozen=True)
class Limits:
    """Sizes that engines are built for; requests beyond them are refused, not slow.

    Attributes:
        context: tokens already in the cache (a graph always gets at least one slot).
        tokens: tokens that enter the decoder in one prefill call.
        patches: patches of one picture, understanding side.
        cells: latent tokens of one picture.
        branches: contexts of one flow step.
        rows, columns: latent tokens each way, for the autoencoder.
    """

    context: Span
    tokens: Span
    patches: Span
    cells: Span
    branches: Span
    rows: Span
    columns: Span

    @classmethod
    def of(cls, config: ModelConfig, *, context: int = CONTEXT, side: int = 0) -> Limits:
        """Limits that the position tables of a network imply.

        Args:
            config: its sizes.
            context: tokens of the longest context; rounded up to whole buckets, for that is how
                the runtime hands contexts over.
            side: pixels of the largest picture side; 0 for what the tables hold. Smaller limits
                make smaller buffers.
        """
        unit, patch = config.pixels_per_latent_token, config.vit.patch_size
        cells = min(config.max_latent_size, (side or 10**6) // unit)
        patches = min(config.vit_max_num_patch_per_side, (side or 10**6) // patch)
        most = max(patches**2, cells**2) + MARKERS
        return cls(context=Span.up_to(padded(context), 1024), tokens=Span.up_to(most, 256),
                   patches=Span.up_to(patches**2), cells=Span.up_to(cells**2),
                   branches=Span.up_to(3, 3), rows=Span.up_to(cells), columns=Span.up_to(cells))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for keys and metadata."""
        return {entry.name: getattr(self, entry.name).to_dict() for entry in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, int]]) -> Limits:
        """The inverse of :meth:`to_dict`."""
        return cls(**{name: Span.from_dict(span) for name, span in values.items()})


def profiles_of(spec: GraphSpec, limits: Limits, *, decode: bool = False
                ) -> list[dict[str, Span]]:
    """Optimisation profiles of a graph: one, or one more for single tokens of ``understand``.

    Args:
        spec: the graph.
        limits: sizes to serve.
        decode: whether decoding gets kernels of its own. They come with their own copy of the
            weights (measured with TensorRT for RTX 1.7.1: 1.90 GB instead of 0.96).
    """
    whole = {symbol: getattr(limits, symbol) for symbol in spec.symbols()}
    if spec.family != UNDERSTAND or not decode:
        return [whole]
    return [whole, {**whole, 'tokens': Span(1, 1, 1)}]


def layer_names(kind: str, layers: range) -> list[str]:
    """Names of per-layer tensors: ``key_00``, ``key_01`` and so on."""
    return [f'{kind}_{layer:02d}' for layer in layers]


def layer_parts(layers: int, parts: int) -> list[range]:
    """Layers of every part of a decoder, as even as can be.

    Raises:
        BadOption: more parts than layers.
    """
    if not 1 <= parts <= layers:
        raise BadOption('the decoder cannot be cut into so many parts', value=parts,
                        limit=f'1 .. {layers}, its layers')
    ends = [layers * number // parts for number in range(parts + 1)]
    return [range(*ends[number:number + 2]) for number in range(parts)]


def _cache(kinds: tuple[str, str], batch: int | Axis, tokens: Axis, config: ModelConfig,
           layers: range) -> tuple[TensorSpec, ...]:
    """Per-layer tensors ``[batch, tokens, kv_heads, head_dim]``: keys first, then values.

    Tokens come before heads, so that the slots of a context are one block of memory: engines
    read the cache and write behind its end without a copy.
    """
    llm = config.llm
    shape = (batch, tokens, llm.num_kv_heads, llm.head_dim)
    return tuple(TensorSpec(name, shape) for kind in kinds
                 for name in layer_names(kind, layers))


def graph_specs(config: ModelConfig, parts: int = 1) -> dict[str, GraphSpec]:
    """All graphs of a network, by name.

    Args:
        config: its sizes.
        parts: how many graphs the decoder's layers are spread over, ``understand_0`` and so on;
            compiling one of several takes less memory than compiling all layers at once.

    Raises:
        BadOption: more parts than layers.
    """
    stacks = layer_parts(config.llm.num_layers, parts)
    made = (_vision(config),
            *(_understand(config, name, layers) for name, layers in named(UNDERSTAND, stacks)),
            _latents(config),
            *(_flow(config, name, layers) for name, layers in named(FLOW, stacks)),
            _vae_encode(config), _vae_decode(config))
    return {spec.name: spec for spec in made}


def named(family: str, stacks: Sequence[range]) -> list[tuple[str, range]]:
    """Names of the graphs of a family with their layers."""
    return [(family if len(stacks) == 1 else f'{family}_{number}', layers)
            for number, layers in enumerate(stacks)]


def _vision(config: ModelConfig) -> GraphSpec:
    patches = Axis('patches')
    return GraphSpec('vision', (
        TensorSpec('patches', (1, patches, config.vit.patch_features)),
        TensorSpec('position_ids', (patches,), INT64)),
        (TensorSpec('tokens', (1, patches, config.llm.hidden_size)),))


def _understand(config: ModelConfig, name: str, layers: range) -> GraphSpec:
    tokens, context, llm = Axis('tokens'), Axis('context'), config.llm
    result = (TensorSpec('logits', (1, llm.vocab_size), FLOAT32)
              if layers.stop == llm.num_layers else
              TensorSpec('next_embeds', (1, tokens, llm.hidden_size)))
    return GraphSpec(name, (
        TensorSpec('embeds', (1, tokens, llm.hidden_size)),
        TensorSpec('cos', (1, tokens, llm.head_dim)),
        TensorSpec('sin', (1, tokens, llm.head_dim)),
        TensorSpec('used', (1,), INT64),
        TensorSpec('causal', (1,), BOOL),
        *_cache(('key', 'value'), 1, context, config, layers)),
        (result, *_cache(('new_key', 'new_value'), 1, tokens, config, layers)), UNDERSTAND)


def _latents(config: ModelConfig) -> GraphSpec:
    cells = Axis('cells')
    return GraphSpec('latents', (
        TensorSpec('x', (cells, config.latent_features), FLOAT32),
        TensorSpec('time', (1,), FLOAT32),
        TensorSpec('position_ids', (cells,), INT64)),
        (TensorSpec('tokens', (cells, config.llm.hidden_size)),))


def _flow(config: ModelConfig, name: str, layers: range) -> GraphSpec:
    cells, branches, context, llm = Axis('cells'), Axis('branches'), Axis('context'), config.llm
    block = Axis('cells', offset=MARKERS)
    rows = 1 if layers.start == 0 else branches  # contexts differ from the first layer on
    result = ((TensorSpec('velocity', (branches, cells, config.latent_features)),)
              if layers.stop == llm.num_layers else
              (TensorSpec('next_markers', (branches, MARKERS, llm.hidden_size)),
               TensorSpec('next_tokens', (branches, cells, llm.hidden_size))))
    return GraphSpec(name, (
        TensorSpec('markers', (rows, MARKERS, llm.hidden_size)),
        TensorSpec('tokens', (rows, cells, llm.hidden_size)),
        TensorSpec('cos', (branches, 1, llm.head_dim)),
        TensorSpec('sin', (branches, 1, llm.head_dim)),
        TensorSpec('used', (branches,), INT64),
        *_cache(('key', 'value'), branches, context, config, layers)),
        (*result, *_cache(('new_key', 'new_value'), branches, block, config, layers)), FLOW)


def _vae_encode(config: ModelConfig) -> GraphSpec:
    unit = config.pixels_per_latent_token
    patch, channels = config.latent_patch_size, config.vae.z_channels
    return GraphSpec('vae_encode', (
        TensorSpec('pixels', (1, config.vae.in_channels, Axis('rows', unit),
                              Axis('columns', unit))),),
        (TensorSpec('moments', (1, 2 * channels, Axis('rows', patch),
                                Axis('columns', patch))),))


def _vae_decode(config: ModelConfig) -> GraphSpec:
    unit, patch = config.pixels_per_latent_token, config.latent_patch_size
    return GraphSpec('vae_decode', (
        TensorSpec('latents', (1, config.vae.z_channels, Axis('rows', patch),
                               Axis('columns', patch))),),
        (TensorSpec('pixels', (1, config.vae.out_channels, Axis('rows', unit),
                               Axis('columns', unit))),))
