"""From a loaded network to the chosen runtime: checked before use, made ready where allowed.

Graphs and engines are compared with what is wanted (key, names, shapes, types) and then asked for
an inference each, engines for several, which must say what the network says. What does not fit is
made again if the setting ``engine_missing`` allows it, before the first answer or while torch
gives the answers.
"""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable, Iterator

import torch

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadCheckpoint, CooperError, EngineMismatch, NotReady, OutOfMemory
from cooper_ros.runtime.base import Runtime
from cooper_ros.runtime.engines.find import Found, covers, find_bundle, find_plan, request_of
from cooper_ros.runtime.engines.plan import Plan
from cooper_ros.runtime.graphs.answers import Answers, Ask
from cooper_ros.runtime.graphs.bundle import Bundle
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.probe import compare, questions, questions_in_service, said_by
from cooper_ros.runtime.graphs.runtime import GraphRuntime
from cooper_ros.runtime.graphs.spec import Limits
from cooper_ros.runtime.late_network import LateNetwork
from cooper_ros.runtime.memory import is_memory_error
from cooper_ros.runtime.names import AUTO, COMPILE, ONNX, TORCH
from cooper_ros.runtime.notice import Notice, Tell
from cooper_ros.runtime.place import ERROR, SERVE, Place
from cooper_ros.runtime.prepare import Request, command_of, prepare_in_child
from cooper_ros.runtime.torch_runtime import TorchRuntime

Swap = Callable[[Callable[[], Runtime]], None]


@dataclass(frozen=True)
class Opened:
    """What answers, and what may take its place later."""

    runtime: Runtime
    upgrade: Upgrade | None = None


class Upgrade:
    """Makes a runtime ready while another one answers, then has them swapped.

    Args:
        name: the runtime to come.
        request: what must be made for it.
        make: opens and checks it.
        tell: hears how it goes.
    """

    def __init__(self, name: str, request: Request, make: Callable[[], Runtime],
                 tell: Tell) -> None:
        self._name, self._request, self._make, self._tell = name, request, make, tell

    def start(self, swap: Swap) -> threading.Thread:
        """Begin, on a thread of its own; ``swap`` is given what makes the runtime."""
        thread = threading.Thread(target=self._run, args=(swap,), name='upgrade', daemon=True)
        thread.start()
        return thread

    def _run(self, swap: Swap) -> None:
        try:
            _prepare(self._request, _progress(self._name, self._tell, TORCH))
            self._tell(Notice(f'{self._name} is loaded and compared with torch', TORCH,
                              f'{self._name}: check'))
            swap(self._make)
            self._tell(Notice(f'{self._name} is ready and answers from now on', self._name))
        except Exception as error:  # torch goes on answering, whatever this was
            self._tell(Notice(f'{self._name} is not used, torch goes on answering: '
                              f'{_said(error)}', TORCH, error=True))


def _said(error: Exception) -> str:
    """An error in a line of the log; ours name themselves."""
    return str(error) if isinstance(error, CooperError) else repr(error)


def open_runtime(name: str, network: LateNetwork, config: CooperConfig, tell: Tell) -> Opened:
    """The runtime of this name for a checkpoint.

    With the setting ``auto`` torch answers where engines or graphs cannot, and the log says why.

    Args:
        name: ``torch``, ``compile``, ``onnx``, ``tensorrt`` or ``torch_tensorrt``.
        network: in PyTorch, in the number type of the graphs; read where it answers, or where it
            must be asked what is right.
        config: settings.
        tell: hears what is prepared.

    Raises:
        NotReady: a package, a compiler or a GPU is missing for it.
        EngineMismatch: engines are missing, damaged or say something else, and may not be made.
        CooperError: they could not be made; of the class that says why.
        OutOfMemory: they do not fit, and torch may not answer instead.
    """
    if name == TORCH:
        return Opened(network.get())
    if name == COMPILE:
        return Opened(_compiled(network.get(), config, tell))
    place = replace(Place.of(config), precision='fp32') if name == ONNX else Place.of(config)
    if place.quantised:
        raise NotReady('quantised weights run in torch only', value=config.model_path,
                       remedy='set runtime to torch')
    try:
        return _graphs(name, network, place, config.engine_missing, tell)
    except Exception as error:  # under auto torch answers, whatever this was
        waits = config.engine_missing == SERVE and isinstance(error, OutOfMemory)
        if config.runtime != AUTO and not waits:
            raise
        tell(Notice(f'{name} is not used, torch answers: {_said(error)}', TORCH, error=True))
    return Opened(network.get())  # the error is gone, and what it held


def _graphs(name: str, network: LateNetwork, place: Place, missing: str, tell: Tell) -> Opened:
    def make(serving: str = '') -> Runtime:
        runtime = proved(name, network, place)
        if plan := _memory_of(runtime):
            tell(Notice(plan, serving, f'{name}: check'))
        return runtime

    try:
        return Opened(make())
    except EngineMismatch as error:
        if missing == ERROR and name != ONNX:
            raise
        request = _remaking(name, place)
        if missing == ERROR and request.force:  # a first export needs no permission
            raise
        tell(Notice(f'{name} must be prepared first: {error}', preparing=name))
    if missing == SERVE:
        return Opened(network.get(), Upgrade(name, request, partial(make, TORCH), tell))
    _prepare(request, _progress(name, tell))
    return Opened(make())


def _prepare(request: Request, told: Callable[[str, float], None]) -> None:
    """In a child; what is left here of engines that were refused would lack it on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    prepare_in_child(request, told)


def _remaking(name: str, place: Place) -> Request:
    """What makes again what was refused; by force where it is undamaged, so it must be wrong."""
    try:
        bundle = find_bundle(place, place.precision)
    except EngineMismatch:  # anyone may write it
        bundle = None
    if bundle is None:
        return request_of(name, place)
    whole = _is_whole(bundle)
    if name == ONNX:
        return replace(request_of(name, place), force=whole)
    found = find_plan(place, name)
    return replace(found.request, force=whole and found.is_sound())


def _is_whole(bundle: Bundle) -> bool:
    try:
        bundle.prove()
    except BadCheckpoint:
        return False
    return True


def proved(name: str, network: LateNetwork, place: Place) -> GraphRuntime:
    """Graphs or engines as a runtime, each compared with what the network says.

    The network is read only if it was not asked before, and dropped before engines are loaded.

    Raises:
        NotReady: a package or a GPU is missing.
        BadCheckpoint: the network itself cannot be read.
        EngineMismatch: something is missing, damaged, for something else, or says something else.
        OutOfMemory: there is no room for it.
    """
    find, ask = ((_find_graphs, questions) if name == ONNX else
                 (_find_engines, questions_in_service))
    bundle, limits, command, load = find(name, place)
    asked = partial(ask, bundle.specs(), bundle.precision, limits=limits)
    with _named_memory_errors(name):
        answers = Answers(bundle)
        answers.gather(asked(), partial(_asking, network, bundle))
        network.drop()
        try:
            runtime = load()
            compare(runtime.runner, asked(), answers, bundle.precision, rebuild=command)
        except BadCheckpoint as error:  # of the graphs: nothing else is read here
            raise EngineMismatch(error.what, value=error.value, limit=error.limit,
                                 remedy=f'run `{command}`') from error
        runtime.forget()  # steps recorded where the inputs of the questions were
    return runtime


@contextmanager
def _named_memory_errors(name: str) -> Iterator[None]:
    """Name errors of memory as ours.

    Raises:
        OutOfMemory: the runtime of this name does not fit.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise OutOfMemory(f'{name} does not fit the device', value=str(error)[:200],
                          remedy='set runtime to torch') from error


def _asking(network: LateNetwork, bundle: Bundle) -> Ask:
    """What asks the network as it is: it may be answering questions in that number type."""
    runtime = network.get()
    modules = graph_modules(runtime.network, runtime.vae, bundle.parts)
    return partial(said_by, modules, runtime.device)


# graphs, sizes they serve, what makes them, what loads them
Source = tuple[Bundle, Limits, str, Callable[[], GraphRuntime]]


def _find_graphs(name: str, place: Place) -> Source:
    from cooper_ros.runtime.onnx_runtime import load_onnx_runtime
    command, bundle = command_of(request_of(name, place)), find_bundle(place, 'fp32')
    if bundle is None:
        raise EngineMismatch('no graphs were exported from this checkpoint',
                             value=place.folders[0], remedy=f'run `{command}`')
    return bundle, Limits.of(bundle.config), command, lambda: load_onnx_runtime(bundle)


def _find_engines(name: str, place: Place) -> Source:
    from cooper_ros.runtime.engines.runner import load_tensorrt_runtime
    found = find_plan(place, name)
    if found.best is not None and not found.complete:
        raise _too_small(found.best, found)
    found.expect()  # before the network is read for them
    return found.plan.bundle, found.plan.limits, found.command, lambda: load_tensorrt_runtime(
        found.plan, found.cache, rebuild=found.command)


def _too_small(best: Plan, found: Found) -> EngineMismatch:
    """Whole engines that do not serve what is asked for."""
    what, have, asked = (
        ('shorter contexts than context_tokens asks for', best.context, found.plan.context)
        if covers(best, found.plan) else
        ('smaller pictures than the checkpoint makes', best.side, found.plan.side))
    return EngineMismatch(f'the engines are for {what}', value=have, limit=f'{asked} or more',
                          remedy=f'run `{found.command}`')


def _memory_of(runtime: GraphRuntime) -> str:
    """The plan of device memory, where a runner has one."""
    plan = getattr(runtime.runner, 'memory', None)
    return '' if plan is None else str(plan())


def _compiled(network: TorchRuntime, config: CooperConfig, tell: Tell) -> Runtime:
    from cooper_ros.runtime.compiled import compiled_runtime_of
    tell(Notice(f'torch.compile ({config.compile_backend}) compiles the graphs',
                preparing=COMPILE))
    try:
        return compiled_runtime_of(network, backend=config.compile_backend)
    except (NotReady, EngineMismatch) as error:
        if config.engine_missing != SERVE:
            raise
        tell(Notice(f'compile is not used, torch answers: {error}', TORCH, error=True))
        return network


def _progress(name: str, tell: Tell, serving: str = '') -> Callable[[str, float], None]:
    """Tell every step; log only those that are new."""
    last = ''

    def told(what: str, done: float) -> None:
        nonlocal last
        text = f'preparing {name}: {what}' if what and what != last else ''
        last = what
        tell(Notice(text, serving, f'{name}: {what} ({done:.0%})'))

    return told
