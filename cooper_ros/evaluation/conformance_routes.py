"""Part i of a golden set: the routes, run by our own engine with scripted replies.

The trace of the reference says, for every text and picture it generated, which contexts it used.
Ours are compared as what they mean: the ordered pieces behind each context (reconstructed from the
trace by following ``from`` and ``to``), its length and next position, and the drawing options. How
a context came to be (read again, or shared) is our business.

The published prompt texts are not ours to carry. Without the user's own file, a filler of the same
byte length stands in for each of them: lengths, positions and order are still checked; only the
picture whose pixels depend on the words cannot be.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from cooper_ros.engine import reasoning
from cooper_ros.engine.contexts import FULL, NO_IMAGE, NO_TEXT, Piece, Reader, TextPiece
from cooper_ros.engine.drawing import DrawOptions
from cooper_ros.engine.events import DEPTH, SEGMENTATION, DepthMap
from cooper_ros.engine.import_prompts import OFFICIAL
from cooper_ros.engine.limits import Limits
from cooper_ros.engine.maps import MapMaker
from cooper_ros.engine.pictures import PictureReader
from cooper_ros.engine.prompts import OFFICIAL_NAMES, Prompts
from cooper_ros.engine.sampling import TextOptions
from cooper_ros.engine.talk import Branches, Steps, Talk, Turn
from cooper_ros.engine.tokens import TextCodec
from cooper_ros.evaluation.conformance_rows import Row, compare_picture, compare_tensor, exact
from cooper_ros.imaging.resize import ImageTransform
from cooper_ros.model.flow import Guidance
from cooper_ros.runtime.base import Runtime

_CAPACITY = 4096
_DEFAULTS = {'cfg_text_scale': 4.0, 'cfg_img_scale': 2.0, 'cfg_interval': [0.4, 1.0],
             'timestep_shift': 3.0, 'num_timesteps': 30, 'cfg_renorm_min': 0.0,
             'cfg_renorm_type': 'global'}
_EDIT_DEFAULTS = {**_DEFAULTS, 'cfg_text_scale': 3.0, 'cfg_img_scale': 1.5, 'num_timesteps': 50}


@dataclass(frozen=True)
class Moment:
    """One generation: what was generated, from which contexts, in terms of their pieces."""

    op: str
    contexts: tuple[tuple[str, ...], ...]
    ends: tuple[tuple[int, int], ...]


@dataclass
class ScriptedTalk(Talk):
    """A talk whose turns are given; everything else is the real thing."""

    script: list[str] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    def write(self, context: Sequence[Piece]) -> Steps:
        """Read the context for real, then take the next scripted turn."""
        self.moments.append(self._moment('gen_text', {FULL: context}))
        self.turns.append(Turn(self.script.pop(0)))
        yield from ()

    def draw(self, kind: str, branches: Branches) -> Steps:
        """Note the three contexts, then draw for real."""
        self.moments.append(self._moment('gen_image', {
            FULL: branches.full, NO_TEXT: branches.no_text, NO_IMAGE: branches.no_image}))
        yield from super().draw(kind, branches)

    def _moment(self, op: str, rows: dict[int, Sequence[Piece]]) -> Moment:
        ends = [self.reader.read(row, pieces) for row, pieces in rows.items()]
        return Moment(op, tuple(tuple(map(_name, pieces)) for pieces in rows.values()),
                      tuple((end.length, end.rope) for end in ends))


def check_routes(folder: Path, runtime: Runtime, meta: dict[str, Any],
                 prompts: Prompts | None) -> Iterator[Row]:
    """Compare every route of ``i_routes`` in a golden folder; yields one row per fact."""
    routes = json.loads((folder / 'i_routes.json').read_text())
    tensors = load_file(folder / 'i_routes.safetensors')
    texts = prompts or filler_prompts()
    for name, route in routes.items():
        noises = [tensors[f'in.{name}.noise_{k}'] for k in range(16)
                  if f'in.{name}.noise_{k}' in tensors]
        talk = _run(folder, runtime, meta, texts, route, noises)
        yield from _compare_moments(name, route, talk, texts)
        yield from _compare_pictures(name, tensors, talk, own_words=prompts is None)


def filler_prompts() -> Prompts:
    """Stand-ins with the byte lengths of the published prompts."""
    return Prompts(**{name: name.ljust(OFFICIAL[official].bytes)
                      for name, official in OFFICIAL_NAMES.items()})


def _run(folder: Path, runtime: Runtime, meta: dict[str, Any], prompts: Prompts,
         route: dict[str, Any], noises: list[Tensor]) -> ScriptedTalk:
    special = meta['special_tokens']
    codec = TextCodec(lambda text: list(text.encode()), lambda ids: '', special['bos_token_id'],
                      special['eos_token_id'])
    pictures = PictureReader(runtime, _transform(meta, 'vae'), _transform(meta, 'vit'), False,
                             10**9)
    image = Image.open(folder / route['image'])
    talk = ScriptedTalk(request_id='', codec=codec, prompts=prompts,
                        reader=Reader(runtime, _CAPACITY), pictures=[pictures.prepare(image, 0)],
                        question=route['question'], text_options=TextOptions(max_tokens=1),
                        draw_options=_draw_options(route), maker=MapMaker(pictures, None, ()),
                        limits=Limits(), seed=0, noises=noises or None,
                        script=list(route['scripted_replies']))
    for _ in _entry(talk, route):
        pass
    return talk


def _entry(talk: ScriptedTalk, route: dict[str, Any]) -> Steps:
    """Our route for an official entry point and its arguments."""
    entry, arguments = route['official_entry'], route['arguments']
    think = bool(arguments.get('think', False))
    if entry == 'interleave_reason_tool_condition':
        return reasoning.interleaved(talk, arguments.get('max_inter_num', 3), True)
    if entry == 'image_reason_tool_condition':
        return reasoning.both_maps(talk)
    if entry == 'text_reason':
        return reasoning.thinking(talk) if arguments.get('is_thinking', True) \
            else reasoning.direct(talk)
    if arguments.get('understanding_output'):
        return reasoning.thinking(talk) if think else reasoning.direct(talk)
    kind = DEPTH if entry == 'depth_map_generation' else SEGMENTATION
    return reasoning.edit(talk, kind, talk.question, think)


def _draw_options(route: dict[str, Any]) -> DrawOptions:
    edits = route['official_entry'] in ('interleave_inference', 'depth_map_generation')
    values = {**(_EDIT_DEFAULTS if edits else _DEFAULTS), **route['arguments']}
    guidance = Guidance(values['cfg_text_scale'], values['cfg_img_scale'],
                        *values['cfg_interval'], values['cfg_renorm_type'],
                        values['cfg_renorm_min'])
    return DrawOptions(values['num_timesteps'], values['timestep_shift'], guidance)


def _transform(meta: dict[str, Any], kind: str) -> ImageTransform:
    rule = meta['transforms'][kind]
    return ImageTransform(rule['max_image_size'], rule['min_image_size'], rule['image_stride'])


def _compare_moments(name: str, route: dict[str, Any], talk: ScriptedTalk,
                     prompts: Prompts) -> Iterator[Row]:
    wanted = list(_expected_moments(route['trace'], prompts))
    got = [(moment.op, moment.contexts, moment.ends) for moment in talk.moments]
    yield exact(f'i_routes.{name}.contexts', got, wanted)
    options = [step['options'] for step in route['trace'] if step['op'] == 'gen_image']
    for number, option in enumerate(options):
        yield exact(f'i_routes.{name}.draw_{number}', _as_official(talk.draw_options),
                    {key: value for key, value in option.items() if key != 'out_depth'})
        is_depth = isinstance(talk.maps[number], DepthMap)
        yield exact(f'i_routes.{name}.draw_{number}.depth', is_depth,
                    bool(option.get('out_depth', False)))
    yield exact(f'i_routes.{name}.unused_replies', len(talk.script), route['unused_replies'])


def _as_official(options: DrawOptions) -> dict[str, Any]:
    guidance = options.guidance
    return {'cfg_text_scale': guidance.text, 'cfg_img_scale': guidance.image,
            'cfg_interval': [guidance.low, guidance.high], 'timestep_shift': options.shift,
            'num_timesteps': options.points, 'cfg_renorm_min': guidance.renorm_min,
            'cfg_renorm_type': guidance.renorm}


def _expected_moments(trace: list[dict[str, Any]], prompts: Prompts) -> Iterator[tuple]:
    """The generations of a trace, each with the pieces of its contexts."""
    for position, step in enumerate(trace):
        before = trace[:position]
        if step['op'] == 'gen_text':
            ends = [step['context']]
        elif step['op'] == 'gen_image':
            ends = [step['gen'], step['cfg_text'], step['cfg_img']]
        else:
            continue
        pieces = tuple(tuple(_pieces_behind(end, before, prompts)) for end in ends)
        yield step['op'], pieces, tuple((end[0], end[1]) for end in ends)


def _pieces_behind(end: list[int], before: list[dict[str, Any]], prompts: Prompts) -> list[str]:
    """Follow a context back to its empty beginning through the updates that made it."""
    if end == [0, 0]:
        return []
    step = next(step for step in reversed(before) if step.get('to') == end)
    return _pieces_behind(step['from'], before, prompts) + _names_of(step, prompts)


def _names_of(step: dict[str, Any], prompts: Prompts) -> list[str]:
    if step['op'] == 'text':
        known = {OFFICIAL[official].sha256[:16]: name
                 for name, official in OFFICIAL_NAMES.items()}
        prompt = known.get(step['sha256_16'])
        sha = _sha16(getattr(prompts, prompt).encode()) if prompt else step['sha256_16']
        return [f'text {step["utf8_bytes"]} {sha}']
    return [kind for kind in ('vae', 'vit') if step[kind]]


def _name(piece: Piece) -> str:
    if isinstance(piece, TextPiece):
        return f'text {len(piece.ids)} {_sha16(bytes(piece.ids))}'
    return 'vae' if piece.latent else 'vit'


def _sha16(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _compare_pictures(name: str, tensors: dict[str, Tensor], talk: ScriptedTalk,
                      own_words: bool) -> Iterator[Row]:
    for item, expected in tensors.items():
        if not item.startswith(f'out.{name}.'):
            continue
        last = talk.maps[-1]
        if item.endswith('.depth'):
            yield compare_tensor(f'i_routes.{item}', torch.from_numpy(_relative(last)), expected)
        elif own_words:
            yield Row(f'i_routes.{item}', None, None, None,
                      'needs the published prompts: --prompts prompts.yaml')
        else:
            yield compare_picture(f'i_routes.{item}', _rgb(last), expected.numpy())


def _relative(drawn: object) -> np.ndarray:
    assert isinstance(drawn, DepthMap)
    return drawn.relative


def _rgb(drawn: object) -> np.ndarray:
    return drawn.rgb  # type: ignore[attr-defined]
