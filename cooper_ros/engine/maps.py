"""From drawn latent tokens to maps people and planners can use (reference section 8.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
from torch import Tensor

from cooper_ros.engine.contexts import ImagePiece
from cooper_ros.engine.events import DEPTH, DepthMap, Map, SegmentationMap
from cooper_ros.engine.pictures import PictureReader
from cooper_ros.errors import BadOption, CooperError
from cooper_ros.imaging import depth, segmentation
from cooper_ros.imaging.colours import colourise
from cooper_ros.imaging.depth_edges import DRAWN, PICTURE, edges_from_picture
from cooper_ros.imaging.segmentation import Label


@dataclass(frozen=True)
class MapMaker:
    """Decodes latent tokens into maps.

    Attributes:
        pictures: decodes through its runtime, and shows maps to the network again.
        range_m: (near, far) metres of relative depth 0 and 1 for the lens that depth is drawn for,
            or None when nobody knows them.
        palette: the checkpoint's classes; empty when its colours have no names.
        edges: where edges of depth in metres lie: as ``drawn``, or as in the ``picture``.
        metres_scale: what metres are multiplied with, for the lens that was looked through.
        lens_known: False while that is a guess.
    """

    pictures: PictureReader
    range_m: tuple[float, float] | None
    palette: Sequence[Label]
    edges: str = DRAWN
    metres_scale: float = 1.0
    lens_known: bool = True

    @property
    def token_size(self) -> int:
        """Numbers per latent token."""
        return self.pictures.runtime.config.latent_features

    def check(self, kind: str) -> None:
        """Refuse a map that could not be finished, before it is drawn.

        Raises:
            BadOption: the range of depth is empty: one end was given that does not fit the other.
        """
        if kind != DEPTH or self.range_m is None:
            return
        near, far = self._scaled_range(self.range_m)
        if near >= far:
            raise BadOption('the range of depth is empty', value=f'{near:g} .. {far:g} m',
                            limit='depth_min_m < depth_max_m', remedy='give both ends')

    def finish(self, kind: str, tokens: Tensor, grid: tuple[int, int], rgb: np.ndarray) -> Map:
        """Decode latent tokens ``[N, P]`` of a grid into a map of that kind.

        Args:
            kind: depth or segmentation.
            tokens, grid: what was drawn.
            rgb: uint8 ``[H, W, 3]``, the picture it was drawn of, at the size of the map.

        Raises:
            CooperError: what was drawn is no picture: numbers are NaN or infinite.
        """
        decoded = self.pictures.runtime.decode_tokens(tokens, grid)  # [3, H, W], about -1..1
        pixels = decoded.float().cpu().numpy()
        if not (good := np.isfinite(pixels)).all():  # else NaN would pass for depth and for black
            raise CooperError(f'the drawn {kind} is no picture',
                              value=f'{good.size - good.sum()} of {good.size} numbers are NaN or '
                                    'infinite', limit='finite numbers',
                              remedy='set dtype to bfloat16 or float32, if it is float16; else '
                                     'check flow and guidance settings')
        if kind == DEPTH:
            return self._depth(depth.relative_from_decoded(pixels), rgb)
        return self._segmentation(depth.picture_from_decoded(pixels))

    def show(self, drawn: Map) -> ImagePiece:
        """A map as the network is shown it: colours, through the ViT only."""
        rgb = drawn.colour if isinstance(drawn, DepthMap) else drawn.rgb
        return self.pictures.show(rgb)

    def _depth(self, relative: np.ndarray, rgb: np.ndarray) -> DepthMap:
        if self.range_m is None:
            return DepthMap(relative, None, None, colourise(relative))
        metres = depth.metres_from_relative(relative, *self.range_m)
        if self.edges == PICTURE:
            metres = edges_from_picture(metres, rgb)
            relative = depth.relative_from_metres(metres, *self.range_m)
        return DepthMap(relative, metres * np.float32(self.metres_scale),
                        self._scaled_range(self.range_m), colourise(relative),
                        lens_known=self.lens_known)

    def _scaled_range(self, ends: tuple[float, float]) -> tuple[float, float]:
        return ends[0] * self.metres_scale, ends[1] * self.metres_scale

    def _segmentation(self, rgb: np.ndarray) -> SegmentationMap:
        if self.palette:
            labels, legend = segmentation.labels_from_palette(rgb, self.palette)
        else:
            labels, legend = segmentation.labels_from_regions(rgb)
        return SegmentationMap(rgb, labels, tuple(legend), named=bool(self.palette))
