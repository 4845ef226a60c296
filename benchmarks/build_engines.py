"""Build every graph into real engines on a machine without a GPU, and prove each step.

    make engines                                           all three cases
    python benchmarks/build_engines.py --case nano --case odd
    python benchmarks/build_engines.py --case official --graph latents
    make engines ENGINES='--case nano --arch SM120'

Three networks: ``nano`` (models/cooper-nano), ``odd`` (random weights, widths and depths that are
no round numbers) and ``official`` (two layers of the published 7B widths, random weights). Their
graphs are exported, compared with PyTorch in onnxruntime, and compiled by TensorRT for RTX for two
architectures; every engine is read back from its cache and proved, then removed unless --keep.

The work is done in processes of its own, one for the graphs of a case and one for its engines, so
a crash costs one row. What has passed is remembered in the folder of --out, and is not done again
after an interruption; it is done again when the network, the code or a package has changed. A step
that needs more memory than is free fails with these words instead of being killed. "peak" is the
most memory that the process held during the step, its libraries (about 0.4 GiB) included.

Exit status: 0 all good, 1 something failed, 2 TensorRT for RTX or a word is missing here.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import torch
from rich import progress

from cooper_ros.errors import CooperError
from cooper_ros.model.config import LlmConfig, ModelConfig, SpecialTokens, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.engines.cache import EngineCache
from cooper_ros.runtime.engines.flavour import require_flavour
from cooper_ros.runtime.engines.plan import Estimate, Plan
from cooper_ros.runtime.files import write_whole
from cooper_ros.runtime.graphs.bundle import DESCRIPTION, Bundle, export_bundle
from cooper_ros.runtime.graphs.digest import file_digest, plain_digest
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import probe
from cooper_ros.runtime.graphs.spec import PRECISIONS, graph_specs
from cooper_ros.runtime.onnx_runtime import PRECISIONS_HERE, OnnxRunner

ROOT = Path(__file__).resolve().parents[1]
NANO, ODD, OFFICIAL = 'nano', 'odd', 'official'
CONFIGS = {
    ODD: ModelConfig(LlmConfig(132, 353, 3, 6, 3, 1003), VitConfig(66, 101, 3, 3, image_size=154),
                     VaeConfig(ch=32, ch_mult=(1, 2, 3, 1), num_res_blocks=1, z_channels=12),
                     max_latent_size=9, vit_max_num_patch_per_side=11),
    OFFICIAL: ModelConfig(LlmConfig(num_layers=2), VitConfig(num_layers=2), VaeConfig())}
CASES = {NANO: 'fp32', ODD: 'fp32', OFFICIAL: 'fp16'}  # and the number type unless told otherwise
ARCHS = ('SM86', 'SM89')
SEED, STD = 0, 0.05
SIZES: tuple[dict[str, int], ...] = ({}, {'context': 33, 'tokens': 1, 'branches': 3, 'cells': 16,
                                          'patches': 20, 'rows': 3, 'columns': 4})
MIB, GIB = 1 << 20, 1 << 30
CODE = ('cooper_ros/model', 'cooper_ros/runtime/graphs', 'cooper_ros/runtime/engines')
ROWS, OK, FAIL = 'rows.json', 'ok', 'FAIL'
Row = dict[str, Any]
Told = Callable[[float, str], None]  # fraction done 0..1, what is being done


@dataclass(frozen=True)
class Step:
    """Exporting and checking the graphs of a case, or building one engine.

    Attributes:
        case: one of :data:`CASES`.
        precision: number type of the graphs.
        graph: what to build; empty for exporting and checking.
        arch: for which architecture; empty for the same.
    """

    case: str
    precision: str
    graph: str = ''
    arch: str = ''

    @property
    def name(self) -> str:
        """One word for a file or a line."""
        words = (self.case, self.precision, self.graph or 'export', self.arch)
        return ' '.join(filter(None, words))


def network_of(case: str, precision: str) -> tuple[Cooper, AutoEncoder, SpecialTokens, int]:
    """Network, autoencoder, marker ids and number of words of a case.

    They have their number type from the start, for the official widths are large.
    """
    dtype = PRECISIONS[precision]
    if case == NANO:
        read = read_model_folder(ROOT / 'models' / 'cooper-nano', dtype=dtype)
        return read.network, read.vae, read.specials, read.vocabulary
    torch.manual_seed(SEED)
    config, usual = CONFIGS[case], torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        network, vae = Cooper(config).initialise(STD), AutoEncoder(config.vae)
    finally:
        torch.set_default_dtype(usual)
    torch.nn.init.normal_(network.llm2vae.weight, std=STD)
    return network.to(dtype), vae, SpecialTokens(0, 1, 2, 3), config.llm.vocab_size


@functools.cache
def config_of(case: str) -> ModelConfig:
    """Sizes of a case."""
    if case == NANO:
        return read_model_folder(ROOT / 'models' / 'cooper-nano').network.config
    return CONFIGS[case]


def fingerprint(case: str, precision: str) -> str:
    """What a result depends on: weights, code and packages."""
    files = [path for folder in CODE for path in sorted((ROOT / folder).glob('*.py'))]
    if case == NANO:
        files += sorted((ROOT / 'models' / 'cooper-nano').glob('*.safetensors'))
    sizes = CONFIGS[case].to_dict() if case in CONFIGS else {}
    found = require_flavour()
    return plain_digest([[file_digest(path) for path in files], case, precision, sizes, SEED, STD,
                         found.name, found.version,
                         [version(name) for name in ('torch', 'onnx', 'onnxscript',
                                                     'onnxruntime')]])


def folder_of(out: Path, step: Step) -> Path:
    """Where the graphs of a case are."""
    return out / 'graphs' / f'{step.case}-{step.precision}'


def export_and_check(step: Step, out: Path, graphs: Sequence[str], told: Told) -> Row:
    """Export all graphs of a case, then compare them with PyTorch in onnxruntime.

    Raises:
        CooperError: a graph cannot be exported, or says something else than the network.
    """
    started = time.monotonic()
    network, vae, specials, vocabulary = network_of(step.case, step.precision)
    names = list(graph_specs(network.config))
    bundle = export_bundle(
        network, vae, folder_of(out, step), specials=specials, precision=step.precision,
        vocabulary=vocabulary, model=fingerprint(step.case, step.precision),
        progress=lambda graph, at, total: told(at / total / 2, f'export {graph}'))
    row = {'seconds': time.monotonic() - started}
    if step.precision not in PRECISIONS_HERE:
        return {**row, 'errors': {}, 'note': f'onnxruntime cannot run {step.precision} on a CPU'}
    modules, errors = graph_modules(network, vae), {}
    for number, name in enumerate(graphs or names):
        told(0.5 + number / len(names) / 2, f'check {name}')
        specs, runner = {name: bundle.specs()[name]}, OnnxRunner(bundle, threads=1)
        errors[name] = max(probe(runner, specs, modules, step.precision, **sizes)[name]
                           for sizes in SIZES)
        del runner
        gc.collect()  # one session at a time: those of the official widths are large
    return {**row, 'errors': errors}


def build(step: Step, out: Path, keep: bool, told: Told) -> Row:
    """Build one engine into a cache, read it back from there and prove it.

    Raises:
        CooperError: TensorRT refused, or the engine is not what it should be.
    """
    plan, cache = Plan(Bundle.load(folder_of(out, step)), require_flavour()), EngineCache(out)
    job, = plan.jobs([step.arch], [step.graph])
    started = time.monotonic()
    plan.build(job, cache, force=True, told=lambda phase, at: told(at, phase))
    seconds = time.monotonic() - started
    content = cache.load(job.key, job.spec.interface(step.precision))
    if not keep:
        cache.remove(job.key.name)
    return {'seconds': seconds, 'engine': len(content), 'weights': _weights(plan.bundle, step)}


def _weights(bundle: Bundle, step: Step) -> int:
    return sum(path.stat().st_size for path in bundle.folder.glob(f'{step.graph}.onnx*'))


def need_of(step: Step, out: Path) -> int:
    """Bytes of memory that a step takes, about."""
    if step.graph:
        return Estimate.of(folder_of(out, step) / f'{step.graph}.onnx').host_bytes + GIB
    with torch.device('meta'):
        config = config_of(step.case)
        parts = (Cooper(config), AutoEncoder(config.vae))
    size = PRECISIONS[step.precision].itemsize
    return GIB + 2 * size * sum(value.numel() for part in parts for value in part.parameters())


def memory_of(file: str, entry: str) -> int:
    """A number of bytes from a table of the kernel."""
    lines = dict(line.split(':') for line in Path(file).read_text().splitlines())
    return int(lines[entry].split()[0]) << 10


def forget_peak() -> None:
    """Let the kernel count this process's peak memory anew, where it lets us."""
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')


def child(words: argparse.Namespace) -> int:
    """Do some steps; say how far they are and how they ended as lines of JSON."""
    for values in json.loads(words.steps):
        step = Step(**values)

        def told(at: float, what: str, name: str = step.name) -> None:
            print(json.dumps({'at': at, 'what': f'{name}: {what}'}), flush=True)

        forget_peak()
        row = {**done(step, words, told), 'peak': memory_of('/proc/self/status', 'VmHWM')}
        print(json.dumps({'row': row}), flush=True)
        gc.collect()
    return 0


def done(step: Step, words: argparse.Namespace, told: Told) -> Row:
    """Do one step; what goes wrong becomes a failed row."""
    try:
        needed, free = need_of(step, words.out), memory_of('/proc/meminfo', 'MemAvailable')
        if needed > free:
            return {'verdict': FAIL, 'note': f'needs about {needed / GIB:.1f} GiB of memory, '
                                             f'{free / GIB:.1f} are free'}
        made = (build(step, words.out, words.keep, told) if step.graph else
                export_and_check(step, words.out, words.graph, told))
        return {**made, 'verdict': OK}
    except (CooperError, OSError) as error:
        return {'verdict': FAIL, 'note': str(error)}


def run_steps(steps: Sequence[Step], words: argparse.Namespace, told: Told
              ) -> Iterator[tuple[Step, Row]]:
    """Do steps in processes of their own; one that dies costs its step, the rest go on."""
    left = list(steps)
    while left:
        command = [sys.executable, __file__, '--out', str(words.out), '--steps',
                   json.dumps([asdict(step) for step in left]), *['--keep'] * words.keep,
                   *(word for name in words.graph for word in ('--graph', name))]
        with (words.out / 'last.log').open('w+') as log:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log,
                                  text=True) as process:
                for row in followed(process, told):
                    yield left.pop(0), row
            if left:
                log.seek(0)
                last = (log.read().strip().splitlines() or ['nothing'])[-1]
                yield left.pop(0), {'verdict': FAIL, 'note': f'its process ended with '
                                    f'{process.returncode} and said: {last[-300:]}'}


def followed(process: subprocess.Popen[str], told: Told) -> Iterator[Row]:
    """Pass on how far a child is; yield its rows."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            said = json.loads(line)
        except ValueError:  # a package that prints
            continue
        if 'row' in said:
            yield said['row']
        else:
            told(said['at'], said['what'])


class Memory:
    """What has passed, in a file that survives interruptions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.rows: dict[str, Row] = json.loads(path.read_text())
        except (OSError, ValueError):
            self.rows = {}

    def passed(self, step: Step, key: str, graphs: Sequence[str]) -> bool:
        """Whether a step has passed with these weights, this code and these packages."""
        row = self.rows.get(step.name, {})
        tried = row.get('errors') or graphs
        return (row.get('verdict') == OK and row.get('key') == key
                and (bool(step.graph) or set(graphs) <= set(tried)))

    def keep(self, step: Step, key: str, row: Row) -> Row:
        """Remember a row."""
        self.rows[step.name] = {**row, 'key': key}
        write_whole(self.path, json.dumps(self.rows, indent=1).encode())
        return self.rows[step.name]


def run_case(case: str, words: argparse.Namespace, memory: Memory, told: Told
             ) -> Iterator[tuple[Step, Row]]:
    """Everything of one case; what has passed is shown, not done again."""
    precision, graphs = words.precision or CASES[case], words.graph or list(
        graph_specs(config_of(case)))
    key, export = fingerprint(case, precision), Step(case, precision)
    engines = [Step(case, precision, graph, arch) for arch in words.arch for graph in graphs]
    left = [step for step in engines if not memory.passed(step, key, graphs)]
    folder = folder_of(words.out, export)
    if not memory.passed(export, key, graphs) or left and not (folder / DESCRIPTION).is_file():
        for step, row in run_steps([export], words, told):
            memory.keep(step, key, row)
    yield export, memory.rows[export.name]
    if memory.rows[export.name]['verdict'] != OK:
        yield from ((step, {'verdict': FAIL, 'note': 'not tried: no graphs'}) for step in engines)
        return
    yield from ((step, memory.rows[step.name]) for step in engines if step not in left)
    for step, row in run_steps(left, words, told):
        yield step, memory.keep(step, key, row)
    if not words.keep and all(memory.passed(step, key, graphs) for step in engines):
        shutil.rmtree(folder, ignore_errors=True)


def line_of(step: Step, row: Row) -> str:
    """A row in words."""
    parts = [f"{row['verdict']:5}{step.name:34}"]
    if 'seconds' in row:
        parts.append(f"{row['seconds']:8.1f} s")
    if 'engine' in row:
        parts.append(f"{row['engine'] / MIB:9.1f} MiB")
    if 'peak' in row:
        parts.append(f"peak {row['peak'] / GIB:5.2f} GiB")
    if row.get('errors'):
        worst = max(row['errors'].values())
        parts.append(f"{len(row['errors'])} graphs, largest error {worst:.2g}")
    return ' '.join([*parts, row.get('note', '')]).rstrip()


def table_of(found: Sequence[tuple[Step, Row]]) -> str:
    """All rows in Markdown, for the documentation."""
    def cell(row: Row, key: str, unit: float, digits: int) -> str:
        return f'{row[key] / unit:.{digits}f}' if key in row else ''

    lines = ['| case | precision | step | arch | seconds | weights MiB | engine MiB | peak GiB | '
             'largest error | |', '|' + ' --- |' * 10]
    for step, row in found:
        error = max(row['errors'].values()) if row.get('errors') else None
        cells = (step.case, step.precision, step.graph or 'export, check', step.arch,
                 cell(row, 'seconds', 1, 1), cell(row, 'weights', MIB, 1),
                 cell(row, 'engine', MIB, 1), cell(row, 'peak', GIB, 2),
                 '' if error is None else f'{error:.1e}',
                 f"{row['verdict']} {row.get('note', '')}".strip())
        lines.append(f"| {' | '.join(cells)} |")
    return '\n'.join(lines)


def run_all(words: argparse.Namespace) -> list[tuple[Step, Row]]:
    """All cases, with a bar for people and a line for every row."""
    memory, found = Memory(words.out / ROWS), []
    with progress.Progress(progress.TextColumn('{task.description}'), progress.BarColumn(),
                           progress.TaskProgressColumn(), progress.TimeElapsedColumn(),
                           disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task('', total=1.0)
        for case in words.case:
            for step, row in run_case(case, words, memory, lambda at, what: bar.update(
                    task, completed=at, description=what)):
                found.append((step, row))
                print(line_of(step, row), flush=True)
    return found


def parsed(args: Sequence[str] | None) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--case', action='append', choices=CASES, default=[],
                        help='may be repeated; all three if absent')
    parser.add_argument('--graph', action='append', choices=list(graph_specs(CONFIGS[ODD])),
                        default=[], help='check and build only this graph; may be repeated')
    parser.add_argument('--arch', action='append', default=[],
                        help=f'may be repeated; {" and ".join(ARCHS)} if absent')
    parser.add_argument('--precision', choices=PRECISIONS, help="instead of each case's own: "
                        + ', '.join(f'{case} {kind}' for case, kind in CASES.items()))
    parser.add_argument('--out', type=Path, default=ROOT / 'runs' / 'engines',
                        help='folder for graphs, engines and what has passed')
    parser.add_argument('--keep', action='store_true', help='keep graphs and engines')
    parser.add_argument('--steps', help=argparse.SUPPRESS)
    words = parser.parse_args(args)
    words.case, words.arch = words.case or list(CASES), words.arch or list(ARCHS)
    return words


def main(args: Sequence[str] | None = None) -> int:
    """Parse, run, print the table."""
    words = parsed(args)
    if words.steps:
        return child(words)
    try:
        flavour = require_flavour()
        for arch in words.arch:
            flavour.check_architecture(arch)
    except CooperError as error:
        print(f'cannot go on: {error}', file=sys.stderr)
        return 2
    words.out.mkdir(parents=True, exist_ok=True)
    print(f'{flavour.name} {flavour.version}, torch {torch.__version__}, {platform.machine()}, '
          f'seed {SEED}; results are kept in {words.out}', flush=True)
    found = run_all(words)
    failed = [step.name for step, row in found if row['verdict'] != OK]
    print(f'\n{table_of(found)}\n\n{len(failed)} of {len(found)} failed'
          + ''.join(f'\n  {name}' for name in failed))
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())
