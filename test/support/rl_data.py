"""A tiny ``RL_data.jsonl`` with its picture, as the reward stage reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def questions(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'p.png')
    rows = [{'question': f'how many are there in row {row}?', 'answer': 'yes', 'image': 'p.png',
             'data_id': f'g{row}', 'flag': 'positive'} for row in range(count)]
    (folder / 'RL_data.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder
