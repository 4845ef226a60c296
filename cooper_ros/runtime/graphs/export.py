"""From a module to an ONNX file: ``torch.export``, then the dynamo exporter.

Opset 20 is the newest that every TensorRT in use reads (10.3 of JetPack 6 to TensorRT-RTX 1.7);
attention is written out as matrix products and a softmax, which all of them recognise (see
:mod:`~cooper_ros.runtime.graphs.attention`), and group normalisation in float32 (see
:mod:`~cooper_ros.runtime.graphs.normalisation`). Else the graph is strongly typed: its number
types are those of the weights.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor, nn

from cooper_ros.errors import CooperError, EngineBuild, NotReady
from cooper_ros.runtime.graphs.attention import attention
from cooper_ros.runtime.graphs.late_weights import Read, forget_weights, read_when_written
from cooper_ros.runtime.graphs.normalisation import group_norm
from cooper_ros.runtime.graphs.spec import Axis, GraphSpec, Limits, TensorSpec

OPSET = 20
EXTERNAL_SUFFIX = '.data'
_EXAMPLE = {'context': 7, 'tokens': 5, 'patches': 12, 'cells': 9, 'branches': 2, 'rows': 3,
            'columns': 2}  # all different and none of them 0 or 1, which torch.export would fix
_ROWS = 5  # of a position table, if it has so many


def example_inputs(spec: GraphSpec, precision: str, *, seed: int = 0,
                   limits: Limits | None = None, used: int | None = None,
                   **sizes: int) -> dict[str, Tensor]:
    """Random inputs of a graph that mean something.

    Args:
        spec: the graph.
        precision: number type of the weights.
        seed: of the random numbers.
        limits: sizes and indexes stay within them; None for a network that takes those of the
            export.
        used: slots of every context that hold tokens; random if absent.
        **sizes: values of symbols; those of the export where not given.

    Returns:
        tensors by name; numbers are standard normal, indexes small, every mask sees something.
    """
    generator = torch.Generator().manual_seed(seed)
    values, rows = {**_EXAMPLE, **sizes}, _ROWS
    if limits is not None:
        values = {symbol: min(value, getattr(limits, symbol).max)
                  for symbol, value in values.items()}
        rows = min(rows, limits.patches.max, limits.cells.max)
    found = {entry.name: _example(entry, values, rows, precision, generator)
             for entry in spec.inputs}
    if used is not None and 'used' in found:
        found['used'] = torch.full_like(found['used'], min(used, values['context']))
    return found


def _example(entry: TensorSpec, values: dict[str, int], rows: int, precision: str,
             generator: torch.Generator) -> Tensor:
    shape, dtype = entry.sizes(values), entry.dtype(precision)
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype)
    if dtype == torch.int64:
        most = values['context'] if entry.name == 'used' else rows - 1
        return torch.randint(min(1, most), most + 1, shape, generator=generator)
    if entry.name == 'time':
        return torch.rand(shape, generator=generator, dtype=dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)


def export_graph(spec: GraphSpec, module: nn.Module, path: Path, precision: str,
                 read: Read | None = None) -> Path:
    """Write one graph as ``path`` and its weights beside it (``path`` + ``.data``).

    Weights are written from where they lie, in memory or on disk, without another copy of them
    all, so graphs above the 2 GB limit of the format work too.

    Args:
        spec: what goes in and comes out.
        module: the graph, already in the number type of ``precision``.
        path: the ``.onnx`` file.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        read: reads the numbers of a weight, for a module without (see
            :class:`~cooper_ros.runtime.hollow.NumbersOnDisk`); None when it has them.

    Returns:
        ``path``.

    Raises:
        EngineBuild: the exporter refused, or wrote another interface than ``spec``.
        BadCheckpoint: ``read`` found a weight that is no number.
        NotReady: the packages that export are not installed.
    """
    onnx = _onnx()
    try:
        with _quiet(), torch.no_grad():
            made = _converted(spec, exported_program(spec, module, precision))
            made.model = made.model.clone()  # the first one keeps all it ever had to do with
            read_when_written(made.model, module, read or _as_it_is)
            made.optimize()
            made.save(str(path), external_data=True)
            forget_weights(made.model)
    except CooperError:  # of a weight that cannot be read, which is named
        raise
    except Exception as error:  # the exporter raises many kinds
        raise EngineBuild(f'graph {spec.name} could not be exported', value=str(error)[-400:],
                          remedy='please report this with the versions of torch and onnx'
                          ) from error
    _check_interface(spec, onnx.load(str(path), load_external_data=False))
    return path


def _onnx() -> Any:
    try:
        importlib.import_module('onnxscript')  # what torch exports with
        return importlib.import_module('onnx')
    except ImportError as error:
        raise NotReady('graphs cannot be exported here', value=str(error),
                       limit='onnx and onnxscript',
                       remedy='pip install -r requirements/graphs.txt, or export on another '
                              'machine and copy the folder graphs') from error


def _converted(spec: GraphSpec, program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    return torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False,
                             optimize=False,  # it reads weights: they come first
                             custom_translation_table={
                                 torch.ops.aten.scaled_dot_product_attention.default: attention,
                                 torch.ops.aten.group_norm.default: group_norm},
                             input_names=[entry.name for entry in spec.inputs],
                             output_names=[entry.name for entry in spec.outputs])


def _as_it_is(weight: Tensor) -> Tensor:
    return weight


def exported_program(spec: GraphSpec, module: nn.Module,
                     precision: str) -> torch.export.ExportedProgram:
    """The one ``torch.export`` of a graph, from which ONNX and Torch-TensorRT both start."""
    inputs = tuple(example_inputs(spec, precision).values())
    return torch.export.export(module, inputs, strict=False, dynamic_shapes=_dynamic_shapes(spec))


def _dynamic_shapes(spec: GraphSpec) -> tuple:
    """Axes for torch.export; the cache tensors of a graph are one variadic argument."""
    dims = {symbol: torch.export.Dim(symbol, min=2) for symbol in spec.symbols()}
    fixed, past = [], []
    for entry in spec.inputs:
        axes = {at: _scaled(dims[n.symbol], n) for at, n in enumerate(entry.shape)
                if isinstance(n, Axis)}
        (past if entry.name.startswith(('key_', 'value_')) else fixed).append(axes)
    return (*fixed, tuple(past)) if past else tuple(fixed)


def _scaled(dim: torch.export.Dim, axis: Axis) -> torch.export.Dim:
    return dim if axis.factor == 1 else axis.factor * dim


def _check_interface(spec: GraphSpec, model: object) -> None:
    """Compare names and ranks of the written file with the description.

    Raises:
        EngineBuild: they differ.
    """
    graph = model.graph  # type: ignore[attr-defined]
    for found, wanted in ((graph.input, spec.inputs), (graph.output, spec.outputs)):
        theirs = [(value.name, len(value.type.tensor_type.shape.dim)) for value in found]
        ours = [(entry.name, len(entry.shape)) for entry in wanted]
        if theirs != ours:
            raise EngineBuild(f'graph {spec.name} was exported with another interface',
                              value=theirs, limit=ours)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporters say about packages that are not needed."""
    log = logging.getLogger('torch.onnx._internal.exporter')
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        log.setLevel(before)
