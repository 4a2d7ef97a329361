"""The settings of an encoder's pre-training, the records of configs/encoder.py."""

from __future__ import annotations

from collections.abc import Iterator

from hyper_meta.core.arguments import MAX_SEED
from hyper_meta.core.settings.rules import count, setting, share
from hyper_meta.core.settings.run import record


@record
class TowerSettings:
    width: int = count("of a token")
    mlp: int = count("width of the hidden layer of a block")
    layers: int = count("blocks")
    heads: int = count("of attention, a divisor of the width")


@record
class EncoderSettings:
    """Everything that pre-training reads from its configuration."""

    seed: int = setting("of everything that is drawn", at_least=0, at_most=MAX_SEED)
    vocab_size: int = count("of the tokenizer that is trained")
    max_tokens: int = count("of a sentence")
    embed_dim: int = count("D, of images and sentences")
    image_size: int = count("pixels, a multiple of patch_size")
    patch_size: int = count("pixels")
    image_mean: float = setting("of a pixel from 0 to 1", at_least=0, at_most=1)
    image_std: float = setting("of a pixel from 0 to 1", above=0)
    vision: TowerSettings
    text: TowerSettings
    num_steps: int = count("steps, a multiple of chunk_steps")
    chunk_steps: int = count("steps from one line of progress to the next")
    checkpoint_every: int = count("chunks from one checkpoint to the next")
    batch_size: int = count("scenes of a step")
    learning_rate: float = setting("largest, of AdamW", above=0)
    weight_decay: float = setting("of AdamW", at_least=0)
    simple_share: float = share("of the steps, while scenes grow", may_be_zero=True)
    unpaired_share: float = share("of the steps, without pairs of sentences", may_be_zero=True)

    def contradictions(self) -> Iterator[str]:
        """One line for each pair of settings that do not go together."""
        if self.image_size % self.patch_size:
            yield f"image_size={self.image_size} is no multiple of patch_size={self.patch_size}"
        for name, tower in (("vision", self.vision), ("text", self.text)):
            if tower.width % tower.heads:
                yield f"{name}.width={tower.width} is no multiple of {name}.heads={tower.heads}"
