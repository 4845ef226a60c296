"""Prove the Torch-TensorRT runtime on a machine without a GPU.

    pip install --no-deps -r requirements/ttrt.txt
    python benchmarks/torch_tensorrt_check.py            all graphs; --graph flow for one

For every graph of a tiny random network: which operators have a converter, whether the lowered
graph (what Torch-TensorRT would compile) still says what the network says at several sizes, and
the engine that the product builds of it with the real converters and the real TensorRT for RTX,
its inputs and outputs compared with the description. The first without the second proves nothing:
a graph whose cache update was lowered away has full coverage too. So the last row is one that
must fail: a decoder that keeps its cache in a buffer.

Exit status: 0 all good, 1 a check failed, 2 it cannot run here.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from typing import Callable

import torch
from torch import Tensor, nn

from cooper_ros.errors import CooperError
from cooper_ros.model.config import LlmConfig, ModelConfig, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.engines.build import build_engine
from cooper_ros.runtime.engines.flavour import require_flavour
from cooper_ros.runtime.engines.torch_tensorrt import (
    answering_for_a_gpu,
    load,
    lowered,
    settings,
)
from cooper_ros.runtime.graphs.export import example_inputs, exported_program
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import relative_error
from cooper_ros.runtime.graphs.spec import GraphSpec, Limits, graph_specs

ARCH = 'SM89'
TOLERANCE = 1e-4  # fp32, relative to the largest number of an output
SIZES: tuple[dict[str, int], ...] = (
    {}, {'tokens': 1, 'context': 33, 'branches': 3, 'cells': 16, 'patches': 20},
    {'tokens': 17, 'context': 2, 'branches': 2, 'cells': 25, 'patches': 64, 'rows': 4,
     'columns': 5})
CONFIG = ModelConfig(LlmConfig(64, 128, 2, 4, 2, 300), VitConfig(32, 64, 2, 2, image_size=140),
                     VaeConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1),
                     max_latent_size=8, vit_max_num_patch_per_side=10)


class ForgetfulDecoder(nn.Module):
    """A decoder step that writes its cache in place: what must not be done here."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('keys', torch.zeros(8, 4))

    def forward(self, x: Tensor, at: Tensor) -> Tensor:
        """Attend over all slots after writing slot ``at``; ``x`` is ``[1, 4]``."""
        self.keys.index_copy_(0, at, x)
        return torch.softmax(x @ self.keys.T, dim=-1) @ self.keys


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


def forgotten() -> tuple[float, float]:
    """Error of the first and the second step of a lowered :class:`ForgetfulDecoder`."""
    x, at = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0])
    graph = lowered(torch.export.export(ForgetfulDecoder().eval(), (x[0], at)))
    eager, errors = ForgetfulDecoder().eval(), []
    for step in range(2):
        ours, theirs = graph(x[step], at + step), eager(x[step], at + step)
        errors.append(relative_error(_many(ours)[0], theirs))
    return errors[0], errors[1]


def _many(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else tuple(value) if isinstance(value, list) else (
        value,)


def check(spec: GraphSpec, module: nn.Module) -> bool:
    """Print one row; whether all is good."""
    started = time.monotonic()
    graph = lowered(exported_program(spec, module, 'fp32'))
    missing, error = uncovered(graph), worst(spec, module, graph)
    try:
        built = build_engine(require_flavour(), spec, module, arch=ARCH, precision='fp32',
                             limits=Limits.of(CONFIG, context=64))
        size, said = len(built.content), f'engine {len(built.content) / 2**20:.1f} MiB'
    except CooperError as failure:
        size, said = 0, str(failure)
    good = not missing and error <= TOLERANCE and size > 0
    print(f'{"ok" if good else "FAIL":5}{spec.name}: without converter '
          f'{dict(missing) or "none"}, lowered graph differs by {error:.2g} (at most '
          f'{TOLERANCE:g}), {said}, {time.monotonic() - started:.1f} s', flush=True)
    return good


def main(words: list[str] | None = None) -> int:
    """Check every graph and print one row each."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--graph', choices=list(graph_specs(CONFIG)), help='only this one')
    options = parser.parse_args(words)
    warnings.simplefilter('ignore')
    with answering_for_a_gpu():
        try:
            version = load().__version__
        except CooperError as error:
            print(f'cannot go on: {error}', file=sys.stderr)
            return 2
        torch.manual_seed(0)
        network, vae = Cooper(CONFIG).initialise(0.2).eval(), AutoEncoder(CONFIG.vae).eval()
        torch.nn.init.normal_(network.llm2vae.weight, std=0.2)
        modules = graph_modules(network, vae)
        print(f'torch_tensorrt {version}, torch {torch.__version__}, {ARCH}, fp32, {settings()}')
        good = [check(spec, modules[name]) for name, spec in graph_specs(CONFIG).items()
                if options.graph in (None, name)]
        first, second = forgotten()
        good.append(first <= TOLERANCE < second)
        print(f'{"ok" if good[-1] else "FAIL":5}a dropped cache update is caught: step 1 differs '
              f'by {first:.2g}, step 2 by {second:.2g}')
    return int(not all(good))


if __name__ == '__main__':
    sys.exit(main())
