"""The tiny random network of the tests as a model folder on disk."""

from __future__ import annotations

from pathlib import Path

from support.tiny import PROMPTS, tiny_card, tiny_config, tiny_runtime
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cooper_ros.engine.prompts import save_prompts
from cooper_ros.runtime.checkpoint import save_model_folder
from cooper_ros.runtime.tokenizer import MARKERS


def write_model_folder(folder: Path) -> Path:
    """Write weights, autoencoder, byte tokenizer, card and prompts."""
    runtime = tiny_runtime()
    save_model_folder(folder, tiny_config(), network=runtime.network.state_dict(),
                      vae=runtime.vae.state_dict(), tokenizer=_byte_tokenizer(),
                      card=tiny_card())
    save_prompts(folder, PROMPTS)
    return folder


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(MARKERS))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
