"""Prove the graphs through Torch-TensorRT on a machine without a GPU.

    pip install --no-deps torch-tensorrt-rtx==2.13.0 dllist
    python benchmarks/torch_tensorrt_check.py

For every graph of a tiny random network: which operators have a converter, whether the lowered
graph (what Torch-TensorRT would compile) still says what the network says at several sizes, and
how large the engine is that its converters build with the real TensorRT for RTX. The first
without the second proves nothing: a graph whose cache update was lowered away has full coverage
too. Import and build ask CUDA four questions that a machine without a GPU cannot answer; they are
answered here, in this process only.

Exit status: 0 all good, 1 a check failed.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
import warnings
from collections import Counter
from typing import Any, Callable
from unittest import mock

import torch
from torch import Tensor, nn

from cooper_ros.model.config import LlmConfig, ModelConfig, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.engines.flavour import RTX, require_flavour
from cooper_ros.runtime.graphs.export import example_inputs, exported_program
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import relative_error
from cooper_ros.runtime.graphs.spec import GraphSpec, graph_specs

ARCH, CAPABILITY = 'SM89', (8, 9)
TOLERANCE = 1e-4  # fp32, relative to the largest number of an output
SIZES: tuple[dict[str, int], ...] = (
    {}, {'tokens': 1, 'context': 33, 'branches': 3, 'cells': 16, 'patches': 20},
    {'tokens': 17, 'context': 2, 'branches': 2, 'cells': 25, 'patches': 64, 'rows': 4,
     'columns': 5})
CONFIG = ModelConfig(LlmConfig(64, 128, 2, 4, 2, 300), VitConfig(32, 64, 2, 2, image_size=140),
                     VaeConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1),
                     max_latent_size=8, vit_max_num_patch_per_side=10)


def load_torch_tensorrt() -> Any:
    """Import Torch-TensorRT without a GPU: its Python half, with the real TensorRT for RTX."""
    flavour = require_flavour()
    if flavour.name == RTX:
        sys.modules.setdefault('tensorrt_rtx', flavour.module)
    if not torch.cuda.is_available():
        torch._C._CudaDeviceProperties = type('Properties', (), {})  # type: ignore[misc]
        torch.cuda.get_device_capability = lambda *_: CAPABILITY
        torch.cuda.current_device = lambda: 0
        torch.cuda.empty_cache = lambda: None
        torch.cuda.mem_get_info = lambda *_: (8 << 30, 16 << 30)
    is_file = os.path.isfile
    with mock.patch('os.path.isfile', lambda path: 'libtorchtrt' not in str(path)
                    and is_file(path)):  # its layout without the C++ runtime
        module = importlib.import_module('torch_tensorrt')
    logging.disable(logging.CRITICAL)
    return module


def lowered(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """What Torch-TensorRT makes of a graph before it converts it; still runs in PyTorch."""
    from torch_tensorrt.dynamo._settings import CompilationSettings
    from torch_tensorrt.dynamo.lowering import (
        get_decompositions,
        post_lowering,
        pre_export_lowering,
    )
    settings = CompilationSettings(min_block_size=1)
    program = pre_export_lowering(program, settings)
    program = program.run_decompositions(get_decompositions(False, False, False))
    return post_lowering(program.module(), settings)


def uncovered(graph: torch.fx.GraphModule) -> Counter[str]:
    """Operators without a converter, counted; arithmetic on sizes is not compiled."""
    return Counter(str(node.target) for node in graph.graph.nodes
                   if node.op == 'call_function' and isinstance(node.meta.get('val'), Tensor)
                   and not _has_converter(node))


def _has_converter(node: torch.fx.Node) -> bool:
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS
    try:
        return node in DYNAMO_CONVERTERS
    except AttributeError:  # it trips over inputs that are sizes; ask for the operator alone
        return node.target in DYNAMO_CONVERTERS.keys()


def worst(spec: GraphSpec, module: nn.Module, graph: Callable) -> float:
    """Largest relative error of the lowered graph over all sizes."""
    errors = []
    for seed, sizes in enumerate(SIZES):
        inputs = tuple(example_inputs(spec, 'fp32', seed=seed, **sizes).values())
        with torch.no_grad():
            ours, theirs = _many(graph(*inputs)), _many(module(*inputs))
        errors += [relative_error(a, b) for a, b in zip(ours, theirs, strict=True)]
    return max(errors)


def engine_bytes(torch_tensorrt: Any, program: torch.export.ExportedProgram, spec: GraphSpec
                 ) -> int:
    """Size of the engine that the converters build for :data:`ARCH`; 0 when they fail."""
    import tensorrt as trt  # what Torch-TensorRT imports: a proxy of the flavour at hand
    from torch_tensorrt.dynamo.conversion._TRTInterpreter import TRTInterpreter
    sizes: list[int] = []

    def build_only(self: Any, *_: object, **__: object) -> None:
        self._construct_trt_network_def()
        config = self._populate_trt_builder_config(None, None)
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, ARCH), 0)
        engine = self.builder.build_serialized_network(self.ctx.net, config)
        sizes.append(engine.nbytes if engine else 0)
        raise RuntimeError('built; loading it would need a GPU')

    with mock.patch.object(TRTInterpreter, 'run', build_only):
        try:
            torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program, arg_inputs=tuple(example_inputs(spec, 'fp32').values()),
                min_block_size=1, require_full_compilation=True, cache_built_engines=False,
                reuse_cached_engines=False, assume_dynamic_shape_support=True)
        except Exception as error:
            if not sizes:
                print(f'     {spec.name}: {type(error).__name__}: {str(error)[:300]}')
    return sizes[0] if sizes else 0


def _many(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else tuple(value) if isinstance(value, list) else (
        value,)


def main() -> int:
    """Check every graph and print one row each."""
    warnings.simplefilter('ignore')
    torch_tensorrt, failures = load_torch_tensorrt(), 0
    torch.manual_seed(0)
    network, vae = Cooper(CONFIG).initialise(0.2).eval(), AutoEncoder(CONFIG.vae).eval()
    torch.nn.init.normal_(network.llm2vae.weight, std=0.2)
    modules = graph_modules(network, vae)
    print(f'torch_tensorrt {torch_tensorrt.__version__}, torch {torch.__version__}, {ARCH}, fp32')
    for name, spec in graph_specs(CONFIG).items():
        started = time.monotonic()
        program = exported_program(spec, modules[name], 'fp32')
        graph = lowered(program)
        missing, error = uncovered(graph), worst(spec, modules[name], graph)
        size = engine_bytes(torch_tensorrt, exported_program(spec, modules[name], 'fp32'), spec)
        good = not missing and error <= TOLERANCE and size > 0
        failures += not good
        print(f'{"ok" if good else "FAIL":5}{name}: without converter {dict(missing) or "none"}, '
              f'lowered graph differs by {error:.2g} (at most {TOLERANCE:g}), engine '
              f'{size / 2**20:.1f} MiB, {time.monotonic() - started:.1f} s', flush=True)
    return int(bool(failures))


if __name__ == '__main__':
    sys.exit(main())
