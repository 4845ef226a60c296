"""The network through ``torch.compile``: the same modules as all graphs, compiled in this process.

Nothing is kept on disk, so every start compiles again; weights are shared with the network they
come from.
"""

from __future__ import annotations

import os
import shutil
import warnings
from typing import Any, Callable

import torch

from cooper_ros.errors import NotReady
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import probe
from cooper_ros.runtime.graphs.runtime import GraphRuntime, Tensors
from cooper_ros.runtime.graphs.spec import PRECISIONS, graph_specs
from cooper_ros.runtime.torch_runtime import TorchRuntime

INDUCTOR = 'inductor'
_REMEDY = ('install a C++ compiler (g++), or set compile_backend to aot_eager, or runtime to '
           'torch')


class CompiledRunner:
    """Runs the graphs of a network; each is compiled when it is first used.

    Args:
        network: the network; it lends its weights.
        backend: name of a backend of ``torch.compile``.

    Raises:
        NotReady: the backend is unknown, or its compiler is missing.
    """

    name, bucket = 'torch.compile', 1
    most_tokens = 1 << 30

    def __init__(self, network: TorchRuntime, backend: str | Callable = INDUCTOR) -> None:
        self.device, self.backend = network.device, backend
        if backend == INDUCTOR and self.device.type == 'cpu' and not _compiler():
            raise NotReady('torch.compile needs a C++ compiler', value='none in the path',
                           remedy=_REMEDY)
        self._specs = graph_specs(network.config)
        self._graphs = {name: self._compiled(module) for name, module in graph_modules(
            network.network, network.vae).items()}

    def run(self, graph: str, inputs: Tensors, into: Tensors) -> Tensors:
        """See :class:`~cooper_ros.runtime.graphs.runtime.GraphRunner`.

        Raises:
            NotReady: the graph could not be compiled; the compiler's words are in the message.
        """
        spec = self._specs[graph]
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter('ignore')
                made = self._graphs[graph](*(inputs[entry.name] for entry in spec.inputs))
        except Exception as error:
            if not type(error).__module__.startswith(('torch._dynamo', 'torch._inductor')):
                raise
            raise NotReady(f'torch.compile cannot compile graph {graph}',
                           value=f'{self.backend}: {" ".join(str(error).split())[:400]}',
                           remedy=_REMEDY) from error
        outputs = made if isinstance(made, (tuple, list)) else (made,)
        found = {entry.name: value for entry, value in zip(spec.outputs, outputs, strict=True)}
        for name, target in into.items():
            target.copy_(found.pop(name))
        return found

    def _compiled(self, module: torch.nn.Module) -> Callable[..., Any]:
        try:
            return torch.compile(module, backend=self.backend, dynamic=True)
        except Exception as error:  # a name that torch does not know
            raise NotReady('torch.compile has no such backend', value=self.backend,
                           limit=', '.join(torch._dynamo.list_backends(None)),
                           remedy=_REMEDY) from error


def _compiler() -> str:
    """A C++ compiler, as inductor would find it."""
    names = (os.environ.get('CXX', ''), 'g++', 'clang++')
    return next(filter(None, (shutil.which(name) for name in names if name)), '')


def compiled_runtime_of(network: TorchRuntime, *, backend: str = INDUCTOR,
                        check: bool = True) -> GraphRuntime:
    """The same network behind ``torch.compile``.

    Args:
        network: the loaded network, which goes on living inside.
        backend: name of a backend of ``torch.compile``.
        check: compile every graph now and compare it with the network.

    Raises:
        NotReady: it cannot be compiled here.
        EngineMismatch: a compiled graph says something else than the network.
    """
    runner = CompiledRunner(network, backend)
    precision = precision_of(network)
    runtime = GraphRuntime(
        runner, network.config, specials=network.specials, vocabulary=network.vocabulary,
        precision=precision,
        words=network.network.language_model.model.embed_tokens.weight.detach())
    if check:
        probe(runner, graph_specs(network.config), graph_modules(network.network, network.vae),
              precision, rebuild='cooper doctor --set runtime=torch')
    return runtime


def precision_of(network: TorchRuntime) -> str:
    """``fp32``, ``fp16`` or ``bf16``."""
    return {dtype: name for name, dtype in PRECISIONS.items()}[network.dtype]
