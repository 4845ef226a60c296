"""What ``cooper engine`` refuses before anything long begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from cooper_ros.errors import BadCheckpoint, BadOption

if TYPE_CHECKING:
    from cooper_ros.runtime.engines.flavour import Flavour

MOST_CONTEXT = (1 << 31) - 256  # TensorRT counts the sizes of an axis in 31 bits
MOST_WORKSPACE_MIB = 1 << 20  # 1 TiB, more than any GPU has


def architectures(flavour: Flavour, named: Sequence[str], precision: str) -> list[str]:
    """What to build for: what is named, else the GPU here.

    Raises:
        BadOption: there is none, TensorRT does not build for one, or it lacks the precision.
    """
    from cooper_ros.runtime.engines.flavour import (
        architecture_name,
        check_precision,
        gpu_architecture,
    )
    archs = list(dict.fromkeys(map(architecture_name, named or [gpu_architecture()])))
    if not archs[0]:
        raise BadOption('there is no GPU here to build for', limit=', '.join(
            flavour.architectures()), remedy='name one with --arch')
    for name in archs:
        flavour.check_architecture(name)
        check_precision(name, precision)
    return archs


def check_most(context: int, workspace_mib: int) -> None:
    """Refuse what TensorRT cannot count before anything long begins.

    Raises:
        BadOption: one is too large.
    """
    for option, value, most in (('--context', context, MOST_CONTEXT),
                                ('--workspace-mib', workspace_mib, MOST_WORKSPACE_MIB)):
        if value > most:
            raise BadOption(f'{option} is too large', value=value, limit=f'at most {most}')


def check_place(folder: Path, force: bool, *, engines: bool = False) -> None:
    """Refuse a cache that cannot be written, unless all that is asked for may be in it.

    Args:
        folder: the cache.
        force: whether what is there is to be made again.
        engines: whether they are made, and not graphs alone.

    Raises:
        BadOption: anyone may write it, so that no engine will be loaded from it.
        Unwritable: the system refuses.
        OutOfDisk: there is no room.
    """
    from cooper_ros.runtime.engines.plan import GRAPHS
    from cooper_ros.runtime.engines.rights import require_private
    from cooper_ros.runtime.files import Unwritable, check_writable
    if engines:
        require_private(folder)
    try:
        check_writable(folder)
    except Unwritable:
        if force or not (folder / GRAPHS).is_dir():
            raise


def check_source(checkpoint: Path, precision: str) -> None:
    """Refuse what cannot be exported before a folder is made for it.

    Raises:
        BadOption: there is no such precision.
        BadCheckpoint: there is no such model folder, or its weights are quantised.
    """
    from cooper_ros.runtime.card import read_card
    from cooper_ros.runtime.graphs.spec import dtype_of
    dtype_of(precision)
    if not checkpoint.is_dir():
        raise BadCheckpoint('there is no such model folder', value=checkpoint, limit='a folder',
                            remedy='name the folder with the weights')
    if read_card(checkpoint).quantization is not None:
        raise BadCheckpoint('quantised weights run in torch only', value=checkpoint,
                            remedy='name the folder that they were made from')


def check_sizes(checkpoint: Path, base: str, parts: int, graphs: Sequence[str], side: int
                ) -> None:
    """Refuse what the network cannot have before its graphs are exported, which takes long.

    Raises:
        BadOption: naming the option and what it can be.
        BadCheckpoint: the sizes of the network cannot be read.
    """
    from cooper_ros.runtime.checkpoint import read_model_config
    from cooper_ros.runtime.graphs.spec import graph_specs
    config = read_model_config(checkpoint, base or None)
    names = graph_specs(config, parts)
    if unknown := sorted(set(graphs) - set(names)):
        raise BadOption('there is no such graph', value=', '.join(unknown),
                        limit=', '.join(names), remedy='name one of these with --graph')
    least = max(config.pixels_per_latent_token, config.vit.patch_size)
    if 0 < side < least:
        raise BadOption('--side is too small for this network', value=side,
                        limit=f'at least {least}, or 0 for what the network can take')


def check_converter(converter: str) -> None:
    """Refuse a converter before the export, which takes longer.

    Raises:
        BadOption: there is no such converter.
        NotReady: Torch-TensorRT cannot be used.
    """
    from cooper_ros.runtime.engines.plan import PARSER
    from cooper_ros.runtime.engines.torch_tensorrt import answering_for_a_gpu, load
    from cooper_ros.runtime.names import TORCH_TENSORRT
    if converter == PARSER:
        return
    if converter != TORCH_TENSORRT:
        raise BadOption('there is no such converter', value=converter,
                        limit=f'{PARSER}, {TORCH_TENSORRT}')
    with answering_for_a_gpu():
        load()
