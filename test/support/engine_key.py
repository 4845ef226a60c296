"""The key of an engine that nobody could run."""

from __future__ import annotations

from cooper_ros.runtime.engines.flavour import require_flavour
from cooper_ros.runtime.engines.key import EngineKey
from cooper_ros.runtime.graphs.digest import plain_digest

INTERFACE = [['x', 'input', [-1, 64], 'float32']]


def engine_key() -> EngineKey:
    """For the TensorRT that is here."""
    here = require_flavour()
    return EngineKey(model='m' * 64, graph='latents', precision='fp32', profiles='p' * 64,
                     interface=plain_digest(INTERFACE), flavour=here.name, version=here.version,
                     gpu='any', arch='SM89', options='o' * 64)
