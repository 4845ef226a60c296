"""Finding what was made of a checkpoint: its exported graphs and its engines for this machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cooper_ros.errors import BadCheckpoint, EngineMismatch, NotReady
from cooper_ros.runtime.card import read_card
from cooper_ros.runtime.engines.cache import EngineCache, Entry
from cooper_ros.runtime.engines.flavour import gpu_architecture, require_flavour
from cooper_ros.runtime.engines.key import BuildOptions
from cooper_ros.runtime.engines.plan import (
    FINGERPRINTS,
    GRAPHS,
    Plan,
    model_fingerprint,
    rebuild_command,
)
from cooper_ros.runtime.graphs.bundle import Bundle, bundle_name
from cooper_ros.runtime.graphs.spec import CONTEXT, UNDERSTAND, Limits
from cooper_ros.runtime.place import Place


@dataclass(frozen=True)
class Found:
    """Engines to run, or to build first.

    Attributes:
        plan: which engines, for which sizes, built how.
        complete: whether the cache names all of them; nothing is proved yet.
        cache: where they are.
        command: what builds them.
    """

    plan: Plan
    complete: bool
    cache: EngineCache
    command: str


def find_bundle(place: Place, precision: str) -> Bundle | None:
    """The exported graphs of a checkpoint; None where there are none, or none that are whole."""
    graphs = place.cache / GRAPHS
    if not graphs.is_dir():
        return None  # without reading the weights for their fingerprint
    model = model_fingerprint(place.folders, place.cache / FINGERPRINTS)
    try:
        return Bundle.load(graphs / bundle_name(model, precision, place.parts))
    except BadCheckpoint:
        return None


def find_plan(place: Place, converter: str) -> Found:
    """The engines of a checkpoint for the GPU of this machine, whatever sizes they serve.

    Args:
        place: checkpoint and device.
        converter: what makes TensorRT's network; see :class:`~.plan.Plan`.

    Returns:
        a complete set where there is one, the one for the longest context if there are several;
        else the set that would be built.

    Raises:
        NotReady: there is no TensorRT, or no GPU.
        BadOption: this TensorRT does not build for the GPU.
        EngineMismatch: the checkpoint was not even exported.
    """
    flavour, arch = require_flavour(), gpu_architecture()
    if not arch:
        raise NotReady('compiled engines run on a GPU, and there is none',
                       remedy='set runtime to torch or onnx')
    flavour.check_architecture(arch)  # before anything is exported for nothing
    bundle = find_bundle(place, place.precision)
    if bundle is None:
        more = '' if converter == 'onnx' else f' --converter {converter}'
        raise EngineMismatch('no engines were built from this checkpoint, or its graphs are '
                             'damaged', value=place.folders[0],
                             remedy=f'run `cooper engine build {place.folders[0]} --precision '
                             f'{place.precision} --cache {place.cache}{more}{place.parts_flag}`')
    usual = Plan(bundle, flavour, place.context or CONTEXT, usual_side(place),
                 converter=converter)
    return find_engines(usual, arch, EngineCache(place.cache), place)


def find_engines(usual: Plan, arch: str, cache: EngineCache, place: Place) -> Found:
    """The best complete set in a cache, else what ``usual`` means."""
    entries = list(cache.entries())
    names = {entry.name for entry in entries if entry.key is not None}
    plans = [plan for entry in entries if (plan := plan_of(entry, usual, arch))]
    whole = [plan for plan in plans
             if all(plan.key(graph, arch).name in names for graph in plan.bundle.specs())]
    plan = max(whole, key=lambda one: one.context, default=usual)
    command = rebuild_command(place.folders[0], plan, arch, place.cache)
    return Found(plan, bool(whole), EngineCache(place.cache, command), command)


def plan_of(entry: Entry, usual: Plan, arch: str) -> Plan | None:
    """The plan that an engine says it is part of; None if it is of another one altogether."""
    first = next(name for name, spec in usual.bundle.specs().items() if spec.family == UNDERSTAND)
    if entry.key is None or entry.key.graph != first:
        return None
    try:
        limits = Limits.from_dict(entry.facts['limits'])
        options = BuildOptions(**entry.facts['options'])
    except (KeyError, TypeError):
        return None
    config, context = usual.bundle.config, limits.context.high
    side = max(math.isqrt(limits.cells.high) * config.pixels_per_latent_token,
               math.isqrt(limits.patches.high) * config.vit.patch_size)
    side = 0 if Limits.of(config, context=context) == limits else side
    plan = replace(usual, context=context, side=side, options=options)
    return plan if plan.key(entry.key.graph, arch) == entry.key else None


def usual_side(place: Place) -> int:
    """Pixels of the largest picture that the checkpoint's own resize rule makes."""
    card = read_card(place.folders[0])
    return max(card.vae_transform[0], card.vit_transform[0])
