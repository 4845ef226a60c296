"""The engine's runtime on top of anything that can run graphs by name.

The cache lies here as torch tensors, slot after slot, so that a runner can read a context and
write behind its end in place. The runner decides how tensors reach the device.
"""

from __future__ import annotations

import math
import weakref
from typing import Callable, Iterator, Mapping, Protocol, Sequence, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cooper_ros.errors import BadOption
from cooper_ros.model.config import LlmConfig, ModelConfig, SpecialTokens
from cooper_ros.model.layout import MARKERS
from cooper_ros.model.patches import patchify, position_ids, unpatchify
from cooper_ros.model.tables import rope_angles
from cooper_ros.runtime.base import Cursor, LoadStep, Session
from cooper_ros.runtime.cache import KeyValueCache
from cooper_ros.runtime.graphs.spec import (
    FLOW,
    UNDERSTAND,
    dtype_of,
    graph_specs,
    layer_names,
    padded,
)
from cooper_ros.runtime.torch_runtime import grid_of, inference

Made = TypeVar('Made')
Tensors = Mapping[str, Tensor]
NEXT = 'next_'  # outputs that are inputs of the next part


class GraphRunner(Protocol):
    """Runs graphs by name.

    One that keeps something for a cache beyond a call also has ``forget()``, which drops it.

    Attributes:
        name: for people.
        device: where inputs are expected and outputs appear.
        bucket: contexts are padded to multiples of this many slots; 1 for none.
        most_tokens: longest prefill of one call; longer text is fed in pieces.
    """

    name: str
    device: torch.device
    bucket: int
    most_tokens: int

    def run(self, graph: str, inputs: Tensors, into: Tensors) -> Tensors:
        """Run a graph; outputs named in ``into`` are written there, the others returned.

        Raises:
            BadOption: a size is outside what the graph was made for.
        """


class SlotCache(KeyValueCache):
    """A cache stored slot by slot: ``slots[kind][layer, row]`` is ``[capacity, Hkv, d]``."""

    def __init__(self, config: LlmConfig, rows: int, capacity: int, device: torch.device,
                 dtype: torch.dtype) -> None:
        super().__init__(config, rows, 0, device, dtype)
        self.capacity = capacity
        shape = (config.num_layers, rows, capacity, config.num_kv_heads, config.head_dim)
        self.slots = tuple(torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        self.keys, self.values = (store.transpose(2, 3) for store in self.slots)
        self._copies: tuple[Tensor, ...] = ()

    def tensors(self, names: tuple[str, str], row: slice, start: int,
                end: int) -> dict[str, Tensor]:
        """Views ``[rows, end - start, Hkv, d]`` of all layers under their graph names."""
        return {name: store[layer, row, start:end]
                for kind, store in zip(names, self.slots)
                for layer, name in enumerate(layer_names(kind, range(len(store))))}

    def together(self, rows: Sequence[int], slots: int) -> dict[str, Tensor]:
        """Copies ``[len(rows), slots, Hkv, d]`` of all layers, by the names of their inputs.

        They always lie at the same place, so that a step that was recorded there comes again.
        That place takes as much memory as the cache itself, from the first call on.
        """
        if not self._copies:
            self._copies = tuple(torch.empty_like(store).flatten(1) for store in self.slots)
        found = {}
        for kind, store, copies in zip(('key', 'value'), self.slots, self._copies):
            shape = (len(store), len(rows), slots, *store.shape[3:])
            blocks = copies[:, :math.prod(shape[1:])].view(shape)
            for at, row in enumerate(rows):
                blocks[:, at].copy_(store[:, row, :slots])
            found |= dict(zip(layer_names(kind, range(len(store))), blocks))
        return found


class GraphRuntime:
    """Implements :class:`~cooper_ros.runtime.base.Runtime` with graphs.

    Args:
        runner: runs them.
        config: sizes of the network.
        specials: marker ids.
        vocabulary: ids the tokenizer knows; logits are cut to them.
        precision: number type of the graphs.
        words: word embedding table ``[V, D]``.
        parts: graphs that the decoder's layers are spread over.
    """

    def __init__(self, runner: GraphRunner, config: ModelConfig, *, specials: SpecialTokens,
                 vocabulary: int, precision: str, words: Tensor, parts: int = 1) -> None:
        self.runner, self.config, self.specials = runner, config, specials
        self.vocabulary = min(vocabulary, config.llm.vocab_size)
        self.device, self.dtype = runner.device, dtype_of(precision)
        self.words = words.to(self.device, self.dtype)
        self._ended = False
        self._parts = {family: [spec for spec in graph_specs(config, parts).values()
                                if spec.family == family] for family in (UNDERSTAND, FLOW)}

    def load_drawing(self) -> Iterator[LoadStep]:
        """Graphs hold all weights from the start."""
        return iter(())

    @inference
    def session(self, *, rows: int, capacity: int) -> Session:
        """See :class:`~cooper_ros.runtime.base.Runtime`."""
        return GraphSession(self, rows, capacity)

    def forget(self) -> None:
        """Let the runner drop what it keeps for caches beyond a call, if it does."""
        getattr(self.runner, 'forget', lambda: None)()

    def ended(self) -> None:
        """Say that a session has ended; what was kept for its cache goes before the next call.

        A session ends whenever Python finds it, in the middle of a call or of a recording too.
        """
        self._ended = True

    def with_room(self, make: Callable[[], Made]) -> Made:
        """Allocate something; where there is no room, again without what the runner keeps."""
        try:
            return make()
        except torch.OutOfMemoryError:
            pass  # and with it goes the traceback, which holds what was half made
        self.forget()
        return make()

    @inference
    def encode_vision(self, pixels: Tensor) -> Tensor:
        """See :class:`~cooper_ros.runtime.base.Runtime`."""
        patch, side = self.config.vit.patch_size, self.config.vit_max_num_patch_per_side
        ids = position_ids(grid_of(pixels, patch, side), side)
        return self._one('vision', patches=patchify(pixels.to(self.dtype), patch)[None],
                         position_ids=ids)[0]

    @inference
    def encode_image(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """See :class:`~cooper_ros.runtime.base.Runtime`."""
        grid_of(pixels, self.config.pixels_per_latent_token, self.config.max_latent_size)
        moments = self._one('vae_encode', pixels=pixels.to(self.dtype)[None])[0]
        mean, logvar = moments.float().chunk(2)
        if noise is not None:
            mean = mean + torch.exp(0.5 * logvar) * noise.to(mean.device)
        return self.config.vae.scale_factor * (mean - self.config.vae.shift_factor)

    @inference
    def embed_latents(self, latent: Tensor) -> Tensor:
        """See :class:`~cooper_ros.runtime.base.Runtime`."""
        patch = self.config.latent_patch_size
        grid = grid_of(latent, patch, self.config.max_latent_size)
        return self.embed_tokens_at(patchify(latent, patch), 0.0, grid)

    @inference
    def decode_tokens(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """See :class:`~cooper_ros.runtime.base.Runtime`."""
        latents = unpatchify(tokens.to(self.dtype), grid, self.config.latent_patch_size)
        return self._one('vae_decode', latents=latents[None])[0].float()

    def embed_tokens_at(self, tokens: Tensor, time: float, grid: tuple[int, int]) -> Tensor:
        """Latent tokens ``[N, P]`` at one flow time to decoder tokens ``[N, D]``."""
        return self._one('latents', x=tokens.float(), time=torch.tensor([time]),
                         position_ids=position_ids(grid, self.config.max_latent_size))

    def embed_text(self, ids: Sequence[int]) -> Tensor:
        """Ids to decoder tokens ``[1, S, D]``."""
        return F.embedding(torch.tensor([list(ids)], device=self.device), self.words)

    def markers(self) -> Tensor:
        """Embedded start and end of image ``[1, 2, D]``."""
        return self.embed_text((self.specials.start_of_image, self.specials.end_of_image))

    def call(self, graph: str, into: Tensors, **inputs: Tensor) -> Tensors:
        """Run a graph with inputs moved to the device and made contiguous."""
        if self._ended:
            self._ended = False
            self.forget()
        ready = {name: value.to(self.device).contiguous() for name, value in inputs.items()}
        return self.runner.run(graph, ready, into)

    def run_layers(self, family: str, into: Tensors, **inputs: Tensor) -> Tensors:
        """Run all layers of the decoder; each part is handed what the one before it gave."""
        result: dict[str, Tensor] = {}
        for spec in self._parts[family]:
            inputs |= {name.removeprefix(NEXT): value for name, value in result.items()
                       if name.startswith(NEXT)}
            result = dict(self.call(
                spec.name, {entry.name: into[entry.name] for entry in spec.outputs
                            if entry.name in into},
                **{entry.name: inputs[entry.name] for entry in spec.inputs}))
        return result

    def _one(self, graph: str, **inputs: Tensor) -> Tensor:
        (output,) = self.call(graph, {}, **inputs).values()
        return output


class GraphSession:
    """Contexts of one :class:`GraphRuntime`; implements :class:`~..base.Session`."""

    def __init__(self, runtime: GraphRuntime, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self._runtime, llm = runtime, runtime.config.llm
        slots = padded(capacity, runtime.runner.bucket)
        self.cache = runtime.with_room(
            lambda: SlotCache(llm, rows, slots, runtime.device, runtime.dtype))
        self.cache.capacity = capacity
        angles = rope_angles(torch.arange(capacity + 1), llm.head_dim, llm.rope_theta)
        self._cos, self._sin = (table.to(runtime.device, runtime.dtype) for table in angles)
        self._branches: tuple[object, dict[str, Tensor]] | None = None
        weakref.finalize(self, runtime.ended).atexit = False

    def cursor(self, row: int) -> Cursor:
        """See :class:`~cooper_ros.runtime.base.Session`."""
        return self.cache.cursors[row]

    def rewind(self, row: int, cursor: Cursor) -> None:
        """See :class:`~cooper_ros.runtime.base.Session`."""
        self._branches = None
        self.cache.rewind(row, cursor)

    @inference
    def share(self, source: int, target: int, *, keep: int = 0) -> None:
        """See :class:`~cooper_ros.runtime.base.Session`."""
        self._branches = None
        self.cache.share(source, target, keep)

    @inference
    def append_text(self, row: int, ids: Sequence[int]) -> None:
        """See :class:`~cooper_ros.runtime.base.Session`."""
        specials = self._runtime.specials
        whole, most = [specials.bos, *ids, specials.eos], self._runtime.runner.most_tokens
        self.cache.require(row, len(whole))
        for start in range(0, len(whole), most):  # causal, so pieces make no difference
            self._feed_text(row, whole[start:start + most])

    @inference
    def append_vision(self, row: int, tokens: Tensor) -> None:
        """See :class:`~cooper_ros.runtime.base.Session`."""
        self.cache.require(row, len(tokens) + MARKERS)
        markers = self._runtime.markers()[0]
        start, end = markers.split(1)
        embeds = torch.cat([start, tokens.to(markers), end])[None]
        self._understand(row, embeds, causal=False)
        self.cache.advance(row, embeds.shape[1], 1)

    @inference
    def append_latents(self, row: int, tokens: Tensor) -> None:
        """See :class:`~cooper_ros.runtime.base.Session`.

        The markers are stored before the latents: all of them share one position, and attention
        does not care for the order of keys.
        """
        self.cache.require(row, len(tokens) + MARKERS)
        start = self.cursor(row).length
        end = start + len(tokens) + MARKERS
        into = self.cache.tensors(('new_key', 'new_value'), slice(row, row + 1), start, end)
        self._flow((row,), tokens[None], into)
        self.cache.advance(row, len(tokens) + MARKERS, 1)
        self._branches = None

    @inference
    def step(self, row: int, token_id: int) -> Tensor:
        """See :class:`~cooper_ros.runtime.base.Session`."""
        self.cache.require(row, 1)
        return self._feed_text(row, [token_id])[0, :self._runtime.vocabulary].float()

    @inference
    def velocity(self, rows: Sequence[int], x_t: Tensor, t: float,
                 grid: tuple[int, int]) -> Tensor:
        """See :class:`~cooper_ros.runtime.base.Session`."""
        if x_t.shape[0] != grid[0] * grid[1]:
            raise BadOption('latent tokens do not fill the grid', value=x_t.shape[0],
                            limit=f'{grid[0]} x {grid[1]}')
        for row in rows:
            self.cache.require(row, x_t.shape[0] + MARKERS)
        tokens = self._runtime.embed_tokens_at(x_t, t, grid)
        return self._flow(tuple(rows), tokens[None], {})['velocity']

    def _feed_text(self, row: int, ids: Sequence[int]) -> Tensor:
        """Append ids as given; return logits ``[1, V]`` of what follows the last."""
        logits = self._understand(row, self._runtime.embed_text(ids), causal=True)
        self.cache.advance(row, len(ids), len(ids))
        return logits

    def _understand(self, row: int, embeds: Tensor, causal: bool) -> Tensor:
        self._branches = None
        at, tokens, one = self.cursor(row), embeds.shape[1], slice(row, row + 1)
        cos, sin = (table[at.rope:at.rope + (tokens if causal else 1)].expand(tokens, -1)[None]
                    for table in (self._cos, self._sin))
        into = self.cache.tensors(('new_key', 'new_value'), one, at.length, at.length + tokens)
        out = self._runtime.run_layers(
            UNDERSTAND, into, embeds=embeds, cos=cos, sin=sin, used=torch.tensor([at.length]),
            causal=torch.tensor([causal]),
            **self.cache.tensors(('key', 'value'), one, 0, self._slots((row,))))
        return out['logits']

    def _flow(self, rows: tuple[int, ...], tokens: Tensor, into: Tensors) -> Tensors:
        ends = [self.cursor(row) for row in rows]
        cos, sin = (torch.stack([table[end.rope:end.rope + 1] for end in ends])
                    for table in (self._cos, self._sin))
        return self._runtime.run_layers(
            FLOW, into, markers=self._runtime.markers(), tokens=tokens.to(self._runtime.dtype),
            cos=cos, sin=sin, used=torch.tensor([end.length for end in ends]),
            **self._contexts(rows))

    def _contexts(self, rows: tuple[int, ...]) -> dict[str, Tensor]:
        """Contexts of rows padded to one length; several are copied once per map, not per step."""
        slots = self._slots(rows)
        if len(rows) == 1:
            return self.cache.tensors(('key', 'value'), slice(rows[0], rows[0] + 1), 0, slots)
        if self._branches is None or self._branches[0] != rows:
            self._branches = rows, self._runtime.with_room(
                lambda: self.cache.together(rows, slots))
        return self._branches[1]

    def _slots(self, rows: Sequence[int]) -> int:
        """Slots to hand over: at least one, rounded up to whole buckets."""
        longest = max(self.cursor(row).length for row in rows)
        return padded(longest, self._runtime.runner.bucket)
