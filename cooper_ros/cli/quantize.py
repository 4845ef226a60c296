"""``cooper quantize``: a checkpoint with smaller numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def quantize(
        checkpoint: Annotated[Path, typer.Argument(help='model folder with plain weights')],
        out: Annotated[Path, typer.Option(help='the new model folder')],
        to: Annotated[str, typer.Option(help='int8: one scale per output channel. fp8: the '
                                             'same in float8 (e4m3); runs on GPUs of SM89 or '
                                             'newer, and slowly on CPUs. int4: one scale per '
                                             'group of up to 128 inputs')] = 'int8',
        force: Annotated[bool, typer.Option('--force', help='replace the model folder --out')
                         ] = False) -> None:
    """Write a copy of a checkpoint whose linear layers have int8, fp8 or int4 weights.

    Both experts are quantised; embeddings, vocabulary head, norms, image encoders and connector
    stay as they are. The copy loads like any other model folder, needs torchao
    (requirements/quant.txt), and appears complete or not at all. Weights are read one by one and
    written in files of 1 GiB; docs/jetson.md has the memory this takes. In memory int4
    takes one byte per weight, like int8; it is smaller on disk only.

    \b
    Examples:
      cooper quantize models/cooper-nano --to int8 --out models/cooper-nano-int8
      cooper ask room.jpg "What is closest?" --model models/cooper-nano-int8
    """
    from rich.progress import Progress

    from cooper_ros.runtime.files import room
    from cooper_ros.runtime.quantise import quantise_folder
    disk = next(folder for folder in out.absolute().parents if folder.is_dir())
    with room(disk, _least_bytes(checkpoint, to), str(out), 'free some space, or name another '
              'folder with --out'), Progress() as bar:
        task = bar.add_task(f'quantising to {to}', total=None)
        how = quantise_folder(checkpoint, out, to, force=force, progress=lambda done, total:
                              bar.update(task, completed=done, total=total))
    size = sum(path.stat().st_size for path in out.glob('*.safetensors'))
    group = f', group {how.group}' if how.group else ''
    print(f'wrote {out}: {how.format}{group}, {size / 1024**2:.1f} MiB of weights')


def _least_bytes(checkpoint: Path, to: str) -> int:
    """What the copy takes at least: half a byte for each number in int4, else one."""
    from cooper_ros.runtime.weights import network_weights
    if not checkpoint.is_dir():
        return 0  # quantising says what is wrong with it
    numbers = sum(map(math.prod, network_weights(checkpoint).shapes.values()))
    return numbers // 2 if to == 'int4' else numbers
