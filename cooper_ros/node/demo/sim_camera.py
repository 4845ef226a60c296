"""A simulated camera: pictures of a MuJoCo room with camera model, and the truth beside them.

Topics, all relative to the node's namespace and all of one instant with one stamp:
``image_raw`` (rgb8), ``camera_info``, ``truth/depth`` (32FC1, metres along optical Z, REP-118),
``truth/segmentation`` (mono8 class ids) and ``truth/questions`` (JSON in a String: stamp in
nanoseconds, questions with their true answers). The truth is only made while somebody listens.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from typing import Any, Sequence

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String

from cooper_ros.errors import BadOption, CooperError
from cooper_ros.node.arguments import asks_for_help
from cooper_ros.node.conversions import colour_message, depth_message, mask_message
from cooper_ros.node.spinning import serving
from cooper_ros.scenes.qa import QuestionAnswer
from cooper_ros.scenes.render import Frame
from cooper_ros.scenes.room import DEMO_SEED, SimulatedRoom

QUEUE = 5
NANO = 10**9
PARAMETERS: dict[str, tuple[Any, str]] = {
    'seed': (DEMO_SEED, 'number of the room within its split'),
    'split': ('test', 'train, validation or test; the demo model never saw a test room'),
    'width': (256, 'picture width, pixels'),
    'height': (192, 'picture height, pixels'),
    'rate_hz': (2.0, 'pictures per second'),
    'frame_id': ('camera_optical_frame', 'optical frame of the pictures (REP-103: z forward)'),
}


class SimCamera(Node):
    """Publishes one room, seen by a camera that sways from side to side."""

    def __init__(self) -> None:
        super().__init__('sim_camera')
        for name, (default, text) in PARAMETERS.items():
            self.declare_parameter(name, default,
                                   ParameterDescriptor(description=text, read_only=True))
        self.frame_id = self._value('frame_id')
        self.room = SimulatedRoom(self._value('seed'), self._value('split'),
                                  width=self._value('width'), height=self._value('height'))
        self._image = self.create_publisher(Image, 'image_raw', QUEUE)
        self._info = self.create_publisher(CameraInfo, 'camera_info', QUEUE)
        self._depth = self.create_publisher(Image, 'truth/depth', QUEUE)
        self._labels = self.create_publisher(Image, 'truth/segmentation', QUEUE)
        self._questions = self.create_publisher(String, 'truth/questions', QUEUE)
        self._start = self.get_clock().now()
        self.create_timer(1.0 / self._rate(), self.publish)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _rate(self) -> float:
        rate = self._value('rate_hz')
        if not (math.isfinite(rate) and 0.01 <= rate <= 100):
            raise BadOption('rate_hz is out of range', value=rate, limit='0.01 .. 100')
        return rate

    def publish(self) -> None:
        """Publish the room as it is now."""
        now = self.get_clock().now()
        seconds = (now - self._start).nanoseconds / NANO
        frame = self.room.frame(seconds)
        header = Header(stamp=now.to_msg(), frame_id=self.frame_id)
        self._publish_truth(header, now, seconds, frame)
        self._info.publish(camera_info(header, frame))
        self._image.publish(colour_message(header, frame.rgb))

    def _publish_truth(self, header: Header, now: Time, seconds: float, frame: Frame) -> None:
        """Publish before the picture, so that whoever has the picture has its truth."""
        if wanted(self._depth):
            self._depth.publish(depth_message(header, frame.depth_m))
        if wanted(self._labels):
            self._labels.publish(mask_message(header, frame.labels))
        if wanted(self._questions):
            asked = self.room.questions(seconds)
            self._questions.publish(String(data=questions_json(now.nanoseconds, asked)))


def wanted(publisher: Publisher) -> bool:
    """Tell whether somebody listens."""
    return publisher.get_subscription_count() > 0


def camera_info(header: Header, frame: Frame) -> CameraInfo:
    """Build the model of an ideal pinhole camera without distortion."""
    k = frame.intrinsics
    height, width = frame.rgb.shape[:2]
    return CameraInfo(
        header=header, height=height, width=width, distortion_model='plumb_bob', d=[0.0] * 5,
        k=[float(value) for value in k.ravel()], r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[float(value) for row in k for value in (*row, 0.0)])


def questions_json(stamp_ns: int, asked: Sequence[QuestionAnswer]) -> str:
    """Write questions and true answers as text, with the stamp of the picture they are about."""
    names = ('category', 'kind', 'question', 'answer', 'unit', 'tools')
    rows = [{name: value for name, value in dataclasses.asdict(one).items() if name in names}
            for one in asked]
    return json.dumps({'stamp_ns': stamp_ns, 'questions': rows})


def help_text() -> str:
    """What the program is, and its parameters."""
    rows = [f'  {name:9} {text} ({default})' for name, (default, text) in PARAMETERS.items()]
    return '\n'.join(['usage: sim_camera [--ros-args -p NAME:=VALUE ... -r __ns:=/camera ...]', '',
                      (__doc__ or '').strip(), '', 'Parameters and their defaults:', *rows])


def _camera() -> SimCamera:
    """Make the node.

    Raises:
        BadOption: a parameter has another type, or is out of range.
    """
    try:
        return SimCamera()
    except ParameterException as error:
        raise BadOption('a parameter cannot be used', value=' '.join(str(error).split()),
                        remedy='see sim_camera --help') from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop. Returns the exit status."""
    words = list(sys.argv if arguments is None else arguments)
    if asks_for_help(words):
        print(help_text())
        return 0
    rclpy.init(args=words)
    try:
        with serving(_camera()) as executor:
            executor.spin()
    except CooperError as error:
        print(f'sim_camera: {error}', file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # both are how a node is told to stop
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
