"""A folder of recordings: its parts, its checkpoint, and what of it has been compared."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cooper_ros.errors import CooperError
from cooper_ros.evaluation.conformance_rows import Row, compare_picture, compare_tensor
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.model.config import LlmConfig, ModelConfig, SpecialTokens, VaeConfig, VitConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.torch_runtime import TorchRuntime

VAE_KEYS = ('in_channels', 'ch', 'num_res_blocks', 'z_channels', 'scale_factor', 'shift_factor')
Rows = Iterator[Row]


class Missing(Exception):
    """A file or an item that the recording should have; becomes a failed row."""


@dataclass(frozen=True)
class Part:
    """One part of a recording: ``NAME.json`` and ``NAME.safetensors``.

    Attributes:
        name: for instance ``b_vit``.
        values: content of the JSON file; empty when the part has none.
        tensors: content of the tensor file; empty when the part has none.
    """

    name: str
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """A tensor that must be there.

        Raises:
            Missing: it is not.
        """
        if name not in self.tensors:
            raise Missing(f'{name} is missing from {self.name}.safetensors')
        return self.tensors[name]

    def value(self, *path: str) -> Any:
        """A JSON value that must be there, by its path.

        Raises:
            Missing: it is not.
        """
        found: Any = self.values
        for key in path:
            if not isinstance(found, Mapping) or key not in found:
                raise Missing(f'{".".join(path)} is missing from {self.name}.json')
            found = found[key]
        return found

    def numbered(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """(suffix, tensor) of all names that start with ``prefix``, in order."""
        for name in sorted(self.tensors):
            if name.startswith(prefix):
                yield name[len(prefix):], self.tensors[name]

    def compare(self, name: str, got: Tensor | np.ndarray,
                tolerance: float | None = None) -> Row:
        """Compare with the recorded tensor ``out.NAME``; its absence is a failure."""
        item = f'{self.name}.out.{name}'
        expected = self.tensors.get(f'out.{name}')
        if expected is None:
            return Row(item, None, tolerance, False, f'missing from {self.name}.safetensors')
        return compare_tensor(item, got, expected, tolerance)

    def compare_picture(self, name: str, got: np.ndarray, apart: int = 1) -> Row:
        """Compare with the recorded 8-bit picture ``out.NAME``."""
        item = f'{self.name}.out.{name}'
        expected = self.tensors.get(f'out.{name}')
        if expected is None:
            return Row(item, None, float(apart), False, f'missing from {self.name}.safetensors')
        return compare_picture(item, got, expected.numpy(), apart)


class Golden:
    """A folder of recordings; parts and networks are loaded when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: dict[str, Part] = {}

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """``checkpoint/meta.json``."""
        return self._json(self.folder / 'checkpoint' / 'meta.json')

    def part(self, name: str, *, values: bool = True) -> Part:
        """A part by name; ``values`` says whether it has a JSON file.

        Raises:
            Missing: a file is not there or not readable.
        """
        if name not in self._parts:
            content = self._json(self.folder / f'{name}.json') if values else {}
            tensors = self._tensors(self.folder / f'{name}.safetensors')
            self._parts[name] = Part(name, content, tensors)
        return self._parts[name]

    def pixels(self, kind: str, index: int) -> Tensor:
        """Prepared picture ``[3, H, W]`` in -1..1; kind ``vae`` or ``vit``."""
        return self.part('model_inputs')[f'in.{kind}_pixels_{index}']

    def transform(self, kind: str) -> ImageTransform:
        """The small resize rule ``vae`` or ``vit`` of the recording."""
        rules = self.meta['transforms']
        rule = rules[kind]
        return ImageTransform(rule['max_image_size'], rule['min_image_size'],
                              rule['image_stride'], rules['max_pixels'])

    @functools.cached_property
    def specials(self) -> SpecialTokens:
        """The four marker ids."""
        ids = self.meta['special_tokens']
        return SpecialTokens(ids['bos_token_id'], ids['eos_token_id'], ids['start_of_image'],
                             ids['end_of_image'])

    @functools.cached_property
    def model_config(self) -> ModelConfig:
        """Sizes of the recorded network."""
        checkpoint, bagel, vae = self.folder / 'checkpoint', self.meta['bagel'], self.meta['vae']
        return ModelConfig(
            LlmConfig.from_json(self._json(checkpoint / 'llm_config.json')),
            VitConfig.from_json(self._json(checkpoint / 'vit_config.json')),
            VaeConfig(out_channels=vae['out_ch'], ch_mult=tuple(vae['ch_mult']),
                      **{key: vae[key] for key in VAE_KEYS}),
            bagel['latent_patch_size'], bagel['max_latent_size'],
            bagel['vit_max_num_patch_per_side'], bagel['connector_act'])

    def network(self) -> Cooper:
        """A fresh copy of the network in float32; every stored tensor must find its place."""
        network = Cooper(self.model_config)
        network.load_state_dict(self._weights('ema.safetensors'))
        return network.eval()

    def autoencoder(self) -> AutoEncoder:
        """A fresh copy of the autoencoder in float32."""
        vae = AutoEncoder(self.model_config.vae)
        vae.load_state_dict(self._weights('ae.safetensors'))
        return vae.eval()

    @functools.cached_property
    def runtime(self) -> TorchRuntime:
        """Network and autoencoder on the CPU in float32; one for all parts."""
        return TorchRuntime(self.network(), self.autoencoder(), specials=self.specials,
                            vocabulary=self.model_config.llm.vocab_size)

    def _weights(self, name: str) -> dict[str, Tensor]:
        stored = self._tensors(self.folder / 'checkpoint' / name)
        return {key: value.float() for key, value in stored.items()}

    def _json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding='utf-8'))
        except FileNotFoundError:
            raise Missing(f'{path.relative_to(self.folder)} is missing') from None
        except ValueError as error:
            raise Missing(f'{path.relative_to(self.folder)} is not JSON: {error}') from error

    def _tensors(self, path: Path) -> dict[str, Tensor]:
        try:
            return load_file(path)
        except FileNotFoundError:
            raise Missing(f'{path.relative_to(self.folder)} is missing') from None
        except SafetensorError as error:
            raise Missing(f'{path.relative_to(self.folder)} is damaged: {error}') from error


def guarded(item: str, rows: Iterable[Row]) -> Rows:
    """Pass rows on; trouble while making them becomes one failed row that names the item.

    A conformance run must always end with a table, also on recordings with other contents than
    expected, so everything a wrong recording can cause is caught here.
    """
    try:
        yield from rows
    except (Missing, CooperError) as error:
        yield Row(item, None, None, False, str(error))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, OSError, AttributeError,
            ArithmeticError, AssertionError) as error:
        yield Row(item, None, None, False, f'{type(error).__name__}: {str(error)[:200]}')
