"""A model folder to a quantised one, tensor by tensor, never the whole network in memory."""

from __future__ import annotations

import json
import logging
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from torch import Tensor

from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.runtime.card import (
    CARD_FILE,
    FP8,
    INT4,
    INT8,
    QUANTISED_FORMATS,
    Quantisation,
    read_card,
    read_json,
)
from cooper_ros.runtime.files import drafted, refusals_named, write_whole
from cooper_ros.runtime.float8 import check_widths
from cooper_ros.runtime.locks import locked_once
from cooper_ros.runtime.quantised import (
    SCALE,
    check_shapes,
    choose_group,
    is_quantised,
    quantise,
)
from cooper_ros.runtime.weights import (
    VAE_FILE,
    Weights,
    check_types,
    network_weights,
    save_tensors,
)

SHARD_BYTES = 1024**3
INDEX_FILE = 'model.safetensors.index.json'
FLAG = '--out'  # names the new folder
LOCK = '.lock'
_LOG = logging.getLogger(__name__)


def quantise_folder(source: Path, out: Path, to: str, *, force: bool = False,
                    shard_bytes: int = SHARD_BYTES,
                    progress: Callable[[int, int], None] = lambda done, total: None
                    ) -> Quantisation:
    """Write a quantised copy of a model folder; it appears complete or not at all.

    Of several runs that write the same folder, the later ones wait for the first.

    Args:
        source: folder with the weights.
        out: the new folder.
        to: one of ``QUANTISED_FORMATS``.
        force: replace ``out`` if it is there.
        shard_bytes: largest size of one weight file, which is held until it is full.
        progress: told after each tensor how many of how many are done.

    Raises:
        BadOption: the format is unknown or does not take the widths of the network, or ``out``
            exists and ``force`` is not set, is a link, or lies in the source.
        BadCheckpoint: the source is incomplete, no plain numbers, or quantised already.
        OutOfDisk: there is no room.
        Unwritable: the system refuses.
    """
    _check(source, out, to)
    _check_free(out, force)
    weights = network_weights(source)
    check_types(weights)
    how = _choose(weights, to, source)
    with _one_writer(out.parent.resolve() / out.name) as target:
        _check_free(out, force)  # another run may have written it while we waited
        with drafted(target, FLAG) as draft:
            _write_weights(weights, how, draft, shard_bytes, progress)
            _copy_rest(source, draft, how)
    return how


@contextmanager
def _one_writer(target: Path) -> Iterator[Path]:
    """Keep other runs from writing the same folder; no file of the lock stays beside it."""
    with refusals_named(target, FLAG):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked_once(target.with_name(f'.{target.name}{LOCK}'), flag=FLAG, held=lambda:
                     _LOG.warning('waiting for another run that writes %s', target)):
        yield target


def _check(source: Path, out: Path, to: str) -> None:
    if to not in QUANTISED_FORMATS:
        raise BadOption('unknown format of weights', value=to,
                        limit=', '.join(QUANTISED_FORMATS))
    if not source.is_dir():
        raise BadCheckpoint('there is no such model folder', value=str(source), limit='a folder')
    if read_card(source).quantization is not None:
        raise BadCheckpoint('the checkpoint is quantised already', value=str(source),
                            remedy='start from the original weights')
    _check_apart(source, out)


def _check_apart(source: Path, out: Path) -> None:
    """Refuse a new folder that would change the old one, or whatever a link leads to.

    Raises:
        BadOption: naming it.
    """
    if out.is_symlink():
        raise BadOption('the new folder is a link', value=f'{out} -> {os.readlink(out)}',
                        limit='a new folder', remedy='name another --out')
    here, there = source.resolve(), out.resolve()
    if there == here or there in here.parents:
        raise BadOption('the new folder would replace the old one', value=str(out),
                        remedy='name another --out')
    if here in there.parents:
        raise BadOption('the new folder would lie in the old one', value=str(out),
                        limit='a folder outside', remedy='name another --out')


def _check_free(out: Path, force: bool) -> None:
    if out.exists() and not (force and (out / CARD_FILE).is_file()):
        raise BadOption('the output exists', value=str(out), limit='a new folder; with --force '
                        'also a model folder', remedy='name another --out, or add --force')


def _choose(weights: Weights, to: str, source: Path) -> Quantisation:
    layers = {key: weights.shape(key, 2) for key in weights.shapes if is_quantised(key)}
    shapes = set(layers.values())
    if not shapes:
        raise BadCheckpoint('the folder has no linear layers to quantise', value=str(source))
    if to == FP8:
        check_widths(shapes)
    if to == INT8:
        check_shapes(layers)
    return Quantisation(to, choose_group({shape[1] for shape in shapes}) if to == INT4 else 0)


def _write_weights(weights: Weights, how: Quantisation, folder: Path, shard_bytes: int,
                   progress: Callable[[int, int], None]) -> None:
    held: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    total = 0

    def flush() -> None:
        name = f'model-{len(set(places.values())) + 1:05d}.safetensors'
        save_tensors(held, folder / name)
        places.update(dict.fromkeys(held, name))
        held.clear()

    for done, (key, value) in enumerate(weights.tensors('cpu', None), 1):
        new = {key: value}
        if is_quantised(key):
            new = dict(zip((key, key + SCALE), quantise(value, how)))
        size = sum(map(_bytes, new.values()))
        if held and sum(map(_bytes, held.values())) + size > shard_bytes:
            flush()
        held.update({name: tensor.contiguous() for name, tensor in new.items()})
        total += size
        progress(done, len(weights.shapes))
    flush()
    index = {'metadata': {'total_size': total}, 'weight_map': places}
    _write_json(folder / INDEX_FILE, index)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _copy_rest(source: Path, folder: Path, how: Quantisation) -> None:
    """Everything but the network; the card tells what was done."""
    for path in sorted(source.iterdir()):
        is_weights = path.name.endswith(('.safetensors', '.safetensors.index.json'))
        if path.is_file() and (not is_weights or path.name == VAE_FILE):
            with refusals_named(folder / path.name, FLAG):
                shutil.copy2(path, folder / path.name)
    card = read_json(source / CARD_FILE) if (source / CARD_FILE).is_file() else {}
    _write_json(folder / CARD_FILE, {**card, 'quantization': how.to_json()})


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(values, indent=2) + '\n').encode(), FLAG)
