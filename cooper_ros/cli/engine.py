"""``cooper engine``: compile a checkpoint with TensorRT, and look after what was compiled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Callable, Iterable, Optional, Sequence

import typer

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption

if TYPE_CHECKING:
    from rich.progress import Progress

    from cooper_ros.runtime.engines.cache import EngineCache, Entry
    from cooper_ros.runtime.engines.flavour import Flavour
    from cooper_ros.runtime.engines.leftovers import Graphs
    from cooper_ros.runtime.engines.plan import Job, Plan
    from cooper_ros.runtime.graphs.bundle import Bundle

HELP = """Compile a checkpoint with TensorRT, and look after what was compiled.

\b
Typical use:
  cooper engine build models/COOPER                       for the GPU of this machine
  cooper engine build models/COOPER --arch SM89           for another one (TensorRT for RTX)
  cooper engine export models/COOPER                      graphs only, for a board or runtime: onnx
  cooper engine list                                      what there is
  cooper engine check                                     is all of it sound?
  cooper engine remove --stale                            of another TensorRT, or damaged
"""
MIB, GIB = 1 << 20, 1 << 30
MOST_CONTEXT = (1 << 31) - 256  # TensorRT counts the sizes of an axis in 31 bits
BY = ' by '  # in a key, between TensorRT and another converter than its own
MOST_WORKSPACE_MIB = 1 << 20  # 1 TiB, more than any GPU has
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None)
CacheFlag = Annotated[Optional[Path], typer.Option('--cache', help='folder of engines; the '
                                                   "user's cache folder if absent")]


ArchFlag = Annotated[Optional[list[str]], typer.Option(
    '--arch', help='GPU architecture, such as SM89; give it several times for several; the GPU of '
    'this machine if absent')]
GraphFlag = Annotated[Optional[list[str]], typer.Option(
    '--graph', help='build only this graph; may be repeated')]
PrecisionFlag = Annotated[str, typer.Option(help='fp32, fp16 or bf16')]
BaseFlag = Annotated[str, typer.Option(
    '--base', help='folder with configs and autoencoder, where the model folder lacks them')]
ContextFlag = Annotated[Optional[int], typer.Option(
    '--context', min=1, help='tokens of the longest context')]
SideFlag = Annotated[int, typer.Option(
    '--side', min=0, help='pixels of the largest picture side; 0 for what the network can take')]
PartsFlag = Annotated[int, typer.Option(
    '--parts', min=1, help='graphs that the layers of the decoder are spread over; compiling '
    'takes less memory with more of them; the setting engine_parts must say the same')]
WorkspaceFlag = Annotated[int, typer.Option(
    '--workspace-mib', min=0, help='scratch memory that layers may use; 0 leaves it to TensorRT')]
StreamingFlag = Annotated[bool, typer.Option(
    '--weight-streaming', help='keep weights in host memory and bring them as needed; slower')]
DecodeFlag = Annotated[bool, typer.Option(
    '--decode-profile', help='kernels of their own for single tokens; stores the weights of the '
    'understanding graph twice')]
ForceFlag = Annotated[bool, typer.Option('--force', help='build what is there again')]
ConverterFlag = Annotated[str, typer.Option(
    '--converter', help="what makes TensorRT's network: onnx (its own parser) or torch_tensorrt "
    '(for runtime: torch_tensorrt; needs that package)')]
DryFlag = Annotated[bool, typer.Option(
    '--dry-run', help='export the graphs, say what compiling would cost, and stop')]


@app.command()
def build(checkpoint: Annotated[Path, typer.Argument(help='model folder')],
          arch: ArchFlag = None, graph: GraphFlag = None, precision: PrecisionFlag = 'bf16',
          cache: CacheFlag = None, base: BaseFlag = CooperConfig.base_path,
          context: ContextFlag = None, side: SideFlag = 0,
          parts: PartsFlag = CooperConfig.engine_parts, workspace_mib: WorkspaceFlag = 0,
          weight_streaming: StreamingFlag = False, decode_profile: DecodeFlag = False,
          converter: ConverterFlag = 'onnx', force: ForceFlag = False,
          dry_run: DryFlag = False) -> None:
    """Compile the graphs of a checkpoint.

    No GPU is needed with TensorRT for RTX (--arch says for which). Engines that are there and
    sound are left alone; a killed build leaves nothing that would be trusted later.

    The precision must be what the setting dtype means where the engines run: bf16 on a GPU
    unless told otherwise.

    Example: `cooper engine build models/cooper-nano --arch SM86 --arch SM89`
    """
    from cooper_ros.runtime.engines.cache import EngineCache
    from cooper_ros.runtime.engines.flavour import require_flavour
    from cooper_ros.runtime.engines.key import BuildOptions
    from cooper_ros.runtime.engines.plan import Plan, default_cache
    from cooper_ros.runtime.files import check_writable
    from cooper_ros.runtime.graphs.spec import CONTEXT
    _check_most('--context', context or 0, MOST_CONTEXT)
    _check_most('--workspace-mib', workspace_mib, MOST_WORKSPACE_MIB)
    flavour, folder = require_flavour(), cache or default_cache()
    archs = _architectures(flavour, arch or ())
    _check_sizes(checkpoint, base, parts, graph or (), side)
    if not dry_run:
        check_writable(folder)  # the checkpoint is read next, which can take minutes
    modules = _modules(converter, checkpoint, base, precision, parts)
    plan = Plan(_bundle(checkpoint, base, precision, folder, parts), flavour,
                context or CONTEXT, side,
                BuildOptions(workspace_mib, weight_streaming, decode_profile), converter)
    jobs = list(plan.jobs(archs, graph or ()))
    _say_costs(jobs, plan)
    if not dry_run:
        _build_all(plan, jobs, EngineCache(folder), force, modules)
        print(f'engines are in {folder}')


@app.command()
def export(checkpoint: Annotated[Path, typer.Argument(help='model folder')],
           precision: PrecisionFlag = 'bf16',
           cache: CacheFlag = None, base: BaseFlag = CooperConfig.base_path,
           parts: PartsFlag = CooperConfig.engine_parts,
           force: Annotated[bool, typer.Option('--force', help='export again')] = False) -> None:
    """Export the graphs of a checkpoint and stop.

    What `runtime: onnx` runs (fp32), and what a board can be given whose torch is too old to
    export: copy the folder it names.

    Example: `cooper engine export models/cooper-nano --precision fp32`
    """
    from cooper_ros.runtime.files import check_writable
    folder = _folder(cache)
    check_writable(folder)
    made = _bundle(checkpoint, base, precision, folder, parts, force)
    print(f'graphs are in {made.folder}')


@app.command('list')
def show(cache: CacheFlag = None) -> None:
    """List compiled engines, the exported graphs beside them, and what killed builds left."""
    from cooper_ros.runtime.engines.leftovers import exported_graphs, leftovers
    from cooper_ros.runtime.files import size_of
    folder = _named_folder(cache)
    entries, graphs = _entries(folder), list(exported_graphs(folder))
    _print_table(('TensorRT', 'GPU', 'MiB', 'built in', 'checkpoint'), map(_engine_row, entries))
    if graphs:
        _print_table(('graphs', 'parts', 'MiB', 'checkpoint'), map(_graphs_row, graphs))
    print(f'{len(entries)} engines, {sum(entry.bytes for entry in entries) / MIB:,.0f} MiB; '
          f'{len(graphs)} folders of graphs, {sum(one.bytes for one in graphs) / MIB:,.0f} MiB')
    if left := leftovers(folder):
        print(f'{len(left)} leftovers of killed processes, {sum(map(size_of, left)) / MIB:,.1f} '
              'MiB; `cooper engine remove --stale` removes them')


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows that end with a name; what they say comes from files, so nothing in it is markup."""
    from rich.console import Console
    from rich.table import Table
    table = Table(*heads)
    table.add_column('name', no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False).print(table)


def _engine_row(entry: Entry) -> tuple[str, ...]:
    key, seconds = entry.key, entry.facts.get('seconds', '?')
    words = (('?',) * 2 if key is None else (f'{key.flavour} {key.version}', key.gpu))
    return (*words, f'{entry.bytes / MIB:.1f}', f'{seconds} s', key.model[:8] if key else '?',
            entry.name)


def _graphs_row(graphs: Graphs) -> tuple[str, ...]:
    bundle = graphs.bundle
    words = (bundle.precision, str(bundle.parts)) if bundle else ('of no use', '?')
    return (*words, f'{graphs.bytes / MIB:.1f}', bundle.model[:8] if bundle else '?', graphs.name)


@app.command()
def check(cache: CacheFlag = None) -> None:
    """Read every engine and prove that it is what its description says.

    Exit status 1 when one is not. Engines that are being built are waited for. Nothing is changed.
    """
    from cooper_ros.runtime.engines.cache import EngineCache
    folder, bad = _named_folder(cache, must_exist=True), 0
    store, entries = EngineCache(folder), _entries(folder)
    for entry in entries:
        wrong = store.check(entry, _waiting(entry.name))
        bad += bool(wrong)
        print(f'{"BAD" if wrong else "ok":4}{entry.name}{": " + wrong if wrong else ""}')
    print(f'{len(entries) - bad} engines are sound')
    if bad:
        print(f'{bad} damaged; `cooper engine remove --stale` removes them')
        raise typer.Exit(1)


@app.command()
def remove(names: Annotated[Optional[list[str]], typer.Argument(
               help='names as `cooper engine list` shows them')] = None,
           cache: CacheFlag = None,
           stale: Annotated[bool, typer.Option('--stale', help='those that are damaged or of '
                                               'another TensorRT than the one here, and what '
                                               'killed processes left')] = False,
           everything: Annotated[bool, typer.Option('--all', help='every engine, all graphs, and '
                                                    'what killed processes left')] = False
           ) -> None:
    """Remove compiled engines and exported graphs."""
    from cooper_ros.runtime.engines.leftovers import (
        exported_graphs,
        remove_graphs,
        remove_leftovers,
    )
    folder, wanted = _named_folder(cache), set(names or ())
    entries, graphs = _entries(folder), {one.name for one in exported_graphs(folder)}
    known = {entry.name for entry in entries} | graphs
    unknown = sorted(wanted - known)
    if unknown or not (names or stale or everything):
        raise BadOption('name the engines to remove', value=', '.join(unknown) or None,
                        limit=', '.join(sorted(known)) or 'there are none',
                        remedy='or use --stale or --all')
    swept, freed = remove_leftovers(folder) if stale or everything else (0, 0)
    engines = _remove_engines(folder, entries, wanted, stale, everything)
    exported = [remove_graphs(folder, name, _waiting(name))
                for name in sorted(graphs if everything else graphs & wanted)]
    print(f'removed {len(engines)} engines, {len(exported)} folders of graphs and {swept} '
          f'leftovers, {(sum(engines) + sum(exported) + freed) / MIB:,.1f} MiB')


def _remove_engines(folder: Path, entries: Iterable[Entry], names: set[str], stale: bool,
                    everything: bool) -> list[int]:
    """Remove engines; returns the bytes of each. What is stale is judged under its lock: it may
    be one that is just being written."""
    from cooper_ros.runtime.engines.cache import EngineCache
    store, freed = EngineCache(folder), list[Optional[int]]()
    for entry in entries:
        if everything or entry.name in names:
            freed.append(store.remove(entry.name, held=_waiting(entry.name)))
        elif stale:
            freed.append(store.remove(entry.name, lambda found: _is_stale(store, found),
                                      _waiting(entry.name)))
    return [size for size in freed if size is not None]


def _waiting(name: str) -> Callable[[], None]:
    return lambda: print(f'waiting for {name}, which is being made', flush=True)


def _folder(cache: Path | None) -> Path:
    from cooper_ros.runtime.engines.plan import default_cache
    return cache or default_cache()


def _named_folder(cache: Path | None, must_exist: bool = False) -> Path:
    """The folder to look into; the user's own may not be there yet.

    Raises:
        BadOption: there is none of that name.
    """
    folder = _folder(cache)
    if not folder.is_dir() and (cache is not None or must_exist):
        raise BadOption('there is no folder of engines here', value=folder,
                        remedy='name another with --cache, or run `cooper engine build` first')
    return folder


def _entries(folder: Path) -> list[Entry]:
    from cooper_ros.runtime.engines.cache import EngineCache
    return list(EngineCache(folder).entries())


def _is_stale(store: EngineCache, entry: Entry) -> bool:
    """Whether an engine is of no use here; call under its lock."""
    from cooper_ros.runtime.engines.flavour import find_flavour
    here = find_flavour()
    if here and entry.key and _tensorrt(entry.key.flavour, entry.key.version) != (
            here.name, here.version):
        return True
    return bool(store.fault(entry))


def _tensorrt(*maker: str) -> tuple[str, ...]:
    """Name and version of TensorRT alone, without those of a converter."""
    return tuple(words.partition(BY)[0] for words in maker)


def _architectures(flavour: Flavour, named: Sequence[str]) -> list[str]:
    """What to build for: what is named, else the GPU here.

    Raises:
        BadOption: there is none, or TensorRT does not build for one.
    """
    from cooper_ros.runtime.engines.flavour import gpu_architecture
    archs = [name.upper() for name in named or [gpu_architecture()]]
    if not archs[0]:
        raise BadOption('there is no GPU here to build for', limit=', '.join(
            flavour.architectures()), remedy='name one with --arch')
    for name in archs:
        flavour.check_architecture(name)
    return archs


def _check_most(option: str, value: int, most: int) -> None:
    if value > most:
        raise BadOption(f'{option} is too large', value=value, limit=f'at most {most}')


def _check_sizes(checkpoint: Path, base: str, parts: int, graphs: Sequence[str], side: int
                 ) -> None:
    """Refuse what the network cannot have before its graphs are exported, which takes long.

    Raises:
        BadOption: naming the option and what it can be.
        BadCheckpoint: the sizes of the network cannot be read.
    """
    from cooper_ros.runtime.checkpoint import read_model_config
    from cooper_ros.runtime.graphs.spec import graph_specs
    config = read_model_config(checkpoint, base or None)
    names = graph_specs(config, parts)
    if unknown := sorted(set(graphs) - set(names)):
        raise BadOption('there is no such graph', value=', '.join(unknown),
                        limit=', '.join(names), remedy='name one of these with --graph')
    least = max(config.pixels_per_latent_token, config.vit.patch_size)
    if 0 < side < least:
        raise BadOption('--side is too small for this network', value=side,
                        limit=f'at least {least}, or 0 for what the network can take')


def _bundle(checkpoint: Path, base: str, precision: str, folder: Path, parts: int,
            force: bool = False) -> Bundle:
    """Exported graphs of a checkpoint; made once for each checkpoint and precision."""
    from cooper_ros.runtime.prepare import exported
    with _bar() as bar:
        task = bar.add_task('export', total=1.0)
        made: Bundle = exported(
            _folders(checkpoint, base), precision, folder, parts, force=force,
            told=lambda what, done: bar.update(task, completed=done,
                                               description=f'export: {what}'),
            say=lambda text: bar.console.print(text, markup=False, soft_wrap=True))
        bar.update(task, completed=1.0, description='graphs exported')
    return made


def _folders(checkpoint: Path, base: str) -> list[Path]:
    return [checkpoint, *([Path(base)] if base else [])]


def _modules(converter: str, checkpoint: Path, base: str, precision: str, parts: int) -> Any:
    """What Torch-TensorRT starts from; None for the converter that starts from files.

    Raises:
        BadOption: there is no such converter.
        NotReady: Torch-TensorRT cannot be used.
    """
    from cooper_ros.runtime.engines.torch_tensorrt import answering_for_a_gpu, load
    from cooper_ros.runtime.prepare import ONNX, TORCH_TENSORRT, modules_of
    if converter == ONNX:
        return None
    if converter != TORCH_TENSORRT:
        raise BadOption('there is no such converter', value=converter,
                        limit=f'{ONNX}, {TORCH_TENSORRT}')
    with answering_for_a_gpu():
        load()  # before the export, which takes longer
    return modules_of(_folders(checkpoint, base), precision, parts)


def _say_costs(jobs: list[Job], plan: Plan) -> None:
    costs = [job.estimate for job in jobs]
    print(f'{len(jobs)} engines with {plan.flavour.name} {plan.flavour.version}: about '
          f'{sum(cost.bytes for cost in costs) / MIB:,.0f} MiB on disk, '
          f'{sum(cost.seconds for cost in costs):,.0f} s on a machine like the one measured '
          f'(docs/jetson.md), up to {max(cost.host_bytes for cost in costs) / GIB:.1f} GiB of '
          'host memory')


def _build_all(plan: Plan, jobs: Iterable[Job], cache: Any, force: bool, modules: Any) -> None:
    with _bar() as bar:
        for job in jobs:
            task = bar.add_task(f'{job.spec.name} {job.arch}', total=1.0)

            def told(phase: str, fraction: float, task: Any = task, job: Job = job) -> None:
                bar.update(task, completed=fraction,
                           description=f'{job.spec.name} {job.arch}: {phase}')

            plan.build(job, cache, force=force, modules=modules, told=told)
            bar.update(task, completed=1.0, description=f'{job.spec.name} {job.arch}: done')


def _bar() -> Progress:
    from rich import progress
    return progress.Progress(progress.TextColumn('{task.description}'), progress.BarColumn(),
                             progress.TaskProgressColumn(), progress.TimeElapsedColumn())
