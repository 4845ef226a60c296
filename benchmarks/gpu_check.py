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
documentation. What goes wrong in one step is a row of the table, and the steps behind it go on.
Exit status: 0 all good, 1 a check failed or could not be made, 2 this machine has no GPU for it
(what was missing is said).
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import torch
from gpu_report import Report, guarded, milliseconds
from gpu_steps import SEED, draw, filled, ids, latent_grid, mixed_steps, waited_for
from torch import Tensor

from cooper_ros.errors import NotReady
from cooper_ros.model.config import LlmConfig, ModelConfig, SpecialTokens, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime import doctor
from cooper_ros.runtime.base import Runtime
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.compiled import compiled_runtime_of
from cooper_ros.runtime.engines.cache import EngineCache
from cooper_ros.runtime.engines.flavour import gpu_architecture, require_flavour
from cooper_ros.runtime.engines.loaded import MIB
from cooper_ros.runtime.engines.plan import (
    FINGERPRINTS,
    GRAPHS,
    Job,
    Plan,
    default_cache,
    model_fingerprint,
)
from cooper_ros.runtime.engines.runner import TensorRtRunner, load_tensorrt_runtime
from cooper_ros.runtime.graphs.bundle import Bundle, bundle_name, export_bundle
from cooper_ros.runtime.graphs.digest import weights_digest
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import (
    TOLERANCES,
    Question,
    error_of,
    questions,
    relative_error,
    said_by,
)
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.graphs.spec import (
    BUCKET,
    CONTEXT,
    PRECISIONS,
    GraphSpec,
    Limits,
    Span,
    graph_specs,
)
from cooper_ros.runtime.onnx_runtime import load_onnx_runtime
from cooper_ros.runtime.place import choose_device
from cooper_ros.runtime.prepare import sound_bundle
from cooper_ros.runtime.torch_runtime import TorchRuntime

NANO = Path(__file__).parents[1] / 'models' / 'cooper-nano'
# The same kernels; atomics may add in another order, which moves the last bits of a number.
RECORDED_TOLERANCES = {'fp32': 1e-3, 'fp16': 4e-3, 'bf16': 2e-2}
TOKENS, FLOW_STEPS = 64, 8
SIZES: tuple[dict[str, int], ...] = (  # that graphs are asked in; the last begins a session
    {}, {'context': 256, 'tokens': 1, 'branches': 3},
    {'context': 512, 'tokens': 65, 'cells': 16, 'branches': 1}, {'context': BUCKET, 'used': 0})
LARGE, LARGE_CONTEXT, LARGE_SIDE = ('official', '7b'), 4096, 512
RANDOM = {
    'tiny': ModelConfig(LlmConfig(64, 128, 2, 4, 2, 300), VitConfig(32, 64, 2, 2, image_size=140),
                        VaeConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1),
                        max_latent_size=8, vit_max_num_patch_per_side=10),
    'small': ModelConfig(LlmConfig(512, 1408, 8, 8, 2, 16000),
                         VitConfig(384, 1536, 6, 6, image_size=448), VaeConfig(ch=64),
                         max_latent_size=32, vit_max_num_patch_per_side=32),
    'official': ModelConfig(LlmConfig(num_layers=2), VitConfig(num_layers=2), VaeConfig()),
    '7b': ModelConfig.official_7b()}


def check_graphs(report: Report, graphs: GraphRuntime, network: TorchRuntime, precision: str,
                 specs: Mapping[str, GraphSpec], parts: int, limits: Limits | None = None) -> None:
    """Every graph against the network at several sizes; what is asked for beyond the limits is
    asked for as far as they go."""
    limits = limits or Limits.of(network.config)
    modules = graph_modules(network.network, network.vae, parts)

    def error(question: Question) -> float:
        return error_of(graphs.runner, question, said_by(modules, network.device, question))

    for sizes in SIZES:
        asked = {name: spec for name, spec in specs.items()
                 if not sizes or set(sizes) & set(spec.symbols())}  # else nothing is new
        sizes = within(sizes, limits)
        for question in questions(asked, precision, limits=limits, **sizes):
            what = f'graph {question.spec.name} {sizes or ""}'.strip()
            found = guarded(report, what, error, question)
            if found is not None:
                report.check(what, found, TOLERANCES[precision])


def within(sizes: Mapping[str, int], limits: Limits) -> dict[str, int]:
    """Sizes as far as they are served; slots in use are none of them."""
    spans: dict[str, Span] = vars(limits)
    return {name: min(size, spans[name].max) if name in spans else size
            for name, size in sizes.items()}


def check_talk(report: Report, graphs: Runtime, network: Runtime, precision: str,
               limits: Limits | None = None) -> None:
    """The same words into both: logits, likeliest tokens, and memory of what came before."""
    ours, theirs = filled(graphs, limits), filled(network, limits)
    token, errors, worse, same = 1, [], [], 0
    for _ in range(TOKENS):
        found, wanted = ours.step(0, token), theirs.step(0, token)
        errors.append(relative_error(found, wanted))
        likeliest, token = int(found.argmax()), int(wanted.argmax())
        same += likeliest == token
        worse.append(shortfall(wanted, likeliest))
    report.check(f'logits over {TOKENS} tokens', max(errors), 2 * TOLERANCES[precision])
    # Another token is no fault where the network finds both about as likely.
    report.check('likeliest token is worse to the network by', max(worse),
                 2 * TOLERANCES[precision], note=f'; the same {same} of {TOKENS} times')
    after = []
    *others, last = ids(graphs, (5, 6, 7))
    for first in others:
        start = ours.cursor(2)
        ours.step(2, first)
        after.append(ours.step(2, last))
        ours.rewind(2, start)
    report.check('a step depends on the one before', relative_error(*after), 1e-6, least=True)


def shortfall(wanted: Tensor, token: int) -> float:
    """How much less likely than its own the network finds a token, as a fraction of its largest
    logit; infinite where that is no number."""
    short = float((wanted.max() - wanted[token]) / wanted.abs().max())
    return short if math.isfinite(short) else math.inf


def check_drawing(report: Report, graphs: Runtime, network: Runtime, precision: str,
                  limits: Limits | None = None) -> None:
    """A flow with three branches from the same noise, down to pixels."""
    grid = latent_grid(limits or Limits.of(network.config))
    drawn = []
    for runtime in (graphs, network):
        session = filled(runtime, limits)
        x = draw(9, grid[0] * grid[1], runtime.config.latent_features).to(runtime.device)
        for step in range(FLOW_STEPS):
            full, no_text, no_image = session.velocity((0, 1, 2), x, 1 - step / FLOW_STEPS, grid)
            x = x - (full + 0.5 * (full - no_text) + 0.1 * (full - no_image)) / FLOW_STEPS
        drawn.append((x, runtime.decode_tokens(x, grid)))
    for name, ours, theirs in zip(('latents', 'pixels'), *drawn):
        report.check(f'{name} after {FLOW_STEPS} flow steps', relative_error(ours, theirs),
                     4 * TOLERANCES[precision])


def check_recorded(report: Report, graphs: GraphRuntime, precision: str,
                   limits: Limits | None = None) -> None:
    """Decode and flow steps as CUDA graphs against the same steps run plainly, on the same
    kernels."""
    runner = graphs.runner
    assert isinstance(runner, TensorRtRunner)
    said = []
    for recorded in (True, False):
        with running(runner, record=recorded, steady=True):
            said.append(mixed_steps(graphs, limits))
    report.check('steps as CUDA graphs differ from plain ones by',
                 max(map(relative_error, *said)), RECORDED_TOLERANCES[precision])
    for text in runner.memory().plain:
        report.say('not recorded', text)


@contextmanager
def running(runner: TensorRtRunner, *, record: bool, steady: bool) -> Iterator[None]:
    """Let a runner record or not, with kernels for all sizes or for each, and as ever again."""
    before = runner.record, runner.steady
    runner.record, runner.steady = record, steady
    try:
        yield
    finally:
        runner.record, runner.steady = before


def measure(report: Report, name: str, runtime: Runtime,
            against: Mapping[str, float] | None = None, limits: Limits | None = None
            ) -> dict[str, float]:
    """Milliseconds of what a robot waits for, and how many times faster than ``against``.

    Args:
        report: gets the rows.
        name: of the runtime, for them.
        runtime: is measured.
        against: medians of another runtime.
        limits: sizes that it serves; None for all that its network can have.

    Returns:
        median milliseconds by what was measured.
    """
    medians: dict[str, float] = {}
    for what, run in waited_for(runtime, limits):
        if report.is_late():
            report.say(f'{name}: {what}', f'skipped after {report.seconds() / 60:.0f} minutes')
            continue
        taken = guarded(report, f'{name}: {what}', milliseconds, run, runtime.device)
        if taken is not None:
            medians[what], slow = taken
            ratio = (f', {against[what] / medians[what]:.2f} times eager'
                     if against and what in against else '')
            report.say(f'{name}: {what}', f'{medians[what]:.2f} ms median, {slow:.2f} ms p95'
                       f'{ratio}')
    return medians


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
    try:
        made = export_bundle(network.network.cpu(), network.vae.cpu(), target, model=model,
                             specials=network.specials, vocabulary=network.vocabulary,
                             precision=precision, parts=parts)
    finally:  # it is measured all the same
        for module in (network.network, network.vae):
            module.to(network.device)
    report.say('export of all graphs', f'{time.monotonic() - started:.1f} s')
    return made


def compiled(bundle: Bundle, options: argparse.Namespace, report: Report) -> GraphRuntime | None:
    """Engines for the GPU of this machine, built unless they are there, and loaded; None where one
    could not be built."""
    plan, cache = plan_of(bundle, options), EngineCache(options.cache)
    paths = [guarded(report, f'engine {job.spec.name}', built, plan, job, cache, report)
             for job in plan.jobs([gpu_architecture()])]
    if None in paths:
        return None
    say_memory(report, 'before engines are loaded')
    started = time.monotonic()
    runtime = load_tensorrt_runtime(plan, cache)
    report.say('loaded and compiled on the GPU', f'in {time.monotonic() - started:.1f} s')
    assert isinstance(runtime.runner, TensorRtRunner)
    what, _, memory = str(runtime.runner.memory()).partition(': ')
    report.say(what, memory)
    say_memory(report, 'with engines')
    return runtime


def plan_of(bundle: Bundle, options: argparse.Namespace) -> Plan:
    """Which engines."""
    return Plan(bundle, require_flavour(), **sizes_of(options))


def sizes_of(options: argparse.Namespace) -> dict[str, int]:
    """What engines serve: large random networks have small ones, to build in time."""
    large = options.random in LARGE
    return {'context': options.context or (LARGE_CONTEXT if large else CONTEXT),
            'side': options.side or LARGE_SIDE * large}


def built(plan: Plan, job: Job, cache: EngineCache, report: Report) -> Path:
    """One engine, and how long it took."""
    started = time.monotonic()
    path = plan.build(job, cache)
    report.say(f'engine {job.spec.name}', f'{path.stat().st_size / MIB:.1f} MiB, '
               f'{time.monotonic() - started:.1f} s here')
    return path


def say_memory(report: Report, when: str) -> None:
    """What is in use on the GPU, whoever asked for it: TensorRT does not ask torch."""
    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        report.say(f'device memory {when}', f'{(whole - free) / MIB:.0f} of {whole / MIB:.0f} MiB '
                   f'in use, {torch.cuda.memory_reserved() / MIB:.0f} of them held by torch, '
                   f'which used {torch.cuda.max_memory_allocated() / MIB:.0f} at most')


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


def ready(options: argparse.Namespace, report: Report) -> str:
    """Say what this machine has.

    Returns:
        the device to run on.

    Raises:
        NotReady, BadOption: compiled engines cannot run here.
    """
    for fact in doctor.facts():
        report.say(fact.what, fact.value)
    what = f'{options.random} random' if options.random else options.model
    report.say('case', f'{what}, {options.precision}, {options.runtime}, seed {SEED}, '
               f'torch {torch.__version__}, {platform.machine()}')
    if options.runtime == 'tensorrt':
        require_gpu()
    return choose_device('cpu' if options.runtime == 'onnx' else 'auto').type


def graphs_of(options: argparse.Namespace, report: Report, network: TorchRuntime
              ) -> tuple[GraphRuntime, Mapping[str, GraphSpec]] | None:
    """What is compared with the network; None where it could not be made."""
    if options.runtime == 'compile':
        return compiled_runtime_of(network, check=False), graph_specs(network.config)
    folders = [] if options.random else [options.model, options.base]
    bundle = exported(network, options.cache, options.precision, report, options.parts,
                      [Path(name) for name in folders if name])
    graphs = (compiled(bundle, options, report) if options.runtime == 'tensorrt'
              else load_onnx_runtime(bundle))
    return None if graphs is None else (graphs, bundle.specs())


def compare(report: Report, graphs: GraphRuntime, specs: Mapping[str, GraphSpec],
            network: TorchRuntime, options: argparse.Namespace, limits: Limits) -> None:
    """All that must be right."""
    precision = options.precision
    guarded(report, 'graphs', check_graphs, report, graphs, network, precision, specs,
            options.parts, limits)
    guarded(report, 'conversation', check_talk, report, graphs, network, precision, limits)
    guarded(report, 'drawing', check_drawing, report, graphs, network, precision, limits)
    if isinstance(graphs.runner, TensorRtRunner):
        guarded(report, 'recorded steps', check_recorded, report, graphs, precision, limits)
        guarded(report, 'device memory', say_memory, report, 'after recording steps')


def measures(report: Report, network: TorchRuntime, graphs: GraphRuntime | None, name: str,
             limits: Limits) -> None:
    """How long everything takes: in PyTorch, and in graphs where there are any."""
    eager = guarded(report, 'torch eager', measure, report, 'torch eager', network, None, limits)
    if graphs is None:
        return
    guarded(report, name, measure, report, name, graphs, eager, limits)
    if isinstance(graphs.runner, TensorRtRunner):
        # As plain runs are; then with kernels that recorded steps have: what are those worth?
        for steady, how in ((False, ''), (True, ', kernels for each size')):
            what = f'{name} without CUDA graphs{how}'
            with running(graphs.runner, record=False, steady=steady):
                guarded(report, what, measure, report, what, graphs, eager, limits)


def run(options: argparse.Namespace, report: Report, device: str) -> None:
    """All checks; what goes wrong is in the report."""
    network = guarded(report, 'network', network_of, options, device)
    if network is not None:
        limits = Limits.of(network.config, **sizes_of(options))
        made = None if options.runtime == 'torch' else guarded(
            report, options.runtime, graphs_of, options, report, network)
        if made is not None:
            compare(report, *made, network, options, limits)
        measures(report, network, made[0] if made else None, options.runtime, limits)
    guarded(report, 'device memory', say_memory, report, 'at the end')
    report.say('whole run', f'{report.seconds():.0f} s')


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for."""
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
    parser.add_argument('--context', type=int, default=0, help='tokens of the longest context '
                        f'of engines; {CONTEXT}, or {LARGE_CONTEXT} for --random official')
    parser.add_argument('--side', type=int, default=0, help='pixels of the largest picture side '
                        f'of engines; all that there are, or {LARGE_SIDE} for --random official')
    parser.add_argument('--cache', type=Path, default=default_cache())
    parser.add_argument('--json', type=Path, help='write the rows here too, as they come')
    options = parser.parse_args(words)
    options.precision = options.precision or ('fp32' if options.runtime == 'onnx' else 'bf16')
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Parse, run, print the table."""
    options = parsed(words)
    report = Report(file=options.json)
    try:
        try:
            device = ready(options, report)
        except Exception as error:
            print(f'cannot go on: {error}', file=sys.stderr)
            report.fail('this machine', error)
            return 2
        run(options, report, device)
        return int(bool(report.failures))
    finally:
        print(f'\n{report.table()}\n\n{len(report.failures)} failures {report.failures or ""}')


if __name__ == '__main__':
    sys.exit(main())
