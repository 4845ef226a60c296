"""What this machine has, what a checkpoint needs, and what therefore fits. Loads no weights.

Probes that could crash (TensorRT on a machine with half a driver does) run in a process of their
own. Nothing here raises: what cannot be found out is a finding too.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Iterator, Sequence

import torch
from torch import nn

from cooper_ros.errors import BadOption
from cooper_ros.model.config import ModelConfig
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.deferred import is_drawing
from cooper_ros.runtime.engines import torch_tensorrt as package
from cooper_ros.runtime.engines.leftovers import all_writers
from cooper_ros.runtime.engines.plan import default_cache
from cooper_ros.runtime.engines.rights import Who
from cooper_ros.runtime.memory import available_bytes, free_bytes
from cooper_ros.runtime.place import has_bfloat16

GIB = 1 << 30
TEGRA = Path('/etc/nv_tegra_release')  # of a Jetson: its release, in one line
PROBE_SECONDS = 60
# Bytes per weight of the decoder's linear layers; int4 has one bfloat16 scale per 128 weights.
PRECISIONS = {'bf16': 2.0, 'fp8': 1.0, 'int8': 1.0, 'int4': 0.5 + 2 / 128}
FP8_FROM = (8, 9)  # compute capability
EVERYTHING, COMPILED, TALK_ONLY = 'everything', 'everything, compiled', 'understanding only'
# What this version can run; the others are arithmetic for planning.
READY = (('bf16', EVERYTHING), ('fp8', EVERYTHING), ('int8', EVERYTHING), ('bf16', COMPILED),
         ('bf16', TALK_ONLY), ('fp8', TALK_ONLY), ('int8', TALK_ONLY))
_CUDA_BYTES = 0.8 * GIB  # context and libraries
_FLOW_BYTES, _VAE_BYTES = 1.7 * GIB, 3.0 * GIB  # at 1024 x 1024 pixels, three branches; estimates
_PROBE = """
import json
from cooper_ros.runtime.engines.flavour import find_flavour
found = find_flavour()
print(json.dumps(found and [found.name, found.version, found.architectures()]))
"""


@dataclass(frozen=True)
class Fact:
    """One thing found out.

    Attributes:
        what: its name.
        value: what was found.
        good: None where it is neither good nor bad.
        next: what the reader can do about it.
    """

    what: str
    value: str
    good: bool | None = None
    next: str = ''


@dataclass(frozen=True)
class Need:
    """What one way of running a checkpoint takes of the device's memory.

    Attributes:
        precision: of the decoder's linear layers; the rest stays bfloat16.
        use: everything, everything compiled (the understanding expert exists twice), or
            understanding only (text answers, no maps).
        weights: bytes.
        working: bytes of cache, activations and libraries; an estimate.
    """

    precision: str
    use: str
    weights: int
    working: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.working

    def fits(self, memory: int) -> bool:
        """Whether it fits a device with this many bytes free."""
        return self.total <= memory


def facts(cache: Path | None = None) -> Iterator[Fact]:
    """Everything about the machine that decides how a checkpoint can run.

    Args:
        cache: folder of engines; the user's own if absent.
    """
    for what, find in (('driver', driver), ('CUDA', cuda), ('GPU', gpu), ('CPU', cpu),
                       ('TensorRT', tensorrt), ('Torch-TensorRT', torch_tensorrt),
                       ('onnxruntime', onnxruntime), ('host memory', memory),
                       ('engine cache', partial(engine_cache, cache or default_cache()))):
        try:
            yield find()
        except Exception as error:  # of a library on a machine with half a driver
            yield Fact(what, f'cannot be found out: {type(error).__name__}: {error}'[:200], False,
                       'please report this with the output of `cooper doctor`')


def driver() -> Fact:
    """The NVIDIA driver, or the Jetson release that brings it."""
    if TEGRA.is_file():
        return _release()
    tool = shutil.which('nvidia-smi')
    if not tool:
        return Fact('driver', 'no nvidia-smi', None, 'install the NVIDIA driver if this machine '
                    'has a GPU')
    said = _run([tool, '--query-gpu=driver_version', '--format=csv,noheader'])
    version, *_ = said.split('\n')  # a line for every GPU; they share a driver
    return Fact('driver', version.strip() or 'nvidia-smi fails', bool(version.strip()),
                '' if version.strip() else 'run nvidia-smi and read what it says')


def _release() -> Fact:
    """The release that a Jetson names, if it does."""
    try:
        said = TEGRA.read_text(encoding='utf-8', errors='replace').partition('\n')[0].strip('# ')
    except OSError as error:
        return Fact('driver', f'{TEGRA}: {error.strerror}', None, 'make that file readable')
    return Fact('driver', said or f'{TEGRA} names no release', bool(said) or None,
                '' if said else 'flash JetPack again if the GPU cannot be used')


def cuda() -> Fact:
    """The CUDA that torch was built with."""
    built = torch.version.cuda
    if built is None:
        return Fact('CUDA', f'torch {torch.__version__} is a build for CPUs', None,
                    'install a CUDA build of torch if this machine has a GPU')
    usable = torch.cuda.is_available()
    return Fact('CUDA', f'{built}, {"usable" if usable else "not usable"}', usable,
                '' if usable else 'driver and torch build do not match: see docs/jetson.md')


def gpu() -> Fact:
    """The GPU, its architecture and its memory."""
    if not torch.cuda.is_available():
        return Fact('GPU', 'none', None, 'checkpoints of nano size run on the CPU')
    entry = torch.cuda.get_device_properties(0)
    return Fact('GPU', f'{entry.name}, SM{entry.major}{entry.minor}, '
                f'{torch.cuda.mem_get_info()[1] / GIB:.1f} GiB, '
                f'{free_bytes() / GIB:.1f} GiB free', True)


def cpu() -> Fact:
    """Which number types the CPU computes with."""
    kind = torch.backends.cpu.get_cpu_capability()
    if has_bfloat16(torch.device('cpu')):
        return Fact('CPU', f'{kind}, computes in bfloat16', True)
    return Fact('CPU', f'{kind}, imitates bfloat16, many times slower than float32', None,
                'on the CPU keep dtype: auto or float32')


def tensorrt() -> Fact:
    """Which TensorRT can be used, asked in another process because a broken one may crash."""
    said = _run([sys.executable, '-c', _PROBE])
    try:
        found = json.loads(said.strip().rpartition('\n')[2] or 'null')
        name, version, archs = found or ('', '', ())
        served = ', '.join(archs) or 'no GPU here'
    except (ValueError, TypeError, RecursionError):  # a library printed something of its own
        return Fact('TensorRT', f'says what cannot be read: {said.strip()[-80:]}', False,
                    'run `python -c "import tensorrt"` and read what it says')
    if not found:
        return Fact('TensorRT', 'none', None, 'JetPack brings it; elsewhere: pip install -r '
                    'requirements/trt.txt')
    return Fact('TensorRT', f'{name} {version}, builds for {served}', bool(archs))


def torch_tensorrt() -> Fact:
    """Torch-TensorRT, from its metadata only: importing it needs a GPU."""
    found = package.version()
    if not found:
        return Fact('Torch-TensorRT', 'not installed', None, 'only for runtime: torch_tensorrt: '
                    f'{package.INSTALL}')
    if reason := package.obstacle():
        return Fact('Torch-TensorRT', reason, False, 'install the pair that belongs together, '
                    'see docs/runtimes.md')
    wanted = package.pins(found)
    return Fact('Torch-TensorRT', found + (f', made for TensorRT {wanted[1]}' if wanted else ''),
                True)


def onnxruntime() -> Fact:
    """onnxruntime, for runtime: onnx."""
    version = _version('onnxruntime')
    return Fact('onnxruntime', version or 'not installed', None if version is None else True)


def engine_cache(folder: Path) -> Fact:
    """The folder of engines, and who else may write what runs on the GPU."""
    if not folder.is_dir():
        return Fact('engine cache', f'{folder}, not there yet')
    try:
        found = all_writers(folder)
    except BadOption as error:
        return Fact('engine cache', f'{error.what}: {error.value}', False, error.remedy)
    if found.who == Who.NOBODY:
        return Fact('engine cache', f'{folder}, only this user may write it', True)
    good = None if found.who == Who.GROUP else False
    return Fact('engine cache', found.what, good, found.remedy)


def memory() -> Fact:
    """Host memory, which building needs most of."""
    total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return Fact('host memory', f'{total / GIB:.1f} GiB, {platform.machine()}, '
                f'{os.cpu_count()} cores', total >= 4 * GIB)


def needs(config: ModelConfig, *, context: int = 8192, side: int = 512) -> list[Need]:
    """Memory of every precision and use.

    Args:
        config: sizes of the network.
        context: tokens in the cache, of each of its three rows.
        side: pixels of the largest picture side.
    """
    linear, rest, talk_linear, talk_rest, vae = _parameters(config)
    llm = config.llm
    cache = 2 * llm.num_layers * llm.num_kv_heads * llm.head_dim * 2 * context
    area = (side / 1024)**2
    drawing = int(3 * cache + area * (_FLOW_BYTES + _VAE_BYTES) + _CUDA_BYTES)
    talking = int(cache + _CUDA_BYTES)
    found = []
    for precision, size in PRECISIONS.items():
        everything = int(linear * size + 2 * (rest + vae))
        again = int(talk_linear * size)  # flow has its own copy of the understanding expert
        found += [Need(precision, EVERYTHING, everything, drawing),
                  Need(precision, COMPILED, everything + again, drawing),
                  Need(precision, TALK_ONLY, int(talk_linear * size + 2 * talk_rest), talking)]
    return found


def _parameters(config: ModelConfig) -> tuple[int, int, int, int, int]:
    """Counts: linear of both experts, other; linear of understanding, other of it; VAE."""
    with torch.device('meta'):
        network, vae = Cooper(config), AutoEncoder(config.vae)
    layers = network.language_model.model.layers
    linear = {name: module.weight.numel() for name, module in layers.named_modules()
              if isinstance(module, nn.Linear)}
    weights = {name: value.numel() for name, value in network.named_parameters()}
    total, everything = sum(linear.values()), sum(weights.values())
    talk, talk_all = (sum(count for name, count in counts.items() if not is_drawing(name))
                      for counts in (linear, weights))
    return (total, everything - total, talk, talk_all - talk,
            sum(value.numel() for value in vae.parameters()))


def can_run(need: Need, capability: tuple[int, int] | None, free: int) -> str:
    """Why a way of running is out of reach; empty when it is not.

    Args:
        need: the way.
        capability: compute capability of the GPU; None for a CPU.
        free: bytes of memory that it may take.
    """
    if need.precision == 'fp8' and (capability is None or capability < FP8_FROM):
        return 'no fp8 kernels on this device'
    if need.use == COMPILED and capability is None:
        return 'engines run on a GPU'
    if not need.fits(free):
        return f'{(need.total - free) / GIB:.1f} GiB too much'
    return ''


def need_rows(config: ModelConfig, capability: tuple[int, int] | None, free: int
              ) -> list[tuple[str, ...]]:
    """Every precision and use as cells: weights, use, GiB needed, whether it runs here."""
    rows = []
    for need in needs(config):
        wrong = can_run(need, capability, free)
        rows.append((need.precision, need.use, f'{need.total / GIB:.1f} GiB', wrong or _fit(need)))
    return rows


def _fit(need: Need) -> str:
    if _is_ready(need):
        return 'fits'
    if need.precision == 'int4' and need.use != COMPILED:
        return 'fits, but this version unpacks int4: it takes what int8 takes'
    return 'fits, but is not part of this version'


def advice(found: Sequence[Need], capability: tuple[int, int] | None, free: int) -> str:
    """What to do next, in one or two sentences."""
    possible = [need for need in found if not can_run(need, capability, free)]
    ready = [need for need in possible if _is_ready(need)]
    said = _fitting(_best(ready), free) if ready else (
        f'nothing that this version runs fits {free / GIB:.1f} GiB: use a smaller checkpoint, '
        'such as cooper-nano')
    if possible and _best(possible) not in ready:
        said += f'. Not part of this version: {_fitting(_best(possible), free)}'
    return said


def _is_ready(need: Need) -> bool:
    return (need.precision, need.use) in READY


def _best(possible: Sequence[Need]) -> Need:
    """Maps before text only, one copy of the weights before two, more precise before less."""
    return min(possible, key=lambda need: (need.use == TALK_ONLY, need.use == COMPILED,
                                           list(PRECISIONS).index(need.precision)))


def _fitting(need: Need, free: int) -> str:
    verb = 'fits' if _is_ready(need) else 'would fit'
    how = ', with load_drawing first_map and mode direct or text' * (need.use == TALK_ONLY)
    return (f'{need.use} in {need.precision} {verb}: about {need.total / GIB:.1f} of '
            f'{free / GIB:.1f} GiB{how}')


def free_memory() -> tuple[tuple[int, int] | None, int]:
    """Compute capability and free bytes of the device a checkpoint would run on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability(), free_bytes()
    return None, available_bytes()


def _run(command: list[str]) -> str:
    """What a command says; nothing when it fails, crashes or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors='replace',
                              timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout if done.returncode == 0 else ''


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
