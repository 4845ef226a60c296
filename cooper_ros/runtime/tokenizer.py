"""The tokenizer of a model folder (reference section 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from cooper_ros.errors import BadCheckpoint
from cooper_ros.model.config import SpecialTokens

MARKERS = ('<|im_start|>', '<|im_end|>', '<|vision_start|>', '<|vision_end|>')
FAST_FILE = 'tokenizer.json'
SLOW_FILES = ('vocab.json', 'merges.txt')


def find_tokenizer(folders: Sequence[Path]) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the first folder that has one; never asks a network.

    Raises:
        BadCheckpoint: its files are there but damaged.
    """
    for folder in folders:
        try:
            if (folder / FAST_FILE).is_file():
                return _marked(PreTrainedTokenizerFast(tokenizer_file=str(folder / FAST_FILE),
                                                       clean_up_tokenization_spaces=False))
            if all((folder / name).is_file() for name in SLOW_FILES):
                return Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # the libraries below raise bare exceptions
            raise BadCheckpoint('the tokenizer is damaged', value=f'{folder}: {error}',
                                limit=f'{FAST_FILE}, or {" and ".join(SLOW_FILES)}',
                                remedy='copy the tokenizer files again') from error
    return None


def _marked(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Name begin and end, which this file does not, so that they are named when it is saved."""
    if set(MARKERS[:2]) <= set(tokenizer.get_vocab()):
        tokenizer.bos_token, tokenizer.eos_token = MARKERS[:2]
    return tokenizer


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """Ids of the four markers.

    Raises:
        BadCheckpoint: the tokenizer lacks one.
    """
    known = tokenizer.get_vocab()
    lacking = [marker for marker in MARKERS if marker not in known]
    if lacking:
        raise BadCheckpoint('the tokenizer lacks markers', value=', '.join(lacking),
                            limit=', '.join(MARKERS),
                            remedy='use the tokenizer of BAGEL-7B-MoT')
    return SpecialTokens(*(known[marker] for marker in MARKERS))
