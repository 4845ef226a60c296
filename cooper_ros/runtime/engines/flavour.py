"""Which TensorRT this machine has, behind one thin module.

Three packages speak the same Python interface: ``tensorrt`` (JetPack, workstations; builds for
the GPU at hand), ``tensorrt_rtx`` (TensorRT for RTX; builds ahead of time, also without a GPU)
and ``tensorrt_rtx_bindings`` (the same without NVIDIA's meta package).
"""

from __future__ import annotations

import functools
import importlib
import re
from dataclasses import dataclass
from typing import Any

import torch

from cooper_ros.errors import BadOption, NotReady

STANDARD, RTX = 'tensorrt', 'tensorrt-rtx'
_PACKAGES = (('tensorrt', STANDARD), ('tensorrt_rtx', RTX), ('tensorrt_rtx_bindings', RTX))
ANY_GPU = 'any'  # engines of the RTX flavour fit every GPU of their architecture
_JETSON, _SERVER = ('SM72', 'SM87', 'SM101', 'SM110'), ('SM90', 'SM100', 'SM103')
_DESKTOP = ('SM75', 'SM80', 'SM86', 'SM89', 'SM120', 'SM121')
_BFLOAT16_FROM = 80  # Turing and older have none
CANNOT_START = ('run `cooper doctor`: the driver and the GPU must be such as this TensorRT knows; '
                'or set runtime to torch')
_REMEDY = ('JetPack brings tensorrt; elsewhere: pip install -r requirements/graphs.txt '
           '-r requirements/trt.txt')


@dataclass(frozen=True)
class Flavour:
    """A TensorRT that can be imported.

    Attributes:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        version: as the package says.
        module: the package itself.
    """

    name: str
    version: str
    module: Any

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for an architecture that is not in this machine."""
        return self.name == RTX

    def architectures(self) -> tuple[str, ...]:
        """Architectures it builds for, as ``SM89``."""
        if not self.ahead_of_time:
            return tuple(filter(None, (gpu_architecture(),)))
        names = self.module.ComputeCapability.__members__
        return tuple(name for name in names if name.startswith('SM'))

    def check_architecture(self, arch: str) -> None:
        """Refuse an architecture that this flavour cannot build for.

        Raises:
            BadOption: naming the ones it can.
        """
        if arch not in self.architectures():
            raise BadOption(f'{self.name} {self.version} cannot build for this architecture',
                            value=arch, limit=', '.join(self.architectures()) or 'none: no GPU',
                            remedy=_elsewhere(arch))


def check_precision(arch: str, precision: str) -> None:
    """Refuse engines whose every product would be done in a number type the GPU lacks.

    Args:
        arch: architecture, as ``SM89``.
        precision: ``fp32``, ``fp16`` or ``bf16``.

    Raises:
        BadOption: bfloat16 for a GPU before Ampere.
    """
    found = re.fullmatch('SM([0-9]+)', arch)
    if precision == 'bf16' and found and int(found[1]) < _BFLOAT16_FROM:
        raise BadOption('this architecture does not compute in bfloat16', value=arch,
                        limit=f'SM{_BFLOAT16_FROM} or newer for bf16', remedy='build with '
                        '--precision fp16, and set dtype to float16')


def _elsewhere(arch: str) -> str:
    """Where engines for an architecture are built; empty for what is none."""
    if arch in _JETSON:
        return 'build on the device itself with the TensorRT of its JetPack'
    return 'build on the machine that has this GPU, with its own TensorRT' if (
        arch in _SERVER + _DESKTOP) else ''


def architecture_name(written: str) -> str:
    """``SM89`` of ``89``, ``sm89``, ``sm_89`` and the like; anything else is left as it is."""
    found = re.fullmatch(r'(?:SM_?)?([0-9]+)', written.strip().upper())
    return f'SM{found[1]}' if found else written


def gpu_architecture() -> str:
    """``SM89`` and the like for the GPU of this machine; empty without one."""
    if not torch.cuda.is_available():
        return ''
    major, minor = torch.cuda.get_device_capability()
    return f'SM{major}{minor}'


def gpu_name(flavour: Flavour) -> str:
    """What engines of a flavour are bound to: a GPU model, or any GPU of the architecture."""
    if flavour.ahead_of_time or not torch.cuda.is_available():
        return ANY_GPU
    return torch.cuda.get_device_name()


@functools.cache
def find_flavour() -> Flavour | None:
    """The first TensorRT that can be imported, or None; never raises."""
    for package, name in _PACKAGES:
        try:
            module = importlib.import_module(package)
            return Flavour(name, str(module.__version__), module)
        except Exception:  # missing libraries raise OSError, RuntimeError and others
            continue
    return None


def require_flavour() -> Flavour:
    """The TensorRT of this machine.

    Raises:
        NotReady: there is none.
    """
    found = find_flavour()
    if found is None:
        raise NotReady('TensorRT is not installed', limit=', '.join(p for p, _ in _PACKAGES),
                       remedy=_REMEDY)
    return found
