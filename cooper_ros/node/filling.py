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
from cooper_ros.node.desk import Ticket
from cooper_ros.node.outputs import answer_message, metric_depth

_ANSWER_FIELDS = ('header', 'request_id', 'answer', 'short_answer', 'confidence', 'timings',
                  'complete', 'error_code', 'error_msg')


def fill_error(message: Any, error: CooperError) -> Any:
    """Set code and text of a request that was refused."""
    message.error_code, message.error_msg = int(error.code), str(error)
    return message


def fill_answer(message: Any, ticket: Ticket, end: Answer | Failure) -> Any:
    """Set the words, and the reasoning where the message has a place for it."""
    answer = answer_message(ticket, end)
    for name in _ANSWER_FIELDS:
        setattr(message, name, getattr(answer, name))
    if hasattr(message, 'reasoning'):
        message.reasoning = answer.reasoning
    return message


def fill_maps(message: Any, ticket: Ticket, end: Answer | Failure) -> Any:
    """Set the last map of each kind."""
    for drawn in end.maps if isinstance(end, Answer) else ():
        if isinstance(drawn, DepthMap):
            fill_depth(message, ticket, drawn)
        else:
            fill_segmentation(message, ticket, drawn)
    return message


def fill_depth(message: Any, ticket: Ticket, drawn: DepthMap) -> None:
    """Set relative depth, and metres with their camera info where a scale is known."""
    header = ticket.header
    message.relative_depth = depth_message(header, drawn.relative)
    if ticket.lens.info is not None:
        message.camera_info = scaled_camera_info(ticket.lens.info, header, drawn.relative.shape)
    metres = metric_depth(drawn, ticket.lens)
    if metres is not None and drawn.range_m is not None:
        message.depth = depth_message(header, metres)
        message.range_min_m, message.range_max_m = (float(end) for end in drawn.range_m)


def fill_segmentation(message: Any, ticket: Ticket, drawn: SegmentationMap) -> None:
    """Set mask and legend."""
    message.segmentation = mask_message(ticket.header, drawn.labels)
    message.legend = legend_message(ticket.header, drawn)
