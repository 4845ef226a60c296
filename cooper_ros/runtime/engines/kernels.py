"""Kernels that TensorRT for RTX compiles while it runs, kept beside the engines.

An engine of this flavour is finished on the GPU that runs it: when it is loaded, with kernels for
all sizes, and, for steps that are recorded, with kernels of their own for every new size. What was
compiled then is kept in a file for the next start. That file only saves time: one that is damaged,
of another machine or cannot be written is a line in the log.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from cooper_ros.runtime.engines.flavour import Flavour
from cooper_ros.runtime.files import CACHE_FLAG, write_whole

DIGEST = hashlib.sha256().digest_size  # bytes; the file begins with it
_log = logging.getLogger(__name__)


class Kernels:
    """How contexts of one engine are made, and the kernels that they share.

    Args:
        module: TensorRT for RTX.
        engine: its engine.
        file: where its kernels are kept.
    """

    def __init__(self, module: Any, engine: Any, file: Path) -> None:
        self._file, self._kept = file, b''
        self._plain, self._steady = (engine.create_runtime_config() for _ in range(2))
        strategies = module.DynamicShapesKernelSpecializationStrategy
        # Else a step may be recorded, for good, with the kernel that stands in for the right one.
        self._steady.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        # Plain runs come in sizes of their own. Waiting for kernels for each would cost more, and
        # kernels compiled beside them would be used without having been compared with anything.
        self._plain.dynamic_shapes_kernel_specialization_strategy = strategies.NONE
        self._cache = self._plain.create_runtime_cache()
        self._read()
        for config in (self._plain, self._steady):
            config.set_execution_context_allocation_strategy(
                module.ExecutionContextAllocationStrategy.USER_MANAGED)
            if not config.set_runtime_cache(self._cache):
                _log.warning('kernels are not kept in %s: TensorRT refuses to', file)

    def config(self, steady: bool) -> Any:
        """What a context is made with: kernels for each of its sizes, or the same for all."""
        return self._steady if steady else self._plain

    def keep(self) -> None:
        """Write what was compiled, if it is not what the file holds."""
        try:
            content = bytes(memoryview(self._cache.serialize()))
            digest = hashlib.sha256(content).digest()
            if digest != self._kept:
                write_whole(self._file, digest + content, CACHE_FLAG)
                self._kept = digest
        except Exception as error:  # a full disk, a folder of somebody else, TensorRT itself
            _log.warning('kernels are compiled again at the next start, for they cannot be kept '
                         'in %s: %s', self._file, error)

    def _read(self) -> None:
        try:
            if self._file.exists() and not self._file.is_file():  # a pipe would wait for a writer
                raise OSError(f'{self._file} is no regular file')
            whole = self._file.read_bytes()
            digest, content = whole[:DIGEST], whole[DIGEST:]
            if hashlib.sha256(content).digest() == digest and self._cache.deserialize(content):
                self._kept = digest
            else:
                _log.warning('kernels are compiled again: %s is damaged, or of another machine',
                             self._file)
        except FileNotFoundError:
            pass  # the first start
        except Exception as error:  # as in keep
            _log.warning('kernels are compiled again: %s', error)


def kernels_of(flavour: Flavour, engine: Any, file: Path) -> Kernels | None:
    """Those of an engine; None for a TensorRT that compiles nothing while it runs."""
    if not (flavour.ahead_of_time and hasattr(engine, 'create_runtime_config')
            and hasattr(flavour.module, 'DynamicShapesKernelSpecializationStrategy')):
        return None
    return Kernels(flavour.module, engine, file)
