"""A node in a process of its own, a client in this one, and a node that is only looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from array import array
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter as ParameterValue
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import Image

from cooper_interfaces.action import SpatialReason
from support.signals import sigint

TEST_DIR = Path(__file__).resolve().parents[1]
PATIENCE_S = 60
BRIEF = ('-m', 'support.brief')
SCRIPTED = ('-m', 'support.scripted')


@contextmanager
def lone_node(name: str) -> Iterator[Node]:
    """A node of this process with a context of its own, which nobody spins."""
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node(name, context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        context.try_shutdown()


class NodeProcess:
    """``cooper_node`` as a subprocess; its output goes to a file."""

    def __init__(self, program: tuple[str, ...], folder: Path, log: Path,
                 **parameters: Any) -> None:
        values = {'model_path': str(folder), **parameters}
        words = [word for name, value in values.items()
                 for word in ('-p', f'{name}:={json.dumps(value)}')]  # JSON is YAML
        self.log = log
        path = os.pathsep.join((str(TEST_DIR.parent), str(TEST_DIR),
                                os.environ.get('PYTHONPATH', '')))
        with log.open('ab') as file, sigint(handled=True):
            self.process = subprocess.Popen(
                [sys.executable, *program, '--ros-args', *words], stdout=file, stderr=file,
                env={**os.environ, 'PYTHONPATH': path}, cwd=TEST_DIR)

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal and wait; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)

    def memory_kib(self) -> int:
        """Resident memory of the node's own process."""
        status = Path(f'/proc/{self.process.pid}/status').read_text()
        return int(next(line.split()[1] for line in status.splitlines() if 'VmRSS' in line))


class Client:
    """An rclpy node with what the tests do again and again."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('tester', context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        deep = QoSProfile(depth=500)  # for floods
        self.action = ActionClient(self.node, SpatialReason, '/cooper/reason',
                                   goal_service_qos_profile=deep, feedback_sub_qos_profile=deep)
        self.camera = self.node.create_publisher(Image, '/image', qos_profile_sensor_data)
        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        """Leave."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def until(self, condition: Callable[[], Any], again: Callable[[], Any] | None = None) -> Any:
        """Spin until a condition holds; returns its value. ``again`` is called ten times a second.
        """
        latest, next_call = time.monotonic() + PATIENCE_S, 0.0
        while not (found := condition()):
            assert time.monotonic() < latest, 'it never happened'
            if again is not None and time.monotonic() > next_call:
                again()
                next_call = time.monotonic() + 0.1
            self.executor.spin_once(timeout_sec=0.02)
        return found

    def done(self, future: Future) -> Any:
        """Spin until a future has its result."""
        self.until(future.done)
        return future.result()

    def call(self, kind: type, name: str, **fields: Any) -> Any:
        """Call a service."""
        return self.done(self.call_async(kind, name, **fields))

    def call_async(self, kind: type, name: str, **fields: Any) -> Future:
        """Call a service, and go on."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        self.until(client.service_is_ready)
        return client.call_async(kind.Request(**fields))

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set one parameter; returns the node's verdict."""
        wanted: Parameter = ParameterValue(name, value=value).to_parameter_msg()
        return self.call(SetParameters, '/cooper/set_parameters', parameters=[wanted]).results[0]

    def send(self, question: str = 'what is nearest?', **fields: Any) -> Any:
        """Send a goal; returns its handle, feedback collects in ``handle.feedback``."""
        self.until(self.action.server_is_ready)
        feedback: list[SpatialReason.Feedback] = []
        goal = SpatialReason.Goal(question=question, **fields)
        handle = self.done(self.action.send_goal_async(
            goal, lambda message: feedback.append(message.feedback)))
        handle.feedback = feedback
        return handle

    def result(self, handle: Any) -> tuple[int, SpatialReason.Result]:
        """Wait for the end of a goal; returns its status and result."""
        answer = self.done(handle.get_result_async())
        return answer.status, answer.result

    def reason(self, question: str = 'what is nearest?',
               **fields: Any) -> tuple[int, SpatialReason.Result]:
        """Send a goal and wait for its end."""
        return self.result(self.send(question, **fields))

    def listen(self, kind: type, topic: str, qos: Any = 10) -> list[Any]:
        """Subscribe; returns the list that fills."""
        heard: list[Any] = []
        self.node.create_subscription(kind, topic, heard.append, qos)
        return heard

    def change_state(self, transition: int) -> bool:
        """Ask for a lifecycle transition."""
        request = Transition(id=transition)
        return self.call(ChangeState, '/cooper/change_state', transition=request).success

    def state(self) -> str:
        """Lifecycle state of the node."""
        return self.call(GetState, '/cooper/get_state').current_state.label

    def engine_values(self, accept: Callable[[dict[str, str]], bool] = lambda values: True
                      ) -> dict[str, str]:
        """The engine's entry of /diagnostics, once it is acceptable."""
        heard = self.listen(DiagnosticArray, '/diagnostics')

        def look() -> dict[str, str] | None:
            for message in heard:
                values = {item.key: item.value for item in message.status[0].values}
                if accept(values):
                    return values
            heard.clear()
            return None
        return self.until(look)


def stamped(picture: np.ndarray, seconds: float | None = None, encoding: str = 'rgb8',
            **fields: Any) -> Image:
    """An image message; ``seconds`` None stamps it with the time of this machine."""
    nanos = time.time_ns() if seconds is None else int(seconds * 1e9)
    message = Image(height=picture.shape[0], width=picture.shape[1], encoding=encoding,
                    step=picture.strides[0], data=array('B', picture.tobytes()))
    message.header.frame_id = 'camera_optical_frame'
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(nanos, 10**9)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


SUCCEEDED, CANCELED, ABORTED = (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED,
                                GoalStatus.STATUS_ABORTED)
