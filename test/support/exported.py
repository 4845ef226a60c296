"""Networks exported once per test run, for every test that needs graphs.

Exporting is work of the processor alone, and tests that wait for other processes leave it idle:
:func:`begin_exporting` does the large ones in a process of its own meanwhile. Nobody depends
on it: whoever comes first to a folder takes its lock, and the others find the graphs there.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.evaluation.conformance_golden import Golden
from cooper_ros.model.network import Cooper
from cooper_ros.runtime.graphs.bundle import DESCRIPTION, Bundle, export_bundle, sealed
from cooper_ros.runtime.graphs.export import export_graph
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.spec import graph_specs
from cooper_ros.runtime.torch_runtime import TorchRuntime
from support.tiny import tiny_runtime

ROOT = Path(__file__).parents[2]
_FOLDER = tempfile.TemporaryDirectory(prefix='cooper_test_graphs_')
_SHARED = Path(os.environ['COOPER_TEST_GRAPHS'])
_AHEAD = """
from support import exported
for bundle in (exported.golden_bundle, exported.half_bundle, exported.nano_bundle):
    bundle()
"""


def begin_exporting() -> None:
    """Export the large bundles in another process, which ends with this one at the latest."""
    process = subprocess.Popen(
        [sys.executable, '-c', _AHEAD], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "test"}'})
    atexit.register(process.wait)  # atexit ends what came last first
    atexit.register(process.kill)


def redescribe(folder: Path, **changes: object) -> None:
    """Change what exported graphs say of themselves, as if they had been exported so."""
    path = folder / DESCRIPTION
    path.write_text(sealed({**json.loads(path.read_text()), **changes}))


@functools.cache
def tiny_bundle() -> Bundle:
    """All six graphs in fp32; read only."""
    return _bundle(exported_runtime(), 'tiny', 'fp32')


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


@functools.cache
def golden() -> Golden:
    """The recording; its network has odd widths (72, 48) and an odd depth (3)."""
    return Golden(ROOT / 'test' / 'data' / 'golden_small')


@functools.cache
def golden_bundle() -> Bundle:
    """All six graphs of the recorded network in fp32; read only."""
    return _bundle(golden().runtime, 'golden', 'fp32')


@functools.cache
def half_network() -> TorchRuntime:
    """The recorded network in fp16, cut to one layer of each kind: exporting takes its time."""
    whole = golden().network().state_dict()
    config = golden().model_config
    network = Cooper(replace(config, llm=replace(config.llm, num_layers=1),
                             vit=replace(config.vit, num_layers=1)))
    network.load_state_dict({name: value for name, value in whole.items()
                             if not re.search(r'layers\.[1-9]', name)})
    return TorchRuntime(network.half().eval(), golden().autoencoder().half(),
                        specials=golden().specials, vocabulary=config.llm.vocab_size,
                        dtype=torch.float16)


@functools.cache
def half_bundle() -> Bundle:
    """All six graphs of :func:`half_network`."""
    return _bundle(half_network(), 'golden_half', 'fp16')


@functools.cache
def bfloat_latents() -> Path:
    """The smallest graph in bf16."""
    network, path = golden().network().bfloat16(), Path(_FOLDER.name) / 'bfloat.onnx'
    module = graph_modules(network, golden().runtime.vae)['latents']
    return export_graph(graph_specs(network.config)['latents'], module, path, 'bf16')


@functools.cache
def nano_engine() -> CooperEngine:
    """The shipped checkpoint in PyTorch, float32, 1 thread."""
    return CooperEngine.from_pretrained(ROOT / 'models' / 'cooper-nano', CooperConfig(
        runtime='torch', device='cpu', dtype='float32', threads=1))


@functools.cache
def nano_bundle() -> Bundle:
    """All six graphs of the shipped checkpoint in fp32; read only."""
    return _bundle(nano_engine().parts.runtime, 'nano', 'fp32')


def _bundle(runtime: TorchRuntime, name: str, precision: str) -> Bundle:
    return export_bundle(runtime.network, runtime.vae, _SHARED / name,
                         specials=runtime.specials, vocabulary=runtime.vocabulary,
                         precision=precision)
