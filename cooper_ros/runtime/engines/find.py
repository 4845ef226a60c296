"""Finding what was made of a checkpoint: its exported graphs and its engines for this machine."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, replace

from cooper_ros.errors import BadCheckpoint, BadOption, EngineMismatch, NotReady
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.runtime.card import read_card
from cooper_ros.runtime.engines.cache import EngineCache, Entry
from cooper_ros.runtime.engines.flavour import check_precision, gpu_architecture, require_flavour
from cooper_ros.runtime.engines.key import BuildOptions, EngineKey
from cooper_ros.runtime.engines.leftovers import graphs_writers
from cooper_ros.runtime.engines.plan import (
    BY,
    CONVERTERS,
    FINGERPRINTS,
    GRAPHS,
    Plan,
    model_fingerprint,
)
from cooper_ros.runtime.engines.rights import Who, Writers
from cooper_ros.runtime.engines.torch_tensorrt import version
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.graphs.spec import CONTEXT, UNDERSTAND, Limits
from cooper_ros.runtime.names import ONNX
from cooper_ros.runtime.place import Place
from cooper_ros.runtime.prepare import Request, command_of

_PICTURES = ('patches', 'cells', 'rows', 'columns')  # sizes that grow with a picture


@dataclass(frozen=True)
class Found:
    """Engines to run, or to build first.

    Attributes:
        plan: which engines, for which sizes, built how.
        best: the set in the cache that serves most; None where none is whole. That is by their
            descriptions; nothing is proved yet.
        cache: where they are.
        request: what builds those of the plan.
    """

    plan: Plan
    best: Plan | None
    cache: EngineCache
    request: Request

    @property
    def complete(self) -> bool:
        """Whether the cache names all engines of the plan."""
        return self.best is self.plan

    @property
    def command(self) -> str:
        """What builds them, for a shell."""
        return command_of(self.request)

    @property
    def lacking(self) -> str:
        """Why it is not complete; empty when it is."""
        if self.complete:
            return ''
        if self.best is None:
            return f'its engines are not in {self.cache.folder}'
        if not covers(self.best, self.plan):
            return (f'its engines serve pictures of up to {self.best.side} pixels a side, and '
                    f'those of this checkpoint have up to {self.plan.side}')
        return (f'its engines serve contexts of up to {self.best.context} tokens, and '
                f'context_tokens asks for {self.plan.context}')

    @property
    def writers(self) -> Writers:
        """Who may write the engines of the plan, or their folder."""
        arch = gpu_architecture()
        return self.cache.writers(self.plan.key(graph, arch).name
                                  for graph in self.plan.bundle.specs())

    def expect(self) -> None:
        """Look whether every engine is there, by its description; reads none of them.

        Raises:
            EngineMismatch: one is not, or is for something else.
        """
        arch = gpu_architecture()
        for graph, spec in self.plan.bundle.specs().items():
            self.cache.expect(self.plan.key(graph, arch),
                              spec.interface(self.plan.bundle.precision))

    def is_sound(self) -> bool:
        """Whether every engine is what its description says; reads all of them."""
        arch = gpu_architecture()
        return all(self.cache.is_sound(self.plan.key(graph, arch))
                   for graph in self.plan.bundle.specs())


def find_bundle(place: Place, precision: str) -> Bundle | None:
    """The exported graphs of a checkpoint; None where there are none, or none that are whole.

    Raises:
        EngineMismatch: anyone may have put them there, or may change what the network says to
            questions, which is kept beside them and which engines are proved against.
    """
    graphs = place.cache / GRAPHS
    if not os.path.isdir(graphs):  # nor where it may not be looked into
        return None  # without reading the weights for their fingerprint
    try:
        model = model_fingerprint(place.folders, place.cache / FINGERPRINTS)
        found = Bundle.find(graphs, model, precision, place.parts)
    except (BadCheckpoint, OSError):  # what cannot be read is named where it is loaded
        return None
    _require_trust(found, place)
    return found


def _require_trust(bundle: Bundle, place: Place) -> None:
    """As for engines: see :meth:`~.cache.EngineCache.load`."""
    found = graphs_writers(place.cache, bundle.folder.name)
    if found.who == Who.ANYONE:
        again = command_of(request_of(ONNX, replace(place, precision=bundle.precision)))
        raise EngineMismatch('anyone may have put the exported graphs here',
                             value=f'{found.path}, which anyone may write',
                             limit='files that only their users may write',
                             remedy=f'{found.remedy}, then `{again} --force`')


def find_plan(place: Place, name: str) -> Found:
    """The engines of a checkpoint for the GPU of this machine, whatever sizes they serve.

    Args:
        place: checkpoint and device.
        name: the runtime that they are for: ``tensorrt`` or ``torch_tensorrt``.

    Returns:
        a complete set where there is one, the one for the longest context if there are several;
        else the set that would be built. A set for shorter contexts than the setting
        context_tokens asks for is not complete, nor is one for smaller pictures than the
        checkpoint's own resize rule makes.

    Raises:
        NotReady: there is no TensorRT, or no GPU.
        BadOption: this TensorRT does not build for the GPU, or the GPU lacks the precision.
        EngineMismatch: the checkpoint was not even exported.
    """
    flavour, arch = require_flavour(), gpu_architecture()
    if not arch:
        raise NotReady('compiled engines run on a GPU, and there is none',
                       remedy='set runtime to torch or onnx')
    flavour.check_architecture(arch)  # before anything is exported for nothing
    check_precision(arch, place.precision)
    bundle = find_bundle(place, place.precision)
    if bundle is None:
        command = command_of(request_of(name, place))
        raise EngineMismatch('no engines were built from this checkpoint, or its graphs are '
                             'damaged', value=place.folders[0], remedy=f'run `{command}`')
    usual = Plan(bundle, flavour, place.context or CONTEXT, usual_side(place),
                 converter=CONVERTERS[name])
    return find_engines(name, usual, arch, place)


def find_engines(name: str, usual: Plan, arch: str, place: Place) -> Found:
    """The best complete set in a cache, else what ``usual`` means."""
    entries = list(EngineCache(place.cache).entries())
    names = {entry.name for entry in entries if entry.key and entry.key.name == entry.name}
    plans = [usual, *(plan for entry in entries if (plan := plan_of(entry, usual, arch)))]
    whole = [plan for plan in plans
             if all(plan.key(graph, arch).name in names for graph in plan.bundle.specs())]
    best = max(whole, key=lambda one: (covers(one, usual), one.context), default=None)
    plan = usual
    if best is not None and best.context >= place.context and covers(best, usual):
        plan = best
    request = request_of(name, place, plan)
    return Found(plan, best, EngineCache(place.cache, command_of(request)), request)


def covers(plan: Plan, usual: Plan) -> bool:
    """Whether engines take all pictures that others take."""
    ours, theirs = plan.limits, usual.limits
    return all(getattr(ours, name).max >= getattr(theirs, name).max for name in _PICTURES)


def plan_of(entry: Entry, usual: Plan, arch: str) -> Plan | None:
    """The plan that an engine says it is part of; None if it is of another one altogether.

    Where Torch-TensorRT is not installed, any version of it may have converted: running what it
    made needs TensorRT alone.
    """
    first = next(name for name, spec in usual.bundle.specs().items() if spec.family == UNDERSTAND)
    if entry.key is None or entry.key.graph != first:
        return None
    try:
        plan = _described_plan(entry, entry.key, usual)
    except (KeyError, TypeError, AttributeError, BadOption):  # of this engine alone
        return None
    return plan if plan.key(entry.key.graph, arch) == entry.key else None


def _described_plan(entry: Entry, key: EngineKey, usual: Plan) -> Plan:
    limits = Limits.from_dict(entry.facts['limits'])
    options = BuildOptions(**entry.facts['options'])
    config, context = usual.bundle.config, limits.context.max
    side = max(math.isqrt(limits.cells.max) * config.pixels_per_latent_token,
               math.isqrt(limits.patches.max) * config.vit.patch_size)
    side = 0 if Limits.of(config, context=context) == limits else side
    return replace(usual, context=context, side=side, options=options,
                   converted_by='' if version() else key.version.partition(BY)[2])


def request_of(name: str, place: Place, plan: Plan | None = None) -> Request:
    """What must be made for a runtime.

    Args:
        name: ``onnx`` (graphs only), ``tensorrt`` or ``torch_tensorrt``.
        place: checkpoint and cache.
        plan: the engines; the usual ones if absent.
    """
    request = Request(name, tuple(str(folder.resolve()) for folder in place.folders),
                      place.precision, str(place.cache.resolve()), parts=place.parts)
    if name == ONNX:
        return request
    if plan is None:
        return replace(request, context=place.context, side=usual_side(place))
    return replace(request, context=plan.context, side=plan.side, **vars(plan.options))


def usual_side(place: Place) -> int:
    """Pixels of the largest picture side that the checkpoint's own resize rules make."""
    card = read_card(place.folders[0])
    return max(map(_longest, (card.vae_transform, card.vit_transform)))


def _longest(rule: tuple[int, int, int]) -> int:
    """The longest side by a resize rule, whose rounding to the stride may end above its limit.

    Long and narrow pictures have it, and they stay below the cap on pixels.
    """
    return max(ImageTransform(*rule, max_pixels=sys.maxsize).size(rule[0], rule[0]))
