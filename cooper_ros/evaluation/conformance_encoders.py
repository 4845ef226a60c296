"""Parts b (vision encoder) and c (autoencoder) of a recording."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from cooper_ros.evaluation.conformance_golden import Golden, Part, Rows, guarded
from cooper_ros.evaluation.conformance_rows import exact
from cooper_ros.model.network import Cooper
from cooper_ros.model.patches import patchify, position_ids, unpatchify


class Outputs:
    """Keeps what the modules of a network give out while it runs: name -> ``[n, D]``."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.seen: dict[str, Tensor] = {}
        self._hooks = [module.register_forward_hook(self._keeper(name))
                       for name, module in modules.items()]

    def _keeper(self, name: str) -> object:
        def keep(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            self.seen[name] = output.flatten(0, -2)
        return keep

    def __enter__(self) -> dict[str, Tensor]:
        return self.seen

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()


def check_vision(golden: Golden) -> Rows:
    """Part b: all pictures packed in one call."""
    part, network = golden.part('b_vit'), golden.runtime.network
    config = golden.model_config
    used = golden.meta['bagel']['vit_layers_used']
    yield exact('b_vit.vit_layers_used', config.vit.num_layers, used)
    pixels = [golden.pixels('vit', index) for index in range(len(part.value('images')))]
    patch, side = config.vit.patch_size, config.vit_max_num_patch_per_side
    tokens = torch.cat([patchify(picture, patch) for picture in pixels])  # [n, 588]
    ids = torch.cat([position_ids((picture.shape[1] // patch, picture.shape[2] // patch), side)
                     for picture in pixels])
    lengths = [picture[0].numel() // patch ** 2 for picture in pixels]
    for suffix, _ in part.numbered('out.packed_vit_tokens_strided_'):
        yield part.compare(f'packed_vit_tokens_strided_{suffix}', tokens[::int(suffix)])
    yield part.compare('position_ids', ids)
    yield part.compare('seqlens', torch.tensor(lengths))
    with torch.inference_mode(), Outputs(_vision_modules(network)) as seen:
        embeddings = network.embed_vision(tokens[None], ids, lengths)[0]
    for name, got in seen.items():
        yield part.compare(name, got)
    yield part.compare('embeddings', embeddings)


def _vision_modules(network: Cooper) -> dict[str, nn.Module]:
    tower = network.vit_model.vision_model
    layers = {f'layer_{index}': layer for index, layer in enumerate(tower.encoder.layers)}
    return {'patch_embeddings': tower.embeddings, **layers,
            'vit_last_hidden': tower.post_layernorm, 'connector': network.connector}


def check_autoencoder(golden: Golden) -> Rows:
    """Part c: every input that is there, with all that is recorded of it."""
    part = golden.part('c_vae', values=False)
    checks = {'image': _image_rows, 'latent': _latent_rows, 'tokens': _token_rows,
              'padded': _padded_rows}
    for name in sorted(part.tensors):
        if found := re.fullmatch(r'in\.(image|latent|tokens|padded)_(.+)', name):
            yield from guarded(f'c_vae.{name}', checks[found[1]](golden, part, found[2]))


def _image_rows(golden: Golden, part: Part, key: str) -> Rows:
    vae, pixels = golden.runtime.vae, part[f'in.image_{key}']
    with torch.inference_mode():
        moments, mean = vae.encoder(pixels), vae.encode(pixels)
        sampled, decoded = vae.encode(pixels, part[f'in.noise_{key}']), vae.decode(mean)
    yield part.compare(f'moments_{key}', moments)
    yield part.compare(f'latent_mean_{key}', mean)
    yield part.compare(f'latent_sampled_{key}', sampled)
    yield part.compare(f'decoded_from_mean_{key}', decoded)


def _latent_rows(golden: Golden, part: Part, key: str) -> Rows:
    with torch.inference_mode():
        decoded = golden.runtime.vae.decode(part[f'in.latent_{key}'])
    yield part.compare(f'decoded_{key}', decoded)


def _token_rows(golden: Golden, part: Part, key: str) -> Rows:
    """The token layout both ways; the grid follows from the recorded latent."""
    tokens, patch = part[f'in.tokens_{key}'], golden.model_config.latent_patch_size
    expected = part[f'out.latent_{key}']
    grid = (expected.shape[-2] // patch, expected.shape[-1] // patch)
    latent = unpatchify(tokens, grid, patch)[None]
    yield part.compare(f'latent_{key}', latent)
    yield exact(f'c_vae.tokens_{key}.round_trip',
                torch.equal(patchify(latent[0], patch), tokens), True)


def _padded_rows(golden: Golden, part: Part, key: str) -> Rows:
    with torch.inference_mode():
        mean = golden.runtime.vae.encode(part[f'in.padded_{key}'])
    yield part.compare(f'latent_mean_padded_{key}', mean)
