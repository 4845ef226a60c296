"""The bag of answers: an MCAP that Foxglove and `ros2 bag play` open."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from cooper_ros.engine.answers import spoken
from cooper_ros.engine.events import Answer, DepthMap, Failure, Label, SegmentationMap, Timings
from cooper_ros.imaging.buffers import ImageBuffer, encode_depth, encode_mono8, encode_rgb8
from cooper_ros.imaging.lens import Calibration, matrix_of, region_of, scaled_matrices
from cooper_ros.imaging.views import overlay
from cooper_ros.replay import interfaces, topics
from cooper_ros.replay.bag import CAMERA_INFO, IMAGE, STRING, Frame
from cooper_ros.replay.places import check_output, clear_answers, mark
from cooper_ros.replay.questions import Question

TYPES = {**dict.fromkeys((*topics.DEPTH_TOPICS, *topics.SEGMENTATION_TOPICS), IMAGE),
         topics.ANSWER: interfaces.ANSWER, topics.ANSWER_TEXT: STRING,
         topics.DEPTH_INFO: CAMERA_INFO, topics.LEGEND: interfaces.LEGEND}
BAG_VERSION = 8  # the newest that `ros2 bag` of Humble reads
_FOREVER = QosTime(2147483647, 4294967295)
_RELIABLE = Qos(QosHistory.KEEP_LAST, 10, QosReliability.RELIABLE, QosDurability.VOLATILE,
                _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False)


class AnswerBag:
    """Writes the pictures asked about, the answers and their maps. Use as a context manager.

    Every message is stamped like the picture it is about, in its header and in the bag. The bag
    is closed properly whatever happens, so an interrupted run leaves a readable one.

    Args:
        folder: bag folder to make.
        overwrite: remove an older bag of answers there first.
        timings: write how long things took; two runs then no longer give the same bytes.

    Raises:
        BadOption: the folder exists.
    """

    def __init__(self, folder: Path, overwrite: bool = False, timings: bool = False) -> None:
        check_output(folder, overwrite)
        clear_answers(folder)
        self._folder, self._timings = folder, timings
        self._writer = Writer(folder, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[tuple[str, str], Connection] = {}

    def __enter__(self) -> AnswerBag:
        self._writer.open()
        mark(self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._writer.close()

    def write_picture(self, frame: Frame, type_name: str, camera_info: Any | None) -> None:
        """Copy the picture asked about, unchanged, under its own topic; its camera model too."""
        self._write(frame.topic, type_name, frame.bag_ns, frame.cdr)
        if camera_info is not None:
            base = frame.topic.removesuffix('/compressed').rsplit('/', 1)[0]
            self._put(f'{base}/camera_info', CAMERA_INFO, frame,
                      scaled_camera_info(camera_info, frame, None))

    def write_answer(self, frame: Frame, question: Question, mode: str, event: Answer | Failure,
                     lens: Calibration) -> None:
        """Write an answer or a failure, and the maps it was reasoned from."""
        self._say(topics.ANSWER, frame, answer_message(frame, question, mode, event,
                                                       self._timings))
        self._say(topics.ANSWER_TEXT, frame, interfaces.make(STRING, data=_line(event)))
        for drawn in event.maps if isinstance(event, Answer) else ():
            if isinstance(drawn, DepthMap):
                self._write_depth(frame, drawn, lens)
            else:
                self._write_segmentation(frame, drawn)

    def _write_depth(self, frame: Frame, drawn: DepthMap, lens: Calibration) -> None:
        self._image(topics.RELATIVE_DEPTH, frame, encode_depth(drawn.relative))
        self._image(topics.RELATIVE_DEPTH_COLORED, frame, encode_rgb8(drawn.colour))
        metres = drawn.metres_behind(lens)
        if metres is None:
            return
        self._image(topics.DEPTH, frame, encode_depth(metres))
        if lens.info is not None:
            self._say(topics.DEPTH_INFO, frame,
                      scaled_camera_info(lens.info, frame, drawn.relative.shape))

    def _write_segmentation(self, frame: Frame, drawn: SegmentationMap) -> None:
        self._image(topics.MASK, frame, encode_mono8(drawn.labels))
        self._image(topics.MASK_COLORED, frame, encode_rgb8(drawn.rgb))
        self._image(topics.OVERLAY, frame,
                    encode_rgb8(overlay(frame.rgb, drawn.labels, drawn.legend)))
        self._say(topics.LEGEND, frame, interfaces.make(
            interfaces.LEGEND, header=_header(frame), labels=list(map(_label, drawn.legend)),
            named=drawn.named))

    def _image(self, name: str, frame: Frame, pixels: ImageBuffer) -> None:
        self._say(name, frame, interfaces.image(_header(frame), pixels))

    def _say(self, name: str, frame: Frame, message: Any) -> None:
        """Write what a node would publish, under the name it has there."""
        self._put(f'/{topics.NODE}/{name}', TYPES[name], frame, message)

    def _put(self, topic: str, type_name: str, frame: Frame, message: Any) -> None:
        data = interfaces.typestore().serialize_cdr(message, type_name)
        self._write(topic, type_name, frame.bag_ns, data)

    def _write(self, topic: str, type_name: str, stamp_ns: int, data: bytes | memoryview) -> None:
        key = (topic, type_name)
        if key not in self._connections:
            self._connections[key] = self._writer.add_connection(
                topic, type_name, typestore=interfaces.typestore(),
                offered_qos_profiles=[_RELIABLE])
        self._writer.write(self._connections[key], stamp_ns, data)


def answer_message(frame: Frame, question: Question, mode: str, event: Answer | Failure,
                   timings: bool) -> Any:
    """Build a cooper_interfaces/SpatialAnswer; a failure has only its code and message."""
    said = event if isinstance(event, Answer) else None
    return interfaces.make(
        interfaces.ANSWER, header=_header(frame), request_id=event.request_id, camera='',
        question=question.text, mode=mode, answer=said.text if said else '',
        short_answer=said.short if said else '',
        reasoning=list(said.reasoning) if said else [],
        confidence=said.confidence if said else 0.0,
        timings=_timings(said.timings if said and timings else Timings()),
        complete=bool(said and said.complete), error_code=event.error_code,
        error_msg=event.error_msg)


def scaled_camera_info(source: Any, frame: Frame, size: tuple[int, int] | None) -> Any:
    """Build a CameraInfo of the picture, or of a map ``size`` (H, W) of it (K and P scaled)."""
    k, p = matrix_of(source, 'k'), matrix_of(source, 'p')
    if size and all(region_of(source)[2:]):
        k, p = scaled_matrices(source, size)
    height, width = size or (source.height, source.width)
    kept = {name: 0 if size else int(getattr(source.roi, name)) for name in
            ('x_offset', 'y_offset', 'height', 'width')}
    roi = interfaces.make('sensor_msgs/msg/RegionOfInterest', **kept,
                          do_rectify=not size and bool(source.roi.do_rectify))
    binning = {name: 0 if size else int(getattr(source, name))
               for name in ('binning_x', 'binning_y')}
    return interfaces.make(
        CAMERA_INFO, header=_header(frame), height=height, width=width,
        distortion_model=source.distortion_model, d=matrix_of(source, 'd'), k=k,
        r=matrix_of(source, 'r'), p=p, roi=roi, **binning)


def _header(frame: Frame) -> Any:
    return interfaces.header(frame.stamp_ns, frame.frame_id)


def _label(label: Label) -> Any:
    red, green, blue = (int(value) for value in label.rgb)
    return interfaces.make(interfaces.LABEL, id=int(label.id), name=label.name, red=red,
                           green=green, blue=blue, pixels=int(label.pixels))


def _timings(timings: Timings) -> Any:
    return interfaces.make(interfaces.TIMINGS, queued_s=0.0, **vars(timings))


def _line(event: Answer | Failure) -> str:
    """The words to say, as a node says them: what was cut short is no answer to act on."""
    if isinstance(event, Answer) and event.complete:
        return spoken(event.text)
    return event.error_msg
