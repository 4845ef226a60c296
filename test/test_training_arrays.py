"""What training keeps on disk is whole, made for what it is read as, and gone on with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.disk import small_files

from cooper_ros.errors import OutOfDisk
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.model.config import VaeConfig
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.weights import save_tensors
from cooper_ros.training import pictures
from cooper_ros.training.arrays import begun_array, new_array
from cooper_ros.training.data import FrameStore, frame_store
from cooper_ros.training.pictures import picture_cache
from cooper_ros.training.vae_task import RGB, picture

RULES = ImageTransform(128, 128, 16), ImageTransform(112, 112, 14)


@pytest.fixture(scope='module')
def vae() -> AutoEncoder:
    torch.manual_seed(0)
    return AutoEncoder(VaeConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1)).eval()


@pytest.fixture()
def frames(store: FrameStore, tmp_path: Path) -> FrameStore:
    """Frames of one test, on which nothing was computed yet."""
    folder = tmp_path / store.folder.name
    shutil.copytree(store.folder, folder, ignore=shutil.ignore_patterns('vision*', 'latents*',
                                                                        'drawn*'))
    return replace(store, folder=folder)


def test_an_array_has_its_room_before_it_is_filled(tmp_path: Path) -> None:
    array = new_array(tmp_path / 'a.npy', np.uint8, (1000, 1000))
    assert (tmp_path / 'a.npy').stat().st_blocks * 512 >= 1_000_000
    assert array.shape == (1000, 1000) and not array.any()


def test_no_room_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    with small_files(50_000), pytest.raises(OutOfDisk, match='a.npy is larger than a file may be; '
                                            'got 1,000,000 bytes needed; allowed: 50,000 bytes'):
        new_array(tmp_path / 'a.npy', np.uint8, (1000, 1000))
    assert not list(tmp_path.iterdir())


def test_frames_without_room_say_so_and_are_made_later(tmp_path: Path) -> None:
    with small_files(50_000), pytest.raises(OutOfDisk, match='remedy: raise that limit'):
        frame_store(tmp_path, 'train', 0, 4, 1)
    assert len(frame_store(tmp_path, 'train', 0, 4, 1)) == 4


@pytest.mark.parametrize('content', [b'', b'\x93NUMPY', None])
def test_what_a_kill_left_unreadable_counts_as_nothing(content: bytes | None, tmp_path: Path
                                                       ) -> None:
    path = tmp_path / 'a.part.npy'
    new_array(path, np.uint8, (10, 10))
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    assert begun_array(path) is None and begun_array(tmp_path / 'never.npy') is None


@pytest.mark.parametrize('damage', ['half a batch', 'one array', 'empty'])
def test_coding_that_was_killed_goes_on(damage: str, frames: FrameStore, vae: AutoEncoder,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, 'CODED_ON_CPU', 2)
    whole = picture_cache(frames, vae, *RULES, 8)
    latents, drawn = np.array(whole.latents), np.array(whole.drawn)
    paths = [path for name in ('latents', 'drawn') for path in frames.folder.glob(f'{name}*')]
    parts = [path.rename(path.with_suffix('.part.npy')) for path in paths]
    for part in parts:
        array = np.load(part, mmap_mode='r+')
        array[3:] = 0  # the second batch is half there, the others not at all
        array[3, ..., -1] = 1
    if damage != 'half a batch':
        parts[0].write_bytes(b'') if damage == 'empty' else parts[0].unlink()
    again = picture_cache(frames, vae, *RULES, 8)
    assert np.array_equal(again.latents, latents) and np.array_equal(again.drawn, drawn)


def test_another_decoder_or_resize_rule_has_pictures_of_its_own(frames: FrameStore,
                                                                vae: AutoEncoder) -> None:
    first = picture_cache(frames, vae, *RULES, 2)
    other = AutoEncoder(vae.config).eval()
    other.load_state_dict(vae.state_dict())
    with torch.no_grad():
        other.decoder.conv_out.bias.fill_(0.4)
    second = picture_cache(frames, other, *RULES, 2)
    assert np.array_equal(first.latents, second.latents)
    assert not np.array_equal(first.drawn, second.drawn)
    coarse = picture_cache(frames, vae, RULES[0], ImageTransform(112, 56, 56), 2)
    assert coarse.vision.shape != first.vision.shape and coarse.drawn.shape != first.drawn.shape


def test_what_shall_be_float32_is_coded_in_float32(frames: FrameStore, vae: AutoEncoder) -> None:
    """In a file of its own; by default files keep the names they had."""
    usual, exact = (picture_cache(frames, vae, *RULES, 1, bfloat16) for bfloat16 in (True, False))
    names = sorted(path.stem for path in frames.folder.glob('latents*'))
    assert len(names) == 2 and names[1] == f'{names[0]}_float32' and usual.latents is not None
    with torch.no_grad():
        truth = vae.encode(picture(frames, 0, RGB)[None])[0]
    torch.testing.assert_close(exact.latent(0, RGB), truth, atol=1e-3, rtol=1e-3)


def test_an_export_without_room_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / 'ae.safetensors'
    save_tensors({'a': torch.zeros(10)}, path)
    before = path.read_bytes()
    with small_files(50_000), pytest.raises(OutOfDisk, match='ae.safetensors is larger'):
        save_tensors({'a': torch.zeros(1_000_000)}, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
