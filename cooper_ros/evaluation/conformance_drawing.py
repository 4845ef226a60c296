"""Part f of a recording: rectified flow, guidance, decoding, the two drawing routes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cooper_ros.engine.drawing import DrawOptions
from cooper_ros.engine.limits import Limits
from cooper_ros.evaluation.conformance_context import (
    end_of,
    feed_latents,
    feed_text,
    feed_vision,
    open_session,
)
from cooper_ros.evaluation.conformance_golden import Golden, Part, Rows, guarded
from cooper_ros.evaluation.conformance_pictures import COLOUR_APART
from cooper_ros.evaluation.conformance_rows import compare_number, compare_tensor, exact
from cooper_ros.imaging import depth
from cooper_ros.imaging.colours import colourise
from cooper_ros.imaging.resize import encoder_inputs
from cooper_ros.model.flow import Guidance, schedule
from cooper_ros.model.tables import time_features
from cooper_ros.runtime.base import Session
from cooper_ros.runtime.torch_runtime import TorchSession

ROWS = (0, 1, 2)  # everything, without the text, without the image
CONTEXTS = ('gen', 'cfg_text', 'cfg_img')
DEPTH_VARIANT = 'text_img_text_channel'  # the one recorded as a depth map too
MEAN_TOLERANCE = 0.005  # of an 8-bit picture, half a percent of whose values may be one off


@dataclass(frozen=True)
class RecordedFlow(DrawOptions):
    """The drawing of the engine; keeps the guided velocity of every step."""

    seen: list[Tensor] = field(default_factory=list)

    def velocity(self, session: Session, rows: Sequence[int], tokens: Tensor, time: float,
                 grid: tuple[int, int]) -> Tensor:
        """See :meth:`DrawOptions.velocity`."""
        self.seen.append(super().velocity(session, rows, tokens, time, grid))
        return self.seen[-1]


def check_drawing(golden: Golden) -> Rows:
    """Part f: time embedding, both kinds of context with all variants, then the routes."""
    part = golden.part('f_generate')
    yield from guarded('f_generate.time', _time_rows(golden, part))
    for kind, recorded in part.values.items():
        if 'variants' in recorded:
            yield from guarded(f'f_generate.{kind}', _kind_rows(golden, part, kind, recorded))
    yield from guarded('f_generate.routes', _route_rows(golden, part))


def _time_rows(golden: Golden, part: Part) -> Rows:
    times = part['in.time']
    yield part.compare('time_frequencies', time_features(times))
    with torch.inference_mode():
        yield part.compare('time_embedding', golden.runtime.network.time_embedder(times))


def _kind_rows(golden: Golden, part: Part, kind: str, recorded: dict[str, Any]) -> Rows:
    pixels = None
    if 'pixels' in recorded:
        pixels = (golden.pixels('vae', recorded['pixels']),
                  golden.pixels('vit', recorded['pixels']))
    grid = _grid(golden, recorded['image_hw'])
    session = _contexts(golden, recorded['text_ids'], pixels, grid)
    yield exact(f'f_generate.{kind}.contexts', [end_of(session, row) for row in ROWS],
                [recorded[name] for name in CONTEXTS])
    noise = part[f'in.noise_{kind}']
    for name, variant in recorded['variants'].items():
        yield from guarded(f'f_generate.{kind}.{name}', _variant_rows(
            golden, part, (kind, name), variant, session, noise, grid))


def _grid(golden: Golden, image_hw: Sequence[int]) -> tuple[int, int]:
    """Latent tokens down and across a picture."""
    stride = golden.model_config.pixels_per_latent_token
    return image_hw[0] // stride, image_hw[1] // stride


@torch.inference_mode()
def _contexts(golden: Golden, text_ids: Sequence[int], pixels: tuple[Tensor, Tensor] | None,
              grid: tuple[int, int]) -> TorchSession:
    """The three contexts: image and text, image only, text only; no image for a plain text."""
    config, cells = golden.model_config, 0 if pixels is None else sum(p[0].numel() for p in pixels)
    images = cells // min(config.pixels_per_latent_token, config.vit.patch_size) ** 2
    session = open_session(golden, len(ROWS), len(text_ids) + images + grid[0] * grid[1])
    for row in ROWS[:2]:
        if pixels is not None:
            feed_latents(golden, session, row, pixels[0])
            feed_vision(golden, session, row, pixels[1])
    for row in (0, 2):
        feed_text(golden, session, row, text_ids)
    return session


def _options(settings: dict[str, Any]) -> RecordedFlow:
    guidance = Guidance(settings['cfg_text_scale'], settings['cfg_img_scale'],
                        *settings['cfg_interval'], settings['cfg_renorm_type'],
                        settings['cfg_renorm_min'])
    return RecordedFlow(settings['num_timesteps'], settings['timestep_shift'], guidance)


def _drawn(options: RecordedFlow, session: TorchSession, noise: Tensor,
           grid: tuple[int, int]) -> Tensor:
    """Latent tokens ``[N, P]`` after the last step."""
    *_, tokens = options.flow(session, ROWS, noise, grid, Limits())
    return tokens


def _variant_rows(golden: Golden, part: Part, names: tuple[str, str], variant: dict[str, Any],
                  session: TorchSession, noise: Tensor, grid: tuple[int, int]) -> Rows:
    kind, name = names
    item, options = f'{kind}.{name}', _options(variant)
    times = schedule(options.points, options.shift)[:-1]
    yield compare_tensor(f'f_generate.{item}.timesteps', times, torch.tensor(variant['timesteps']))
    tokens = _drawn(options, session, noise, grid)
    yield part.compare(f'{item}.v_t', torch.stack(options.seen)[variant['v_t_steps']])
    yield part.compare(f'{item}.latent', tokens)
    yield compare_number(f'f_generate.{item}.latent_norm', float(tokens.norm()),
                         variant['latent_norm'])
    decoded = golden.runtime.decode_tokens(tokens, grid)  # [3, H, W]
    picture = depth.picture_from_decoded(decoded.numpy())
    if f'out.{item}.decoded' in part.tensors:
        yield part.compare(f'{item}.decoded', decoded[None])
    if f'out.{item}.image_u8' in part.tensors:
        yield part.compare_picture(f'{item}.image_u8', picture)
    if 'image_u8_mean' in variant:
        yield compare_number(f'f_generate.{item}.image_u8_mean', float(picture.mean()),
                             variant['image_u8_mean'], MEAN_TOLERANCE)
    if name == DEPTH_VARIANT and f'out.{kind}.depth' in part.tensors:
        yield part.compare(f'{kind}.depth', depth.relative_from_decoded(decoded.numpy()))


def _route_rows(golden: Golden, part: Part) -> Rows:
    """From the picture file to the depth map and to the segmentation."""
    settings = part.value('routes')
    file, text = settings['inputs']
    inputs = encoder_inputs(Image.open(golden.folder / file), golden.transform('vae'),
                            golden.transform('vit'))
    grid = _grid(golden, inputs.pixels.shape[:2])
    pixels = (torch.from_numpy(inputs.vae), torch.from_numpy(inputs.vit))
    session = _contexts(golden, text['text_ids'], pixels, grid)
    tokens = _drawn(_options(settings), session, part[settings['noise']], grid)
    decoded = golden.runtime.decode_tokens(tokens, grid).numpy()
    relative: np.ndarray = depth.relative_from_decoded(decoded)
    yield part.compare('depth_route.depth', relative)
    yield part.compare_picture('depth_route.colour_u8', colourise(relative), COLOUR_APART)
    yield part.compare_picture('segmentation_route.image_u8', depth.picture_from_decoded(decoded))
