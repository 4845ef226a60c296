"""Model folders: the published layout, and every way it can be broken."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import SPECIALS, tiny_card, tiny_config, tiny_runtime
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cooper_ros.config import CooperConfig
from cooper_ros.errors import BadCheckpoint, BadOption
from cooper_ros.imaging.segmentation import Label
from cooper_ros.model.config import SpecialTokens, VaeConfig
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.card import ModelCard, read_card
from cooper_ros.runtime.checkpoint import (
    LoadedModel,
    check_model_folder,
    read_autoencoder,
    read_model_config,
    read_model_folder,
    save_model_folder,
)
from cooper_ros.runtime.load import load_runtime
from cooper_ros.runtime.place import choose_device
from cooper_ros.runtime.tokenizer import MARKERS
from cooper_ros.runtime.weights import save_tensors
from cooper_ros.training.folder import load_vae, vae_tensors

EMA, AE = 'ema.safetensors', 'ae.safetensors'


def byte_vocabulary() -> dict[str, int]:
    return {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def byte_tokenizer(markers: tuple[str, ...] = MARKERS) -> PreTrainedTokenizerFast:
    plain = Tokenizer(models.BPE(vocab=byte_vocabulary(), merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain)
    tokenizer.add_tokens(list(markers), special_tokens=True)
    return tokenizer


@pytest.fixture(scope='module')
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('model') / 'tiny'
    runtime = tiny_runtime()
    save_model_folder(folder, tiny_config(), network=runtime.network.state_dict(),
                      vae=runtime.vae.state_dict(), tokenizer=byte_tokenizer(),
                      card=tiny_card(depth_range_m=(0.2, 8.0)))
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / 'tiny'))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change one safetensors or JSON file in place."""
    is_json = path.suffix == '.json'
    values = json.loads(path.read_text()) if is_json else load_file(path)
    change(values)
    path.unlink()
    if is_json:
        path.write_text(json.dumps(values))
    else:
        save_file(values, path)


def same_weights(loaded: LoadedModel) -> bool:
    expected = tiny_runtime()
    return all(torch.equal(value, other.state_dict()[key])
               for module, other in ((loaded.network, expected.network),
                                     (loaded.vae, expected.vae))
               for key, value in module.state_dict().items())


def test_weights_can_be_read_by_whoever_reads_new_files_here(tmp_path: Path) -> None:
    (tmp_path / 'any').touch()
    save_tensors({'a': torch.zeros(2)}, tmp_path / 'weights')
    save_tensors({'a': torch.ones(2)}, tmp_path / 'weights')
    assert (tmp_path / 'weights').stat().st_mode == (tmp_path / 'any').stat().st_mode
    assert torch.equal(load_file(tmp_path / 'weights')['a'], torch.ones(2))


def test_a_folder_comes_back_as_it_was_saved(original: Path) -> None:
    loaded = read_model_folder(original)
    assert loaded.config == tiny_config() and same_weights(loaded)
    assert loaded.specials == SPECIALS and loaded.vocabulary == 260
    assert loaded.card == tiny_card(depth_range_m=(0.2, 8.0))
    assert not loaded.network.latent_pos_embed.pos_embed.requires_grad
    assert not any(path.suffix == '.part' for path in original.iterdir())


def test_weights_take_the_wanted_type(original: Path) -> None:
    loaded = read_model_folder(original, dtype=torch.bfloat16)
    types = {value.dtype for module in (loaded.network, loaded.vae)
             for value in module.state_dict().values()}
    assert types == {torch.bfloat16}


def test_weights_only_folder_takes_the_rest_from_the_base(folder: Path, tmp_path: Path) -> None:
    tuned = tmp_path / 'tuned'
    tuned.mkdir()
    (folder / EMA).rename(tuned / 'model.safetensors')
    loaded = read_model_folder(tuned, folder)
    assert same_weights(loaded) and loaded.card == ModelCard()
    with pytest.raises(BadCheckpoint, match='no tokenizer.*base_path'):
        read_model_folder(tuned)


def test_shards_named_by_an_index(folder: Path) -> None:
    tensors = load_file(folder / EMA)
    (folder / EMA).unlink()
    places = {key: f'model-{i % 2}.safetensors' for i, key in enumerate(tensors)}
    for name in set(places.values()):
        save_file({key: tensors[key] for key in tensors if places[key] == name}, folder / name)
    index = folder / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': places}))
    assert same_weights(read_model_folder(folder))
    (folder / 'model-1.safetensors').unlink()
    with pytest.raises(BadCheckpoint, match='files that are not there.*model-1.safetensors'):
        read_model_folder(folder)


@pytest.mark.parametrize('name', [3, None, ['model-0.safetensors'], {'file': 'x'}, True])
def test_an_index_that_names_no_files_is_refused(folder: Path, name: object) -> None:
    (folder / EMA).unlink()
    (folder / 'model.safetensors.index.json').write_text(
        json.dumps({'weight_map': {'a': 'model-0.safetensors', 'b': name}}))
    with pytest.raises(BadCheckpoint, match='model.safetensors.index.json names no file for a '
                       f'tensor; got 1 without a name: b {re.escape(repr(name))}; allowed: names '
                       'of files; remedy: copy the file again'):
        read_model_folder(folder)


@pytest.mark.parametrize('index', [{}, {'weight_map': []}])
def test_an_index_without_a_map_is_refused(folder: Path, index: dict[str, object]) -> None:
    (folder / EMA).unlink()
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    with pytest.raises(BadCheckpoint, match='has no weight_map; got .+; allowed: .+; remedy: cop'):
        read_model_folder(folder)


def test_published_index_over_both_files(folder: Path) -> None:
    places = {key: name for name in (EMA, AE) for key in load_file(folder / name)}
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))
    assert same_weights(read_model_folder(folder))


def test_markers_can_be_given_by_hand(folder: Path) -> None:
    (folder / 'tokenizer.json').unlink()
    loaded = read_model_folder(folder, specials=SpecialTokens(1, 2, 3, 4))
    assert loaded.tokenizer is None and loaded.vocabulary == 300


def test_slow_tokenizer_files_are_enough(folder: Path) -> None:
    (folder / 'tokenizer.json').unlink()
    (folder / 'vocab.json').write_text(json.dumps(byte_vocabulary()))
    (folder / 'merges.txt').write_text('#version: 0.2\n')
    added = {str(256 + i): {'content': marker, 'special': True, 'lstrip': False, 'rstrip': False,
                            'normalized': False, 'single_word': False}
             for i, marker in enumerate((*MARKERS, '<|endoftext|>'))}
    (folder / 'tokenizer_config.json').write_text(json.dumps({'added_tokens_decoder': added}))
    loaded = read_model_folder(folder)
    assert loaded.specials == SPECIALS and loaded.vocabulary == 261


BREAKAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ('missing tensor', lambda folder: edit(folder / EMA, lambda t: t.pop('llm2vae.bias')),
     'ema.safetensors does not fit.*1 missing: llm2vae.bias'),
    ('extra tensor', lambda folder: edit(
        folder / EMA, lambda t: t.update({f'new.{i}': torch.zeros(1) for i in range(7)})),
     '7 extra: new.0, new.1, new.2, new.3, new.4 and 2 more'),
    ('misshapen tensor', lambda folder: edit(
        folder / EMA, lambda t: t.update({'llm2vae.bias': torch.zeros(3)})),
     r'1 misshapen: llm2vae.bias \[3\] instead of \[64\]'),
    ('dense weights', lambda folder: edit(
        folder / EMA, lambda t: [t.pop(key) for key in list(t) if '_moe_gen' in key]),
     '29 missing.*and 24 more'),
    ('missing VAE tensor', lambda folder: edit(
        folder / AE, lambda t: t.pop('decoder.mid.attn_1.q.weight')),
     'ae.safetensors does not fit.*decoder.mid.attn_1.q.weight'),
    ('no size tensor', lambda folder: edit(
        folder / EMA, lambda t: t.pop('latent_pos_embed.pos_embed')),
     'missing: latent_pos_embed.pos_embed'),
    ('table not square', lambda folder: edit(
        folder / EMA, lambda t: t.update({'vit_pos_embed.pos_embed': torch.zeros(99, 64)})),
     'not square.*99 rows'),
    ('empty table', lambda folder: edit(
        folder / EMA, lambda t: t.update({'latent_pos_embed.pos_embed': torch.zeros(0, 64)})),
     r'no sizes can be read from; got latent_pos_embed.pos_embed \[0, 64\]; allowed: 2 sizes'),
    ('flat table', lambda folder: edit(
        folder / EMA, lambda t: t.update({'latent_pos_embed.pos_embed': torch.zeros(64)})),
     r'no sizes can be read from; got latent_pos_embed.pos_embed \[64\]; allowed: 2 sizes'),
    ('latents that are no squares', lambda folder: edit(
        folder / EMA, lambda t: t.update({'vae2llm.weight': torch.zeros(64, 48)})),
     'no squares of latent cells; got vae2llm.weight: 48 features, 16 channels'),
    ('empty VAE tensor', lambda folder: edit(
        folder / AE, lambda t: t.update({'decoder.conv_in.weight': torch.zeros(32, 0, 3, 3)})),
     r'no sizes can be read from; got decoder.conv_in.weight \[32, 0, 3, 3\]; allowed: 4'),
    ('VAE without levels', lambda folder: edit(
        folder / AE, lambda t: [t.pop(key) for key in list(t) if 'encoder.down.' in key]),
     'missing: encoder.down.0.block.0.conv1.weight'),
    ('whole numbers', lambda folder: edit(folder / EMA, lambda t: t.update(
        {'llm2vae.bias': torch.zeros(64, dtype=torch.int32)})),
     'number type that is not read; got 1 of another type: llm2vae.bias I32; allowed: F64, F32, '
     'F16, BF16; remedy: store them'),
    ('float8 without a declaration', lambda folder: edit(folder / EMA, lambda t: t.update(
        {'llm2vae.bias': torch.zeros(64).to(torch.float8_e4m3fn)})), 'llm2vae.bias F8_E4M3'),
    ('truth values', lambda folder: edit(folder / AE, lambda t: t.update(
        {'decoder.conv_in.bias': torch.zeros(32, dtype=torch.bool)})),
     'ae.safetensors holds weights.*decoder.conv_in.bias BOOL'),
    ('NaN', lambda folder: edit(folder / EMA, lambda t: t['llm2vae.bias'][3:4].fill_(torch.nan)),
     'a weight is no finite number; got llm2vae.bias: NaN or infinite'),
    ('infinity', lambda folder: edit(folder / AE, lambda t: t['decoder.conv_in.bias'][:1].fill_(
        -torch.inf)), 'a weight is no finite number; got decoder.conv_in.bias: NaN or infinite'),
    ('truncated weights', lambda folder: (folder / EMA).write_bytes(
        (folder / EMA).read_bytes()[:-100]), 'ema.safetensors is damaged'),
    ('no weights', lambda folder: (folder / EMA).unlink(), 'has no weights'),
    ('no autoencoder', lambda folder: (folder / AE).unlink(), 'has no autoencoder'),
    ('no llm config', lambda folder: (folder / 'llm_config.json').unlink(), 'no llm_config.json'),
    ('broken llm config', lambda folder: (folder / 'llm_config.json').write_text('{"hid'),
     'llm_config.json cannot be read'),
    ('wrong type', lambda folder: edit(
        folder / 'llm_config.json', lambda v: v.update(hidden_size='wide')),
     'llm_config.json: hidden_size does not fit.*got "wide"; allowed: a whole number'),
    ('field that the parser does not take', lambda folder: edit(
        folder / 'llm_config.json', lambda v: v.update(initializer_range='small')),
     'llm_config.json is not a configuration of this network; .*initializer_range'),
    ('no heads', lambda folder: edit(
        folder / 'llm_config.json', lambda v: v.update(num_attention_heads=0)),
     'llm_config.json: num_attention_heads does not fit.*got 0; allowed: a whole number'),
    ('patches of no size', lambda folder: edit(
        folder / 'vit_config.json', lambda v: v.update(patch_size=0)),
     'vit_config.json: patch_size does not fit.*got 0; allowed: a whole number'),
    ('vision heads that do not divide', lambda folder: edit(
        folder / 'vit_config.json', lambda v: v.update(num_attention_heads=3)),
     'vit_config.json: hidden_size does not fit.*got 32; allowed: .*num_attention_heads 3'),
    ('tower with fewer places than the network', lambda folder: edit(
        folder / 'vit_config.json', lambda v: v.update(image_size=139)),
     'image_size is too small for vit_pos_embed.*got 139; allowed: at least 140'),
    ('tied embeddings', lambda folder: [
        edit(folder / EMA, lambda t: t.pop('language_model.lm_head.weight')),
        edit(folder / 'llm_config.json', lambda v: v.update(tie_word_embeddings=True))],
     'ties the output layer.*tie_word_embeddings true, missing: language_model.lm_head.weight; '
     'allowed.*remedy: store language_model.model.embed_tokens.weight under that name'),
    ('no output layer', lambda folder: edit(
        folder / EMA, lambda t: t.pop('language_model.lm_head.weight')),
     '1 missing: language_model.lm_head.weight'),
    ('other size', lambda folder: edit(
        folder / 'llm_config.json', lambda v: v.update(intermediate_size=96)), 'misshapen'),
    ('one layer more', lambda folder: edit(
        folder / 'vit_config.json', lambda v: v.update(num_hidden_layers=4)),
     'missing.*encoder.layers.2'),
    ('no tokenizer', lambda folder: (folder / 'tokenizer.json').unlink(), 'no tokenizer'),
    ('broken tokenizer', lambda folder: (folder / 'tokenizer.json').write_text('{}'),
     'tokenizer is damaged'),
    ('tokenizer without markers', lambda folder: byte_tokenizer(MARKERS[:2]).save_pretrained(
        folder), r'lacks markers.*<\|vision_start\|>, <\|vision_end\|>'),
    ('tokenizer too large', lambda folder: byte_tokenizer(
        MARKERS + tuple(f'<{i}>' for i in range(50))).save_pretrained(folder),
     'knows more ids.*0 .. 299'),
    ('unknown card entry', lambda folder: edit(
        folder / 'cooper.json', lambda v: v.update(colour=1)), 'unknown entry.*colour'),
    ('card of wrong type', lambda folder: edit(
        folder / 'cooper.json', lambda v: v['drawing'].update(flow_points=2.5)),
     'flow_points has the wrong type'),
    ('card without range', lambda folder: edit(
        folder / 'cooper.json', lambda v: v.update(depth={'min_m': 3, 'max_m': 2})),
     'no range.*3.0 .. 2.0'),
]


@pytest.mark.parametrize('damage, message', [case[1:] for case in BREAKAGES],
                         ids=[case[0] for case in BREAKAGES])
def test_a_broken_folder_is_named(folder: Path, damage: Callable[[Path], object],
                                  message: str) -> None:
    damage(folder)
    with pytest.raises(BadCheckpoint, match=message):
        read_model_folder(folder)


@pytest.mark.parametrize('damage, message', [case[1:] for case in BREAKAGES
                                             if 'ae.safetensors' in case[2] or 'VAE' in case[0]])
def test_a_broken_autoencoder_is_named_on_its_own(
        folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    for read in (read_autoencoder, load_vae, vae_tensors):
        with pytest.raises(BadCheckpoint, match=message):
            read(folder)


def test_a_file_of_another_kind_is_no_autoencoder(tmp_path: Path) -> None:
    save_file({'conv_in.weight': torch.zeros(3, 3)}, tmp_path / AE)
    for read in (read_autoencoder, load_vae, vae_tensors):
        with pytest.raises(BadCheckpoint, match='lacks a tensor that sizes are read from; got '
                           'missing: encoder.conv_in.weight'):
            read(tmp_path)


def test_sizes_of_an_autoencoder_are_all_read_from_its_file(tmp_path: Path) -> None:
    sizes = VaeConfig(in_channels=4, out_channels=2, ch=32, ch_mult=(1, 2), num_res_blocks=1,
                      z_channels=8)
    stored = AutoEncoder(sizes).to(torch.bfloat16).state_dict()
    save_tensors(stored, tmp_path / AE)
    plain, trained = read_autoencoder(tmp_path), load_vae(tmp_path)
    for found in (plain, trained):
        assert all(torch.equal(value.to(torch.bfloat16), stored[key])
                   for key, value in found.state_dict().items()) and not found.training
    assert plain.encoder.conv_in.weight.shape[1] == 4
    assert plain.decoder.conv_out.weight.shape[0] == 2
    assert plain.encoder.conv_in.weight.dtype == torch.bfloat16
    assert trained.encoder.conv_in.weight.dtype == torch.float32
    assert not any(weight.requires_grad for weight in trained.parameters())


CONFIG_ONLY = {'no heads', 'tied embeddings', 'empty table', 'VAE without levels'}


@pytest.mark.parametrize('damage, message', [case[1:] for case in BREAKAGES
                                             if case[0] in CONFIG_ONLY])
def test_sizes_alone_are_read_as_strictly(folder: Path, damage: Callable[[Path], object],
                                          message: str) -> None:
    damage(folder)
    for read in (read_model_config, check_model_folder):
        with pytest.raises(BadCheckpoint, match=message):
            read(folder)


def test_tied_embeddings_with_an_output_layer_of_their_own_are_read(folder: Path) -> None:
    edit(folder / 'llm_config.json', lambda v: v.update(tie_word_embeddings=True))
    assert same_weights(read_model_folder(folder))


@pytest.mark.parametrize('hollow', [False, True])
def test_weights_must_fit_the_wanted_type(folder: Path, hollow: bool) -> None:
    """The largest float16 is 65504; what is half a step above it becomes infinite."""
    edit(folder / EMA, lambda t: t['llm2vae.bias'][:2].copy_(torch.tensor([-65519.0, 1e-30])))
    _read_all(folder, torch.float16, hollow)
    edit(folder / EMA, lambda t: t['llm2vae.bias'][:1].fill_(-65520.0))
    _read_all(folder, torch.bfloat16, hollow)
    with pytest.raises(BadCheckpoint, match='too large for float16; got llm2vae.bias: 65520; '
                       'allowed: at most 65504; remedy: use bfloat16 or float32'):
        _read_all(folder, torch.float16, hollow)


@pytest.mark.parametrize('name', [EMA, AE])
def test_numbers_left_on_disk_are_checked_when_they_are_read(folder: Path, name: str) -> None:
    key = {EMA: 'llm2vae.weight', AE: 'decoder.conv_in.bias'}[name]
    edit(folder / name, lambda t: t[key].view(-1)[-1:].fill_(torch.nan))
    with pytest.raises(BadCheckpoint, match=f'no finite number; got {key}'):
        _read_all(folder, torch.float32, hollow=True)


def _read_all(folder: Path, dtype: torch.dtype, hollow: bool) -> None:
    loaded = read_model_folder(folder, dtype=dtype, hollow=hollow)
    if loaded.numbers is not None:
        for module in (loaded.network, loaded.vae):
            for weight in module.state_dict(keep_vars=True).values():
                loaded.numbers(weight)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_plain_number_type_is_read(folder: Path, dtype: torch.dtype) -> None:
    edit(folder / EMA, lambda t: t.update({key: value.to(dtype) for key, value in t.items()}))
    loaded = read_model_folder(folder)
    assert {value.dtype for value in loaded.network.state_dict().values()} == {dtype}


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match='no such model folder'):
        read_model_folder(tmp_path / 'absent')


def test_a_failed_write_leaves_the_old_file(folder: Path) -> None:
    before = (folder / EMA).read_bytes()
    tensors = tiny_runtime().network.state_dict()
    broken = {**tensors, 'llm2vae.bias': 'not a tensor'}
    with pytest.raises(AttributeError):
        save_model_folder(folder, tiny_config(), network=broken, vae={})  # type: ignore[arg-type]
    assert (folder / EMA).read_bytes() == before
    assert not list(folder.glob('*.part'))


def test_folders_without_a_card_get_the_published_values(tmp_path: Path) -> None:
    card = read_card(tmp_path)
    assert card.vae_transform == (1024, 512, 16) and card.vit_transform == (518, 224, 14)
    assert card.drawing.flow_points == 50 and card.drawing.cfg_renorm == 'text_channel'
    assert card.depth_range_m is None and card.palette == ()


def test_a_card_survives_its_json() -> None:
    card = tiny_card(depth_range_m=(0.2, 8.0), palette=(Label(0, 'floor', (0, 0, 0)),
                                                        Label(1, 'can', (255, 0, 0))))
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_load_runtime_encodes_and_decodes_every_byte(original: Path) -> None:
    loaded = load_runtime(original, CooperConfig(device='cpu'))
    text = 'Wo ist die Dose? \\boxed{{}} 答 <|im_end|>\n  two  spaces .'
    ids = loaded.encode(text)
    assert ids.count(loaded.end) == 1 and loaded.decode(ids) == text
    assert loaded.encode('') == [] and (loaded.begin, loaded.end) == (256, 257)
    assert loaded.runtime.dtype == torch.float32
    session = loaded.runtime.session(rows=1, capacity=80)
    session.append_text(0, ids)
    assert session.step(0, loaded.begin).shape == (260,)


def test_cuda_is_not_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert choose_device('auto') == torch.device('cpu')
    with pytest.raises(BadOption, match='no CUDA device'):
        choose_device('cuda')


@pytest.mark.parametrize(('side', 'stride', 'tile'), [('vit', 16, 14), ('vae', 8, 16)])
def test_pictures_that_could_not_fit_are_found_while_loading(folder: Path, side: str, stride: int,
                                                             tile: int) -> None:
    """Everything would load and be compiled, and every question be refused."""
    edit(folder / 'cooper.json', lambda card: card['transforms'][side].update(
        image_stride=stride))
    with pytest.raises(BadCheckpoint, match=f'pictures would not fit the {side} side.+; got '
                       f'transforms.{side}.image_stride {stride}; allowed: a multiple of {tile} '
                       'pixels; remedy: say in cooper.json how'):
        read_model_folder(folder)
