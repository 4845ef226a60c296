"""Who gave an answer: kept records of one run must not be taken for those of another."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from cooper_ros.config import CooperConfig
from cooper_ros.engine.engine import CooperEngine
from cooper_ros.errors import BadOption
from cooper_ros.runtime.engines.plan import FINGERPRINTS, model_fingerprint
from cooper_ros.runtime.graphs.digest import plain_digest
from cooper_ros.runtime.place import Place
from cooper_ros.runtime.torch_runtime import TorchRuntime

KEYS = ('model', 'mode', 'seed', 'settings')
GROUPS = ('reasoning', 'drawing', 'depth')  # settings that change answers
SHOWN = 12  # digits of a fingerprint
SAMPLE = 4096  # numbers of every weight that are looked at: 29 GB would take a minute
Identity = dict[str, Any]


def identity(engine: CooperEngine, mode: str, seed: int) -> Identity:
    """What every record says about the run it belongs to, ready for JSON; see ``KEYS``.

    ``settings`` holds those that are not the product's defaults.
    """
    given = {field.name: getattr(engine.config, field.name)
             for field in dataclasses.fields(CooperConfig)
             if field.metadata['group'] in GROUPS and field.name != 'mode'
             and getattr(engine.config, field.name) != field.default}
    return {'model': model_name(engine), 'mode': mode, 'seed': seed, 'settings': given}


def check(kept: Iterable[Mapping[str, Any]], now: Identity, file: object) -> None:
    """Refuse records of another run.

    Raises:
        BadOption: naming what differs, here and there.
    """
    for record in kept:
        for key in KEYS:
            there = record.get(key, 'unknown')
            if there != now[key]:
                raise BadOption('the record file belongs to another run',
                                value=f'{file}: {key} {there}', limit=f'{key} {now[key]}',
                                remedy='give another --out, or delete the file')


def model_name(engine: CooperEngine) -> str:
    """Name, number type and fingerprint of a model, its texts and its card."""
    card, runtime = engine.parts.card, engine.parts.runtime
    name = card.name or engine.config.model_path
    digest = plain_digest([_weights(engine), card.to_json(),
                           dataclasses.asdict(engine.parts.prompts)])
    return f'{name} {str(runtime.dtype).removeprefix("torch.")} {digest[:SHOWN]}'


def _weights(engine: CooperEngine) -> str:
    runtime = engine.parts.runtime
    if not isinstance(runtime, TorchRuntime):  # graphs do not show their weights, files do
        place = Place.of(engine.config)
        return model_fingerprint(place.folders, place.cache / FINGERPRINTS)
    for _ in runtime.load_drawing():
        pass  # what still lies on disk is part of the model
    total = hashlib.sha256()
    for module in (runtime.network, runtime.vae):
        for key, value in sorted(module.state_dict().items()):
            total.update(f'{key}:{value.dtype}:{tuple(value.shape)};'.encode())
            for part in sampled(value):
                total.update(part)
    return total.hexdigest()


def sampled(value: Tensor) -> Iterator[bytes]:
    """Some numbers of a weight; of a quantised one, some of each of its parts."""
    if hasattr(value, '__tensor_flatten__'):
        names, _ = value.__tensor_flatten__()
        for name in names:
            yield from sampled(getattr(value, name))
    elif value.numel():
        step = (value.numel() // SAMPLE) | 1  # odd, so that it does not stay in one column
        some = value.detach().reshape(-1)[::step].contiguous()
        yield some.view(torch.uint8).cpu().numpy().tobytes()
