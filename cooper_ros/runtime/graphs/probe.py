"""Inferences of every graph, compared with the network itself, before anything is trusted."""

from __future__ import annotations

from typing import Mapping

import torch
from torch import Tensor, nn

from cooper_ros.errors import EngineMismatch
from cooper_ros.runtime.graphs.export import example_inputs
from cooper_ros.runtime.graphs.runtime import GraphRunner
from cooper_ros.runtime.graphs.spec import UNDERSTAND, GraphSpec, Limits

# Largest error as a fraction of the largest number of an output. fp32 may run as TF32 on a GPU.
TOLERANCES = {'fp32': 5e-3, 'fp16': 3e-2, 'bf16': 1e-1}
LONG = 512  # tokens of a context as it is met in service; the one of the export has seven


def probe(runner: GraphRunner, specs: Mapping[str, GraphSpec], modules: Mapping[str, nn.Module],
          precision: str, *, rebuild: str = 'cooper engine build CHECKPOINT',
          limits: Limits | None = None, **sizes: int) -> dict[str, float]:
    """Run graphs and network on the same random inputs.

    Args:
        runner: runs the graphs.
        specs: graphs to probe.
        modules: the same graphs as PyTorch modules, on the device of the runner.
        precision: number type of both.
        rebuild: command to run where they differ.
        limits: sizes that the graphs serve; None for all that a probe asks for.
        **sizes: of the inputs; those of the export where not given.

    Returns:
        largest error of each graph, as a fraction of the largest number of its output.

    Raises:
        EngineMismatch: a graph says something else, or no number.
    """
    found = {}
    for name, spec in specs.items():
        inputs = {key: value.to(runner.device) for key, value in example_inputs(
            spec, precision, limits=limits, **sizes).items()}
        with torch.inference_mode():
            wanted = modules[name](*inputs.values())
        outputs = runner.run(name, inputs, {})
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        found[name] = max(relative_error(outputs[entry.name], value)
                          for entry, value in zip(spec.outputs, wanted, strict=True))
        if not found[name] <= TOLERANCES[precision]:  # NaN is refused too
            raise EngineMismatch(f'graph {name} does not say what the network says',
                                 value=f'error {found[name]:.3g}',
                                 limit=f'{TOLERANCES[precision]:.3g} in {precision}',
                                 remedy=f'run `{rebuild} --force`')
    return found


def probe_in_service(runner: GraphRunner, specs: Mapping[str, GraphSpec],
                     modules: Mapping[str, nn.Module], precision: str, *, rebuild: str,
                     limits: Limits) -> None:
    """Probe compiled engines in the sizes they are met in too, where other kernels may run.

    Decoding a token, reading several and drawing, each behind a context of ``LONG`` tokens, or of
    the most that they serve; see :func:`probe`.
    """
    decoder = {name: spec for name, spec in specs.items() if spec.family}
    reading = {name: spec for name, spec in decoder.items() if spec.family == UNDERSTAND}
    probe(runner, specs, modules, precision, rebuild=rebuild, limits=limits)
    probe(runner, decoder, modules, precision, rebuild=rebuild, limits=limits, context=LONG)
    probe(runner, reading, modules, precision, rebuild=rebuild, limits=limits, context=LONG,
          tokens=1)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a fraction of the largest number wanted; NaN where one is NaN."""
    least = torch.finfo(torch.float32).tiny
    return float((found.float() - wanted.float()).abs().max()
                 / wanted.float().abs().max().clamp(min=least))
