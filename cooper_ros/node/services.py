"""The services ``~/query``, ``~/estimate_depth`` and ``~/segment``: one bounded thing each.

Callbacks are coroutines: while they wait for the engine, the executor serves everybody else.
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from cooper_interfaces.srv import EstimateDepth, Segment, SpatialQuery
from cooper_ros.engine.events import DEPTH, SEGMENTATION, Answer, Event, Failure, SegmentationMap
from cooper_ros.errors import CooperError, NoScale
from cooper_ros.node.action_server import DEEP
from cooper_ros.node.conversions import colour_message
from cooper_ros.node.desk import Desk, Ticket, Wish
from cooper_ros.node.filling import fill_answer, fill_error, fill_maps


class Services:
    """Serves for as long as the node lives; answers NOT_READY while it is not active."""

    def __init__(self, node: LifecycleNode, desk: Desk) -> None:
        self._node, self._desk = node, desk
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(kind, name, callback, qos_profile=DEEP, callback_group=group)
            for kind, name, callback in ((SpatialQuery, '~/query', self._query),
                                         (EstimateDepth, '~/estimate_depth', self._depth),
                                         (Segment, '~/segment', self._segment))]

    async def _query(self, request: SpatialQuery.Request,
                     response: SpatialQuery.Response) -> SpatialQuery.Response:
        try:
            ticket, end = await self._run(Wish.from_message(request, mode='direct'))
        except CooperError as error:
            return fill_error(response, error)
        return fill_answer(response, ticket, end)

    async def _depth(self, request: EstimateDepth.Request,
                     response: EstimateDepth.Response) -> EstimateDepth.Response:
        ticket = await self._draw(DEPTH, request, response)
        if (request.require_metres and ticket is not None and not response.error_code
                and not response.depth.data):
            fill_error(response, _no_scale(ticket))
        return response

    async def _segment(self, request: Segment.Request,
                       response: Segment.Response) -> Segment.Response:
        await self._draw(SEGMENTATION, request, response)
        return response

    async def _draw(self, kind: str, request: Any, response: Any) -> Ticket | None:
        start = time.monotonic()
        try:
            ticket, end = await self._run(Wish.from_message(request, kind=kind))
        except CooperError as error:
            fill_error(response, error)
            return None
        response.header, response.elapsed_s = ticket.header, time.monotonic() - start
        response.error_code, response.error_msg = int(end.error_code), end.error_msg
        fill_maps(response, ticket, end)
        for drawn in end.maps if isinstance(end, Answer) else ():
            if isinstance(drawn, SegmentationMap):
                response.colored = colour_message(response.header, drawn.rgb)
        return ticket

    async def _run(self, wish: Wish) -> tuple[Ticket, Answer | Failure]:
        future: Future = Future()

        def hear(ticket: Ticket, event: Event) -> None:
            if isinstance(event, Answer | Failure):
                future.set_result((ticket, event))

        self._desk.take_in(wish, hear)
        return await future

    def destroy(self) -> None:
        """Take the services away."""
        for service in self._services:
            self._node.destroy_service(service)


def _no_scale(ticket: Ticket) -> NoScale:
    if ticket.lens.error:
        return NoScale('no scale is known behind this lens', value=ticket.lens.error,
                       remedy='calibrate the camera, or set focal')
    if not ticket.lens.focal:
        return NoScale('no scale is known without the lens', value='no camera_info', remedy=
                       'publish camera_info, or set focal; else depth_min_m and depth_max_m')
    return NoScale('no scale is known for this model', remedy='set depth_min_m and depth_max_m')
