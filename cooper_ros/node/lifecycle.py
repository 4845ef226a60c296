"""The lifecycle node: puts the parts together and takes them apart.

configure starts the worker process and listens to the cameras (loading goes on in the background,
so a manager never waits for it), activate lets requests in, deactivate takes them back, cleanup
ends the worker. Action, services and text topics exist all along, and say NOT_READY while it is
not active.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn

from cooper_ros.config import CooperConfig
from cooper_ros.engine.events import Answer, Event, Failure, MapFinished
from cooper_ros.engine.shipped import shipped_model
from cooper_ros.errors import BadCheckpoint, CooperError, NotReady
from cooper_ros.node.action_server import ReasonServer
from cooper_ros.node.camera_names import check_camera_names
from cooper_ros.node.cameras import Camera
from cooper_ros.node.diagnostics import Diagnostics
from cooper_ros.node.executor_queue import ExecutorQueue
from cooper_ros.node.messages import ASK
from cooper_ros.node.outputs import AnswerOutputs, MapOutputs, answer_message
from cooper_ros.node.parameters import camera_names, current_config, declare_parameters
from cooper_ros.node.request_handler import AcceptedRequest, RequestHandler
from cooper_ros.node.services import Services
from cooper_ros.node.supervisor import Supervisor
from cooper_ros.node.topics import LiveMaps, QuestionTopic
from cooper_ros.node.transitions import answer_wrong_transitions
from cooper_ros.node.worker import DEFAULT_FACTORY
from cooper_ros.replay.topics import NODE

_EXIT_S = 5.0
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class CooperNode(LifecycleNode):
    """Answers spatial questions about camera images over ROS 2.

    Args:
        engine_factory: ``module:name`` of what makes the engine in the worker process.
        name: node name before remapping.

    Raises:
        BadOption: a start value of a parameter is not allowed.
    """

    def __init__(self, engine_factory: str = DEFAULT_FACTORY, name: str = NODE,
                 **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._factory = engine_factory
        self._queue = ExecutorQueue(self)
        self._outdated = False
        declare_parameters(self, self._parameters_change)
        self._config = current_config(self)
        self._handler = RequestHandler(self._queue, self.config, self._heard)
        self._diagnostics = Diagnostics(self, self._handler, self.config)
        self._answers = AnswerOutputs(self)
        self._servers = (ReasonServer(self, self._handler), Services(self, self._handler),
                         QuestionTopic(self, self._handler, self._answers))
        self._outputs: dict[str, MapOutputs] = {}
        self._live = LiveMaps(self, self._handler, self.config, self._outputs)
        self._former: Supervisor | None = None
        answer_wrong_transitions(self)
        self._jump = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1)),
            post_callback=self._clock_jumped)

    def config(self) -> CooperConfig:
        """The settings of the moment."""
        if self._outdated:
            self._config, self._outdated = current_config(self), False
        return self._config

    def _parameters_change(self) -> None:
        self._outdated = True
        self._queue.post(self._diagnostics.adjust)
        self._queue.post(self._live.adjust)

    # transitions

    def autostart(self) -> None:
        """Configure and activate without being told; a failure is in /diagnostics and the log."""
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Start the worker, listen to the cameras."""
        try:
            self._put_together()
            return super().on_configure(state)
        except CooperError as error:
            self.get_logger().error(f'not configured: {error}')
            reason = str(error)
        except Exception as error:  # rclpy would drop it without a word
            self.get_logger().error(f'not configured: {traceback.format_exc()}')
            reason = repr(error)
        self._take_apart()
        self._handler.refusal = f'the node could not be configured: {reason}'
        return FAILURE

    def _put_together(self) -> None:
        self._handler.refusal = ''
        config = self.config()
        config = config.replaced(model_path=shipped_model(config.model_path))
        _check_folder(config.model_path)
        names = camera_names(self)
        check_camera_names(names)
        self._handler.supervisor = Supervisor(self._factory, config, self._say, self._former)
        for name in names:  # one by one: a failure leaves what `_take_apart` finds
            camera = self._handler.cameras[name] = Camera(self, name, self.config)
            self._outputs[name] = MapOutputs(self, camera)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Let requests in."""
        self._handler.active = True
        self._live.adjust()
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Take all requests back."""
        self._live.destroy()
        self._handler.close(NotReady('the node was deactivated'))
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """End the worker, leave the cameras."""
        self._take_apart()
        return SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """As cleanup."""
        self._take_apart()
        return SUCCESS

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """Back to unconfigured, from where configure may be tried again."""
        self._take_apart()
        return SUCCESS

    def _take_apart(self) -> None:
        self._live.destroy()
        self._handler.close(NotReady('the node was shut down'))
        if self._handler.supervisor is not None:
            self._handler.supervisor.stop()
            self._former, self._handler.supervisor = self._handler.supervisor, None
        parts = [*self._handler.cameras.values(), *self._outputs.values()]
        self._handler.cameras = {}
        self._outputs.clear()
        for part in parts:
            part.destroy()

    # events

    def _heard(self, accepted: AcceptedRequest, event: Event) -> None:
        """Publish what any request brought to light."""
        if isinstance(event, MapFinished) and accepted.camera is not None:
            outputs = self._outputs.get(accepted.camera.name)
            if outputs is not None:
                outputs.publish(accepted.header, event.map, accepted.request.picture,
                                accepted.lens)
        if isinstance(event, Answer | Failure):
            self._diagnostics.note(accepted, event)
            if accepted.request.kind == ASK:
                self._answers.publish(answer_message(accepted, event))

    def _clock_jumped(self, jump: Any) -> None:
        """Images from before the jump have stamps of another time."""
        held = sum(camera.held() for camera in self._handler.cameras.values())
        for camera in self._handler.cameras.values():
            camera.clear()
        if held:
            self.get_logger().warning(f'the clock jumped: {held} images forgotten')

    def _say(self, level: str, text: str) -> None:
        """Log for the supervisor's thread. rclpy allows each line of code one severity only."""
        if level == 'error':
            self.get_logger().error(text)
        else:
            self.get_logger().info(text)

    def take_back(self) -> None:
        """Refuse new requests and end the others, as when the node is about to leave."""
        self._live.destroy()
        self._handler.close(NotReady('the node was shut down'))

    def is_idle(self) -> bool:
        """Whether no request is under way, and every end was told to who asked."""
        supervisor = self._handler.supervisor
        working = supervisor is not None and supervisor.queue.everything()
        return not working and not self._queue.waiting

    def close(self) -> None:
        """Let go of everything and wait for the worker, shortly."""
        self._queue.close()
        self._take_apart()
        if self._former is not None:
            self._former.join(_EXIT_S)
        self._jump.unregister()


def _check_folder(folder: str) -> None:
    """Say at once, not after a minute of loading, that there is nothing to load."""
    if not Path(folder).is_dir():
        raise BadCheckpoint('there is no such model folder', value=folder, limit='a folder',
                            remedy='set parameter model_path')
