"""From a camera picture to the two image blocks the network reads (reference section 5.2)."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cooper_ros.engine.contexts import ImagePiece
from cooper_ros.engine.sampling import generator_for
from cooper_ros.errors import BadImage
from cooper_ros.imaging.resize import ImageTransform, normalise, to_rgb
from cooper_ros.runtime.base import Runtime

PictureLike = np.ndarray | Image.Image


@dataclass(frozen=True)
class Picture:
    """One picture, ready to be read.

    Attributes:
        key: hash of its pixels and of the posterior noise it is read with.
        rgb: uint8 ``[H, W, 3]`` after the VAE resize; maps have this size.
        grid: latent grid (rows, columns).
        latents: the VAE block.
        vision: the ViT block.
    """

    key: str
    rgb: np.ndarray
    grid: tuple[int, int]
    latents: ImagePiece
    vision: ImagePiece


@dataclass(frozen=True)
class PictureReader:
    """Resizes and encodes pictures the way the weights were trained.

    Attributes:
        runtime: encodes.
        vae: resize rule of the VAE input.
        vit: resize rule of the ViT input, applied to the VAE-resized picture (quirk Q8).
        sample_posterior: sample the VAE posterior as published, or take its mean.
        max_pixels: larger pictures are refused.
    """

    runtime: Runtime
    vae: ImageTransform
    vit: ImageTransform
    sample_posterior: bool
    max_pixels: int

    def prepare(self, image: PictureLike, seed: int, index: int = 0) -> Picture:
        """Resize a picture and describe its blocks; encoding waits until a block is read.

        Args:
            image: as it came.
            seed: of the request.
            index: of the picture within it; each is read with noise of its own.

        Raises:
            BadImage: not a uint8 RGB array or PIL picture, empty, or too large.
        """
        resized = self.vae.resize(to_rgb(_as_pil(image, self.max_pixels)))
        rgb = np.asarray(resized)
        digest = _digest(rgb)
        noise = f'/noise {seed} {index}' if self.sample_posterior else ''
        stride = self.runtime.config.pixels_per_latent_token
        again = self.vae.resize(resized)  # the rule is applied to its own result, as published
        count = (again.height // stride) * (again.width // stride)
        latents = ImagePiece(f'{digest}/vae{noise}', True, count,
                             functools.cache(lambda: self._embed_latents(again, seed, index)))
        grid = (rgb.shape[0] // stride, rgb.shape[1] // stride)
        return Picture(digest + noise, rgb, grid, latents, self.vision(resized, digest))

    def vision(self, resized: Image.Image, digest: str) -> ImagePiece:
        """The ViT block of a picture that already has its VAE size."""
        small = self.vit.resize(resized)
        patch = self.runtime.config.vit.patch_size
        count = (small.height // patch) * (small.width // patch)
        embed: Callable[[], Tensor] = functools.cache(
            lambda: self.runtime.encode_vision(_pixels(small)))
        return ImagePiece(f'{digest}/vit', False, count, embed)

    def show(self, rgb: np.ndarray) -> ImagePiece:
        """The ViT block of a drawn map (uint8 ``[H, W, 3]``); the VAE resize is a no-op then."""
        return self.vision(self.vae.resize(Image.fromarray(rgb)), _digest(rgb))

    def _embed_latents(self, resized: Image.Image, seed: int, index: int) -> Tensor:
        pixels = _pixels(resized)
        noise = self._posterior_noise(pixels, seed, index) if self.sample_posterior else None
        return self.runtime.embed_latents(self.runtime.encode_image(pixels, noise))

    def _posterior_noise(self, pixels: Tensor, seed: int, index: int) -> Tensor:
        vae = self.runtime.config.vae
        height, width = (side // vae.downsample for side in pixels.shape[-2:])
        generator = generator_for(seed, 'picture', index)
        return torch.randn(vae.z_channels, height, width, generator=generator)  # [C, h, w]


def _as_pil(image: PictureLike, max_pixels: int) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise BadImage('not an RGB picture', value=f'{image.dtype} {list(image.shape)}',
                           limit='uint8 [H, W, 3], at least 1x1')
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise BadImage('not a picture', value=type(image).__name__,
                       limit='numpy uint8 [H, W, 3] or PIL.Image')
    if image.width * image.height > max_pixels:
        raise BadImage('the picture is too large', value=f'{image.width}x{image.height}',
                       limit=f'{max_pixels} pixels', remedy='raise max_image_pixels')
    return image


def _pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(normalise(np.asarray(picture)))  # [3, H, W] in -1..1


def _digest(rgb: np.ndarray) -> str:
    size = 'x'.join(map(str, rgb.shape))
    return size + ':' + hashlib.blake2b(np.ascontiguousarray(rgb).data, digest_size=16).hexdigest()
