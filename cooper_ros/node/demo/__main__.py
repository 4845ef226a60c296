"""The whole path on one machine: simulated camera, node and questions, each its own process.

Everything speaks over ROS 2 on this machine only. Whatever happens, no process is left behind.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Sequence

from cooper_ros.config import CooperConfig
from cooper_ros.engine.shipped import shipped_model
from cooper_ros.errors import BadCheckpoint, CooperError, EngineLost
from cooper_ros.node.arguments import whole
from cooper_ros.replay.places import BAG, check_bag, make_folder
from cooper_ros.scenes.splits import SPLIT_SIZE

PACKAGE = 'cooper_ros.node.demo'
NODE = 'cooper_ros.node.cooper_node'
FAREWELL_S = 10.0  # for a child to end by itself; then it is killed
LOOK_S = 0.2
LAST_LINES = 12
MOST_QUESTIONS = 10_000
DOMAINS = range(51, 101)  # up to 100 free of port clashes on Linux; below it robots, and our tests


class Child:
    """One process of the demo, in a process group of its own. Leaving the context ends it.

    Args:
        name: of the log file, too.
        module: what runs, with ``python -m``.
        words: its arguments.
        log: where its output goes; None: to the terminal.
    """

    def __init__(self, name: str, module: str, words: Sequence[str], log: Path | None) -> None:
        self.name, self.log = name, log
        output = None if log is None else log.open('w', encoding='utf-8')
        self.process = subprocess.Popen(
            [sys.executable, '-m', module, *words], stdout=output, stderr=output,
            stdin=subprocess.DEVNULL, start_new_session=True)  # Ctrl-C reaches us alone
        if output is not None:
            output.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Ask it to stop, then make it and whatever it started.

        By SIGTERM: a background job of a script has SIGINT ignored, and so have its children.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the usual case: all of its group has gone
        self.process.wait()

    def check(self) -> None:
        """Check that it lives.

        Raises:
            EngineLost: it has ended, with the last lines of its log.
        """
        status = self.process.poll()
        if status is None:
            return
        lines = self.log.read_text(encoding='utf-8').splitlines() if self.log else []
        raise EngineLost(f'{self.name} ended during the demo', value=f'exit status {status}',
                         remedy='\n'.join([f'see {self.log}; its last lines:',
                                           *lines[-LAST_LINES:]]))


def set_environment(out: Path) -> None:
    """Stay on this machine and away from other robots; what the caller has set stays."""
    os.environ.setdefault('ROS_DOMAIN_ID', str(DOMAINS[os.getpid() % len(DOMAINS)]))
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    if os.environ.get('ROS_DISTRO') == 'humble':  # it does not know that name
        os.environ.setdefault('ROS_LOCALHOST_ONLY', '1')
    os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)  # the wheels' own prefix
    os.environ['ROS_LOG_DIR'] = str(out / 'log')
    os.environ['PYTHONUNBUFFERED'] = '1'


def compute() -> dict[str, str]:
    """Return device and number type as the node would choose them, to be named in the report."""
    import torch
    cuda = torch.cuda.is_available()
    return {'device': 'cuda' if cuda else 'cpu', 'dtype': 'bfloat16' if cuda else 'float32'}


def node_words(model: Path) -> list[str]:
    """Return the arguments of the node."""
    folder = Path(shipped_model(str(model))).resolve()
    settings = {'model_path': str(folder), **compute(), 'max_image_age_s': '0.0'}
    return ['--ros-args', '-r', 'image:=/camera/image_raw', '-r',
            'camera_info:=/camera/camera_info',
            *(word for name, value in settings.items() for word in ('-p', f'{name}:={value}'))]


def camera_words(seed: int | None) -> list[str]:
    """Return the arguments of the camera."""
    chosen = [] if seed is None else ['-p', f'seed:={seed}']
    return ['--ros-args', '-r', '__ns:=/camera', *chosen]


def run(options: argparse.Namespace) -> int:
    """Start everything, wait for the questions to be answered, stop everything.

    Raises:
        CooperError: there is no model, the folder cannot be used, or a process has died.
    """
    if not Path(shipped_model(str(options.model))).is_dir():
        raise BadCheckpoint('there is no such model folder', value=options.model,
                            remedy='name one with --model')
    out = options.out.resolve()
    check_bag(out / BAG)
    make_folder(out)
    make_folder(out / 'log')
    set_environment(out)
    print(f'Camera, node and questions run as three processes; logs in {options.out}. To look in '
          f'from another shell: export ROS_DOMAIN_ID={os.environ["ROS_DOMAIN_ID"]}', flush=True)
    parts = (('camera', f'{PACKAGE}.sim_camera', camera_words(options.seed)),
             ('node', NODE, node_words(options.model)))
    asking = ['--out', str(options.out), '--questions', str(options.questions)]
    with ExitStack() as crew:
        others = [crew.enter_context(Child(name, module, words, out / f'{name}.log'))
                  for name, module, words in parts]
        client = crew.enter_context(Child('questions', f'{PACKAGE}.client', asking, None))
        while client.process.poll() is None:
            for child in others:
                child.check()
            time.sleep(LOOK_S)
        return client.process.returncode


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog='cooper demo', description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('demo_out'),
                        help='folder for pictures, bag, summary and logs (default: %(default)s)')
    parser.add_argument('--model', type=Path, default=Path(CooperConfig().model_path),
                        help='model folder (default: %(default)s)')
    parser.add_argument('--seed', type=whole(0, SPLIT_SIZE - 1), help='another simulated room; '
                        'rooms of the demo were never trained on')
    parser.add_argument('--questions', type=whole(1, MOST_QUESTIONS), default=6, metavar='N',
                        help='how many to ask (default: %(default)s)')
    return parser.parse_args(arguments)


def stop(number: int, frame: FrameType | None) -> None:
    """Turn a signal into an exit, so that every context is left."""
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo. Returns the exit status."""
    options = parse(arguments)
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:  # `nohup` wants SIGHUP ignored
            signal.signal(name, stop)
    try:
        return run(options)
    except CooperError as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ndemo: stopped', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
