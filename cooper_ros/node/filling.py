"""Fills results and responses from the end of a request; the field names are the same in all."""

from __future__ import annotations

from typing import Any

from cooper_ros.engine.events import Answer, DepthMap, Failure, SegmentationMap
from cooper_ros.errors import CooperError
from cooper_ros.node.conversions import (
    depth_message,
    legend_message,
    mask_message,
    scaled_camera_info,
)
from cooper_ros.node.outputs import answer_message
from cooper_ros.node.request_handler import AcceptedRequest

_ANSWER_FIELDS = ('header', 'request_id', 'answer', 'short_answer', 'confidence', 'timings',
                  'complete', 'error_code', 'error_msg')


def fill_error(message: Any, error: CooperError) -> Any:
    """Set code and text of a request that was refused."""
    message.error_code, message.error_msg = int(error.code), str(error)
    return message


def fill_answer(message: Any, accepted: AcceptedRequest, end: Answer | Failure) -> Any:
    """Set the words, and the reasoning where the message has a place for it."""
    answer = answer_message(accepted, end)
    for name in _ANSWER_FIELDS:
        setattr(message, name, getattr(answer, name))
    if hasattr(message, 'reasoning'):
        message.reasoning = answer.reasoning
    return message


def fill_maps(message: Any, accepted: AcceptedRequest, end: Answer | Failure) -> Any:
    """Set the last map of each kind."""
    for drawn in end.maps if isinstance(end, Answer) else ():
        if isinstance(drawn, DepthMap):
            fill_depth(message, accepted, drawn)
        else:
            fill_segmentation(message, accepted, drawn)
    return message


def fill_depth(message: Any, accepted: AcceptedRequest, drawn: DepthMap) -> None:
    """Set relative depth, camera info where one is known, and metres where a scale is known."""
    header = accepted.header
    message.relative_depth = depth_message(header, drawn.relative)
    if accepted.lens.info is not None:
        message.camera_info = scaled_camera_info(accepted.lens.info, header, drawn.relative.shape)
    metres = drawn.metres_behind(accepted.lens)
    if metres is not None and drawn.range_m is not None:
        message.depth = depth_message(header, metres)
        message.range_min_m, message.range_max_m = (float(end) for end in drawn.range_m)


def fill_segmentation(message: Any, accepted: AcceptedRequest, drawn: SegmentationMap) -> None:
    """Set mask and legend."""
    message.segmentation = mask_message(accepted.header, drawn.labels)
    message.legend = legend_message(accepted.header, drawn)
