"""Parts a (preprocessing) and h (depth) of a recording: arrays only, no network."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Any, Sequence

import numpy as np
import PIL
from PIL import Image

from cooper_ros.evaluation.alignment import align_least_squares
from cooper_ros.evaluation.conformance_golden import Golden, Missing, Part, Rows, guarded
from cooper_ros.evaluation.conformance_rows import (
    Row,
    compare_number,
    compare_tensor,
    exact,
    worst,
)
from cooper_ros.evaluation.depth_metrics import depth_metrics, valid_mask
from cooper_ros.imaging import depth, depth_sets
from cooper_ros.imaging.colours import colourise, colourise_float
from cooper_ros.imaging.resize import ImageTransform, encoder_inputs, normalise, to_rgb
from cooper_ros.model.patches import interpolated_position_ids, position_ids

VAE_RULE, VIT_RULE = (512, 16), (224, 14)  # shortest side and stride of `vae_N` and `vit_N`
COLOUR_APART = 4  # a colour bin boundary may be crossed
METRIC_RELATIVE = 1e-4
RECORDED_WITH_PILLOW = 13
MASKED_RANGE = (0.2, 0.9)


def check_preprocessing(golden: Golden) -> Rows:
    """Part a, and the prepared pictures that parts b, e and f start from."""
    part = golden.part('a_preprocess')
    for name, entry in part.value('images').items():
        yield from guarded(f'a_preprocess.{name}', _picture_rows(golden, part, name, entry))
    for rule, rows in part.value('sizes').items():
        yield from guarded(f'a_preprocess.sizes.{rule}', _size_rows(golden, rule, rows))
    for entry in part.value('position_ids'):
        yield from guarded('a_preprocess.position_ids', _position_rows(entry))
    yield from guarded('model_inputs', _prepared_rows(golden))


def _picture_rows(golden: Golden, part: Part, name: str, entry: dict[str, Any]) -> Rows:
    item = f'a_preprocess.{name}'
    source = Image.open(golden.folder / entry['file'])
    yield exact(f'{item}.mode_and_size', [source.mode, list(source.size)],
                [entry['mode'], entry['size_wh']])
    rgb = to_rgb(source)
    yield exact(f'{item}.rgb_sha256', _sha256(np.asarray(rgb)), entry['rgb_sha256'])
    if f'out.{name}.rgb_u8' in part.tensors:
        yield part.compare(f'{name}.rgb_u8', np.array(rgb))
    for transform, expected in entry['transforms'].items():
        steps = [rgb]
        for rule in transform.split('_then_'):
            steps.append(named_rule(golden, rule)[0].resize(steps[-1]))
        rows = _transform_rows(part, f'{name}.{transform}', np.array(steps[-1]), expected)
        sizes = [step.size for step in steps]
        yield from rows if same_order_of_passes(sizes) else map(_excused, rows)


def same_order_of_passes(sizes: Sequence[tuple[int, int]],
                         version: str = PIL.__version__) -> bool:
    """Whether this Pillow resizes through these sizes exactly as the one of the recordings did.

    Since version 13 Pillow shrinks the height before the width where that is less work; what
    lies between is rounded and clipped to 8 bits, so the two orders differ. Tried with 300 random
    sizes: only where the height shrinks, and more than the width; there, mostly.
    """
    turned = any(new[1] < old[1] and new[1] * old[0] < new[0] * old[1]
                 for old, new in zip(sizes, sizes[1:]))
    return not turned or int(version.partition('.')[0]) >= RECORDED_WITH_PILLOW


def _excused(row: Row) -> Row:
    note = f'needs Pillow {RECORDED_WITH_PILLOW} or newer, this is {PIL.__version__}'
    return row if row.passed else dataclasses.replace(row, passed=None, note=note)


def _transform_rows(part: Part, name: str, pixels: np.ndarray, expected: dict[str, Any]) -> Rows:
    """All that is recorded of one transform of one picture."""
    item, values = f'{part.name}.{name}', normalise(pixels).astype(np.float64)  # [3, H, W]
    yield exact(item, [list(pixels.shape[:2]), _sha256(pixels)],
                [expected['out_hw'], expected['u8_hwc_sha256']])
    statistics = {'mean': values.mean(), 'mean_of_squares': (values ** 2).mean(),
                  'min': values.min(), 'max': values.max()}
    yield worst(f'{item}.statistics', [compare_number(key, value, expected[key])
                                       for key, value in statistics.items()])
    planes, step = pixels.transpose(2, 0, 1), expected.get('stride', 1)
    stored = {'': values.astype(np.float32), '.u8': planes,
              '.u8_strided': planes[:, ::step, ::step]}
    kinds = [kind for kind in stored if f'out.{name}{kind}' in part.tensors]
    if not kinds:
        raise Missing(f'out.{name} is missing from {part.name}.safetensors in every form')
    for kind in kinds:
        yield part.compare(name + kind, np.ascontiguousarray(stored[kind]))


def named_rule(golden: Golden, name: str) -> tuple[ImageTransform, int]:
    """The resize rule behind a recorded name, and how many pictures share its pixel cap.

    Raises:
        Missing: the name follows none of the recorded patterns.
    """
    base, _, sharing = name.partition('_img_num_')
    pictures = int(sharing or 1)
    if base in ('vae_small', 'vit_small'):
        return golden.transform(base[:3]), pictures
    cap = golden.meta['transforms']['max_pixels']
    if found := re.fullmatch(r'(vae|vit)_(\d+)', base):
        rest = VAE_RULE if found[1] == 'vae' else VIT_RULE
        return ImageTransform(int(found[2]), *rest, cap), pictures
    if found := re.fullmatch(r'pixel_capped_(\d+)_(\d+)_(\d+)(?:_maxpixels_(\d+))?', base):
        longest, shortest, stride, own_cap = found.groups()
        return ImageTransform(int(longest), int(shortest), int(stride),
                              int(own_cap or cap)), pictures
    raise Missing(f'no resize rule is known by the name {name}')


def _size_rows(golden: Golden, rule: str, rows: list[list[int]]) -> Rows:
    transform, pictures = named_rule(golden, rule)
    got = [[w, h, *reversed(transform.size(w, h, pictures))] for w, h, _, _ in rows]
    wrong = [(mine, theirs) for mine, theirs in zip(got, rows) if mine != theirs]
    yield exact(f'a_preprocess.sizes.{rule}', wrong, [])


def _position_rows(entry: dict[str, Any]) -> Rows:
    """Ids of one grid under every rule that is recorded for it, whole or thinned out."""
    height, width, patch, side = (entry[key] for key in ('H', 'W', 'patch', 'max_per_side'))
    grid = (height // patch, width // patch)
    rules = {'extrapolate': position_ids, 'interpolate': interpolated_position_ids}
    item = f'a_preprocess.position_ids.{height}x{width}.side_{side}'
    yield exact(f'{item}.n', grid[0] * grid[1], entry['n'])
    for key, expected in entry.items():
        rule, _, stride = key.partition('_strided_')
        if rule in rules:
            ids = rules[rule](grid, side).tolist()[::int(stride or 1)]
            yield exact(f'{item}.{key}', ids, expected)


def _prepared_rows(golden: Golden) -> Rows:
    """The model inputs must follow from the picture files."""
    part = golden.part('model_inputs')
    for index, (name, entry) in enumerate(part.values.items()):
        source = Image.open(golden.folder / name)
        inputs = encoder_inputs(source, golden.transform('vae'), golden.transform('vit'))
        first = golden.transform('vae').size(*source.size)
        yield exact(f'model_inputs.{name}', [list(source.size), list(first)],
                    [entry['wh'], entry['after_first_resize_wh']])
        for kind, got in (('vae', inputs.vae), ('vit', inputs.vit)):
            yield compare_tensor(f'model_inputs.in.{kind}_pixels_{index}', got,
                                 part[f'in.{kind}_pixels_{index}'])


def _sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def check_depth(golden: Golden) -> Rows:
    """Part h: targets, decoding, colours, alignment, metrics, crop."""
    part = golden.part('h_depth')
    for name, entry in part.value('normalise').items():
        yield from guarded(f'h_depth.{name}', _target_rows(part, name, entry))
    yield from guarded('h_depth.decoded', _decoded_rows(part))
    yield from guarded('h_depth.ramp', _ramp_rows(part))
    yield from guarded('h_depth.align', _alignment_rows(part))
    for (width, height), box in part.value('kitti_crop_wh_to_box'):
        yield exact(f'h_depth.kitti_crop.{width}x{height}',
                    list(depth_sets.kitti_crop_box(width, height)), box)


def _target_rows(part: Part, name: str, entry: dict[str, Any]) -> Rows:
    raw, kind = part[f'in.{name}.raw_u16'].numpy().astype(np.uint16), depth_sets.depth_set(name)
    yield exact(f'h_depth.{name}.constants', [kind.units_per_metre, kind.near_m, kind.far_m],
                [entry['raw_units_per_metre'], entry['min_depth'], entry['max_depth']])
    picture = Image.fromarray(raw)
    yield exact(f'h_depth.{name}.pil_mode', picture.mode, entry['pil_mode'])
    yield part.compare(f'{name}.same', depth_sets.depth_target(raw, name)[0])
    height, width = entry['resized_hw']
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    yield part.compare(f'{name}.resized', depth_sets.depth_target(resized, name)[0])
    metres = depth_sets.metres_from_raw(raw, name)
    yield part.compare(f'{name}.eval_depth', metres)
    yield part.compare(f'{name}.eval_mask', valid_mask(metres, name, True).astype(np.uint8))


def _decoded_rows(part: Part) -> Rows:
    decoded = part['in.decoded'].numpy()[0]  # [3, H, W]
    relative = depth.relative_from_decoded(decoded)
    yield part.compare('depth_map', relative)
    yield part.compare_picture('decoded_image_u8', depth.picture_from_decoded(decoded))
    yield part.compare_picture('depth_colour_u8_hwc', colourise(relative), COLOUR_APART)
    masked = colourise_float(relative, *MASKED_RANGE, part['in.valid_mask'].numpy())
    yield part.compare('depth_colour_masked_float', masked.transpose(2, 0, 1).copy())


def _ramp_rows(part: Part) -> Rows:
    ramp = part['in.ramp'].numpy()  # [2, n]
    floats = colourise_float(ramp).transpose(2, 0, 1)  # [3, 2, n]
    yield part.compare('ramp_colour_float', floats.copy(), 1e-6)
    yield part.compare('ramp_colour_u8_hwc', colourise(ramp))


def _alignment_rows(part: Part) -> Rows:
    truth, prediction, valid = (part[f'in.{name}'].numpy()
                                for name in ('align_gt', 'align_pred', 'valid_mask'))
    fit = align_least_squares(prediction, truth, valid)
    for key, value in dataclasses.asdict(fit).items():
        yield compare_number(f'h_depth.align.{key}', value, part.value('align', key))
    aligned = fit.apply(prediction)
    yield part.compare('aligned', aligned)
    for key, expected in part.values.items():
        if found := re.fullmatch(r'metrics_on_aligned_clamped_(.+)_(.+)', key):
            clamped = np.clip(aligned, *map(float, found.groups()))
            yield from _metric_rows(clamped, truth, valid, expected)


def _metric_rows(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray,
                 expected: dict[str, float]) -> Rows:
    got = depth_metrics(prediction, truth, valid).as_dict()
    for key, value in expected.items():
        yield compare_number(f'h_depth.metrics.{key}', got[key], value, relative=METRIC_RELATIVE)
