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
from cooper_ros.node.conversions import colour_message
from cooper_ros.node.filling import fill_answer, fill_error, fill_maps
from cooper_ros.node.outputs import no_scale
from cooper_ros.node.qos import DEEP
from cooper_ros.node.request_handler import (
    AcceptedRequest,
    RequestHandler,
    RequestSpec,
    refusal_of,
)


class Services:
    """Serves for as long as the node lives; answers NOT_READY while it is not active."""

    def __init__(self, node: LifecycleNode, handler: RequestHandler) -> None:
        self._node, self._handler = node, handler
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(kind, name, callback, qos_profile=DEEP, callback_group=group)
            for kind, name, callback in ((SpatialQuery, '~/query', self._query),
                                         (EstimateDepth, '~/estimate_depth', self._depth),
                                         (Segment, '~/segment', self._segment))]

    async def _query(self, request: SpatialQuery.Request,
                     response: SpatialQuery.Response) -> SpatialQuery.Response:
        try:
            accepted, end = await self._run(RequestSpec.from_message(request, mode='direct'))
        except Exception as error:  # without a response the caller would wait for ever
            return fill_error(response, refusal_of(error, self._node))
        return fill_answer(response, accepted, end)

    async def _depth(self, request: EstimateDepth.Request,
                     response: EstimateDepth.Response) -> EstimateDepth.Response:
        accepted = await self._draw(DEPTH, request, response)
        if (request.require_metres and accepted is not None and not response.error_code
                and not response.depth.data):
            fill_error(response, no_scale(accepted.lens))
        return response

    async def _segment(self, request: Segment.Request,
                       response: Segment.Response) -> Segment.Response:
        await self._draw(SEGMENTATION, request, response)
        return response

    async def _draw(self, kind: str, request: Any, response: Any) -> AcceptedRequest | None:
        start = time.monotonic()
        try:
            accepted, end = await self._run(RequestSpec.from_message(request, kind=kind))
        except Exception as error:  # as above
            fill_error(response, refusal_of(error, self._node))
            return None
        response.header, response.elapsed_s = accepted.header, time.monotonic() - start
        response.error_code, response.error_msg = int(end.error_code), end.error_msg
        fill_maps(response, accepted, end)
        for drawn in end.maps if isinstance(end, Answer) else ():
            if isinstance(drawn, SegmentationMap):
                response.colored = colour_message(response.header, drawn.rgb)
        return accepted

    async def _run(self, spec: RequestSpec) -> tuple[AcceptedRequest, Answer | Failure]:
        future: Future = Future()

        def hear(accepted: AcceptedRequest, event: Event) -> None:
            if isinstance(event, Answer | Failure):
                future.set_result((accepted, event))

        self._handler.take_in(spec, hear)
        return await future
