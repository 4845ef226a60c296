"""Graphs exported from a checkpoint that stays on disk are those of the loaded network."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from model_folder import write_model_folder
from safetensors.torch import load_file, save_file
from support.exported import half_understand, tiny_bundle
from support.tiny import tiny_runtime
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from cooper_ros.errors import BadCheckpoint, BadOption, CooperError
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
    """Reads weights, and notes how many storages of large ones live whenever one is read.

    Views and arrays share the storage of a tensor, so it outlives the tensor in them.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.read, self.storages, self.most = loaded.numbers, [], 0

    def __call__(self, weight: Tensor) -> Tensor:
        assert self.read is not None
        found = self.read(weight)
        if found.numel() > LARGE:
            self.storages.append(StorageWeakRef(found.untyped_storage()))
            self.most = max(self.most, self.alive)
        return found

    @property
    def alive(self) -> int:
        """How many live now."""
        return sum(not storage.expired() for storage in self.storages)


def mapped(folder: Path) -> int:
    """How many mappings of files in a folder this process has."""
    return Path('/proc/self/maps').read_text().count(f'{folder}/')


def test_an_export_from_disk_is_that_from_memory(folder: Path, tmp_path: Path) -> None:
    """Byte for byte, another number type than the stored one, one large weight at a time."""
    wanted = half_understand()
    loaded = read_model_folder(folder, dtype=torch.float16, hollow=True)
    read, path = Watched(loaded), tmp_path / wanted.name
    module = graph_modules(loaded.network, loaded.vae)['understand']
    export_graph(graph_specs(loaded.config)['understand'], module, path, 'fp16', read)
    for suffix in SUFFIXES:
        theirs, ours = (Path(f'{file}{suffix}').read_bytes() for file in (wanted, path))
        assert theirs == ours, suffix
    linears = 7 * loaded.config.llm.num_layers + 1  # and the head
    assert (read.most, len(read.storages)) == (1, linears)  # each of them once
    assert read.alive == 0


def test_nothing_keeps_the_file_of_a_weight_mapped(folder: Path, tmp_path: Path) -> None:
    """In the stored number type, a weight is a piece of its mapped file, not a copy."""
    loaded = read_model_folder(folder, dtype=torch.float32, hollow=True)
    read, module = Watched(loaded), graph_modules(loaded.network, loaded.vae)['latents']
    export_graph(graph_specs(loaded.config)['latents'], module, tmp_path / 'x.onnx', 'fp32', read)
    assert (read.most, read.alive, mapped(folder)) == (1, 0, 0)


def test_nothing_keeps_the_weights_of_a_network_in_memory(tmp_path: Path) -> None:
    runtime = tiny_runtime()
    network, vae = runtime.network, runtime.vae
    module, spec = graph_modules(network, vae)['latents'], graph_specs(runtime.config)['latents']
    export_graph(spec, module, tmp_path / 'x.onnx', 'fp32')
    kept = [weakref.ref(weight) for weight in module.parameters()]
    del runtime, network, vae, module
    gc.collect()
    assert [ref() for ref in kept if ref() is not None] == []


def test_a_bundle_from_disk_is_that_from_memory(folder: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Of either file one graph, and the words, byte for byte: what onnxruntime says is known."""
    wanted, specs = tiny_bundle(), graph_specs(tiny_bundle().config)
    chosen = {name: specs[name] for name in ('latents', 'vae_encode')}
    monkeypatch.setattr(bundles.Bundle, 'specs', lambda made: chosen)
    loaded = read_model_folder(folder, dtype=torch.float32, hollow=True)
    made = bundles.export_bundle(
        loaded.network, loaded.vae, tmp_path / 'made', specials=loaded.specials,
        vocabulary=loaded.vocabulary, precision='fp32', model=wanted.model, read=loaded.numbers)
    assert len(made.files) == 2 * len(chosen) + 1
    assert made.files == {name: wanted.files[name] for name in made.files}


@pytest.mark.parametrize('key', ['vae2llm.bias', 'time_embedder.mlp.2.weight'])
def test_an_export_names_the_weight_that_is_no_number(tmp_path: Path, key: str) -> None:
    """One that the optimiser may look at, and one that is read when the graph is written."""
    folder = write_model_folder(tmp_path / 'model')
    tensors = load_file(folder / 'ema.safetensors')
    tensors[key].view(-1)[-1] = torch.nan
    save_file(tensors, folder / 'ema.safetensors')
    loaded = read_model_folder(folder, dtype=torch.float32, hollow=True)
    module, spec = graph_modules(loaded.network, loaded.vae)['latents'], graph_specs(loaded.config)
    with pytest.raises(CooperError, match=f'a weight is no finite number; got {key}: NaN'):
        export_graph(spec['latents'], module, tmp_path / 'x.onnx', 'fp32', loaded.numbers)


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
