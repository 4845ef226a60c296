"""The FLUX image autoencoder (reference sections 2.10 and 4.2).

Pictures are ``[B, 3, H, W]`` in -1..1, both sides multiples of the downsampling factor; latents
are ``[B, C, h, w]``, shifted and scaled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cooper_ros.model.config import VaeConfig

GROUPS = 32
NORM_EPS = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """The group norm that is used throughout the autoencoder."""
    return nn.GroupNorm(GROUPS, channels, eps=NORM_EPS)


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class ResnetBlock(nn.Module):
    """Two norm-swish-convolution steps, and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), conv3x3(inputs, outputs)
        self.norm2, self.conv2 = group_norm(outputs), conv3x3(outputs, outputs)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, 'nin_shortcut') else x)


class AttnBlock(nn.Module):
    """Single-head attention over all cells of a map, the channels being the head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1)
                                                 for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]``, unchanged in shape."""
        n = self.norm(x)
        q, k, v = (part(n).flatten(2).transpose(1, 2)[:, None]  # [B, 1, H*W, C]
                   for part in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Halve both sides; the padding is one-sided (right and bottom), as trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C, H/2, W/2]``."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double both sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C, 2H, 2W]``."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode='nearest'))


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]``, unchanged in shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """The blocks of one resolution; encoder and decoder add ``downsample`` or ``upsample``."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(inputs if i == 0 else outputs, outputs)
                                   for i in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H', W']``."""
        for block in self.block:
            x = block(x)
        for name in ('downsample', 'upsample'):
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return x


class Encoder(nn.Module):
    """Pictures to the moments of the latent distribution."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult]
        self.conv_in = conv3x3(config.in_channels, config.ch)
        self.down = nn.ModuleList(
            Level(before, width, config.num_res_blocks)
            for before, width in zip([config.ch, *widths], widths))
        for level, width in zip(self.down[:-1], widths):
            level.downsample = Downsample(width)
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = conv3x3(widths[-1], 2 * config.z_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to mean and log-variance ``[B, 2C, H/8, W/8]``."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latents to pictures."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult]
        self.conv_in = conv3x3(config.z_channels, widths[-1])
        self.mid = Middle(widths[-1])
        # Level l comes after level l + 1, so it starts from that level's width.
        self.up = nn.ModuleList(
            Level(before, width, config.num_res_blocks + 1)
            for width, before in zip(widths, [*widths[1:], widths[-1]]))
        for level, width in zip(self.up[1:], widths[1:]):
            level.upsample = Upsample(width)
        self.norm_out = group_norm(widths[0])
        self.conv_out = conv3x3(widths[0], config.out_channels)

    def forward(self, z: Tensor) -> Tensor:
        """``[B, C, h, w]`` (neither shifted nor scaled) to ``[B, 3, 8h, 8w]``."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoEncoder(nn.Module):
    """Encoder and decoder with the shift and scale of latents."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents of pictures.

        Args:
            pixels: ``[B, 3, H, W]`` in -1..1.
            noise: standard normal ``[B, C, h, w]`` to sample the posterior with, as every
                published route does; None takes its mean.

        Returns:
            float32 ``[B, C, h, w]``, shifted and scaled.
        """
        mean, logvar = self.encoder(pixels).float().chunk(2, dim=1)
        if noise is not None:
            mean = mean + torch.exp(0.5 * logvar) * noise
        return self.config.scale_factor * (mean - self.config.shift_factor)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures ``[B, 3, 8h, 8w]`` of latents; raw decoder output, about -1..1, unclamped."""
        return self.decoder(latents / self.config.scale_factor + self.config.shift_factor)
