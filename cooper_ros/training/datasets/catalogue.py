"""All data sets that ``cooper data check`` and the training recipes know by name."""

from __future__ import annotations

from cooper_ros.errors import BadData
from cooper_ros.training.datasets import layouts
from cooper_ros.training.datasets.draw import DEPTH, SEGMENTATION, DrawKind

DRAW_KINDS = {kind.name: kind for kind in (
    DrawKind('hypersim', DEPTH, layouts.hypersim,
             ('filename_list_train_filtered.jsonl', 'train.jsonl'), 53885,
             'github.com/apple/ml-hypersim; tonemap.jpg and depth_meters.hdf5 of each scene, or '
             "the output of Marigold's preprocessing"),
    DrawKind('vkitti', DEPTH, layouts.vkitti, ('train.jsonl',), 20148,
             'Virtual KITTI 2.0.3 of Naver Labs Europe: the archives rgb and depth'),
    DrawKind('ade20k', SEGMENTATION, layouts.ade20k,
             ('ade20k_train_identify.jsonl', 'train.jsonl'), 25574,
             'ADE20K full set, ADE20K_2021_17_01 (registration needed)'),
    DrawKind('nyu', DEPTH, layouts.nyu, ('filename_list_test.jsonl', 'test.jsonl'), 654,
             'NYU Depth v2: the labelled .mat file, or any extraction as rgb/depth PNG'))}
COOPER = 'cooper'
KINDS = (*DRAW_KINDS, COOPER)


def draw_kind(name: str) -> DrawKind:
    """Look up a depth or segmentation set.

    Raises:
        BadData: no such set.
    """
    if name not in DRAW_KINDS:
        raise BadData('unknown data set', value=name, limit=', '.join(DRAW_KINDS))
    return DRAW_KINDS[name]
