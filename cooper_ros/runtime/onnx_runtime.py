"""The network in onnxruntime on a CPU: the same graphs that TensorRT compiles.

Faster than eager PyTorch for small checkpoints, and the proof that the exported graphs answer as
the network does.
"""

from __future__ import annotations

import shlex
from typing import Any

import torch
from torch import Tensor

from cooper_ros.errors import BadOption, EngineMismatch, NotReady
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.graphs.runtime import GraphRuntime, Tensors

PRECISIONS_HERE = ('fp32', 'fp16')  # onnxruntime has few bfloat16 kernels for CPUs


class OnnxRunner:
    """Runs the graphs of a bundle; an inference session is made when a graph is first used.

    Args:
        bundle: exported graphs.
        threads: CPU threads; 0 takes torch's number.

    Raises:
        BadOption: the graphs have a number type that onnxruntime cannot run here.
        NotReady: onnxruntime is not installed.
    """

    name, bucket = 'onnxruntime', 1
    most_tokens = 1 << 30

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        if bundle.precision not in PRECISIONS_HERE:
            raise BadOption('onnxruntime cannot run these graphs on a CPU',
                            value=bundle.precision, limit=', '.join(PRECISIONS_HERE),
                            remedy='export with --precision fp32')
        self.device = torch.device('cpu')
        self.bundle, self.threads = bundle, threads or torch.get_num_threads()
        self._onnxruntime = _onnxruntime()
        self._sessions: dict[str, Any] = {}

    def run(self, graph: str, inputs: Tensors, into: Tensors) -> Tensors:
        """See :class:`~cooper_ros.runtime.graphs.runtime.GraphRunner`."""
        session = self._session(graph)
        feed = {name: value.numpy() for name, value in inputs.items()}
        names = [entry.name for entry in session.get_outputs()]
        found = dict(zip(names, map(torch.from_numpy, session.run(names, feed))))
        for name, target in into.items():
            target.copy_(found.pop(name))
        return found

    def _session(self, graph: str) -> Any:
        if graph not in self._sessions:
            options = self._onnxruntime.SessionOptions()
            options.intra_op_num_threads = self.threads
            # Waiting threads that spin starve torch and the rest of the robot.
            options.add_session_config_entry('session.intra_op.allow_spinning', '0')
            path = self.bundle.prove_graph(graph)
            try:
                self._sessions[graph] = self._onnxruntime.InferenceSession(
                    str(path), options, providers=['CPUExecutionProvider'])
            except Exception as error:  # its errors have no common parent but this
                raise EngineMismatch(
                    f'onnxruntime cannot read graph {graph}', value=str(error)[:300],
                    remedy=f'run `{self._command()}`') from error
        return self._sessions[graph]

    def _command(self) -> str:
        """What exports the graphs again; a bundle does not know the folder of its checkpoint."""
        from cooper_ros.runtime.engines.plan import GRAPHS
        bundle, place = self.bundle, self.bundle.folder.parent
        words = ['--precision', bundle.precision]
        words += ['--cache', str(place.parent)] if place.name == GRAPHS else []
        words += ['--parts', str(bundle.parts)] if bundle.parts > 1 else []
        return f'cooper engine export CHECKPOINT {shlex.join(words)} --force'


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise NotReady('onnxruntime is not installed', value=str(error),
                       remedy='pip install onnxruntime, or choose runtime: torch') from error
    return onnxruntime


def load_onnx_runtime(bundle: Bundle, *, threads: int = 0) -> GraphRuntime:
    """A runtime on exported graphs."""
    words: Tensor = bundle.words()
    return GraphRuntime(OnnxRunner(bundle, threads), bundle.config, specials=bundle.specials,
                        vocabulary=bundle.vocabulary, precision=bundle.precision, words=words,
                        parts=bundle.parts)
