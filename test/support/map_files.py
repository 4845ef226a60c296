"""Pictures with truth, as people keep them in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64
RNG = np.random.default_rng(4)
METRES = np.tile(np.linspace(0.5, 6, WIDTH, dtype=np.float32), (HEIGHT, 1))
MILLIMETRES = np.rint(METRES * 1000).astype(np.uint16)
MASK = np.repeat(np.array([[1, 2]], np.uint8), WIDTH // 2, axis=1).repeat(HEIGHT, axis=0)


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == '.npy':
        with open(path, 'wb') as file:  # by name, numpy would add a suffix
            np.save(file, pixels)
    else:
        Image.fromarray(pixels).save(path, **options)
    return path


def photo(path: Path, height: int = HEIGHT, width: int = WIDTH, **options: Any) -> Path:
    return save(path, RNG.integers(0, 256, (height, width, 3), dtype=np.uint8), **options)
