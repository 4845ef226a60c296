"""Inferences of every graph, compared with the network itself, before anything is trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from cooper_ros.errors import EngineMismatch
from cooper_ros.runtime.graphs.digest import tensors_digest
from cooper_ros.runtime.graphs.export import example_inputs
from cooper_ros.runtime.graphs.runtime import GraphRunner, Tensors
from cooper_ros.runtime.graphs.spec import BUCKET, FLOW, UNDERSTAND, GraphSpec, Limits

# Largest error as a fraction of the largest number of an output. PyTorch itself convolves fp32
# as TF32 on a GPU.
TOLERANCES = {'fp32': 5e-3, 'fp16': 3e-2, 'bf16': 1e-1}
LONG = 512  # tokens of a context as it is met in service; the one of the export has seven


@dataclass(frozen=True)
class Question:
    """One inference that a graph is asked for.

    Attributes:
        spec: the graph.
        inputs: by name, random, the same on every machine; on the CPU.
    """

    spec: GraphSpec
    inputs: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """The graph, and a digest of the inputs."""
        return f'{self.spec.name}-{tensors_digest(self.inputs)[:16]}'


def questions(specs: Mapping[str, GraphSpec], precision: str, *, limits: Limits | None = None,
              **sizes: int) -> Iterator[Question]:
    """One question to every graph.

    Args:
        specs: graphs to probe.
        precision: number type of the weights.
        limits: sizes that the graphs serve; None for all that a probe asks for.
        **sizes: of the inputs; those of the export where not given.
    """
    for spec in specs.values():
        yield Question(spec, example_inputs(spec, precision, limits=limits, **sizes))


def questions_in_service(specs: Mapping[str, GraphSpec], precision: str, *,
                         limits: Limits) -> Iterator[Question]:
    """Questions in the sizes that compiled engines are met in too, where other kernels may run.

    Decoding a token, reading several and drawing, each behind a context of ``LONG`` tokens, or of
    the most that they serve, and what comes first in a session: behind a bucket that holds
    nothing, where whole tiles of the attention are masked; see :func:`questions`.
    """
    decoder = {name: spec for name, spec in specs.items() if spec.family}
    reading = {name: spec for name, spec in decoder.items() if spec.family == UNDERSTAND}
    yield from questions(specs, precision, limits=limits)
    yield from questions(decoder, precision, limits=limits, context=LONG)
    yield from questions(reading, precision, limits=limits, context=LONG, tokens=1)
    yield from questions(decoder, precision, limits=limits, context=BUCKET, used=0)


def said_by(modules: Mapping[str, nn.Module], device: torch.device, question: Question
            ) -> tuple[Tensor, ...]:
    """What the network answers, with its graphs as PyTorch modules on a device."""
    with torch.inference_mode():
        said = modules[question.spec.name](*(value.to(device)
                                             for value in question.inputs.values()))
    return said if isinstance(said, tuple) else (said,)


def compare(runner: GraphRunner, asked: Iterable[Question],
            wanted: Callable[[Question], tuple[Tensor, ...]], precision: str, *,
            rebuild: str = 'cooper engine build CHECKPOINT') -> dict[str, float]:
    """Ask graphs, and compare with what the network says.

    Args:
        runner: runs the graphs.
        asked: the questions.
        wanted: what the network says to each.
        precision: number type of both.
        rebuild: command to run where they differ.

    Returns:
        largest error of each graph, as a fraction of the largest number of its output.

    Raises:
        EngineMismatch: a graph says something else, or no number.
    """
    found: dict[str, float] = {}
    for question in asked:
        name, error = question.spec.name, error_of(runner, question, wanted(question))
        if error > TOLERANCES[precision]:
            raise EngineMismatch(f'graph {name} does not say what the network says',
                                 value=f'error {error:.3g}',
                                 limit=f'{TOLERANCES[precision]:.3g} in {precision}',
                                 remedy=f'run `{rebuild} --force`')
        found[name] = max(error, found.get(name, 0.0))
    return found


def error_of(runner: GraphRunner, question: Question, wanted: Sequence[Tensor]) -> float:
    """Ask a graph; the largest error of all that it gives, see :func:`relative_error`.

    One that draws is asked again as it reads a picture, with new keys and values written into
    memory of ours: a runner may have other kernels for that.

    Args:
        runner: runs the graph.
        question: what it is asked.
        wanted: what the network says to it.
    """
    inputs = {name: value.to(runner.device) for name, value in question.inputs.items()}
    outputs = runner.run(question.spec.name, inputs, {})
    worst = _worst(question.spec, outputs, wanted)
    if question.spec.family != FLOW:
        return worst
    cache = {name: torch.full_like(value, math.nan) for name, value in outputs.items()
             if name.startswith('new_')}  # no numbers: what is not written is noticed
    outputs = runner.run(question.spec.name, inputs, cache)
    return max(worst, _worst(question.spec, {**outputs, **cache}, wanted))


def _worst(spec: GraphSpec, outputs: Tensors, wanted: Sequence[Tensor]) -> float:
    return max(relative_error(outputs[entry.name], right)
               for entry, right in zip(spec.outputs, wanted, strict=True))


def probe(runner: GraphRunner, specs: Mapping[str, GraphSpec], modules: Mapping[str, nn.Module],
          precision: str, *, rebuild: str = 'cooper engine build CHECKPOINT',
          **sizes: int) -> dict[str, float]:
    """Compare graphs with the network, which is on the same device: one question to each.

    See :func:`questions` and :func:`compare`.
    """
    return compare(runner, questions(specs, precision, **sizes),
                   partial(said_by, modules, runner.device), precision, rebuild=rebuild)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a fraction of the largest number wanted.

    Infinite where one of the numbers is none: NaN would be lost in a ``max``.
    """
    least = torch.finfo(torch.float32).tiny
    found, wanted = found.float(), wanted.to(found.device).float()
    error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=least))
    return error if math.isfinite(error) else math.inf
