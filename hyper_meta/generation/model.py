"""A run's trained guide with what turns a sentence into weights: `load_model`."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from hyper_meta.core.configuration import stored_settings
from hyper_meta.core.numerics import own_numerics
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.encoders.folder import Encoder, encode_texts
from hyper_meta.encoders.questions import (
    QuestionEncoder,
    read_questions,
)
from hyper_meta.generation.predict import fetch_encoder
from hyper_meta.generation.saved_model import (
    bundled_model_path,
    find_model,
    is_saved,
    push_model,
    read_place,
    save_model,
)
from hyper_meta.methods.guide_store import (
    INDEX,
    again,
    choose_guide,
    load_guide,
    noted,
)
from hyper_meta.methods.guides import Guide
from hyper_meta.methods.places import seed_dir
from hyper_meta.methods.registry import GUIDES, in_order
from hyper_meta.methods.signs import (
    network_signs,
)
from hyper_meta.methods.trust import Trust
from hyper_meta.models.sentences import measure_sentences, sentence_cosine
from hyper_meta.networks.registry import configured_network
from hyper_meta.preparation.prepare import EncoderChoice, chosen_encoder
from hyper_meta.preparation.question_encoder import open_question_encoder


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A trained guide with all that it needs to turn a sentence into weights.

    config: of its run; place: the folder that it was loaded from.
    encoder: of images and answers, loaded; encoder_choice: where it is.
    question_encoder: loaded; the same where no other was chosen.
    guide: the trained method; value: of its settings, chosen on validation tasks.
    trust: how far it can be trusted; images: features that this is judged on.
    templates: {training sentence: answer template}; sentences: the pooled features of these.
    answers: {template: the answers it was trained with}.
    """

    config: RunSettings
    place: Path
    encoder: Encoder
    encoder_choice: EncoderChoice
    question_encoder: QuestionEncoder
    guide: Guide
    value: Any
    trust: Trust
    images: Float[np.ndarray, "n D"]
    templates: dict[str, str]
    sentences: Float[np.ndarray, "m Dq"]
    answers: dict[str, list[str]]

    def __repr__(self) -> str:
        return f"Model({self.guide.name!r}, of {self.config.dataset}, from {str(self.place)!r})"

    @functools.cached_property
    def programs(self) -> Programs:
        """What is compiled once for all sentences."""
        return Programs(
            read=jax.jit(
                functools.partial(read_questions, with_tokens=self.config.question_tokens)
            ),
            embed=jax.jit(encode_texts),
            generate=jax.jit(self.guide.generate),
            nearness=jax.jit(_nearness),
            signs=jax.jit(functools.partial(network_signs, self.guide.network, self.guide.votes)),
        )

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes all that `load_model` needs to a new folder, with a card; see `saved_model`.

        Raises UserError for a folder that holds something, and where it cannot be written.
        """
        save_model(self, Path(folder))

    def push_to_hub(self, repo: str, *, private: bool = False) -> None:
        """The same to the Hugging Face Hub, as OWNER/NAME, with the token of `hf auth login`.

        Raises UserError where the Hub refuses.
        """
        push_model(self, repo, private=private)


class Programs(NamedTuple):
    """read: (encoder of questions, token ids) -> features of sentences; embed: (encoder, token ids)
    -> features of answers; generate: see `Guide`; nearness: see `_nearness`; signs: see
    `methods.signs.network_signs`."""

    read: Callable[..., SentenceFeatures]
    embed: Callable[..., jax.Array]
    generate: Callable[..., jax.Array]
    nearness: Callable[..., jax.Array]
    signs: Callable[..., dict[str, jax.Array]]


@own_numerics()
def load_model(model: str | os.PathLike | None = None, method: str | None = None) -> Model:
    """The model that a finished run left in its work directory, that of its first seed; or one that
    was saved.

    model: the work directory of a run, the folder of a saved model, or its name on the Hub,
    "OWNER/NAME" or "hf://OWNER/NAME"; None for the one that comes with this package, of Digits-VQA.
    method: one of the run's language methods, None for the one that was best on its validation
    tasks. Raises UserError where there is no finished run, no such method in it, it is damaged, or
    an encoder is not the one of the run.
    """
    place = bundled_model_path() if model is None else find_model(os.fspath(model))
    config = read_place(place, stored_settings(place))
    folder = place if is_saved(place) else seed_dir(place, config.seed)
    if not (folder / INDEX).is_file():
        raise UserError(f"{place} holds no finished model: {_advice(config, folder)}")
    name = choose_guide(folder, method)
    if not config.encoder:
        raise UserError(
            f"{place} is a run on precomputed features whose encoder is not known, which a new "
            "sentence needs: train with it named, as --config.encoder=..."
        )
    choice = chosen_encoder(config)
    encoder = fetch_encoder(choice, noted(folder, name, "encoder"))
    question_encoder = _question_encoder(config, encoder, noted(folder, name, "question_encoder"))
    stored = load_guide(
        folder,
        name,
        GUIDES[name],
        config=config,
        network=configured_network(config.network, encoder.config.projection_dim),
        sentence=_example(config, question_encoder),
    )
    return Model(
        config=config,
        place=place,
        encoder=encoder,
        encoder_choice=choice,
        question_encoder=question_encoder,
        guide=stored.guide,
        value=stored.value,
        trust=stored.trust,
        images=stored.images,
        templates=stored.templates,
        sentences=stored.sentences,
        answers=noted(folder, name, "answers"),
    )


def _advice(config: RunSettings, folder: Path) -> str:
    """What to do where a run has no index of guides."""
    if not set(in_order(config.methods, config)) & set(GUIDES):
        return (
            f"of its methods ({', '.join(config.methods)}) none generates networks from a "
            f"sentence, take a run with one of {', '.join(GUIDES)}"
        )
    return again(folder)


def _question_encoder(config: RunSettings, encoder: Encoder, fingerprint: str) -> QuestionEncoder:
    """What reads the questions of a run, by the one encoder of images or another. Raises UserError
    where it is not the one that the run was made with."""
    found = open_question_encoder(config) or encoder
    if found.fingerprint != fingerprint:
        raise UserError(
            f"made with another encoder of questions ({fingerprint[:12]}) than "
            f"{config.question_encoder or config.encoder} ({found.fingerprint[:12]}): put that one "
            "back, or train with this one"
        )
    return found


def _example(config: RunSettings, encoder: QuestionEncoder) -> SentenceFeatures:
    """Zeros in place of the features of a sentence."""
    encode = functools.partial(read_questions, with_tokens=config.question_tokens)
    shapes = jax.eval_shape(encode, encoder, np.zeros((1, 1), np.int32))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), shapes)


def _nearness(
    known: Float[jax.Array, "m Dq"], question: SentenceFeatures
) -> Float[jax.Array, " m"]:
    """The cosine of one question, leading axis 1, with m training sentences, standardised."""
    sentences = SentenceFeatures(known)
    return sentence_cosine(measure_sentences(sentences), question, sentences)[0]
