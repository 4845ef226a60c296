"""What applies to one request: its settings, and the model folder's where those say -1."""

from __future__ import annotations

from typing import Any

from cooper_ros.config import CooperConfig
from cooper_ros.engine.drawing import DrawOptions
from cooper_ros.engine.maps import MapMaker
from cooper_ros.engine.pictures import PictureReader
from cooper_ros.engine.sampling import TextOptions
from cooper_ros.model.flow import Guidance
from cooper_ros.runtime.card import ModelCard


def offline(**values: Any) -> CooperConfig:
    """Settings of what measures or trains: no clock, nothing from a cache of engines, turns as
    long as the model writes them, questions as long as they are.

    Args:
        **values: other settings, by name.

    Raises:
        BadOption: a setting does not exist or is out of range.
    """
    return CooperConfig(time_budget_s=0.0, runtime='torch', max_turn_tokens=16384,
                        max_question_chars=100_000).replaced(**values)


def text_options(config: CooperConfig, card: ModelCard) -> TextOptions:
    """How text is decoded; a model folder may know that its turns are short."""
    return TextOptions(config.sample, config.temperature, config.top_p,
                       min(config.max_turn_tokens, card.max_turn_tokens))


def draw_options(config: CooperConfig, card: ModelCard) -> DrawOptions:
    """How maps are drawn."""
    theirs, renorm = card.drawing, config.cfg_renorm
    guidance = Guidance(
        text=_first(config.cfg_text, theirs.cfg_text),
        image=_first(config.cfg_image, theirs.cfg_image),
        low=_first(config.cfg_low, theirs.cfg_low),
        high=_first(config.cfg_high, theirs.cfg_high),
        renorm=theirs.cfg_renorm if renorm == 'checkpoint' else renorm,
        renorm_min=_first(config.cfg_renorm_min, theirs.cfg_renorm_min))
    points = int(_first(config.flow_points, theirs.flow_points))
    return DrawOptions(points, _first(config.flow_shift, theirs.flow_shift), guidance)


def map_maker(pictures: PictureReader, config: CooperConfig, card: ModelCard) -> MapMaker:
    """How drawn maps are decoded and named."""
    edges, theirs = config.depth_edges, card.drawing
    given, scale = (config.depth_min_m, config.depth_max_m), lens_scale(config, card)
    if min(given) >= 0:  # somebody measured both: the lens is in them
        scale = 1.0
    return MapMaker(pictures, depth_range(given, card, scale or 1.0), card.palette,
                    theirs.depth_edges if edges == 'checkpoint' else edges, scale or 1.0,
                    scale is not None)


def lens_scale(config: CooperConfig, card: ModelCard) -> float | None:
    """What the model's metres are multiplied with, None while the lens they depend on is not
    known."""
    theirs = card.drawing
    if not theirs.canonical_focal:
        return 1.0
    return (config.focal / theirs.canonical_focal) ** theirs.focal_power if config.focal else None


def depth_range(given: tuple[float, float], card: ModelCard, scale: float
                ) -> tuple[float, float] | None:
    """Metres of relative depth 0 and 1 before the lens scales them, or None while nobody vouches
    for a scale.

    Args:
        given: ends that the settings name, below 0 for the model's. No lens changes them.
        card: of the model.
        scale: of the lens.
    """
    near, far = (end if wanted < 0 else wanted / scale
                 for wanted, end in zip(given, card.depth_range_m or (-1.0, -1.0)))
    return None if min(near, far) < 0 else (near, far)


def _first(wanted: float, otherwise: float) -> float:
    return otherwise if wanted < 0 else wanted
