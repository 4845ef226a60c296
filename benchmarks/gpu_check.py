"""Prove compiled engines on a machine with a GPU, in one run of under ten minutes.

    python benchmarks/gpu_check.py                          cooper-nano, as it is shipped
    python benchmarks/gpu_check.py --random official        two layers of the published widths
    python benchmarks/gpu_check.py --model models/COOPER --precision bf16
    python benchmarks/gpu_check.py --runtime compile        torch.compile instead of engines
    python benchmarks/gpu_check.py --random 7b --runtime torch      how fast the whole size is
    python benchmarks/gpu_check.py --runtime onnx           the same checks without a GPU

It builds the engines (or finds them in the cache), compares every graph and whole conversations
with PyTorch on the same device, proves that steps recorded as CUDA graphs say what they said
unrecorded, and prints what took how long, as ratios to PyTorch in the same run, as a table for the
documentation.
Exit status: 0 all good, 1 a check failed, 2 it could not run here (what was missing is said).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cooper_ros.errors import CooperError, NotReady
from cooper_ros.model.config import LlmConfig, ModelConfig, SpecialTokens, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime import doctor
from cooper_ros.runtime.base import Runtime, Session
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.compiled import compiled_runtime_of
from cooper_ros.runtime.engines.cache import EngineCache
from cooper_ros.runtime.engines.flavour import gpu_architecture, require_flavour
from cooper_ros.runtime.engines.plan import (
    FINGERPRINTS,
    GRAPHS,
    Plan,
    default_cache,
    model_fingerprint,
)
from cooper_ros.runtime.engines.runner import TensorRtRunner, load_tensorrt_runtime
from cooper_ros.runtime.graphs.bundle import Bundle, bundle_name, export_bundle
from cooper_ros.runtime.graphs.digest import weights_digest
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import TOLERANCES, probe, relative_error
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.graphs.spec import BUCKET, PRECISIONS, GraphSpec, graph_specs
from cooper_ros.runtime.onnx_runtime import load_onnx_runtime
from cooper_ros.runtime.place import choose_device
from cooper_ros.runtime.prepare import sound_bundle
from cooper_ros.runtime.torch_runtime import TorchRuntime

NANO = Path(__file__).parents[1] / 'models' / 'cooper-nano'
RECORDED_TOLERANCE = 1e-3  # the same kernels; atomics may add in another order
SEED, TOKENS, FLOW_STEPS, REPEATS, WARM = 0, 64, 8, 30, 5
RANDOM = {
    'tiny': ModelConfig(LlmConfig(64, 128, 2, 4, 2, 300), VitConfig(32, 64, 2, 2, image_size=140),
                        VaeConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1),
                        max_latent_size=8, vit_max_num_patch_per_side=10),
    'small': ModelConfig(LlmConfig(512, 1408, 8, 8, 2, 16000),
                         VitConfig(384, 1536, 6, 6, image_size=448), VaeConfig(ch=64),
                         max_latent_size=32, vit_max_num_patch_per_side=32),
    'official': ModelConfig(LlmConfig(num_layers=2), VitConfig(num_layers=2), VaeConfig()),
    '7b': ModelConfig.official_7b()}


@dataclass
class Report:
    """What was found, as rows and as failures."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def say(self, what: str, value: str, verdict: str = '') -> None:
        """Print and keep one row."""
        self.rows.append((what, value, verdict))
        print(f'{verdict or "":5}{what}: {value}', flush=True)

    def check(self, what: str, value: float, limit: float, least: bool = False) -> None:
        """Keep a number that must stay below (or, with ``least``, above) its limit."""
        good = value >= limit if least else value <= limit
        word = 'at least' if least else 'at most'
        self.say(what, f'{value:.3g} ({word} {limit:.3g})', 'ok' if good else 'FAIL')
        if not good:
            self.failures.append(what)

    def table(self) -> str:
        """The rows in Markdown."""
        lines = [f'| {what} | {value} | {verdict} |' for what, value, verdict in self.rows]
        return '\n'.join(['| what | value | |', '| --- | --- | --- |', *lines])


def check_graphs(report: Report, graphs: GraphRuntime, network: TorchRuntime, precision: str,
                 specs: Mapping[str, GraphSpec], parts: int) -> None:
    """Every graph against the network at several sizes."""
    modules = graph_modules(network.network, network.vae, parts)
    for sizes in ({}, {'context': 256, 'tokens': 1, 'branches': 3},
                  {'context': 512, 'tokens': 65, 'cells': 16, 'branches': 1}):
        found = probe(graphs.runner, specs, modules, precision, **sizes)
        for name, error in found.items():
            report.check(f'graph {name} {sizes or ""}'.strip(), error, TOLERANCES[precision])


def filled(runtime: Runtime, capacity: int = 1024) -> Session:
    """Three contexts over a random picture, as drawing with guidance has them."""
    session = runtime.session(rows=3, capacity=capacity)
    unit, patch = runtime.config.pixels_per_latent_token, runtime.config.vit.patch_size
    latent = runtime.encode_image(draw(1, 3, 4 * unit, 6 * unit).clamp(-1, 1), None)
    session.append_latents(0, runtime.embed_latents(latent))
    session.append_vision(0, runtime.encode_vision(draw(2, 3, 4 * patch, 5 * patch).clamp(-1, 1)))
    session.share(0, 1)
    for row in (0, 2):
        session.append_text(row, list(range(3, 40)))
    return session


def check_talk(report: Report, graphs: Runtime, network: Runtime, precision: str) -> None:
    """The same words into both: logits, likeliest tokens, and memory of what came before."""
    ours, theirs = filled(graphs), filled(network)
    token, errors, same = 1, [], 0
    for _ in range(TOKENS):
        found, wanted = ours.step(0, token), theirs.step(0, token)
        errors.append(relative_error(found, wanted))
        same += int(found.argmax() == wanted.argmax())
        token = int(wanted.argmax())
    report.check(f'logits over {TOKENS} tokens', max(errors), 2 * TOLERANCES[precision])
    report.say('likeliest token agrees', f'{same} of {TOKENS}')
    after = []
    for first in (5, 6):
        start = ours.cursor(2)
        ours.step(2, first)
        after.append(ours.step(2, 7))
        ours.rewind(2, start)
    report.check('a step depends on the one before', relative_error(*after), 1e-6, least=True)


def check_drawing(report: Report, graphs: Runtime, network: Runtime, precision: str) -> None:
    """A flow with three branches from the same noise, down to pixels."""
    grid = (4, 6)
    drawn = []
    for runtime in (graphs, network):
        session = filled(runtime)
        x = draw(9, grid[0] * grid[1], runtime.config.latent_features).to(runtime.device)
        for step in range(FLOW_STEPS):
            full, no_text, no_image = session.velocity((0, 1, 2), x, 1 - step / FLOW_STEPS, grid)
            x = x - (full + 0.5 * (full - no_text) + 0.1 * (full - no_image)) / FLOW_STEPS
        drawn.append((x, runtime.decode_tokens(x, grid)))
    for name, ours, theirs in zip(('latents', 'pixels'), *drawn):
        report.check(f'{name} after {FLOW_STEPS} flow steps', relative_error(ours, theirs),
                     4 * TOLERANCES[precision])


def check_recorded(report: Report, graphs: GraphRuntime) -> None:
    """Decode and flow steps as CUDA graphs against the same steps run plainly, bit by bit."""
    runner = graphs.runner
    assert isinstance(runner, TensorRtRunner)
    said = []
    for runner.record in (True, False):
        said.append(mixed_steps(graphs))
    runner.record = True
    report.check('steps as CUDA graphs differ from plain ones by',
                 max(map(relative_error, *said)), RECORDED_TOLERANCE)
    for text in runner.memory().plain:
        report.say('not recorded', text)


def mixed_steps(graphs: GraphRuntime) -> list[Tensor]:
    """Steps that come again after others of other sizes, from the same graphs, came between."""
    session, grid = filled(graphs), (4, 6)
    x = draw(9, grid[0] * grid[1], graphs.config.latent_features)

    def steps() -> list[Tensor]:
        return [*(session.step(0, token) for token in (5, 6, 7, 8)),
                *(session.velocity((0, 1, 2), x, time, grid) for time in (0.9, 0.5, 0.1))]

    start, said = session.cursor(0), steps()
    session.append_text(2, list(range(3, 131)))  # prefill, and a longer context beside the others
    said += steps()
    session.append_text(0, [number % 251 + 3 for number in range(BUCKET)])
    assert session.cursor(0).length > BUCKET  # another bucket: other sizes, other recordings
    said += steps()
    session.rewind(0, start)
    return said + steps()


def measure(report: Report, name: str, runtime: Runtime,
            against: dict[str, float] | None = None) -> dict[str, float]:
    """Milliseconds of what a robot waits for, and how many times faster than ``against``.

    Returns:
        median milliseconds by what was measured.
    """
    medians: dict[str, float] = {}
    side = min(runtime.config.max_latent_size // 2, 32)  # 512 pixels in the published size
    session, grid = filled(runtime, 1024 + side * side), (side, side)
    x = draw(9, grid[0] * grid[1], runtime.config.latent_features).to(runtime.device)
    text, start = list(range(3, 131)), session.cursor(2)

    def prefill() -> None:
        session.append_text(2, text)
        session.rewind(2, start)

    def decode() -> None:
        session.step(2, 5)
        session.rewind(2, start)

    for what, run in (('prefill of 130 tokens', prefill), ('one token', decode),
                      (f'flow step, 3 branches, {side * side} tokens',
                       lambda: session.velocity((0, 1, 2), x, 0.5, grid)),
                      ('decode a map', lambda: runtime.decode_tokens(x, grid))):
        medians[what], slow = milliseconds(run, runtime.device)
        ratio = f', {against[what] / medians[what]:.2f} times eager' if against else ''
        report.say(f'{name}: {what}', f'{medians[what]:.2f} ms median, {slow:.2f} ms p95{ratio}')
    return medians


def milliseconds(run: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Median and 95th percentile over repeated calls, after warming up."""
    taken = []
    for number in range(WARM + REPEATS):
        started = time.perf_counter()
        run()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        if number >= WARM:
            taken.append((time.perf_counter() - started) * 1e3)
    taken.sort()
    return taken[len(taken) // 2], taken[int(len(taken) * 0.95)]


def draw(seed: int, *shape: int) -> Tensor:
    """Seeded noise, drawn on the CPU."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED + seed))


def network_of(options: argparse.Namespace, device: str) -> TorchRuntime:
    """The network in PyTorch: a checkpoint, or random weights large enough to matter."""
    dtype = PRECISIONS[options.precision]
    if not options.random:
        read = read_model_folder(options.model, options.base or None, device=device, dtype=dtype)
        return TorchRuntime(read.network, read.vae, specials=read.specials,
                            vocabulary=read.vocabulary)
    torch.manual_seed(SEED)
    config = RANDOM[options.random]
    with torch.device(device), default_dtype(dtype):  # never twice the size in memory
        network, vae = Cooper(config).initialise(0.05), AutoEncoder(config.vae)
        torch.nn.init.normal_(network.llm2vae.weight, std=0.05)
    return TorchRuntime(network, vae, specials=SpecialTokens(0, 1, 2, 3),
                        vocabulary=config.llm.vocab_size, device=device, dtype=dtype)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def exported(network: TorchRuntime, folder: Path, precision: str, report: Report,
             parts: int = 1, checkpoint: Sequence[Path] = ()) -> Bundle:
    """Graphs of the network, exported unless they are there and sound.

    Those of a checkpoint (model folder, then base folder if any) have the name that `cooper
    engine` and the node give them, so that graphs copied from another machine are found.
    """
    started = time.monotonic()
    model = (model_fingerprint(checkpoint, folder / FINGERPRINTS) if checkpoint else
             weights_digest((network.network, network.vae)))
    target = folder / GRAPHS / bundle_name(model, precision, parts)
    found = sound_bundle(target.parent, model, precision, parts,
                         lambda text: report.say('graphs found', text))
    if found is not None:
        return found
    made = export_bundle(network.network.cpu(), network.vae.cpu(), target, model=model,
                         specials=network.specials, vocabulary=network.vocabulary,
                         precision=precision, parts=parts)
    network.network.to(network.device)
    network.vae.to(network.device)
    report.say('export of all graphs', f'{time.monotonic() - started:.1f} s')
    return made


def compiled(bundle: Bundle, folder: Path, report: Report) -> GraphRuntime:
    """Engines for the GPU of this machine, built unless they are there, and loaded."""
    plan, cache = Plan(bundle, require_flavour()), EngineCache(folder)
    arch = gpu_architecture()
    for job in plan.jobs([arch]):
        started = time.monotonic()
        path = plan.build(job, cache)
        report.say(f'engine {job.spec.name}', f'{path.stat().st_size / 2**20:.1f} MiB, '
                   f'{time.monotonic() - started:.1f} s here')
    runtime = load_tensorrt_runtime(plan, cache)
    assert isinstance(runtime.runner, TensorRtRunner)
    what, _, plan = str(runtime.runner.memory()).partition(': ')
    report.say(what, plan)
    return runtime


def say_memory(report: Report, device: str) -> None:
    """The most that torch held on the GPU."""
    if device == 'cuda':
        report.say('device memory at most',
                   f'{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB by torch')


def require_gpu() -> None:
    """Compiled engines need a GPU, and one that this TensorRT builds for.

    Raises:
        NotReady: there is none.
        BadOption: TensorRT does not know it.
    """
    if not torch.cuda.is_available():
        raise NotReady('compiled engines run on a GPU, and there is none',
                       remedy='use --runtime onnx for the same checks without one')
    require_flavour().check_architecture(gpu_architecture())


def run(options: argparse.Namespace, report: Report) -> None:
    """All checks."""
    started = time.monotonic()
    for fact in doctor.facts():
        report.say(fact.what, fact.value)
    what = f'{options.random} random' if options.random else options.model
    report.say('case', f'{what}, {options.precision}, {options.runtime}, seed {SEED}, '
               f'torch {torch.__version__}, {platform.machine()}')
    device = choose_device('cpu' if options.runtime == 'onnx' else 'auto').type
    if options.runtime == 'tensorrt':
        require_gpu()
    network = network_of(options, device)
    if options.runtime == 'torch':
        measure(report, 'torch eager', network)
        say_memory(report, device)
        return
    if options.runtime == 'compile':
        graphs, specs = compiled_runtime_of(network, check=False), graph_specs(network.config)
    else:
        folders = [] if options.random else [options.model, options.base]
        bundle = exported(network, options.cache, options.precision, report, options.parts,
                          [Path(name) for name in folders if name])
        specs = bundle.specs()
        graphs = (compiled(bundle, options.cache, report) if options.runtime == 'tensorrt'
                  else load_onnx_runtime(bundle))
    check_graphs(report, graphs, network, options.precision, specs, options.parts)
    check_talk(report, graphs, network, options.precision)
    check_drawing(report, graphs, network, options.precision)
    if isinstance(graphs.runner, TensorRtRunner):
        check_recorded(report, graphs)
    eager = measure(report, 'torch eager', network)
    measure(report, options.runtime, graphs, eager)
    if isinstance(graphs.runner, TensorRtRunner):
        graphs.runner.record = False
        measure(report, f'{options.runtime} without CUDA graphs', graphs, eager)
    say_memory(report, device)
    report.say('whole run', f'{time.monotonic() - started:.0f} s')


def main(words: Sequence[str] | None = None) -> int:
    """Parse, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default=str(NANO), help='model folder; cooper-nano if absent')
    parser.add_argument('--base', default='', help='folder with configs and autoencoder')
    parser.add_argument('--random', default='', choices=('', *RANDOM),
                        help='random weights of such a size instead of a model folder')
    parser.add_argument('--precision', default='', choices=('', *PRECISIONS))
    parser.add_argument('--runtime', default='tensorrt',
                        choices=('tensorrt', 'compile', 'onnx', 'torch'))
    parser.add_argument('--parts', type=int, default=1,
                        help='graphs that the layers of the decoder are spread over')
    parser.add_argument('--cache', type=Path, default=default_cache())
    parser.add_argument('--json', type=Path, help='write the rows here too')
    options, report = parser.parse_args(words), Report()
    options.precision = options.precision or ('fp32' if options.runtime == 'onnx' else 'bf16')
    try:
        run(options, report)
    except CooperError as error:
        print(f'cannot go on: {error}', file=sys.stderr)
        report.failures.append(str(error))
        return 2 if error.code.name in ('NOT_READY', 'BAD_OPTION') else 1
    finally:
        if options.json:
            options.json.write_text(json.dumps({'rows': report.rows,
                                                'failures': report.failures}, indent=1))
    print(f'\n{report.table()}\n\n{len(report.failures)} failures {report.failures or ""}')
    return int(bool(report.failures))


if __name__ == '__main__':
    sys.exit(main())
