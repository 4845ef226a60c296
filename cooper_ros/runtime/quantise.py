"""A model folder to a quantised one, tensor by tensor, never the whole network in memory."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Callable

from torch import Tensor

from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.runtime.card import (
    CARD_FILE,
    FP8,
    INT4,
    QUANTISED_FORMATS,
    Quantisation,
    read_card,
    read_json,
)
from cooper_ros.runtime.float8 import check_widths
from cooper_ros.runtime.quantised import SCALE, choose_group, is_quantised, quantise
from cooper_ros.runtime.weights import (
    VAE_FILE,
    Weights,
    check_types,
    network_weights,
    save_tensors,
)

SHARD_BYTES = 1024**3
INDEX_FILE = 'model.safetensors.index.json'


def quantise_folder(source: Path, out: Path, to: str, *, force: bool = False,
                    shard_bytes: int = SHARD_BYTES,
                    progress: Callable[[int, int], None] = lambda done, total: None
                    ) -> Quantisation:
    """Write a quantised copy of a model folder; it appears complete or not at all.

    Args:
        source: folder with the weights.
        out: the new folder.
        to: one of ``QUANTISED_FORMATS``.
        force: replace ``out`` if it is there.
        shard_bytes: largest size of one weight file, which is held until it is full.
        progress: told after each tensor how many of how many are done.

    Raises:
        BadOption: the format is unknown or does not take the widths of the network, or ``out``
            exists and ``force`` is not set.
        BadCheckpoint: the source is incomplete, no plain numbers, or quantised already.
    """
    _check(source, out, to, force)
    weights = network_weights(source)
    check_types(weights)
    how = _choose(weights, to, source)
    part = out.with_name(out.name + '.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write_weights(weights, how, part, shard_bytes, progress)
        _copy_rest(source, part, how)
        if out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return how


def _check(source: Path, out: Path, to: str, force: bool) -> None:
    if to not in QUANTISED_FORMATS:
        raise BadOption('unknown format of weights', value=to,
                        limit=', '.join(QUANTISED_FORMATS))
    if not source.is_dir():
        raise BadCheckpoint('there is no such model folder', value=str(source), limit='a folder')
    if read_card(source).quantization is not None:
        raise BadCheckpoint('the checkpoint is quantised already', value=str(source),
                            remedy='start from the original weights')
    here, there = source.resolve(), out.resolve()
    if there == here or there in here.parents:
        raise BadOption('the new folder would replace the old one', value=str(out),
                        remedy='name another --out')
    if out.exists() and not (force and (out / CARD_FILE).is_file()):
        raise BadOption('the output exists', value=str(out), limit='a new folder; with --force '
                        'also a model folder', remedy='name another --out, or add --force')


def _choose(weights: Weights, to: str, source: Path) -> Quantisation:
    shapes = {shape for key, shape in weights.shapes.items() if is_quantised(key)}
    if not shapes:
        raise BadCheckpoint('the folder has no linear layers to quantise', value=str(source))
    if to == FP8:
        check_widths(shapes)
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
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + '\n', encoding='utf-8')


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _copy_rest(source: Path, folder: Path, how: Quantisation) -> None:
    """Everything but the network; the card tells what was done."""
    for path in sorted(source.iterdir()):
        is_weights = path.name.endswith(('.safetensors', '.safetensors.index.json'))
        if path.is_file() and (not is_weights or path.name == VAE_FILE):
            shutil.copy2(path, folder / path.name)
    card = read_json(source / CARD_FILE) if (source / CARD_FILE).is_file() else {}
    text = json.dumps({**card, 'quantization': how.to_json()}, indent=2)
    (folder / CARD_FILE).write_text(text + '\n', encoding='utf-8')
