"""Making graphs and engines ready, in this process or in a child of it.

A child, because building takes minutes and much memory, may crash inside TensorRT, and must not
hold up whoever answers questions meanwhile. It ends when its parent does; what it has finished by
then stays in the cache, and nothing half made is ever trusted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Callable, Sequence

from cooper_ros.errors import BadCheckpoint, CooperError, EngineBuild, class_of
from cooper_ros.runtime.engines.rights import Who, require_private
from cooper_ros.runtime.names import ONNX, TENSORRT, TORCH_TENSORRT

NICENESS = 10  # the robot and whoever answers meanwhile go first
LAST_WORDS = 400  # characters that are shown of a child that died
Told = Callable[[str, float], None]  # what is made, and how much of it is done 0..1


@dataclass(frozen=True)
class Request:
    """What to make ready.

    Attributes:
        kind: the runtime that it is for: ``onnx`` (graphs only), ``tensorrt`` or
            ``torch_tensorrt``.
        folders: model folder, then base folder if any.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        cache: folder of graphs and engines.
        context, side: sizes engines are built for; see :class:`~.engines.plan.Plan`.
        parts: graphs that the decoder's layers are spread over.
        force: make what is there again.
        workspace_mib, weight_streaming, decode_profile: see
            :class:`~.engines.key.BuildOptions`.
    """

    kind: str
    folders: tuple[str, ...]
    precision: str
    cache: str
    context: int = 0
    side: int = 0
    parts: int = 1
    force: bool = False
    workspace_mib: int = 0
    weight_streaming: bool = False
    decode_profile: bool = False


def prepare(request: Request, told: Told) -> None:
    """Make graphs and engines ready in this process.

    Raises:
        CooperError: an export or a build failed.
    """
    folders, cache = [Path(name) for name in request.folders], Path(request.cache)
    bundle = exported(folders, request.precision, cache, request.parts, force=request.force,
                      told=told, say=lambda text: told(text, 0.0))
    if request.kind == ONNX:
        return
    from cooper_ros.runtime.engines.cache import EngineCache
    from cooper_ros.runtime.engines.flavour import gpu_architecture, require_flavour
    from cooper_ros.runtime.engines.key import BuildOptions
    from cooper_ros.runtime.engines.plan import CONVERTERS, Plan
    from cooper_ros.runtime.graphs.spec import CONTEXT
    plan = Plan(bundle, require_flavour(), request.context or CONTEXT, request.side,
                BuildOptions(request.workspace_mib, request.weight_streaming,
                             request.decode_profile), CONVERTERS[request.kind])
    modules = None if request.kind == TENSORRT else modules_of(
        folders, request.precision, request.parts)
    unchanged = None if modules is None else partial(check_unchanged, folders, cache, bundle.model)
    jobs = list(plan.jobs([gpu_architecture()]))
    for number, job in enumerate(jobs):
        told(f'engine {job.spec.name}', number / len(jobs))
        plan.build(job, EngineCache(cache), force=request.force, modules=modules,
                   unchanged=unchanged)


def exported(folders: Sequence[Path], precision: str, cache: Path, parts: int = 1, *,
             force: bool = False, told: Told = lambda what, done: None,
             say: Callable[[str], None] = lambda text: None) -> Any:
    """Exported graphs of a checkpoint; made once for each checkpoint and precision.

    Graphs that are there are read to the last byte; damaged ones are exported again.

    Args:
        folders: model folder, then base folder if any.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        cache: folder of graphs and engines.
        parts: graphs that the decoder's layers are spread over.
        force: export although sound graphs are there.
        told: called before each graph.
        say: hears of files that are read for their fingerprint, and of damage.

    Raises:
        BadOption: an unknown precision, more parts than layers, or anyone may write the folder.
        BadCheckpoint: the model folder cannot be read, or changed meanwhile.
        EngineBuild: a graph could not be exported.
        OutOfDisk: the graphs do not fit the disk.
    """
    from cooper_ros.runtime.checkpoint import read_model_folder
    from cooper_ros.runtime.engines.plan import FINGERPRINTS, GRAPHS, model_fingerprint
    from cooper_ros.runtime.graphs.bundle import bundle_name, export_bundle
    from cooper_ros.runtime.graphs.spec import dtype_of
    dtype, graphs = dtype_of(precision), cache / GRAPHS
    require_private(cache, (graphs,))  # before weights are read, which takes longer
    model = model_fingerprint(folders, cache / FINGERPRINTS,
                              lambda path: say(f'reading {path} for its fingerprint'))
    if not force and (found := sound_bundle(graphs, model, precision, parts, say)) is not None:
        return found
    loaded = read_model_folder(folders[0], *folders[1:], dtype=dtype, hollow=True)
    return export_bundle(
        loaded.network, loaded.vae, graphs / bundle_name(model, precision, parts),
        specials=loaded.specials, model=model, vocabulary=loaded.vocabulary,
        precision=precision, parts=parts, read=loaded.numbers, force=force,
        unchanged=partial(check_unchanged, folders, cache, model),
        progress=lambda graph, done, total: told(f'graph {graph}' if graph else 'graphs',
                                                 done / total))


def check_unchanged(folders: Sequence[Path], cache: Path, model: str) -> None:
    """Prove that a checkpoint is what it was when its fingerprint was taken.

    Weights are read from their files while graphs are written, long after the fingerprint.

    Args:
        folders: model folder, then base folder if any.
        cache: folder of graphs and engines, which remembers digests of files that did not change.
        model: the fingerprint.

    Raises:
        BadCheckpoint: it has become another one.
    """
    from cooper_ros.runtime.engines.plan import FINGERPRINTS, model_fingerprint
    try:
        found = model_fingerprint(folders, cache / FINGERPRINTS)
    except OSError as error:  # a file was removed between two looks
        found = str(error)
    if found != model:
        raise BadCheckpoint('the checkpoint changed while it was exported', value=folders[0],
                            limit='files that stay as they are meanwhile',
                            remedy='run it again when the files are complete')


def sound_bundle(graphs: Path, model: str, precision: str, parts: int,
                 say: Callable[[str], None]) -> Any:
    """The graphs of a checkpoint, every file read and found as it was written; None otherwise.

    Those that anyone may write are removed, with what the network has said to questions.

    Args:
        graphs: folder of all exported graphs, in that of engines.
        model, precision, parts: which ones; see :meth:`~.graphs.bundle.Bundle.find`.
        say: hears what is wrong with those that are there, of an older version included.

    Raises:
        Unwritable: what anyone may write cannot be removed.
    """
    from cooper_ros.runtime.graphs.bundle import DESCRIPTION, Bundle, bundle_name
    name = bundle_name(model, precision, parts)
    if not (graphs / name / DESCRIPTION).is_file() or _removed(graphs.parent, name, say):
        return None
    try:
        found = Bundle.find(graphs, model, precision, parts)
        found.prove()
        return found
    except BadCheckpoint as error:
        say(f'{error.what}: {error.value}; exporting again')
        return None


def _removed(cache: Path, name: str, say: Callable[[str], None]) -> bool:
    """Remove graphs that anyone may write; whether they were."""
    from cooper_ros.runtime.engines.leftovers import graphs_writers, remove_graphs
    found = graphs_writers(cache, name)
    if found.who != Who.ANYONE:
        return False
    say(f'{found.what}; exporting again')
    # Under their lock, where another process may just have made them again.
    remove_graphs(cache, name, lambda path: graphs_writers(cache, name).who == Who.ANYONE)
    return True


def modules_of(folders: Sequence[Path], precision: str, parts: int = 1) -> Any:
    """The graphs of a checkpoint as PyTorch modules."""
    from cooper_ros.runtime.checkpoint import read_model_folder
    from cooper_ros.runtime.graphs.modules import graph_modules
    from cooper_ros.runtime.graphs.spec import dtype_of
    loaded = read_model_folder(folders[0], *folders[1:], dtype=dtype_of(precision))
    return graph_modules(loaded.network.eval(), loaded.vae.eval(), parts)


def prepare_in_child(request: Request, told: Told) -> None:
    """Make graphs and engines ready in a process of its own, and wait for it.

    Raises:
        CooperError: it failed, with an error of the class that it raised.
        EngineBuild: it died without naming an error; its last words are in the message.
    """
    command = [sys.executable, '-m', __name__, json.dumps(dataclasses.asdict(request))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          errors='replace', stderr=subprocess.PIPE) as child:
        complaints: deque[str] = deque(maxlen=LAST_WORDS)
        assert child.stdout is not None and child.stderr is not None
        reader = threading.Thread(target=_read_out, args=(child.stderr, complaints), daemon=True)
        reader.start()
        failure, code = '', 0
        for line in child.stdout:
            said = json.loads(line)
            if 'error' in said:
                failure, code = said['error'], said['code']
            else:
                told(said['what'], said['done'])
        status = child.wait()
        reader.join()
    if status or failure:
        kind = class_of(code) if failure else EngineBuild
        raise kind('graphs or engines could not be prepared', value=failure or (
            f'exit code {status}, {"".join(complaints)[-LAST_WORDS:].strip()}'),
            remedy=f'run `{command_of(request)}` and read what it says')


def _read_out(stream: IO[str], kept: deque[str]) -> None:
    """Empty a pipe, whatever it holds: a child whose pipe is full waits for ever.

    Args:
        stream: libraries write to it what they like.
        kept: takes pieces of a character at least, so that the last of them hold the last words.
    """
    kept.extend(iter(partial(stream.readline, LAST_WORDS), ''))


def command_of(request: Request) -> str:
    """What a user would type for the same, ready for a shell."""
    words = ['cooper', 'engine', 'export' if request.kind == ONNX else 'build',
             request.folders[0], '--cache', request.cache]
    words += ['--base', *request.folders[1:]] if request.folders[1:] else []
    words += ['--precision', request.precision]
    for name in ('context', 'side', 'parts', 'workspace_mib'):
        value = getattr(request, name)
        if value != getattr(Request, name):
            words += [f'--{name.replace("_", "-")}', str(value)]
    words += ['--weight-streaming'] * request.weight_streaming
    words += ['--decode-profile'] * request.decode_profile
    words += ['--force'] * request.force
    words += ['--converter', TORCH_TENSORRT] if request.kind == TORCH_TENSORRT else []
    return shlex.join(words)


def main(words: Sequence[str]) -> int:
    """The child: make ready, tell the parent line by line."""
    line = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # libraries print where they like; the first channel stays ours
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICENESS)
    values = json.loads(words[0])
    request = Request(**{**values, 'folders': tuple(values['folders'])})
    try:
        prepare(request, lambda what, done: print(json.dumps({'what': what, 'done': done}),
                                                  file=line))
    except CooperError as error:
        print(json.dumps({'error': str(error), 'code': int(error.code)}), file=line)
        return 1
    return 0


def _end_with_parent() -> None:
    """The parent holds the other end and never writes: an end of file is its death."""
    sys.stdin.read()
    os._exit(1)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
