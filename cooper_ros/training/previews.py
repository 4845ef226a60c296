"""Pictures of what a network in training draws, for people to look at."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from cooper_ros.engine.engine import CooperEngine, Parts
from cooper_ros.engine.events import Answer, DepthMap
from cooper_ros.engine.tokens import TextCodec
from cooper_ros.imaging.colours import colourise
from cooper_ros.imaging.sheet import Panel, Passage, sheet
from cooper_ros.model.config import SpecialTokens
from cooper_ros.model.network import Cooper
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.card import ModelCard
from cooper_ros.runtime.torch_runtime import TorchRuntime
from cooper_ros.scenes.palette import paint
from cooper_ros.training.data import FrameStore
from cooper_ros.training.folder import PROMPTS


def drawing_engine(network: Cooper, vae: AutoEncoder, tokenizer: PreTrainedTokenizerBase,
                   specials: SpecialTokens, card: ModelCard) -> CooperEngine:
    """An engine around the very network that trains. Neither is moved: both are on one device
    already, and those who gave them go on with them."""
    runtime = TorchRuntime(network, vae, specials=specials, vocabulary=len(tokenizer))
    codec = TextCodec(tokenizer.encode, tokenizer.decode, specials.bos, specials.eos)
    return CooperEngine(Parts(runtime, codec, PROMPTS, card))


def answer_sheet(picture: np.ndarray, question: str, truth: str, answer: Answer) -> np.ndarray:
    """A question with its true answer, and what was thought and drawn: uint8 ``[H, W, 3]``."""
    panels = [Panel(picture, 'picture')]
    panels += [Panel(drawn.colour if isinstance(drawn, DepthMap) else drawn.rgb, drawn.kind)
               for drawn in answer.maps]
    return sheet(panels, [Passage('question', f'{question} ({truth})'),
                          *(Passage(f'turn {number}', turn)
                            for number, turn in enumerate(answer.reasoning, start=1))])


def drawn_maps(engine: CooperEngine, store: FrameStore, count: int) -> np.ndarray:
    """A row per frame: picture, drawn depth, true depth, drawn and true segmentation.

    Returns:
        uint8 ``[count * H, 5 * W, 3]``.
    """
    rows = []
    for frame in range(min(count, len(store))):
        rgb = np.array(store.rgb[frame])
        rows.append(np.concatenate([
            rgb, colourise(engine.estimate_depth(rgb).relative),
            colourise(store.relative(frame)), engine.segment(rgb).rgb,
            paint(store.labels[frame])], axis=1))
    return np.concatenate(rows)
