"""A small byte-level tokenizer for small checkpoints, trained on the texts they will meet."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from cooper_ros.errors import BadCheckpoint
from cooper_ros.runtime.tokenizer import MARKERS, find_tokenizer


def build_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train byte-pair merges; any text survives encoding and decoding unchanged.

    Digits stay single, so that 1.83 is written the way it is compared, one digit at a time.

    Args:
        texts: the corpus.
        size: ids at most, markers and the 256 bytes included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(MARKERS), show_progress=False, min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=MARKERS[0],
                                   eos_token=MARKERS[1], clean_up_tokenization_spaces=False)


def kept_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        BadCheckpoint: it has none.
    """
    tokenizer = find_tokenizer([Path(folder)])
    if tokenizer is None:
        raise BadCheckpoint('there is no tokenizer', value=folder,
                            remedy='name a model folder that was exported')
    return tokenizer
