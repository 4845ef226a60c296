"""What the engine may ask of whatever runs the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Protocol, Sequence

import torch
from torch import Tensor

from cooper_ros.model.config import ModelConfig, SpecialTokens


@dataclass(frozen=True)
class Cursor:
    """The end of one context: a snapshot is nothing more than this.

    Attributes:
        length: tokens in the cache row.
        rope: position id of whatever comes next.
    """

    length: int
    rope: int


@dataclass(frozen=True)
class LoadStep:
    """How far weights have come from disk.

    Attributes:
        done, total: numbers (weights, not bytes) read so far and to read.
        resident: bytes of weights that are in memory now.
    """

    done: int
    total: int
    resident: int


class Session(Protocol):
    """A preallocated key-value cache; every row is one context.

    Attributes:
        rows: contexts that fit.
        capacity: tokens per context, including the block of a picture being drawn.
    """

    rows: int
    capacity: int

    def cursor(self, row: int) -> Cursor:
        """Where the context ends now."""

    def rewind(self, row: int, cursor: Cursor) -> None:
        """Forget what came after ``cursor``; nothing is moved."""

    def share(self, source: int, target: int, *, keep: int = 0) -> None:
        """Make row ``target`` equal to row ``source``.

        The first ``keep`` tokens are known to be equal already and are not copied again.
        """

    def append_text(self, row: int, ids: Sequence[int]) -> None:
        """Add begin + ids + end, causally, at consecutive positions.

        Raises:
            ContextFull: the row has no room; nothing was added.
        """

    def append_vision(self, row: int, tokens: Tensor) -> None:
        """Add start-of-image + vision tokens ``[n, D]`` + end-of-image at one position.

        Raises:
            ContextFull: the row has no room; nothing was added.
        """

    def append_latents(self, row: int, tokens: Tensor) -> None:
        """Add start-of-image + clean latents ``[n, D]`` + end-of-image at one position.

        Raises:
            ContextFull: the row has no room; nothing was added.
        """

    def step(self, row: int, token_id: int) -> Tensor:
        """Feed one token; return float32 logits ``[V]`` of the next, valid ids only.

        Raises:
            ContextFull: the row has no room; nothing was added.
        """

    def velocity(self, rows: Sequence[int], x_t: Tensor, t: float,
                 grid: tuple[int, int]) -> Tensor:
        """Velocities of the same noisy latents under several contexts, which stay as they are.

        Args:
            rows: contexts, each at its own length and position.
            x_t: noisy latent tokens ``[N, P]``.
            t: flow time, 0..1.
            grid: rows and columns of the N tokens.

        Returns:
            ``[len(rows), N, P]`` in the number type of the network.

        Raises:
            ContextFull: a row has no room for the N + 2 tokens of the block.
        """


class Runtime(Protocol):
    """A loaded network on a device.

    Attributes:
        config: its sizes.
        specials: its marker ids.
        device, dtype: where it runs and in which number type.
    """

    config: ModelConfig
    specials: SpecialTokens
    device: torch.device
    dtype: torch.dtype

    def load_drawing(self) -> Iterator[LoadStep]:
        """Read the weights that only drawing needs, where they were left on disk.

        Yields nothing when they are in memory. Whoever does not ask for it gets them all the
        same, without being told, at the first call that needs them.

        Raises:
            BadCheckpoint: the files changed since the start.
            OutOfMemory: there is no room for them.
        """

    def session(self, *, rows: int, capacity: int) -> Session:
        """Allocate empty contexts.

        Raises:
            OutOfMemory: the cache does not fit the device.
        """

    def encode_vision(self, pixels: Tensor) -> Tensor:
        """Pixels ``[3, H, W]`` in -1..1, sides multiples of a patch, to vision tokens ``[n, D]``.

        Raises:
            BadImage: the size does not fit the patches or the position table.
        """

    def encode_image(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """Pixels ``[3, H, W]`` in -1..1, sides multiples of a latent token, to latents
        ``[C, h, w]``.

        ``noise`` (standard normal, ``[C, h, w]``) samples the posterior; None takes its mean.
        Latents are float32, shifted and scaled.

        Raises:
            BadImage: the size does not fit the patches or the position table.
        """

    def embed_latents(self, latent: Tensor) -> Tensor:
        """Clean latents ``[C, h, w]`` to the tokens ``[N, D]`` of :meth:`append_latents`."""

    def decode_tokens(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Latent tokens ``[N, P]`` to raw decoder output ``[3, H, W]``, float32, unclamped."""
