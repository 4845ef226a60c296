"""The tiny network exported once per test run, for every test that needs graphs."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from cooper_ros.runtime.files import PART
from cooper_ros.runtime.graphs.bundle import Bundle, export_bundle
from cooper_ros.runtime.graphs.export import export_graph
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.spec import graph_specs
from cooper_ros.runtime.torch_runtime import TorchRuntime
from support.tiny import tiny_runtime

PROGRESS: list[tuple[str, int, int]] = []
_FOLDER = tempfile.TemporaryDirectory(prefix='cooper_test_graphs_')


@functools.cache
def tiny_bundle() -> Bundle:
    """All six graphs in fp32; read only."""
    runtime, folder = exported_runtime(), Path(_FOLDER.name) / 'tiny'
    (folder.with_name(f'tiny{PART}1') / 'left').mkdir(parents=True)  # by a killed export
    return export_bundle(runtime.network, runtime.vae, folder,
                         specials=runtime.specials, vocabulary=runtime.vocabulary,
                         precision='fp32', progress=lambda *told: PROGRESS.append(told))


@functools.cache
def half_understand() -> Path:
    """The understanding graph alone, in fp16."""
    runtime, path = tiny_runtime(), Path(_FOLDER.name) / 'half.onnx'
    module = graph_modules(runtime.network.half(), runtime.vae)['understand']
    return export_graph(graph_specs(runtime.config)['understand'], module, path, 'fp16')


@functools.cache
def exported_runtime() -> TorchRuntime:
    """The network they were exported from."""
    return tiny_runtime()
