"""Graphs exported from a checkpoint that stays on disk are those of the loaded network."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch
from model_folder import write_model_folder
from safetensors.torch import load_file, save_file
from support.exported import half_understand, tiny_bundle
from torch import Tensor

from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.runtime.checkpoint import LoadedModel, read_model_folder
from cooper_ros.runtime.graphs import bundle as bundles
from cooper_ros.runtime.graphs.export import export_graph
from cooper_ros.runtime.graphs.modules import graph_modules
from cooper_ros.runtime.graphs.spec import graph_specs

SUFFIXES = ('', '.data')
LARGE = 1024  # numbers; smaller weights may be folded into the graph


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint in two shards."""
    folder = write_model_folder(tmp_path_factory.mktemp('model'))
    whole = folder / 'ema.safetensors'
    tensors = load_file(whole)
    whole.unlink()
    places = {key: f'model-{at % 2}.safetensors' for at, key in enumerate(tensors)}
    for name in set(places.values()):
        save_file({key: tensors[key] for key in places if places[key] == name}, folder / name)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))
    return folder


class Watched:
    """Reads weights, and notes how many large ones are alive whenever one is read."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.read, self.alive, self.most, self.total = loaded.numbers, weakref.WeakSet(), 0, 0

    def __call__(self, weight: Tensor) -> Tensor:
        assert self.read is not None
        found = self.read(weight)
        if found.numel() > LARGE:
            self.alive.add(found)
            self.most, self.total = max(self.most, len(self.alive)), self.total + 1
        return found


def test_an_export_from_disk_is_that_from_memory(folder: Path, tmp_path: Path) -> None:
    """Byte for byte, another number type than the stored one, one large weight at a time."""
    loaded = read_model_folder(folder, dtype=torch.float16, hollow=True)
    read, path = Watched(loaded), tmp_path / half_understand().name
    module = graph_modules(loaded.network, loaded.vae)['understand']
    export_graph(graph_specs(loaded.config)['understand'], module, path, 'fp16', read)
    for suffix in SUFFIXES:
        found, wanted = (Path(f'{file}{suffix}') for file in (path, half_understand()))
        assert found.read_bytes() == wanted.read_bytes(), suffix
    linears = 7 * loaded.config.llm.num_layers + 1  # and the head
    assert (read.most, read.total) == (1, linears)  # each of them once


def test_a_bundle_from_disk_is_that_from_memory(folder: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Two graphs and the words, byte for byte: what onnxruntime says of them is known."""
    wanted, specs = tiny_bundle(), graph_specs(tiny_bundle().config)
    chosen = {name: specs[name] for name in ('latents', 'vae_decode')}
    monkeypatch.setattr(bundles.Bundle, 'specs', lambda made: chosen)
    loaded = read_model_folder(folder, dtype=torch.float32, hollow=True)
    made = bundles.export_bundle(
        loaded.network, loaded.vae, tmp_path / 'made', specials=loaded.specials,
        vocabulary=loaded.vocabulary, precision='fp32', model=wanted.model, read=loaded.numbers)
    assert len(made.files) == 2 * len(chosen) + 1
    assert made.files == {name: wanted.files[name] for name in made.files}


def test_a_hollow_network_holds_no_number(folder: Path) -> None:
    loaded = read_model_folder(folder, dtype=torch.float16, hollow=True)
    weight = loaded.network.vae2llm.weight
    assert weight.dtype == torch.float16 and weight.device.type == 'cpu'
    with pytest.raises(RuntimeError):
        weight.numpy()  # there is nothing to read
    assert loaded.numbers is not None
    stored = read_model_folder(folder).network.vae2llm.weight
    assert torch.equal(loaded.numbers(weight), stored.half())


def test_a_hollow_network_is_as_strict(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match='a network without numbers needs a number type'):
        read_model_folder(folder, hollow=True)
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / 'ae.safetensors').unlink()
    tensors = load_file(folder / 'ae.safetensors')
    save_file({key: tensors[key] for key in tensors if key != 'decoder.conv_out.bias'},
              tmp_path / 'ae.safetensors')
    with pytest.raises(BadCheckpoint, match='1 missing: decoder.conv_out.bias'):
        read_model_folder(tmp_path, dtype=torch.float32, hollow=True)
