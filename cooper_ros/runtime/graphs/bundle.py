"""A folder with all graphs of one checkpoint, and what is needed around them.

``bundle.json`` (sizes, marker ids, number type, fingerprints), an ``.onnx`` file with its weights
for every graph, and ``words.safetensors`` with the word embedding table, which stays outside the
graphs. The folder appears whole or not at all.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cooper_ros.errors import BadCheckpoint
from cooper_ros.model.config import LlmConfig, ModelConfig, SpecialTokens, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.files import CACHE_FLAG, CACHE_REMEDY, drafted, room
from cooper_ros.runtime.graphs.digest import (
    Changed,
    check_seal,
    file_digest,
    plain_digest,
    sealed,
    weights_digest,
)
from cooper_ros.runtime.graphs.export import EXTERNAL_SUFFIX, OPSET, export_graph
from cooper_ros.runtime.graphs.late_weights import Read
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.spec import GraphSpec, dtype_of, graph_specs
from cooper_ros.runtime.locks import locked
from cooper_ros.runtime.weights import save_tensors

FORMAT = 4  # raised when exported graphs change for the same weights
DESCRIPTION, WORDS = 'bundle.json', 'words.safetensors'
REMEDY = 'run `cooper engine build`, which exports damaged graphs again'
Progress = Callable[[str, int, int], None]  # graph, how many are done, how many there are


@dataclass(frozen=True)
class Bundle:
    """An exported checkpoint.

    Attributes:
        folder: where it lies.
        config: sizes of the network.
        specials: marker ids.
        vocabulary: ids the tokenizer knows.
        precision: number type of the graphs.
        model: fingerprint of the weights the graphs were made from.
        parts: graphs that the decoder's layers are spread over.
        files: size and SHA-256 of every file, by name.
    """

    folder: Path
    config: ModelConfig
    specials: SpecialTokens
    vocabulary: int
    precision: str
    model: str
    parts: int = 1
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict, compare=False, repr=False)

    def graph(self, name: str) -> Path:
        """The ONNX file of a graph."""
        return self.folder / f'{name}.onnx'

    def specs(self) -> dict[str, GraphSpec]:
        """What the graphs take and give."""
        return graph_specs(self.config, self.parts)

    def words(self) -> Tensor:
        """The word embedding table ``[V, D]``, proved first.

        Raises:
            BadCheckpoint: its file is damaged.
        """
        self.prove((WORDS,))
        return load_file(str(self.folder / WORDS))['words']

    def prove(self, names: Iterable[str] = ()) -> None:
        """Read files and compare their SHA-256 with what was exported.

        Args:
            names: of files; all of them where empty.

        Raises:
            BadCheckpoint: naming those that differ.
        """
        bad = [name for name in names or self.files
               if _state(self.folder / name) != self.files.get(name)]
        if bad:
            raise BadCheckpoint('exported graphs are damaged', value=', '.join(sorted(bad)),
                                limit='the SHA-256 in bundle.json', remedy=REMEDY)

    def prove_graph(self, name: str) -> Path:
        """The ONNX file of a graph, after proving it and its weights.

        Raises:
            BadCheckpoint: one of them is damaged.
        """
        path = self.graph(name)
        self.prove([file for file in (path.name, path.name + EXTERNAL_SUFFIX)
                    if file in self.files or file == path.name])
        return path

    @classmethod
    def find(cls, place: Path, model: str, precision: str, parts: int = 1) -> Bundle:
        """The graphs of a checkpoint in a folder of graphs, under the name that is theirs.

        Raises:
            BadCheckpoint: as :meth:`load`; or what has this name is of something else.
        """
        found = cls.load(place / bundle_name(model, precision, parts))
        ours, theirs = ((model, precision, parts), (found.model, found.precision, found.parts))
        if ours != theirs:
            raise BadCheckpoint('these graphs are of something else', remedy=REMEDY,
                                value=_told(*theirs), limit=_told(*ours))
        return found

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read the description of a folder that :func:`export_bundle` wrote.

        Sizes of the files are compared here, their content when they are used
        (:meth:`prove`): the graphs of the 7B network take a while to read.

        Raises:
            BadCheckpoint: it is no bundle, of another format, its description was changed, or a
                file is missing.
        """
        remedy = REMEDY
        try:
            values = _unsealed(folder / DESCRIPTION)
            if values['format'] != FORMAT or values['opset'] != OPSET:
                raise BadCheckpoint('graphs are of another version', remedy=remedy,
                                    value=f"format {values['format']}, opset {values['opset']}",
                                    limit=f'format {FORMAT}, opset {OPSET}')
            made = cls(folder, config_of(values['config']), SpecialTokens(**values['specials']),
                       values['vocabulary'], values['precision'], values['model'],
                       values.get('parts', 1),
                       {name: (int(size), str(digest))
                        for name, (size, digest) in values['files'].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadCheckpoint('no exported graphs here', value=folder, remedy=remedy) from error
        damaged = [name for name, (size, _) in made.files.items()
                   if _size(folder / name) != size]
        if damaged:
            raise BadCheckpoint('exported graphs are incomplete', value=', '.join(damaged),
                                remedy=remedy)
        return made


def _unsealed(path: Path) -> dict[str, Any]:
    """What :func:`~.digest.sealed` was given.

    Sizes and marker ids are in no graph, so nothing else would tell that they were changed.

    Raises:
        BadCheckpoint: it was changed since.
    """
    if not path.is_file():  # a pipe would wait for a writer
        raise FileNotFoundError(path)
    values = json.loads(path.read_text())
    try:
        check_seal(values)
    except Changed as error:
        raise BadCheckpoint('the description of exported graphs was changed', value=path,
                            limit='the SHA-256 in it', remedy=REMEDY) from error
    return values


def _told(model: str, precision: str, parts: int) -> str:
    return f'checkpoint {model[:12]}, {precision}, {parts} part(s)'


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _state(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file; those of no file where there is none."""
    return (_size(path), file_digest(path)) if path.is_file() else (-1, '')


def config_of(values: Mapping[str, Any]) -> ModelConfig:
    """The inverse of :meth:`ModelConfig.to_dict` after a trip through JSON."""
    vae = {**values['vae'], 'ch_mult': tuple(values['vae']['ch_mult'])}
    rest = {name: value for name, value in values.items() if name not in ('llm', 'vit', 'vae')}
    return ModelConfig(LlmConfig(**values['llm']), VitConfig(**values['vit']), VaeConfig(**vae),
                       **rest)


def bundle_name(model: str, precision: str, parts: int = 1) -> str:
    """Folder name of the graphs of these weights, on every machine."""
    return plain_digest([model, precision, FORMAT, OPSET])[:16] + f'-{parts}' * (parts > 1)


def export_bundle(network: Cooper, vae: AutoEncoder, folder: Path, *, specials: SpecialTokens,
                  vocabulary: int, precision: str, model: str = '', parts: int = 1,
                  read: Read | None = None, force: bool = False,
                  progress: Progress = lambda graph, done, total: None,
                  unchanged: Callable[[], None] = lambda: None) -> Bundle:
    """Export all graphs of a network.

    Args:
        network, vae: moved to the number type of ``precision`` in place; without numbers they
            are in it already.
        folder: where to; an earlier bundle there is replaced at the end.
        specials: marker ids.
        vocabulary: ids the tokenizer knows.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        model: fingerprint of the weights; computed from them where empty, needed with ``read``.
        parts: see :func:`~.spec.graph_specs`.
        read: reads the numbers of a weight, for networks without; see
            :func:`~.export.export_graph`.
        force: export although the same sound graphs are there.
        progress: told before each graph, and once when all are done.
        unchanged: called before what is written gets its name; raises if the weights changed.

    Raises:
        EngineBuild: a graph could not be exported.
        BadOption: more parts than layers.
        OutOfDisk: there is no room.
        Unwritable: the system refuses.
    """
    dtype = dtype_of(precision)
    made = Bundle(folder, network.config, specials,
                  min(vocabulary, network.config.llm.vocab_size), precision,
                  model or weights_digest((network, vae)), parts)
    for module in (network.eval(), vae.eval()) if read is None else ():
        module.to(dtype)
    with locked(folder.with_name(f'{folder.name}.lock'), flag=CACHE_FLAG):
        if force or not _is_there(made):
            made.folder.parent.mkdir(parents=True, exist_ok=True)
            _export(made, network, vae, progress, read, unchanged)
    progress('', len(made.specs()), len(made.specs()))
    return Bundle.load(folder)


def _is_there(made: Bundle) -> bool:
    """Whether another process has exported the same meanwhile."""
    try:
        found = Bundle.load(made.folder)
        found.prove()
        return found == made
    except BadCheckpoint:
        return False


def _export(made: Bundle, network: Cooper, vae: AutoEncoder, progress: Progress,
            read: Read | None, unchanged: Callable[[], None]) -> None:
    """Export into a draft, which becomes the folder at the end; call under the lock."""
    modules = graph_modules(network, vae, made.parts)
    with (drafted(made.folder, CACHE_FLAG) as draft, _first(unchanged),
          room(draft.parent, _bytes_of((network, vae)), 'exported graphs', CACHE_REMEDY)):
        for number, (name, spec) in enumerate(made.specs().items()):
            progress(name, number, len(modules))
            export_graph(spec, modules[name], draft / f'{name}.onnx', made.precision, read)
        words = network.language_model.model.embed_tokens.weight
        _describe(made, read(words) if read else words, draft)


@contextmanager
def _first(unchanged: Callable[[], None]) -> Iterator[None]:
    """Weights that changed are named before whatever else went wrong: it may have come of them."""
    try:
        yield
    except Exception:
        unchanged()
        raise
    unchanged()


def _bytes_of(modules: Iterable[nn.Module]) -> int:
    """Weights of modules; the least that their graphs take."""
    return sum(value.numel() * value.element_size()
               for module in modules for value in module.state_dict().values())


def _describe(made: Bundle, words: Tensor, draft: Path) -> None:
    """Write what stands beside the graphs."""
    save_tensors({'words': words.detach().contiguous()}, draft / WORDS)
    (draft / DESCRIPTION).write_text(sealed({
        'format': FORMAT, 'opset': OPSET, 'precision': made.precision, 'model': made.model,
        'vocabulary': made.vocabulary, 'parts': made.parts, 'specials': asdict(made.specials),
        'torch': torch.__version__, 'config': made.config.to_dict(),
        'files': {file.name: _state(file) for file in sorted(draft.iterdir())}}))
