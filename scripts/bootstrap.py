"""Prepare the private environment: ``make setup``, on a machine without ROS.

Runs under the machine's own Python with the standard library only. Every step leaves a stamp
beside what it made and is left out while what it read has not changed, so a second run costs a
moment and an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
PYTHON = VENV / 'bin' / 'python'
STAMPS = VENV / '.stamps'
BUILD = ROOT / 'build' / 'bare'
REQUIREMENTS = ROOT / 'requirements'
CONSTRAINTS = REQUIREMENTS / 'constraints.txt'
GROUPS = ('base.txt', 'graphs.txt', 'quant.txt', 'trt.txt', 'ros.txt', 'train.txt', 'test.txt')
LEAST_CMAKE = (3, 22)

ROS_SOURCED = """\
A ROS installation is sourced in this shell ({where}).
`make setup` brings its own ROS libraries, and the two sets must not mix. Either
  * build with the ROS you have:
      colcon build --base-paths . cooper_interfaces
    (docs/install.md, "On a robot", says what else it needs), or
  * open a shell in which no ROS is sourced and run `make setup` there."""
NO_WHEELS = """\
ROS wheels exist for x86_64 Linux only, and this is {machine}.
Install ROS 2 Humble or Jazzy and follow docs/install.md, "On a robot"."""
NO_VENV = """\
This Python cannot make virtual environments. On Debian and Ubuntu:
    sudo apt install python3-venv
then run `make setup` again."""
NO_COMPILER = """\
Building cooper_interfaces needs {missing}. On Debian and Ubuntu:
    sudo apt install {packages}
then run `make setup` again; it goes on from here."""
NO_CPU_TORCH = """\
No CPU-only build of torch is on offer to pip here, so the general one is installed; it works
without a GPU but is several times larger. To use the smaller one, stop this, and run
    make setup TORCH_PIP_ARGS='--index-url <the CPU index that torch names in its manual>'
"""


class SetupError(Exception):
    """Something the reader has to do before the set-up can go on."""


def say(text: str) -> None:
    """Print one line of progress."""
    print(f'[setup] {text}', flush=True)


def clean_environment() -> dict[str, str]:
    """Return the environment for child processes, free of another environment's libraries."""
    dropped = ('PYTHONHOME', 'PYTHONPATH', '__PYVENV_LAUNCHER__')
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    if kept.pop('_ROS_WHEELS_BOOTSTRAP_COMPLETE', None):
        kept.pop('LD_LIBRARY_PATH', None)  # both come from the wheels of whoever called us
    return kept


def run(*command: str | Path, quiet: bool = False, **more: str) -> None:
    """Run one command with its output visible, or its errors only.

    Raises:
        SetupError: it failed.
    """
    words = [str(word) for word in command]
    output = subprocess.DEVNULL if quiet else None
    if subprocess.run(words, stdout=output, env={**clean_environment(), **more}).returncode:
        raise SetupError(f'This command failed, see above:\n    {" ".join(words)}')


def check_machine() -> None:
    """Refuse what cannot work, before anything is changed.

    Raises:
        SetupError: Python is too old, a ROS is sourced, or no wheels exist for this machine.
    """
    if sys.version_info < (3, 10):
        raise SetupError(f'Python 3.10 or newer is needed, this is {platform.python_version()}. '
                         'Name another one: make setup PYTHON=python3.11')
    where = sourced_ros()
    if where:
        raise SetupError(ROS_SOURCED.format(where=where))
    if (sys.platform, platform.machine()) != ('linux', 'x86_64'):
        raise SetupError(NO_WHEELS.format(machine=f'{sys.platform} on {platform.machine()}'))


def sourced_ros() -> str:
    """Return what tells that a ROS is sourced here, or nothing."""
    for name in ('AMENT_PREFIX_PATH', 'COLCON_PREFIX_PATH'):
        for entry in filter(None, os.environ.get(name, '').split(os.pathsep)):
            if Path(entry).resolve() != VENV:
                return f'{name} has {entry}'
    distro = os.environ.get('ROS_DISTRO', '')
    return f'ROS_DISTRO is {distro}' if distro and Path('/opt/ros', distro).is_dir() else ''


def step(name: str, inputs: str, what: str) -> Step:
    """Open one step; see :class:`Step`."""
    return Step(name, hashlib.sha256(f'{sys.version}\n{inputs}'.encode()).hexdigest(), what)


class Step:
    """One step with a stamp: ``if step.due: ...; step.done()``."""

    def __init__(self, name: str, key: str, what: str) -> None:
        self.stamp, self.key = STAMPS / name, key
        self.due = not self.stamp.is_file() or self.stamp.read_text() != key
        say(f'{what} ...' if self.due else f'{what}: nothing to do')

    def done(self) -> None:
        """Remember that the step is finished; written whole or not at all."""
        STAMPS.mkdir(parents=True, exist_ok=True)
        draft = self.stamp.with_suffix('.part')
        draft.write_text(self.key)
        draft.replace(self.stamp)


def read(*paths: Path) -> str:
    """Return names and contents of files as one text, to be hashed."""
    return '\n'.join(f'{path.relative_to(ROOT)}\n{path.read_text()}' for path in paths)


def make_venv() -> None:
    """Make `.venv`, or make it again where an earlier attempt stopped half-way.

    Raises:
        SetupError: this Python has no venv or no ensurepip.
    """
    made = step('venv', str(VENV), f'private environment {VENV.name}')
    if not made.due:
        return
    if not complete_venv():
        try:
            import ensurepip  # noqa: F401  Debian keeps it in a package of its own
            import venv  # noqa: F401
        except ImportError as error:
            raise SetupError(NO_VENV) from error
        run(sys.executable, '-m', 'venv', '--clear', VENV)
    made.done()


def complete_venv() -> bool:
    """Tell whether `.venv` has a working pip of this very Python version."""
    ask = 'import sys, pip; print(sys.version)'
    if not PYTHON.exists():
        return False
    reply = subprocess.run([PYTHON, '-c', ask], capture_output=True, text=True,
                           env=clean_environment())
    return reply.returncode == 0 and reply.stdout.strip() == sys.version.strip()


def pip(*words: str | Path) -> None:
    """Run the environment's pip, progress visible."""
    run(PYTHON, '-m', 'pip', 'install', '--disable-pip-version-check', *words)


def install_torch() -> None:
    """Install torch alone: the CPU build where there is no GPU and such a build is on offer."""
    listed = REQUIREMENTS / 'torch.txt'
    wish = os.environ.get('TORCH_PIP_ARGS', '').split()
    made = step('torch', read(listed) + ' '.join(wish), 'torch')
    if not made.due:
        return
    pin = next(line for line in listed.read_text().splitlines() if line.startswith('torch=='))
    if wish:
        pip(*wish, '-r', listed)
    elif has_gpu():
        pip(f'{pin},!={pin.partition("==")[2]}+cpu')
    else:
        install_cpu_torch(pin, listed)
    made.done()


def has_gpu() -> bool:
    """Tell whether an NVIDIA driver answers on this machine."""
    tool = shutil.which('nvidia-smi')
    return bool(tool) and subprocess.run([tool, '-L'], capture_output=True).returncode == 0


def install_cpu_torch(pin: str, listed: Path) -> None:
    """Install the CPU build, or the general one after saying so."""
    try:
        pip('--quiet', '--progress-bar=on', f'{pin}+cpu')
    except SetupError:
        say(NO_CPU_TORCH)
        pip('-r', listed)


def install_requirements() -> None:
    """Install everything else; the constraints keep torch and all versions where they are."""
    files = [REQUIREMENTS / name for name in GROUPS]
    made = step('requirements', read(*files, CONSTRAINTS), 'pinned requirements')
    if made.due:
        pip('-c', CONSTRAINTS, *(word for path in files for word in ('-r', path)))
        made.done()


def find_tools() -> dict[str, str]:
    """Return the paths of cmake and ninja: the machine's own, else pinned wheels.

    Raises:
        SetupError: no C++ compiler or no Python headers, which pip cannot bring.
    """
    check_compiler()
    table = {name: shutil.which(name) or '' for name in ('cmake', 'ninja')}
    if table['cmake'] and cmake_version(table['cmake']) < LEAST_CMAKE:
        table['cmake'] = ''
    missing = [name for name, path in table.items() if not path]
    if missing:
        say(f'{" and ".join(missing)}: none here that will do, taking the pinned wheels')
        pip('-r', REQUIREMENTS / 'tools.txt')
    return {name: path or str(VENV / 'bin' / name) for name, path in table.items()}


def check_compiler() -> None:
    """Check what only the system's package manager can bring.

    Raises:
        SetupError: with the exact line to type.
    """
    headers = Path(sysconfig.get_path('include'), 'Python.h')
    series = f'python{sys.version_info.major}.{sys.version_info.minor}'
    wanted = {'a C++ compiler': ('g++', bool(shutil.which('g++') or shutil.which('clang++'))),
              f'the headers of {series} (Python.h)': (f'{series}-dev', headers.is_file())}
    missing = [name for name, (_, there) in wanted.items() if not there]
    if missing:
        packages = ' '.join(package for package, there in wanted.values() if not there)
        raise SetupError(NO_COMPILER.format(missing=' and '.join(missing), packages=packages))


def cmake_version(path: str) -> tuple[int, ...]:
    """Return (major, minor) of a cmake, (0, 0) where it does not run."""
    reply = subprocess.run([path, '--version'], capture_output=True, text=True)
    words = reply.stdout.split()
    return tuple(int(part) for part in words[2].split('.')[:2]) if len(words) > 2 else (0, 0)


def build_interfaces() -> None:
    """Build cooper_interfaces with CMake into the environment, which is an ament prefix."""
    source = ROOT / 'cooper_interfaces'
    fix = ROOT / 'scripts' / 'bare_machine.cmake'
    files = sorted(path for path in source.rglob('*') if path.is_file())
    made = step('interfaces', read(fix, REQUIREMENTS / 'ros.txt', *files), 'cooper_interfaces')
    if not made.due:
        return
    tools = find_tools()
    shutil.rmtree(BUILD, ignore_errors=True)
    prefixes = {'AMENT_PREFIX_PATH': str(VENV), 'CMAKE_PREFIX_PATH': str(VENV)}
    run(tools['cmake'], '-S', source, '-B', BUILD, '-G', 'Ninja', '--log-level=WARNING',
        f'-DCMAKE_MAKE_PROGRAM={tools["ninja"]}', f'-DCMAKE_INSTALL_PREFIX={VENV}',
        '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF', '-DCMAKE_INSTALL_MESSAGE=NEVER',
        f'-DPython3_EXECUTABLE={PYTHON}',
        f'-DCMAKE_PROJECT_INCLUDE={fix}', **prefixes)
    run(tools['cmake'], '--build', BUILD, **prefixes)
    run(tools['cmake'], '--install', BUILD, quiet=True)
    run(PYTHON, '-c', 'import cooper_interfaces.action, cooper_interfaces.msg')
    made.done()


def install_product() -> None:
    """Install cooper_ros in place, so that `.venv/bin/cooper` runs this very source."""
    files = [ROOT / name for name in ('setup.py', 'setup.cfg', 'package.xml')]
    made = step('product', read(*files, Path(__file__).resolve()), 'cooper_ros')
    if made.due:
        # The old way of editing in place would obey colcon's script folder in setup.cfg.
        pip('--quiet', '--no-deps', '--no-build-isolation', '--use-pep517', '--editable', ROOT)
        run(VENV / 'bin' / 'cooper', '--version')
        made.done()


def main() -> int:
    """Run all steps in order."""
    try:
        check_machine()
        make_venv()
        install_torch()
        install_requirements()
        build_interfaces()
        install_product()
    except SetupError as error:
        print(f'\n{error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\nStopped. `make setup` goes on where this ended.', file=sys.stderr)
        return 130
    say(f'ready: {(VENV / "bin" / "cooper").relative_to(ROOT)} --help')
    return 0


if __name__ == '__main__':
    sys.exit(main())
