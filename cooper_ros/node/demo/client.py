"""Ask a running node about the simulated camera, over ROS 2, and compare with the truth.

Runs in a process of its own and knows nothing of the engine: it sees topics and the action only.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Sequence, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from rclpy.time import Time
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from std_msgs.msg import String

from cooper_interfaces.action import SpatialReason
from cooper_ros.errors import CooperError, NoImage, NotReady
from cooper_ros.node.arguments import whole
from cooper_ros.node.demo.record import Recorder
from cooper_ros.node.demo.report import Asked, score, summary, write_sheet
from cooper_ros.node.demo.views import TrueQuestion, View, Views
from cooper_ros.replay.places import BAG
from cooper_ros.replay.topics import ANSWER, NODE

COOPER, CAMERA = f'/{NODE}', '/camera'
QUESTIONS, ANSWERS, PICTURES = '/demo/question', f'{COOPER}/{ANSWER}', f'{CAMERA}/image_raw'
PLAN = (('relative_distance', 'maps'), ('camera_distance', 'auto'), ('counting', 'auto'),
        ('relation_camera', 'auto'), ('spatial_grid', 'text'), ('existence', 'direct'))
READY_S, VIEW_S, CALL_S, FAREWELL_S = 600.0, 60.0, 30.0, 2.0
SETTINGS = ('model_path', 'device', 'dtype', 'seed', 'flow_points')
# The recorder may find the topic after the first question.
_KEPT = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
Kind = SpatialReason.Feedback
T = TypeVar('T')


class DemoClient(Node):
    """Waits for node and camera, asks, prints."""

    def __init__(self, console: Console) -> None:
        super().__init__('demo_client')
        self.console = console
        self.views = Views(self, CAMERA)
        self._action = ActionClient(self, SpatialReason, f'{COOPER}/reason')
        self._question = self.create_publisher(String, QUESTIONS, _KEPT)
        self._engine: DiagnosticStatus | None = None
        self._turn = 0
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f'{COOPER[1:]}: engine':
                self._engine = status

    def wait(self, ready: Callable[[], T | None], seconds: float, error: CooperError) -> T:
        """Serve ROS until something is there.

        Raises:
            CooperError: ``error``, after ``seconds``.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self, timeout_sec=0.1)
            if found := ready():
                return found
        raise error

    def wait_for_engine(self) -> None:
        """Wait until the model is loaded.

        Raises:
            NotReady: it cannot be loaded, or not in time.
        """
        with self.console.status('waiting for the node to load its model'):
            self.wait(self._engine_ready, READY_S, NotReady(
                'the node did not become ready', limit=f'{READY_S:g} s',
                remedy='see node.log beside the pictures'))

    def _engine_ready(self) -> bool:
        if self._engine is not None and self._engine.level == DiagnosticStatus.ERROR:
            raise NotReady('the node cannot load its model', value=self._engine.message)
        return self._engine is not None and self._engine.level == DiagnosticStatus.OK \
            and self._action.server_is_ready()

    def view_about(self, category: str) -> tuple[View, TrueQuestion]:
        """Wait for a picture that gives rise to a question of a category.

        Raises:
            NoImage: none comes.
        """
        def found() -> tuple[View, TrueQuestion] | None:
            view = self.views.newest()
            question = view.about(category) if view else None
            return (view, question) if view and question else None

        return self.wait(found, VIEW_S, NoImage('the camera shows nothing to ask about',
                                                value=category, limit=f'{VIEW_S:g} s',
                                                remedy='take another --seed'))

    def ask(self, view: View, question: TrueQuestion, mode: str) -> Asked:
        """Ask through the action about the picture of the view, printing what comes.

        Raises:
            NotReady: the node rejects the goal.
        """
        self._question.publish(String(data=question.question))
        self._turn, started = 0, time.monotonic()
        goal = SpatialReason.Goal(question=question.question, mode=mode,
                                  stamp=Time(nanoseconds=view.stamp_ns).to_msg())
        handle = self._until_done(self._action.send_goal_async(goal, self._on_feedback))
        if not handle.accepted:
            raise NotReady('the node rejected the goal', remedy='see node.log for the reason')
        try:
            result = self._until_done(handle.get_result_async()).result
        except KeyboardInterrupt:
            rclpy.spin_until_future_complete(self, handle.cancel_goal_async(),
                                             timeout_sec=FAREWELL_S)
            raise
        return Asked(view, question, mode, result, time.monotonic() - started)

    def _until_done(self, future: Future) -> Any:
        rclpy.spin_until_future_complete(self, future)
        return future.result()

    def _on_feedback(self, message: Any) -> None:
        said = message.feedback
        if said.kind == Kind.TEXT:
            if said.turn != self._turn:
                self._turn = said.turn
                self.console.print(f'  [dim]turn {said.turn}:[/] ', end='')
            shown = ''.join(letter if letter.isprintable() else ' ' for letter in said.text)
            self.console.print(Text(shown), end='', style='dim', highlight=False)
        elif said.kind == Kind.MAP_STARTED:
            self.console.print(f'\n  [cyan]drawing {said.map_kind}[/] ', end='')
        elif said.kind == Kind.MAP_STEP:
            self.console.print('.', end='', style='cyan')
        elif said.kind == Kind.MAP_FINISHED:
            self.console.print(f' done after {said.elapsed_s:.1f} s')

    def settings(self) -> dict[str, Any]:
        """Return the node's settings that give its numbers a meaning.

        Raises:
            NotReady: the node does not answer.
        """
        client = self.create_client(GetParameters, f'{COOPER}/get_parameters')
        error = NotReady('the node does not tell its parameters', limit=f'{CALL_S:g} s')
        self.wait(client.service_is_ready, CALL_S, error)
        future = client.call_async(GetParameters.Request(names=list(SETTINGS)))
        self.wait(future.done, CALL_S, error)
        return dict(zip(SETTINGS, map(parameter_value_to_python, future.result().values)))


def hardware(device: str) -> str:
    """Name what the model runs on."""
    if device.startswith('cuda'):
        import torch
        return torch.cuda.get_device_name(torch.device(device))
    lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return f'{names[0] if names else platform.machine()}, {os.cpu_count()} CPU cores'


def facts(settings: dict[str, Any]) -> str:
    """Say in one line what every printed number depends on."""
    return (f'model {Path(settings["model_path"]).name}, {hardware(settings["device"])}, '
            f'{settings["dtype"]}, seed {settings["seed"]}')


def run(out: Path, count: int, console: Console) -> list[Asked]:
    """Ask ``count`` questions, write sheets, bag and summary into a folder.

    Raises:
        CooperError: node or camera do not do their part.
    """
    client = DemoClient(console)
    client.wait_for_engine()
    footer = facts(client.settings())
    console.print(f'[dim]{footer}[/]', highlight=False)
    done: list[Asked] = []
    with Recorder(client, out / BAG, (CAMERA + '/', COOPER + '/', QUESTIONS)) as bag:
        client.wait(lambda: ANSWERS in bag.counts and bag.counts.get(PICTURES), CALL_S,
                    NotReady('camera or node fell silent'))
        for number in range(count):
            done.append(one_question(client, number, out, footer))
        (out / 'summary.md').write_text(summary(done, footer), encoding='utf-8')
        client.wait(lambda: is_complete(bag, count), CALL_S, NotReady(
            'the bag misses a question or an answer', limit=f'{count} of each'))
    tell_result(out, done, sum(bag.counts.values()), console)
    return done


def is_complete(bag: Recorder, count: int) -> bool:
    """Whether all questions and answers are written; an answer may be read before its question."""
    return all(bag.counts.get(topic, 0) >= count for topic in (QUESTIONS, ANSWERS))


def tell_result(out: Path, done: Sequence[Asked], messages: int, console: Console) -> None:
    """Say how it went and what there is to look at."""
    console.print(f'\n[bold]{score(done)}[/]', highlight=False)
    console.print(f'{out}/*.png        a sheet per question\n{out}/summary.md   the table\n'
                  f'{out}/bag          {messages} messages, for Foxglove or `cooper replay`',
                  highlight=False, soft_wrap=True)


def one_question(client: DemoClient, number: int, out: Path, footer: str) -> Asked:
    """Ask one question of the plan and write its sheet."""
    category, mode = PLAN[number % len(PLAN)]
    view, question = client.view_about(category)
    console = client.console
    console.print(f'\n[bold]{number + 1}. {escape(question.question)}[/] [dim](mode {mode})[/]',
                  highlight=False)
    asked = client.ask(view, question, mode)
    colour = 'green' if asked.right else 'red'
    console.print(f'\n  answer [bold]{escape(asked.said)}[/], truth [bold]{escape(asked.truth())}'
                  f'[/]: [{colour}]{asked.verdict()}[/]', highlight=False)
    error = asked.depth_error()
    if error is not None:
        console.print(f'  [dim]depth drawn with AbsRel {error:.2f} against the truth[/]')
    console.print(f'  [dim]{asked.times()}[/]', highlight=False)
    write_sheet(out / f'{number + 1}_{category}.png', asked, footer)
    return asked


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog='demo_client', description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('demo_out'),
                        help='folder for pictures, bag and summary (default: %(default)s)')
    parser.add_argument('--questions', type=whole(1, 10_000), default=len(PLAN), metavar='N',
                        help='how many to ask (default: %(default)s)')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the questions. Returns the exit status."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rclpy.init(args=[], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    try:
        run(options.out, options.questions, Console())
    except CooperError as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
