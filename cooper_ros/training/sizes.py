"""The sizes of a network that a training file asks for, under ``model``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cooper_ros.model.config import LlmConfig, ModelConfig, VaeConfig, VitConfig

ROWS = 64  # of the word table: their number is rounded up to a multiple


@dataclass(frozen=True)
class Sizes:
    """What is not fixed by the autoencoder and the tokenizer.

    Attributes:
        llm, vit: as in the files of a model folder; the size of the vocabulary is the tokenizer's.
        max_latent_size: latent tokens along the longer side of the largest picture.
        vit_side: patches along the longer side of the largest picture.
        latent_patch_size: cells of a latent token, each way.
    """

    llm: LlmConfig
    vit: VitConfig
    max_latent_size: int
    vit_side: int
    latent_patch_size: int = ModelConfig.latent_patch_size

    def config(self, vocabulary: int, vae: VaeConfig = VaeConfig()) -> ModelConfig:
        """The network that speaks so many tokens and draws what the autoencoder decodes."""
        rows = -(-vocabulary // ROWS) * ROWS
        return ModelConfig(replace(self.llm, vocab_size=rows), self.vit, vae,
                           self.latent_patch_size, self.max_latent_size, self.vit_side)
