"""One inference of every graph, compared with the network itself, before anything is trusted."""

from __future__ import annotations

from typing import Mapping

import torch
from torch import Tensor, nn

from cooper_ros.errors import EngineMismatch
from cooper_ros.runtime.graphs.export import example_inputs
from cooper_ros.runtime.graphs.runtime import GraphRunner
from cooper_ros.runtime.graphs.spec import GraphSpec

# Largest error as a fraction of the largest number of an output. fp32 may run as TF32 on a GPU.
TOLERANCES = {'fp32': 5e-3, 'fp16': 3e-2, 'bf16': 1e-1}


def probe(runner: GraphRunner, specs: Mapping[str, GraphSpec], modules: Mapping[str, nn.Module],
          precision: str, *, rebuild: str = 'cooper engine build CHECKPOINT',
          **sizes: int) -> dict[str, float]:
    """Run graphs and network on the same random inputs.

    Args:
        runner: runs the graphs.
        specs: graphs to probe.
        modules: the same graphs as PyTorch modules, on the device of the runner.
        precision: number type of both.
        rebuild: command to run where they differ.
        **sizes: of the inputs; those of the export where not given.

    Returns:
        largest error of each graph, as a fraction of the largest number of its output.

    Raises:
        EngineMismatch: a graph says something else, or no number.
    """
    found = {}
    for name, spec in specs.items():
        inputs = {key: value.to(runner.device)
                  for key, value in example_inputs(spec, precision, **sizes).items()}
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


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, as a fraction of the largest number wanted; NaN where one is NaN."""
    least = torch.finfo(torch.float32).tiny
    return float((found.float() - wanted.float()).abs().max()
                 / wanted.float().abs().max().clamp(min=least))
