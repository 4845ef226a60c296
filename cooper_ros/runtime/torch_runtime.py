"""The network in plain PyTorch, on a CPU or a GPU.

Every pass runs under ``torch.inference_mode`` and without autocast; the few float32 steps that
the published bfloat16 inference has are in the network itself.
"""

from __future__ import annotations

import functools
from typing import Callable, Iterator, ParamSpec, Sequence, TypeVar

import torch
from torch import Tensor

from cooper_ros.errors import BadImage, BadOption, OutOfMemory
from cooper_ros.model.config import SpecialTokens
from cooper_ros.model.layout import MARKERS
from cooper_ros.model.mot import HIDDEN, KEYS, LATENTS, PassMode, Rope, Streams
from cooper_ros.model.network import Cooper
from cooper_ros.model.patches import patchify, position_ids, unpatchify
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.base import Cursor, LoadStep, Session
from cooper_ros.runtime.cache import CachedAttention, KeyValueCache, block_mask
from cooper_ros.runtime.deferred import DeferredWeights
from cooper_ros.runtime.memory import is_memory_error

Given = ParamSpec('Given')
Result = TypeVar('Result')
GRIDS = 8  # sizes of pictures whose position rows are kept


def inference(method: Callable[Given, Result]) -> Callable[Given, Result]:
    """Run a method without gradients and name memory errors as ours."""
    @functools.wraps(method)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            with torch.inference_mode():
                return method(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            raise OutOfMemory('the device has no memory left', value=method.__name__,
                              remedy='use smaller pictures, fewer context_tokens, or another '
                                     'device') from error
    return wrapped


class TorchRuntime:
    """A network and its autoencoder on one device; implements :class:`~..base.Runtime`.

    Args:
        network: the network, with weights.
        vae: the autoencoder, with weights.
        specials: marker ids.
        vocabulary: ids that the tokenizer knows; logits are cut to them.
        later: weights of both that are read when something is to be drawn; None for none.
        device, dtype: where both are moved, in place; None leaves them as they are.
    """

    def __init__(self, network: Cooper, vae: AutoEncoder, *, specials: SpecialTokens,
                 vocabulary: int, later: DeferredWeights | None = None,
                 device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None) -> None:
        self.network = network.to(device=device, dtype=dtype).eval()
        self.vae = vae.to(device=device, dtype=dtype).eval()
        self.config = network.config
        self.specials = specials
        self.vocabulary = min(vocabulary, network.config.llm.vocab_size)
        sample = network.language_model.model.embed_tokens.weight
        self.device, self.dtype = sample.device, sample.dtype
        self._marker_ids = torch.tensor(
            [[specials.start_of_image, specials.end_of_image]], device=self.device)
        self._later = later
        self._latent_positions: dict[tuple[int, int], Tensor] = {}

    def load_drawing(self) -> Iterator[LoadStep]:
        """See :class:`~..base.Runtime`."""
        return iter(()) if self._later is None else self._later.load()

    @inference
    def session(self, *, rows: int, capacity: int) -> Session:
        """See :class:`~..base.Runtime`."""
        return TorchSession(self, rows, capacity)

    @inference
    def encode_vision(self, pixels: Tensor) -> Tensor:
        """See :class:`~..base.Runtime`."""
        patch, side = self.config.vit.patch_size, self.config.vit_max_num_patch_per_side
        grid = grid_of(pixels, patch, side)
        patches = patchify(pixels.to(self.device, self.dtype), patch)[None]  # [1, n, 588]
        ids = position_ids(grid, side).to(self.device)
        return self.network.embed_vision(patches, ids, [len(ids)])[0]

    @inference
    def encode_image(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """See :class:`~..base.Runtime`."""
        grid_of(pixels, self.config.pixels_per_latent_token, self.config.max_latent_size)
        self.need_drawing()
        noise = None if noise is None else noise.to(self.device)[None]
        return self.vae.encode(pixels.to(self.device, self.dtype)[None], noise)[0]

    @inference
    def embed_latents(self, latent: Tensor) -> Tensor:
        """See :class:`~..base.Runtime`."""
        patch = self.config.latent_patch_size
        grid = grid_of(latent, patch, self.config.max_latent_size)
        return self.embed_tokens_at(patchify(latent.to(self.device), patch), 0.0, grid)

    @inference
    def decode_tokens(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """See :class:`~..base.Runtime`."""
        self.need_drawing()
        tokens = tokens.to(self.device, self.dtype)
        latents = unpatchify(tokens, grid, self.config.latent_patch_size)
        return self.vae.decode(latents[None])[0].float()

    def embed_tokens_at(self, tokens: Tensor, time: float, grid: tuple[int, int]) -> Tensor:
        """Latent tokens ``[N, P]`` at one flow time to decoder tokens ``[N, D]``."""
        self.need_drawing()
        vector = self.network.time_embedder(torch.full((1,), time, device=self.device))
        return self.network.embed_latents(tokens.to(self.device), vector,
                                          self._positions_of(grid))

    def need_drawing(self) -> None:
        """Make sure that latents can be read, drawn and decoded."""
        if self._later is not None:
            self._later.load_all()

    def markers(self) -> Tensor:
        """Embedded start and end of image ``[1, 2, D]``."""
        return self.network.embed_text(self._marker_ids)

    def _positions_of(self, grid: tuple[int, int]) -> Tensor:
        if grid not in self._latent_positions:
            if len(self._latent_positions) >= GRIDS:
                self._latent_positions.clear()  # a 7B network's take 15 MB each
            ids = position_ids(grid, self.config.max_latent_size).to(self.device)
            self._latent_positions[grid] = self.network.latent_pos_embed(ids)
        return self._latent_positions[grid]


def grid_of(maps: Tensor, patch: int, side: int) -> tuple[int, int]:
    """Rows and columns of patches in ``[C, H, W]``; an image that does not fit is refused."""
    height, width = maps.shape[-2:]
    if height % patch or width % patch or not 0 < max(height, width) <= side * patch:
        raise BadImage('picture size does not fit the network', value=f'{width} x {height}',
                       limit=f'multiples of {patch} up to {side * patch}',
                       remedy='resize with the transform of the model folder first')
    return height // patch, width // patch


class TorchSession:
    """Contexts of one :class:`TorchRuntime`; implements :class:`~..base.Session`."""

    def __init__(self, runtime: TorchRuntime, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self._runtime = runtime
        self._decoder = runtime.network.language_model.model
        self.cache = KeyValueCache(runtime.config.llm, rows, capacity, runtime.device,
                                   runtime.dtype)
        positions = torch.arange(capacity + 1, device=runtime.device)
        self._rope = runtime.network.rope(positions[None], runtime.dtype)  # [1, 1, cap + 1, d]

    def cursor(self, row: int) -> Cursor:
        """See :class:`~..base.Session`."""
        return self.cache.cursors[row]

    def rewind(self, row: int, cursor: Cursor) -> None:
        """See :class:`~..base.Session`."""
        self.cache.rewind(row, cursor)

    @inference
    def share(self, source: int, target: int, *, keep: int = 0) -> None:
        """See :class:`~..base.Session`."""
        self.cache.share(source, target, keep)

    @inference
    def append_text(self, row: int, ids: Sequence[int]) -> None:
        """See :class:`~..base.Session`."""
        specials = self._runtime.specials
        self.feed_text(row, [specials.bos, *ids, specials.eos], KEYS)

    @inference
    def append_vision(self, row: int, tokens: Tensor) -> None:
        """See :class:`~..base.Session`."""
        self.feed_vision(row, tokens, KEYS)

    @inference
    def append_latents(self, row: int, tokens: Tensor) -> None:
        """See :class:`~..base.Session`."""
        self.feed_latents(row, tokens, KEYS)

    @inference
    def step(self, row: int, token_id: int) -> Tensor:
        """See :class:`~..base.Session`."""
        hidden = self.feed_text(row, [token_id], HIDDEN).und  # [1, 1, D]
        assert hidden is not None
        return self._runtime.network.logits(hidden[0, 0], self._runtime.vocabulary).float()

    @inference
    def velocity(self, rows: Sequence[int], x_t: Tensor, t: float,
                 grid: tuple[int, int]) -> Tensor:
        """See :class:`~..base.Session`."""
        if x_t.shape[0] != grid[0] * grid[1]:
            raise BadOption('latent tokens do not fill the grid', value=x_t.shape[0],
                            limit=f'{grid[0]} x {grid[1]}')
        for row in rows:
            self.cache.require(row, x_t.shape[0] + MARKERS)
        tokens = self._runtime.embed_tokens_at(x_t, t, grid)  # [N, D], the same for all rows
        streams = Streams(self._runtime.markers().expand(len(rows), -1, -1),
                          tokens.expand(len(rows), -1, -1))
        attend = CachedAttention(self.cache, tuple(rows))
        mode = PassMode(precise_heads=True, result=LATENTS)
        hidden = self._decoder(streams, self._rope_of(rows, 1), attend, mode).gen  # [R, N, D]
        assert hidden is not None
        return self._runtime.network.velocity(hidden)

    def feed_text(self, row: int, ids: Sequence[int], result: str) -> Streams:
        """Append ids exactly as given; return hidden states if ``result`` asks for them."""
        self.cache.require(row, len(ids))
        device = self._runtime.device
        und = self._runtime.network.embed_text(torch.tensor([list(ids)], device=device))
        allowed = block_mask(self.cursor(row).length, len(ids), device)
        attend = CachedAttention(self.cache, (row,), allowed)
        out = self._decoder(Streams(und, None), self._rope_of((row,), len(ids)), attend,
                            PassMode(result=result))
        self.cache.advance(row, len(ids), len(ids))
        return out

    def feed_vision(self, row: int, tokens: Tensor, result: str) -> Streams:
        """Append a block of vision tokens ``[n, D]`` between its markers."""
        self.cache.require(row, len(tokens) + MARKERS)
        start, end = self._runtime.markers()[0].split(1)
        und = torch.cat([start, tokens.to(start), end])[None]
        out = self._decoder(Streams(und, None), self._rope_of((row,), 1),
                            CachedAttention(self.cache, (row,)), PassMode(result=result))
        self.cache.advance(row, und.shape[1], 1)
        return out

    def feed_latents(self, row: int, tokens: Tensor, result: str) -> Streams:
        """Append a block of embedded clean latents ``[n, D]`` between its markers."""
        self.cache.require(row, len(tokens) + MARKERS)
        self._runtime.need_drawing()
        und = self._runtime.markers()
        out = self._decoder(Streams(und, tokens.to(und)[None]), self._rope_of((row,), 1),
                            CachedAttention(self.cache, (row,), markers_first=True),
                            PassMode(precise_heads=True, result=result))
        self.cache.advance(row, len(tokens) + MARKERS, 1)
        return out

    def _rope_of(self, rows: Sequence[int], positions: int) -> Rope:
        """Angles ``[rows, 1, positions, d]`` from the next position of every row on."""
        starts = [self.cursor(row).rope for row in rows]
        return Rope(*(torch.cat([table[:, :, at:at + positions] for at in starts])
                      for table in self._rope))
