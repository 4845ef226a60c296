"""A model folder that is trained on: loaded once, exported in the same shape."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cooper_ros.engine.engine import Parts
from cooper_ros.engine.prompts import Prompts, load_prompts, save_prompts
from cooper_ros.engine.tokens import TextCodec
from cooper_ros.errors import BadOption
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.checkpoint import LoadedModel, read_model_folder, save_model_folder
from cooper_ros.runtime.deferred import is_drawing, is_talking
from cooper_ros.runtime.place import choose_device
from cooper_ros.runtime.torch_runtime import TorchRuntime
from cooper_ros.training.sharding import whole_network


class PolicyRuntime(TorchRuntime):
    """A runtime around the network that trains.

    It computes with :func:`~.sharding.whole_network` of it, and with an autoencoder of the same
    number type.
    """

    @property
    def network(self) -> Cooper:
        """What computes."""
        return whole_network(self._trained)

    @network.setter
    def network(self, value: Cooper) -> None:
        self._trained = value

    @property
    def dtype(self) -> torch.dtype:
        """Number type of what computes, and so of caches."""
        return self.network.vae2llm.weight.dtype

    @dtype.setter
    def dtype(self, value: torch.dtype) -> None:
        assert value == self.dtype  # it follows the network

    @property
    def vae(self) -> AutoEncoder:
        """The autoencoder; one copy of another number type is kept, for it does not train."""
        if self.dtype not in self._coders:
            given = next(iter(self._coders.values()))
            self._coders[self.dtype] = copy.deepcopy(given).to(self.dtype)
        return self._coders[self.dtype]

    @vae.setter
    def vae(self, value: AutoEncoder) -> None:
        self._coders = {next(value.parameters()).dtype: value}

    def _positions_of(self, grid: tuple[int, int]) -> Tensor:
        if any(rows.dtype != self.dtype for rows in self._latent_positions.values()):
            self._latent_positions.clear()
        return super()._positions_of(grid)


@dataclass(frozen=True)
class Policy:
    """What training, sampling and exporting need of a model folder.

    Attributes:
        loaded: network (which trains), autoencoder (which does not), tokenizer, card.
        prompts: the fixed texts.
    """

    loaded: LoadedModel
    prompts: Prompts

    @property
    def network(self) -> Cooper:
        """The network that trains."""
        return self.loaded.network

    def encode(self, text: str) -> tuple[int, ...]:
        """Text to ids, nothing added."""
        assert self.loaded.tokenizer is not None
        return tuple(self.loaded.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, markers kept."""
        assert self.loaded.tokenizer is not None
        return str(self.loaded.tokenizer.decode(list(ids), skip_special_tokens=False,
                                                clean_up_tokenization_spaces=False))

    def parts(self) -> Parts:
        """An engine's parts around the network that trains, see :class:`PolicyRuntime`."""
        loaded = self.loaded
        runtime = PolicyRuntime(loaded.network, loaded.vae, specials=loaded.specials,
                                vocabulary=loaded.vocabulary)
        codec = TextCodec(self.encode, self.decode, loaded.specials.bos, loaded.specials.eos)
        return Parts(runtime, codec, self.prompts, loaded.card)

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write a complete model folder, network weights in bfloat16."""
        loaded = self.loaded
        half = {name: value.to(torch.bfloat16) for name, value in weights.items()}
        save_model_folder(folder, loaded.config, network=half, vae=loaded.vae.state_dict(),
                          tokenizer=loaded.tokenizer, card=loaded.card)
        save_prompts(folder, self.prompts)


def open_policy(start: str, base: str = '', freeze: Sequence[str] = (),
                device: torch.device | None = None) -> Policy:
    """Load a model folder for training, in float32.

    Args:
        start: model folder with the weights and ``prompts.yaml``.
        base: folder with configs, tokenizer and autoencoder where ``start`` lacks them.
        freeze: name prefixes of weights that do not train; the autoencoder never does.
        device: where it is put; None for a GPU where there is one.

    Raises:
        BadCheckpoint, BadPrompts: the folder is incomplete.
        BadOption: no start, or a prefix that fits no weight.
    """
    if not start:
        raise BadOption('this stage needs weights to start from', value="start: ''",
                        remedy='name a model folder: an earlier stage with --export')
    loaded = read_model_folder(start, base or None, device=device or choose_device('auto'),
                               dtype=torch.float32)
    loaded.vae.requires_grad_(False)
    freeze_weights(loaded.network, freeze)
    return Policy(loaded, load_prompts(start))


def freeze_weights(network: Cooper, prefixes: Sequence[str]) -> None:
    """Take weights out of training by the beginnings of their names.

    Raises:
        BadOption: a prefix fits nothing, so that it is a typing error.
    """
    parameters = dict(network.named_parameters())
    for prefix in prefixes:
        hit = [value for name, value in parameters.items() if name.startswith(prefix)]
        if not hit:
            raise BadOption('no weight begins like this', value=prefix,
                            limit=', '.join(sorted({name.split('.')[0] for name in parameters})))
        for value in hit:
            value.requires_grad_(False)


def freeze_understanding(network: Cooper) -> None:
    """Take everything that serves text and pictures out of training."""
    _freeze(network, is_talking)


def freeze_generation(network: Cooper) -> None:
    """Take everything that serves latents out of training."""
    _freeze(network, is_drawing)


def _freeze(network: Cooper, chosen: Callable[[str], bool]) -> None:
    for name, parameter in network.named_parameters():
        if chosen(name):
            parameter.requires_grad_(False)
