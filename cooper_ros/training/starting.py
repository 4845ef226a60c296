"""The weights a run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping

import torch
from torch import Tensor, nn

from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.tables import sincos_2d
from cooper_ros.runtime.checkpoint import read_model_folder
from cooper_ros.runtime.weights import save_tensors
from cooper_ros.training.checkpoints import has_begun, run_weights
from cooper_ros.training.processes import is_first

START_NAME = 'start.safetensors'
LANGUAGE = 'language_model.model.layers.'
STACKS = {'vit_model.vision_model.encoder.layers.': lambda config: config.vit.num_layers,
          LANGUAGE: lambda config: config.llm.num_layers}
# What a layer adds to its input comes from these.
ENDS = ('out_proj', 'fc2', 'o_proj', 'o_proj_moe_gen', 'down_proj')
SIZES = 'give `model` the sizes of the network that `start` names, and its tokenizer'


def start_weights(folder: str, base: str = '') -> dict[str, Tensor]:
    """Network weights of a run folder or a model folder, float32.

    Args:
        folder: either.
        base: folder with configs, tokenizer and autoencoder where a model folder lacks them.

    Raises:
        BadCheckpoint: it is neither.
    """
    weights = run_weights(Path(folder))
    if weights is None:
        weights = read_model_folder(folder, base or None,
                                    dtype=torch.float32).network.state_dict()
    return weights


def kept_start(run: Path, start: Callable[[], Mapping[str, Tensor]], wanted: bool) -> Path | None:
    """The file of the weights that a run set out from, in its own folder: ``--export`` may have
    replaced those that ``start`` names by the time they are asked for again.

    Args:
        run: its folder.
        start: gives the weights, for a run that has not begun.
        wanted: whether the run asks for them now. If it does not yet, it still may.

    Returns:
        None where a run has begun without keeping them.

    Raises:
        BadCheckpoint: they are wanted then: what ``start`` names now may have been trained.
        OutOfDisk: there is no room for them.
    """
    path = run / START_NAME
    if not has_begun(run):
        if is_first():
            run.mkdir(parents=True, exist_ok=True)
            save_tensors({name: value.contiguous() for name, value in start().items()}, path)
        return path
    if wanted and not path.exists():
        raise BadCheckpoint('this run did not keep the weights that it set out from',
                            value=str(path), limit='runs that keep them when they begin',
                            remedy='set task.learned to 1, or train anew in another folder')
    return path if path.exists() else None


def take_weights(network: nn.Module, weights: Mapping[str, Tensor], remedy: str = SIZES) -> None:
    """Put all weights into a network.

    Args:
        network: where to.
        weights: of all its parts.
        remedy: what to do where they do not fit.

    Raises:
        BadCheckpoint: they are those of a network of other sizes.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
    if wrong:
        first = wrong[0]
        raise BadCheckpoint(
            f'{len(wrong)} of the weights to start from do not fit',
            value=f'{first} {found.get(first, "is missing")}',
            limit=f'{wanted.get(first, "not there")}',
            remedy=remedy)
    network.load_state_dict(weights)


def cut_latents(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Weights that read and draw latents in finer tokens than the ones they were trained for.

    A token of q x q cells starts as its coarse token would if all its cells were alike: what read
    the cells is summed over them, what drew them averaged, and its place lies inside the coarse
    one's. So drawing starts blurred, not blind.

    Args:
        weights: a network's weights.
        config: the sizes wanted; nothing is changed if they are those of the weights.

    Raises:
        BadOption: the tokens wanted do not fill the ones there are.
    """
    if 'vae2llm.weight' not in weights:
        return dict(weights)  # of something else, see :func:`take_weights`
    fine, channels = config.latent_patch_size, config.vae.z_channels
    coarse = round((weights['vae2llm.weight'].shape[1] / channels)**0.5)
    if coarse == fine:
        return dict(weights)
    if coarse % fine:
        raise BadOption('latent tokens can only be cut into equal parts', value=fine,
                        limit=f'a divisor of {coarse}')
    parts, width = coarse // fine, config.llm.hidden_size

    def cells(value: Tensor) -> Tensor:  # [p * p * C, ...] -> [parts, q, parts, q, C, ...]
        return value.view(parts, fine, parts, fine, channels, *value.shape[1:])
    return {**weights,
            'vae2llm.weight': cells(weights['vae2llm.weight'].T).sum((0, 2)).flatten(0, 2).T,
            'llm2vae.weight': cells(weights['llm2vae.weight']).mean((0, 2)).flatten(0, 2),
            'llm2vae.bias': cells(weights['llm2vae.bias']).mean((0, 2)).flatten(),
            'latent_pos_embed.pos_embed': sincos_2d(config.max_latent_size, width, parts)}


def deepen(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Weights of a network with more layers that does the same.

    New layers are spread among the old ones. Each is a copy of the one before it that adds nothing
    until it has learnt to (LLaMA Pro, arXiv 2401.02415).

    Args:
        weights: a network's weights.
        config: the sizes wanted; a part that has as many layers as wanted, or more, is left alone.

    Raises:
        BadOption: there would be more new layers than old ones.
    """
    for stack, wanted in STACKS.items():
        weights = _deepened(weights, stack, wanted(config))
    return dict(weights)


def _deepened(weights: Mapping[str, Tensor], stack: str, wanted: int) -> Mapping[str, Tensor]:
    tails: dict[int, dict[str, Tensor]] = {}
    for name in filter(lambda name: name.startswith(stack), weights):
        layer, _, tail = name.removeprefix(stack).partition('.')
        tails.setdefault(int(layer), {})[tail] = weights[name]
    found, new = len(tails), wanted - len(tails)
    if not found or new <= 0:
        return weights
    if new > found:
        raise BadOption('a network can at most be made twice as deep', value=f'{wanted} layers',
                        limit=f'{2 * found}: the start has {found}')
    copied = _copied(found, new)
    layers = [layer for index, old in sorted(tails.items())
              for layer in (old, _silent(old))[:1 + (index in copied)]]
    return {**{name: value for name, value in weights.items() if not name.startswith(stack)},
            **{f'{stack}{place}.{tail}': value for place, layer in enumerate(layers)
               for tail, value in layer.items()}}


def _copied(found: int, new: int) -> set[int]:
    """Which old layers have a new one behind them: spread evenly, the last always among them."""
    return {(index + 1) * found // new - 1 for index in range(new)}


def moved_layers(weights: Mapping[str, Tensor], config: ModelConfig) -> range:
    """Layers of the language model that :func:`deepen` gives other numbers: those behind the
    first new one. Numbers are those of the weights."""
    found = len({name.removeprefix(LANGUAGE).partition('.')[0] for name in weights
                 if name.startswith(LANGUAGE)})
    new = STACKS[LANGUAGE](config) - found
    return range(min(_copied(found, new)) + 1 if 0 < new <= found else found, found)


def _silent(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a layer that adds nothing to its input."""
    return {tail: torch.zeros_like(value) if any(end in tail.split('.') for end in ENDS)
            else value.clone() for tail, value in layer.items()}


def part_way(start: Mapping[str, Tensor], end: Mapping[str, Tensor], part: float
             ) -> dict[str, Tensor]:
    """Weights on the straight line between two networks (Wortsman et al. 2022, arXiv 2109.01903).

    Args:
        start, end: weights of both, on any device; all of ``end``'s are in ``start``.
        part: 0 at the start, 1 at the end.

    Returns:
        weights like those of ``end``.
    """
    return {name: torch.lerp(start[name].to(value), value, part) for name, value in end.items()}


def copy_experts(network: Cooper) -> None:
    """Give every generation weight the value of its understanding twin."""
    state = network.state_dict()
    network.load_state_dict({name: state[name.replace('_moe_gen', '')] for name in state})
