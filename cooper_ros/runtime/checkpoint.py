"""Model folders: reading and writing the published layout (reference section 4).

Sizes that the JSON files do not tell are read from the headers of the weight files. Networks are
built without memory, loaded strictly, and take the tensors of the files as they come.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cooper_ros.errors import BadCheckpoint, CooperError
from cooper_ros.model.config import (
    LLM_FILE,
    VIT_FILE,
    LlmConfig,
    ModelConfig,
    SpecialTokens,
    VaeConfig,
    VitConfig,
)
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.card import CARD_FILE, ModelCard, read_card, read_json
from cooper_ros.runtime.deferred import DeferredWeights, is_drawing, is_talking
from cooper_ros.runtime.files import PART, refusals_named, write_whole
from cooper_ros.runtime.hollow import NumbersOnDisk
from cooper_ros.runtime.quantised import is_quantised, with_scales
from cooper_ros.runtime.tokenizer import find_tokenizer, special_tokens
from cooper_ros.runtime.weights import (
    NETWORK_FILES,
    VAE_FILE,
    Weights,
    check_types,
    load_strictly,
    network_weights,
    save_tensors,
    vae_weights,
)

HEAD, WORDS = 'language_model.lm_head.weight', 'language_model.model.embed_tokens.weight'
Built = TypeVar('Built', bound=torch.nn.Module)


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory.

    Attributes:
        network, vae: with weights, on the wanted device, in evaluation mode.
        config: sizes.
        specials: marker ids.
        vocabulary: ids that mean something; logits are cut to them.
        tokenizer: None when the folder has none and the ids were given by hand.
        card: what ``cooper.json`` says, else the published values.
        later: weights of both that are read when something is to be drawn; None for none.
        numbers: reads weights of both, which have shapes and types only; None when they are in
            memory.
    """

    network: Cooper
    vae: AutoEncoder
    config: ModelConfig
    specials: SpecialTokens
    vocabulary: int
    tokenizer: PreTrainedTokenizerBase | None
    card: ModelCard
    later: DeferredWeights | None = None
    numbers: NumbersOnDisk | None = None


def read_model_folder(path: str | Path, base: str | Path | None = None, *,
                      device: torch.device | str = 'cpu', dtype: torch.dtype | None = None,
                      specials: SpecialTokens | None = None,
                      defer_drawing: bool = False, hollow: bool = False) -> LoadedModel:
    """Load a model folder.

    Args:
        path: folder with the weights.
        base: folder with configs, tokenizer and autoencoder, where ``path`` lacks them.
        device: where the weights go.
        dtype: number type of all weights; None keeps what is stored.
        specials: marker ids, for folders without a tokenizer.
        defer_drawing: leave the generation expert and the autoencoder on disk; their names and
            shapes are checked all the same.
        hollow: leave all numbers on disk, for tracing; needs ``dtype``. Quantised weights are
            loaded nevertheless.

    Raises:
        BadCheckpoint: a file, key or shape is missing, extra or wrong, a field of a config does
            not fit this network, or weights are no numbers; named in the message.
    """
    found = _find(path, base, specials)
    numbers = NumbersOnDisk(dtype) if hollow and found.card.quantization is None else None
    place = _Place(device, dtype, defer_drawing, numbers)
    network = place.loaded(lambda: Cooper(found.config), found.weights, is_talking)
    vae = place.loaded(lambda: AutoEncoder(found.config.vae), found.vae, lambda key: False)
    later = [(network, found.weights.part(is_drawing)), (vae, found.vae)]
    return LoadedModel(network, vae, found.config, found.specials, found.vocabulary,
                       found.tokenizer, found.card,
                       DeferredWeights(later, device, dtype) if defer_drawing else None, numbers)


def check_model_folder(path: str | Path, base: str | Path | None = None) -> int:
    """Check everything :func:`read_model_folder` checks, without reading weights.

    Returns:
        bytes of the weight files.

    Raises:
        BadCheckpoint: as :func:`read_model_folder`.
    """
    found = _find(path, base, None)
    place = _Place('cpu', None, defer=True)
    place.loaded(lambda: Cooper(found.config), found.weights, lambda key: False)
    place.loaded(lambda: AutoEncoder(found.config.vae), found.vae, lambda key: False)
    return sum(file.stat().st_size
               for file in {*found.weights.files.values(), *found.vae.files.values()})


def read_model_config(path: str | Path, base: str | Path | None = None) -> ModelConfig:
    """Sizes of a checkpoint, from its configs and the headers of its files; loads no weights.

    Raises:
        BadCheckpoint: a file is missing or cannot be read, or a field or a shape in it does not
            fit this network.
    """
    folders = [Path(path)] + ([Path(base)] if base else [])
    return _model_config(folders, network_weights(folders[0]), vae_weights(folders))


def read_autoencoder(folder: str | Path, *, device: torch.device | str = 'cpu',
                     dtype: torch.dtype | None = None) -> AutoEncoder:
    """Load the autoencoder of a model folder, or of any folder that has its file.

    Args:
        folder: with ``ae.safetensors``, whose tensors tell the sizes.
        device: where the weights go.
        dtype: number type of all weights; None keeps what is stored.

    Raises:
        BadCheckpoint: the file is missing or damaged, is not one of an autoencoder of this kind,
            or weights are no numbers; named in the message.
    """
    weights = vae_weights([Path(folder)])
    check_types(weights)
    config = _vae_config(weights)
    return _Place(device, dtype, defer=False).loaded(lambda: AutoEncoder(config), weights,
                                                     lambda key: True)


def save_model_folder(folder: str | Path, config: ModelConfig, *, network: Mapping[str, Tensor],
                      vae: Mapping[str, Tensor], dtype: torch.dtype | None = None,
                      tokenizer: PreTrainedTokenizerBase | None = None,
                      card: ModelCard | None = None) -> None:
    """Write a folder that :func:`read_model_folder` reads.

    Every file appears complete or not at all.

    Args:
        folder: made if absent; files of the same names are replaced.
        config: sizes.
        network, vae: state dictionaries.
        dtype: number type on disk; None keeps that of the tensors.
        tokenizer: written too, if given.
        card: written as ``cooper.json``, if given.

    Raises:
        OutOfDisk: there is no room.
        Unwritable: the system refuses.
    """
    folder = Path(folder)
    with refusals_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    texts = {LLM_FILE: config.llm.to_json(), VIT_FILE: config.vit.to_json()}
    if card is not None:
        texts[CARD_FILE] = card.to_json()
    for name, values in texts.items():
        write_whole(folder / name, (json.dumps(values, indent=2) + '\n').encode())
    for name, tensors in ((NETWORK_FILES[0], network), (VAE_FILE, vae)):
        save_tensors({key: value.detach().to('cpu', dtype).contiguous()
                      for key, value in tensors.items()}, folder / name)
    if tokenizer is not None:
        _save_tokenizer(tokenizer, folder)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Through a draft: the library writes its files in place."""
    with (refusals_named(folder),
          tempfile.TemporaryDirectory(prefix=f'tokenizer{PART}', dir=folder) as draft):
        tokenizer.save_pretrained(draft)
        for path in sorted(Path(draft).rglob('*')):  # several chat templates lie in a folder
            target = folder / path.relative_to(draft)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                write_whole(target, path.read_bytes())


@dataclass(frozen=True)
class _Found:
    """What a model folder holds, looked at but not read."""

    tokenizer: PreTrainedTokenizerBase | None
    specials: SpecialTokens
    card: ModelCard
    weights: Weights
    vae: Weights
    config: ModelConfig

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer) if self.tokenizer else self.config.llm.vocab_size


def _find(path: str | Path, base: str | Path | None, specials: SpecialTokens | None) -> _Found:
    folders = [Path(path)] + ([Path(base)] if base else [])
    for folder in folders:
        if not folder.is_dir():
            raise BadCheckpoint('there is no such model folder', value=str(folder),
                                limit='a folder', remedy='check model_path and base_path')
    tokenizer, specials = _vocabulary(folders, specials)
    card = read_card(folders[0])
    weights = with_scales(network_weights(folders[0]), card.quantization)
    vae = vae_weights(folders)
    config = _model_config(folders, weights, vae)
    _check_strides(card, config)
    _check_ids(tokenizer, specials, config.llm.vocab_size)
    check_types(weights, is_quantised if card.quantization else lambda key: False)
    check_types(vae)
    return _Found(tokenizer, specials, card, weights, vae, config)


def _check_strides(card: ModelCard, config: ModelConfig) -> None:
    """No picture would fit otherwise; without ``cooper.json`` the published strides hold."""
    for name, (_, _, stride), tile in (
            ('vit', card.vit_transform, config.vit.patch_size),
            ('vae', card.vae_transform, config.pixels_per_latent_token)):
        if stride % tile:
            raise BadCheckpoint(f'pictures would not fit the {name} side of the network',
                                value=f'transforms.{name}.image_stride {stride}',
                                limit=f'a multiple of {tile} pixels',
                                remedy=f'say in {CARD_FILE} how pictures are resized: transforms, '
                                       f'{name}: max_image_size, min_image_size, image_stride')


def _vocabulary(folders: list[Path], specials: SpecialTokens | None
                ) -> tuple[PreTrainedTokenizerBase | None, SpecialTokens]:
    tokenizer = find_tokenizer(folders)
    if specials is not None:
        return tokenizer, specials
    if tokenizer is None:
        raise BadCheckpoint('the model folder has no tokenizer', value=str(folders[0]),
                            limit='tokenizer.json, or vocab.json and merges.txt',
                            remedy='point base_path at the BAGEL-7B-MoT folder')
    return tokenizer, special_tokens(tokenizer)


def _check_ids(tokenizer: PreTrainedTokenizerBase | None, specials: SpecialTokens,
               rows: int) -> None:
    """An id without a row would be read from nowhere."""
    highest = max(vars(specials).values())
    highest = max(highest, len(tokenizer) - 1) if tokenizer else highest
    if highest >= rows:
        raise BadCheckpoint('the tokenizer knows more ids than the network', value=highest,
                            limit=f'0 .. {rows - 1}', remedy='use the tokenizer of these weights')


def _model_config(folders: list[Path], weights: Weights, vae: Weights) -> ModelConfig:
    llm, vit = (_parsed(_config_file(folders, name), parse) for name, parse in
                ((LLM_FILE, LlmConfig.from_json), (VIT_FILE, VitConfig.from_json)))
    _check_head(read_json(_config_file(folders, LLM_FILE)), weights)
    latent_side, vit_side = (_side(weights, f'{name}.pos_embed')
                             for name in ('latent_pos_embed', 'vit_pos_embed'))
    _check_places(vit, vit_side)
    vae_config = _vae_config(vae)
    return ModelConfig(llm, vit, vae_config, _latent_patch(weights, vae_config), latent_side,
                       vit_side)


def _config_file(folders: list[Path], name: str) -> Path:
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise BadCheckpoint(f'the model folder has no {name}', value=str(folders[0]), limit=name,
                            remedy='point base_path at the BAGEL-7B-MoT folder')
    return path


def _parsed(path: Path, parse: Callable[[Mapping[str, Any]], Any]) -> Any:
    values = read_json(path)
    try:
        return parse(values)
    except CooperError:
        raise
    except Exception as error:  # the parser has error kinds of its own
        raise BadCheckpoint(f'{path.name} is not a configuration of this network',
                            value=f'{path}: {error}', remedy='copy the file again') from error


def _check_head(values: Mapping[str, Any], weights: Weights) -> None:
    """Tied weights are stored once; this network has both, and would only say what it misses."""
    tied = values.get('tie_word_embeddings')
    if tied and HEAD not in weights.shapes:
        raise BadCheckpoint(f'{LLM_FILE} ties the output layer to the word embeddings',
                            value=f'tie_word_embeddings {json.dumps(tied)}, missing: {HEAD}',
                            limit=f'weights with a {HEAD} of their own',
                            remedy=f'store {WORDS} under that name, too')


def _check_places(vit: VitConfig, side: int) -> None:
    """Patches are counted by the table of the network; the tower's own must have them all."""
    if vit.positions_per_side < side:
        raise BadCheckpoint(f'{VIT_FILE}: image_size is too small for vit_pos_embed.pos_embed',
                            value=vit.image_size, limit=f'at least {side * vit.patch_size}: '
                            f'{side} patches of {vit.patch_size} pixels',
                            remedy='use the configs that belong to these weights')


def _latent_patch(weights: Weights, vae: VaeConfig) -> int:
    """Cells of a latent token, each way."""
    features = weights.shape('vae2llm.weight', 2)[1]
    patch = math.isqrt(features // vae.z_channels)
    if patch**2 * vae.z_channels != features:
        raise BadCheckpoint('latent tokens are no squares of latent cells',
                            value=f'vae2llm.weight: {features} features, {vae.z_channels} '
                                  'channels each cell', limit='channels times a square number',
                            remedy='use the autoencoder that belongs to these weights')
    return patch


def _side(weights: Weights, key: str) -> int:
    rows = weights.shape(key, 2)[0]
    if math.isqrt(rows) ** 2 != rows:
        raise BadCheckpoint('a position table is not square', value=f'{key}: {rows} rows',
                            limit='a square number')
    return math.isqrt(rows)


def _vae_config(vae: Weights) -> VaeConfig:
    """Sizes of an autoencoder from the shapes of its tensors."""
    ch, in_channels = vae.shape('encoder.conv_in.weight', 4)[:2]
    vae.shape('encoder.down.0.block.0.conv1.weight', 4)  # there is one level at least
    widths: list[int] = []
    while (key := f'encoder.down.{len(widths)}.block.0.conv1.weight') in vae.shapes:
        widths.append(vae.shape(key, 4)[0])
    blocks = 0
    while f'encoder.down.0.block.{blocks}.conv1.weight' in vae.shapes:
        blocks += 1
    return VaeConfig(in_channels, vae.shape('decoder.conv_out.weight', 4)[0], ch,
                     tuple(width // ch for width in widths), blocks,
                     vae.shape('decoder.conv_in.weight', 4)[1])


@dataclass(frozen=True)
class _Place:
    """Where weights go, what they become, and whether some are left on disk for now."""

    device: torch.device | str
    dtype: torch.dtype | None
    defer: bool
    numbers: NumbersOnDisk | None = None

    def loaded(self, build: Callable[[], Built], weights: Weights,
               now: Callable[[str], bool]) -> Built:
        """A module with its weights, or with those wanted ``now`` when the rest is left."""
        try:
            with torch.device('meta'):
                module = build()
        except (ValueError, IndexError, RuntimeError) as error:
            raise BadCheckpoint(f'no network has the sizes of {weights.name}', value=error,
                                remedy='use configs and weights that belong together') from error
        if self.numbers:
            self.numbers.hollow(module, weights)
        else:
            load_strictly(module, weights, self.device, self.dtype,
                          now if self.defer else lambda key: True)
        return module.eval()
