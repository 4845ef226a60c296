"""Engines by the converters of Torch-TensorRT, from the modules that the ONNX files come from.

Torch-TensorRT makes TensorRT's network; sizes, options, the build itself and the cache are ours,
so that the engines are kept, proved and run like all others. Its own engine cache is never used:
its key knows neither scalar arguments nor weights nor the GPU. Imports only versions that belong
together, and only when an engine is built: running one needs TensorRT alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import logging
import os
import re
import sys
from typing import Any, Callable, Iterator, TypeVar

import torch
from torch import nn

from cooper_ros.errors import CooperError, EngineBuild, NotReady
from cooper_ros.runtime.engines.flavour import RTX, require_flavour
from cooper_ros.runtime.graphs.export import example_inputs, exported_program
from cooper_ros.runtime.graphs.spec import (
    PROFILE_SHAPES,
    GraphSpec,
    Limits,
    TensorSpec,
    profiles_of,
)

# Torch-TensorRT -> the torch and the TensorRT it was built against, read from its wheels.
PINS = {'2.8': ('2.8', '10.12'), '2.9': ('2.9', '10.13'), '2.10': ('2.10', '10.14'),
        '2.11': ('2.11', '10.15'), '2.12': ('2.12', '10.16'), '2.13': ('2.13', '11.0'),
        '2.14': ('2.14', '11.1')}
PACKAGES = ('torch_tensorrt', 'torch_tensorrt_rtx')
INSTALL = 'pip install --no-deps -r requirements/ttrt.txt'
LOGGERS = ('torch_tensorrt', 'torch_tensorrt [TensorRT Conversion Context]')
FUSED_FROM = (10, 14)  # older TensorRT has no attention layer for the converter to use
_GIB = 1 << 30
Made = TypeVar('Made')
Use = Callable[[Any, Any], Made]  # builder and network to whatever is made of them


def version() -> str:
    """Version of the installed Torch-TensorRT; empty without one. Nothing is imported."""
    for package in PACKAGES:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ''


def pins(found: str) -> tuple[str, str] | None:
    """Series of torch and TensorRT that a Torch-TensorRT belongs to; None when unknown."""
    return PINS.get(series(found))


def series(found: str) -> str:
    """``2.13`` of ``2.13.0+cpu``."""
    return '.'.join(re.findall(r'\d+', found)[:2])


def obstacle() -> str:
    """Why Torch-TensorRT cannot be used here; empty when nothing is known against it."""
    found = version()
    if not found:
        return f'Torch-TensorRT is not installed: {INSTALL}'
    wanted = pins(found)
    if wanted and wanted[0] != series(torch.__version__):
        return (f'Torch-TensorRT {found} was made for torch {wanted[0]}, not '
                f'{series(torch.__version__)}')
    return ''


def load() -> Any:
    """Import Torch-TensorRT.

    Raises:
        NotReady: it is absent, was made for another torch, or cannot be imported.
    """
    if reason := obstacle():
        raise NotReady('Torch-TensorRT cannot be used', value=reason,
                       remedy=f'{INSTALL}, or set runtime to tensorrt')
    flavour = require_flavour()
    if flavour.name == RTX:
        sys.modules.setdefault('tensorrt_rtx', flavour.module)
    try:
        with _layout_without_its_runtime():
            return importlib.import_module('torch_tensorrt')
    except Exception as error:  # a missing library raises a plain Exception
        raise NotReady('Torch-TensorRT cannot be imported', value=str(error)[:300],
                       limit=' and '.join(pins(version()) or ()) or None,
                       remedy='install the pair that belongs together, see docs/runtimes.md'
                       ) from error


@contextlib.contextmanager
def _layout_without_its_runtime() -> Iterator[None]:
    """Hide its C++ runtime, which needs a CUDA build of torch and which we do not use."""
    is_file = os.path.isfile
    with _standing_in(os.path, isfile=lambda path: 'libtorchtrt' not in str(path)
                      and is_file(path)):
        yield


@contextlib.contextmanager
def _standing_in(owner: Any, **attributes: Any) -> Iterator[None]:
    """Give a module or a class other attributes; afterwards it has its own ones, and no more."""
    own = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name in attributes:
            if name in own:
                setattr(owner, name, own[name])
            elif name in vars(owner):
                delattr(owner, name)


@contextlib.contextmanager
def answering_for_a_gpu(capability: tuple[int, int] = (8, 9)) -> Iterator[None]:
    """Answer the questions that its import and its converters ask CUDA, where there is no GPU.

    TensorRT for RTX builds ahead of time; only Torch-TensorRT insists on a device.
    """
    if torch.cuda.is_available():
        yield
        return
    answers = {'get_device_capability': lambda *_: capability, 'current_device': lambda: 0,
               'empty_cache': lambda: None, 'mem_get_info': lambda *_: (8 * _GIB, 16 * _GIB)}
    properties = '_CudaDeviceProperties'
    absent = {} if hasattr(torch._C, properties) else {properties: type('Properties', (), {})}
    with _standing_in(torch.cuda, **answers), _standing_in(torch._C, **absent):
        yield


def settings(**more: Any) -> dict[str, Any]:
    """What Torch-TensorRT is told; the rest of a build is ours.

    Full compilation, for a graph break is an error here and no slowdown. Attention is never taken
    for causal: an image block sees all of itself. Attention is written out for a TensorRT without
    a layer for it.
    """
    flavour = require_flavour()
    found = tuple(map(int, re.findall(r'\d+', flavour.version)[:2]))
    return {'min_block_size': 1, 'require_full_compilation': True,
            'attn_bias_is_causal': False, 'assume_dynamic_shape_support': True,
            'decompose_attention': flavour.name != RTX and found < FUSED_FROM, **more}


def strongly_typed() -> dict[str, bool]:
    """What asks for number types as they are in the graph, of one that may take others.

    2.8 lets TensorRT choose them unless told; 2.10 and later need not be told.
    """
    from torch_tensorrt.dynamo._settings import CompilationSettings
    known = {entry.name for entry in dataclasses.fields(CompilationSettings)}
    return {'use_explicit_typing': True} if 'use_explicit_typing' in known else {}


def lowered(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """What Torch-TensorRT makes of a graph before it converts it; still runs in PyTorch."""
    load()
    from torch_tensorrt.dynamo._settings import CompilationSettings
    from torch_tensorrt.dynamo.lowering import (
        get_decompositions,
        post_lowering,
        pre_export_lowering,
    )
    how = CompilationSettings(**settings(**strongly_typed()))
    program = pre_export_lowering(program, how)
    program = program.run_decompositions(
        get_decompositions(False, how.decompose_attention, False))
    return post_lowering(program.module(), how)


def with_network(spec: GraphSpec, module: nn.Module, precision: str, limits: Limits,
                 use: Use[Made]) -> Made:
    """Convert a module and use the network while all that it needs is alive.

    Args:
        spec: what the graph takes and gives; TensorRT's network gets these names.
        module: the graph, in the number type of ``precision``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        limits: sizes; say which axes vary.
        use: given TensorRT's builder and network.

    Raises:
        EngineBuild: a converter failed or is missing; its own words are in the message.
        NotReady: Torch-TensorRT cannot be used.
    """
    with answering_for_a_gpu(), _silence():
        torch_tensorrt = load()
        from torch_tensorrt.dynamo.conversion._TRTInterpreter import TRTInterpreter
        made, faults = list[Made](), list[Exception]()
        with _standing_in(TRTInterpreter, run=_intercepting(spec, use, made, faults)):
            try:
                torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                    exported_program(spec, module, precision),
                    arg_inputs=_inputs(torch_tensorrt, spec, precision, limits),
                    cache_built_engines=False, reuse_cached_engines=False,
                    **settings(**strongly_typed()))
            except Exception as error:
                if not made:
                    cause = (*faults, error)[0]
                    raise _named(cause, spec) from cause
        return made[0]


def _intercepting(spec: GraphSpec, use: Use[Made], made: list[Made], faults: list[Exception]
                  ) -> Callable[..., None]:
    """What has the network used in the place of a build.

    Args:
        spec, use: see :func:`with_network`.
        made: gets what was made of it.
        faults: gets what went wrong: 2.10 and older lose that, and fail over having nothing.
    """
    def intercept(interpreter: Any, *_: object, **__: object) -> None:
        try:
            interpreter._construct_trt_network_def()
            _rename(interpreter.ctx.net, spec)
            made.append(use(interpreter.builder, interpreter.ctx.net))
        except Exception as error:
            faults.append(error)
            raise
        raise _Finished

    return intercept


class _Finished(Exception):
    """The network was used; what Torch-TensorRT would do next is not wanted."""


def _named(error: Exception, spec: GraphSpec) -> CooperError:
    """The cause in our words: an error of ours that passed through, or theirs."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CooperError):
            return cause
        cause = cause.__cause__
    return EngineBuild(f'Torch-TensorRT cannot convert graph {spec.name}',
                       value=f'{type(error).__name__}: {str(error)[-400:]}',
                       remedy='build with --converter onnx')


def _inputs(module: Any, spec: GraphSpec, precision: str, limits: Limits) -> list[Any]:
    """What it must know of the inputs: which axes vary and the number types."""
    (spans,) = profiles_of(spec, limits)
    examples = example_inputs(spec, precision)

    def described(entry: TensorSpec) -> Any:
        if -1 not in entry.pattern():
            return module.Input(shape=entry.sizes({}), dtype=examples[entry.name].dtype)
        shapes = {f'{which}_shape': entry.sizes({symbol: getattr(span, which)
                                                 for symbol, span in spans.items()})
                  for which in PROFILE_SHAPES}
        return module.Input(**shapes, dtype=examples[entry.name].dtype)

    return [described(entry) for entry in spec.inputs]


def _rename(network: Any, spec: GraphSpec) -> None:
    """Give inputs and outputs the names of the graph; Torch-TensorRT counts them."""
    if (network.num_inputs, network.num_outputs) != (len(spec.inputs), len(spec.outputs)):
        raise EngineBuild(f'Torch-TensorRT dropped inputs or outputs of graph {spec.name}',
                          value=f'{network.num_inputs} and {network.num_outputs}',
                          limit=f'{len(spec.inputs)} and {len(spec.outputs)}')
    for number, entry in enumerate(spec.inputs):
        network.get_input(number).name = entry.name
    for number, entry in enumerate(spec.outputs):
        network.get_output(number).name = entry.name


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """It reports every operator as a warning; errors come back as exceptions."""
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    try:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
