"""The model folder of a small checkpoint: prompt texts, tokenizer corpus, card, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cooper_ros.engine.prompts import Prompts, save_prompts
from cooper_ros.errors import BadCheckpoint
from cooper_ros.imaging.depth_edges import PICTURE
from cooper_ros.imaging.segmentation import palette_from_rows
from cooper_ros.model.config import ModelConfig
from cooper_ros.model.vae import AutoEncoder
from cooper_ros.runtime.card import Drawing, ModelCard
from cooper_ros.runtime.checkpoint import read_autoencoder, save_model_folder
from cooper_ros.runtime.weights import VAE_FILE
from cooper_ros.scenes.palette import palette_json
from cooper_ros.scenes.qa import QuestionAnswer
from cooper_ros.scenes.scene import MAX_DEPTH_M, MIN_DEPTH_M
from cooper_ros.training.data import FrameStore

PROMPTS = Prompts(
    interleave_system='think first. draw depth or segmentation when it helps. then answer.',
    image_system='both maps are drawn first. answer from them.',
    think_system='think in words. then answer.',
    gen_think_system='plan the picture. then draw it.',
    depth='<depth-estimation>depth of the scene</depth-estimation>',
    segmentation='<segmentation>objects of the scene</segmentation>',
    reflection='look at the map. go on.')
CORPUS_FRAMES = 2000
# Lenses of our scenes lie around this one. A picture alone tells its scale so badly that depth
# learnt from it follows that by half only, and leaves the other half of the lens to be put in:
# see the model card of cooper-nano.
MIDDLE_FOCAL, HALF_TRUSTED = 0.816, 0.5


def corpus(store: FrameStore) -> Iterator[str]:
    """Texts the tokenizer learns from: prompts, questions and traces of the first frames."""
    yield from vars(PROMPTS).values()
    for asked in store.questions[:CORPUS_FRAMES]:
        for question in asked:
            yield question['question']
            for trace in QuestionAnswer(**question).traces:
                yield from trace.turns


def load_vae(path: Path) -> AutoEncoder:
    """The frozen autoencoder of an exported VAE run or a model folder.

    Raises:
        BadCheckpoint: there is none, its file is damaged, or it is one of another kind.
    """
    file = path / VAE_FILE
    if not file.is_file():
        raise BadCheckpoint('there is no autoencoder', value=str(file),
                            remedy='run stage vae with --export first')
    return read_autoencoder(path, dtype=torch.float32).requires_grad_(False)


def vae_tensors(path: Path) -> dict[str, Tensor]:
    """Weights of the autoencoder of an exported VAE run or a model folder.

    Raises:
        BadCheckpoint: as :func:`load_vae`.
    """
    return load_vae(path).state_dict()


def card(vae_rule: tuple[int, int, int], vit_rule: tuple[int, int, int], points: int,
         canonical_focal: float = 0.0, name: str = 'cooper-nano') -> ModelCard:
    """What a checkpoint trained on our scenes says about itself.

    Args:
        vae_rule, vit_rule, points, name: of the card.
        canonical_focal: the lens its depth was trained for; 0 for that of every picture.
    """
    drawing = Drawing(flow_points=points, flow_shift=1.0, cfg_text=1.0, cfg_image=1.0,
                      depth_edges=PICTURE, canonical_focal=canonical_focal or MIDDLE_FOCAL,
                      focal_power=1.0 if canonical_focal else HALF_TRUSTED)
    return ModelCard(name, tuple(vae_rule), tuple(vit_rule), (MIN_DEPTH_M, MAX_DEPTH_M),
                     palette_from_rows(palette_json()), drawing, max_turn_tokens=128)


def write_folder(folder: Path, config: ModelConfig, weights: Mapping[str, Tensor],
                 vae: AutoEncoder, tokenizer: PreTrainedTokenizerBase, card: ModelCard) -> None:
    """Write everything but the README; network weights in bfloat16, the autoencoder in float32."""
    half = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    save_model_folder(folder, config, network=half, vae=vae.state_dict(), tokenizer=tokenizer,
                      card=card)
    save_prompts(folder, PROMPTS)
