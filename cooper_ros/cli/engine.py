"""``cooper engine``: compile a checkpoint with TensorRT, and look after what was compiled."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Callable,
    Iterable,
    Optional,
    Sequence,
    TypeVar,
)

import typer

from cooper_ros.cli.engine_checks import (
    architectures,
    check_converter,
    check_most,
    check_place,
    check_sizes,
    check_source,
)
from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadOption, CooperError

if TYPE_CHECKING:
    from rich.progress import Progress

    from cooper_ros.runtime.engines.cache import EngineCache, Entry
    from cooper_ros.runtime.engines.leftovers import Graphs
    from cooper_ros.runtime.engines.plan import Job, Plan
    from cooper_ros.runtime.engines.rights import Writers
    from cooper_ros.runtime.graphs.bundle import Bundle

HELP = """Compile a checkpoint with TensorRT, and look after what was compiled.

\b
Typical use:
  cooper engine build models/COOPER                       for the GPU of this machine
  cooper engine build models/COOPER --arch SM89           for another one (TensorRT for RTX)
  cooper engine export models/COOPER                      graphs only, for a board or runtime: onnx
  cooper engine list                                      what there is
  cooper engine check                                     is all of it sound?
  cooper engine remove --stale                            of another version, or damaged
"""
MIB, GIB = 1 << 20, 1 << 30
SOUND, DAMAGED, EXPOSED = 'sound', 'damaged', 'exposed'  # what is there, once it was read
Thing = TypeVar('Thing')
BY = ' by '  # in a key, between TensorRT and another converter than its own
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None, add_completion=False,
                  pretty_exceptions_enable=False)
CacheFlag = Annotated[Optional[Path], typer.Option('--cache', help='folder of engines; the '
                                                   "user's cache folder if absent")]


ArchFlag = Annotated[Optional[list[str]], typer.Option(
    '--arch', help='GPU architecture, such as SM89 (or 89, sm_89); give it several times for '
    'several; the GPU of this machine if absent')]
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
    from cooper_ros.runtime.graphs.spec import CONTEXT
    check_most(context or 0, workspace_mib)
    flavour, folder = require_flavour(), cache or default_cache()
    archs = architectures(flavour, arch or (), precision)
    check_source(checkpoint, precision)
    check_sizes(checkpoint, base, parts, graph or (), side)
    if not dry_run:
        check_place(folder, force, engines=True)  # reading what comes next can take minutes
    check_converter(converter)
    plan = Plan(_bundle(checkpoint, base, precision, folder, parts), flavour,
                context or CONTEXT, side,
                BuildOptions(workspace_mib, weight_streaming, decode_profile), converter)
    jobs = list(plan.jobs(archs, graph or ()))
    _say_costs(jobs, plan)
    if not dry_run:
        _build_all(plan, jobs, EngineCache(folder), force, _folders(checkpoint, base))
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
    folder = _folder(cache)
    check_source(checkpoint, precision)
    check_place(folder, force)
    made = _bundle(checkpoint, base, precision, folder, parts, force)
    print(f'graphs are in {made.folder}')


@app.command('list')
def show(cache: CacheFlag = None) -> None:
    """List compiled engines, the exported graphs beside them, and what killed builds left."""
    from cooper_ros.runtime.engines.leftovers import leftovers
    from cooper_ros.runtime.files import size_of
    folder, faults = _named_folder(cache), list[CooperError]()
    entries, graphs = _entries(folder), _graphs(folder, faults)
    _print_table(('TensorRT', 'GPU', 'MiB', 'built in', 'checkpoint'), map(_engine_row, entries))
    if graphs:
        _print_table(('graphs', 'parts', 'MiB', 'checkpoint'), map(_graphs_row, graphs))
    print(f'{len(entries)} engines, {sum(entry.bytes for entry in entries) / MIB:,.0f} MiB; '
          f'{len(graphs)} folders of graphs, {sum(one.bytes for one in graphs) / MIB:,.0f} MiB')
    if left := leftovers(folder):
        print(f'{len(left)} leftovers of killed processes, {sum(map(size_of, left)) / MIB:,.1f} '
              'MiB; `cooper engine remove --stale` removes them')
    _raise_last(faults)


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
    return tuple(map(_shown, (*words, f'{entry.bytes / MIB:.1f}', f'{seconds} s',
                              _shown(key.model)[:8] if key else '?', entry.name)))


def _shown(text: str) -> str:
    """What a file says, as letters alone: a terminal obeys some of the others."""
    return ''.join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _graphs_row(graphs: Graphs) -> tuple[str, ...]:
    bundle = graphs.bundle
    words = (bundle.precision, str(bundle.parts)) if bundle else ('of no use', '?')
    return tuple(map(_shown, (*words, f'{graphs.bytes / MIB:.1f}',
                              bundle.model[:8] if bundle else '?', graphs.name)))


@app.command()
def check(cache: CacheFlag = None) -> None:
    """Read every engine and all exported graphs, and prove that they are what was written.

    Exit status 1 when one is not, is of another version, or when others may write it. What is
    being made is waited for. Nothing is changed.
    """
    from cooper_ros.runtime.engines.cache import EngineCache
    from cooper_ros.runtime.engines.leftovers import check_graphs, graphs_writers
    folder, faults = _named_folder(cache, must_exist=True), list[CooperError]()
    store = EngineCache(folder)
    engines = [_say_state(entry.name, store.check(entry, _waiting(entry.name)),
                          store.writers([entry.name])) for entry in _entries(folder)]
    graphs = [_say_state(one.name, check_graphs(folder, one.name, _waiting(one.name)),
                         graphs_writers(folder, one.name)) for one in _graphs(folder, faults)]
    print(f'{engines.count(SOUND)} engines are sound, and {graphs.count(SOUND)} folders of graphs')
    if damaged := [*engines, *graphs].count(DAMAGED):
        print(f'{damaged} damaged; `cooper engine remove --stale` removes them')
    if exposed := [*engines, *graphs].count(EXPOSED):
        print(f'{exposed} may have been changed by others; build again with --force what you do '
              'not trust')
    _raise_last(faults)
    if damaged or exposed:
        raise typer.Exit(1)


def _say_state(name: str, wrong: str, writers: Writers) -> str:
    """One line; a group that shares the folder on purpose is only mentioned."""
    from cooper_ros.runtime.engines.rights import Who
    state = DAMAGED if wrong else EXPOSED if writers.who > Who.GROUP else SOUND
    more = wrong or (str(writers) if writers.who != Who.NOBODY else '')
    print(f'{"ok" if state == SOUND else "BAD":4}{name}{": " + _shown(more) if more else ""}',
          flush=True)
    return state


@app.command()
def remove(names: Annotated[Optional[list[str]], typer.Argument(
               help='names as `cooper engine list` shows them')] = None,
           cache: CacheFlag = None,
           stale: Annotated[bool, typer.Option('--stale', help='those that are damaged or of '
                                               'another version than what is here, and what '
                                               'killed processes left')] = False,
           everything: Annotated[bool, typer.Option('--all', help='every engine, all graphs, and '
                                                    'what killed processes left')] = False
           ) -> None:
    """Remove compiled engines and exported graphs.

    With --stale, every engine and all graphs are read first, which can take minutes. Files that
    `cooper` has not made are left alone, and what cannot be removed does not keep the rest.
    """
    from cooper_ros.runtime.engines.leftovers import leftovers, remove_leftover
    folder, wanted, faults = _named_folder(cache), set(names or ()), list[CooperError]()
    entries, graphs = _entries(folder), {one.name for one in _graphs(folder, faults)}
    known = {entry.name for entry in entries} | graphs
    unknown = sorted(wanted - known)
    if unknown or not (names or stale or everything):
        raise BadOption('name the engines to remove', value=', '.join(unknown) or None,
                        limit=', '.join(sorted(known)) or 'there are none',
                        remedy='or use --stale or --all')
    surely = known if everything else wanted
    kept = known - surely if not stale else set()
    swept = _freed(leftovers(folder) if stale or everything else [], remove_leftover, faults)
    engines = _freed([entry.name for entry in entries if entry.name not in kept],
                     lambda name: _remove_engine(folder, name, name in surely), faults)
    exported = _freed(sorted(graphs - kept),
                      lambda name: _remove_graphs(folder, name, name in surely), faults)
    print(f'removed {len(engines)} engines, {len(exported)} folders of graphs and {len(swept)} '
          f'leftovers, {sum(engines + exported + swept) / MIB:,.1f} MiB')
    _raise_last(faults)


def _raise_last(faults: Sequence[CooperError]) -> None:
    for fault in faults[:-1]:
        print(f'cooper: {fault}', file=sys.stderr)
    if faults:
        raise faults[-1]


def _freed(things: Iterable[Thing], remove: Callable[[Thing], int | None],
           faults: list[CooperError]) -> list[int]:
    """The bytes of everything that was removed; what cannot be is remembered, and passed over."""
    freed = list[int]()
    for one in things:
        try:
            size = remove(one)
        except CooperError as fault:
            faults.append(fault)
        else:
            freed += [] if size is None else [size]
    return freed


def _remove_engine(folder: Path, name: str, surely: bool) -> int | None:
    """Remove an engine, surely or if it is stale: judged under its lock, for it may be one that
    is just being written."""
    from cooper_ros.runtime.engines.cache import EngineCache
    store = EngineCache(folder)
    return store.remove(name, lambda found: surely or _is_stale(store, found), _waiting(name))


def _remove_graphs(folder: Path, name: str, surely: bool) -> int | None:
    """As :func:`_remove_engine`; graphs are stale if they are damaged or of another version."""
    from cooper_ros.runtime.engines.leftovers import graphs_fault, remove_graphs
    return remove_graphs(folder, name, lambda path: surely or graphs_fault(path), _waiting(name))


def _waiting(name: str) -> Callable[[], None]:
    return lambda: print(f'waiting for {name}, which is being made', flush=True)


def _folder(cache: Path | None) -> Path:
    from cooper_ros.runtime.engines.plan import default_cache
    return cache or default_cache()


def _named_folder(cache: Path | None, must_exist: bool = False) -> Path:
    """The folder to look into; the user's own may not be there yet.

    Raises:
        BadOption: there is none of that name, or it cannot be read.
    """
    from cooper_ros.runtime.engines.leftovers import require_readable
    folder = _folder(cache)
    if not folder.is_dir() and (cache is not None or must_exist):
        raise BadOption('there is no folder of engines here', value=folder,
                        remedy='name another with --cache, or run `cooper engine build` first')
    require_readable(folder)
    return folder


def _entries(folder: Path) -> list[Entry]:
    from cooper_ros.runtime.engines.cache import EngineCache
    return list(EngineCache(folder).entries())


def _graphs(folder: Path, faults: list[CooperError]) -> list[Graphs]:
    """All exported graphs; none where their folder cannot be read, which is remembered."""
    from cooper_ros.runtime.engines.leftovers import exported_graphs
    try:
        return list(exported_graphs(folder))
    except BadOption as fault:
        faults.append(fault)
        return []


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


def _say_costs(jobs: list[Job], plan: Plan) -> None:
    costs = [job.estimate for job in jobs]
    print(f'{len(jobs)} engines with {plan.flavour.name} {plan.flavour.version}: about '
          f'{sum(cost.bytes for cost in costs) / MIB:,.0f} MiB on disk, '
          f'{sum(cost.seconds for cost in costs):,.0f} s on a machine like the one measured '
          f'(docs/jetson.md), up to {max(cost.host_bytes for cost in costs) / GIB:.1f} GiB of '
          'host memory')


def _build_all(plan: Plan, jobs: Iterable[Job], cache: EngineCache, force: bool,
               folders: Sequence[Path]) -> None:
    """Build; what starts from modules reads them here, after the fingerprint was taken."""
    from cooper_ros.runtime.engines.plan import PARSER
    from cooper_ros.runtime.prepare import check_unchanged, modules_of
    modules = unchanged = None
    if plan.converter != PARSER:
        modules = modules_of(folders, plan.bundle.precision, plan.bundle.parts)
        unchanged = partial(check_unchanged, folders, cache.folder, plan.bundle.model)
    with _bar() as bar:
        for job in jobs:
            task = bar.add_task(f'{job.spec.name} {job.arch}', total=1.0)

            def told(phase: str, fraction: float, task: Any = task, job: Job = job) -> None:
                bar.update(task, completed=fraction,
                           description=f'{job.spec.name} {job.arch}: {phase}')

            plan.build(job, cache, force=force, modules=modules, unchanged=unchanged, told=told)
            bar.update(task, completed=1.0, description=f'{job.spec.name} {job.arch}: done')


def _bar() -> Progress:
    from rich import progress
    return progress.Progress(progress.TextColumn('{task.description}'), progress.BarColumn(),
                             progress.TaskProgressColumn(), progress.TimeElapsedColumn())
