"""Networks that start where a sentence is read word by word (method.md section 4): the conditional
hypernetwork of tokens, HNet started by the sentence, and averages of such generators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.training import LanguageSettings
from hyper_meta.core.types import Array, Scalar, SentenceFeatures, UserError
from hyper_meta.data.recombine import recombined
from hyper_meta.meta.learners import latent_learner
from hyper_meta.methods.guides import Guide, GuideMaker, adapted_rows, guide_of, guide_row
from hyper_meta.methods.interface import Method, Row, Setup, fit
from hyper_meta.methods.trained import Fitted, Trained
from hyper_meta.models.generator import GENERATOR, generate_weights
from hyper_meta.models.sentences import measure_sentences, take
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.distilled import (
    Lesson,
    NewSentences,
    distilled_stage,
    fit_length,
    new_sentences,
)
from hyper_meta.train.stages.language import (
    generators_stage,
    language_params,
    language_stage,
    read_fn,
)

_generator = functools.partial(generate_weights, GENERATOR)

# Sections of the config whose methods may learn from the generators.
TAUGHT = ("distilled", "language")


def started(name: str, section: str, title: str, summary: str, space: str | None = None) -> Method:
    """A latent that starts where the sentence is read, trained as a section of the config says.

    space: the method whose latent space its points lie in, None where there is none.
    """
    maker = GuideMaker(
        model=functools.partial(_model, name),
        shapes=functools.partial(_shapes, section),
        make=functools.partial(_guide, name, section, title, space),
    )
    return _method(name, section, summary, maker, functools.partial(_stage, section))


def _stage(section: str, *args: Any, **kwargs: Any) -> Stage:
    """Of a section that may have a lesson."""
    make = distilled_stage if "lesson" in kwargs else language_stage
    return make(section, *args, **kwargs)


def _method(
    name: str,
    section: str,
    summary: str,
    maker: GuideMaker,
    stage: Callable[..., Stage],
) -> Method:
    """stage: (config, training table, validation table, name, lesson where it has one)."""

    def has_teacher(config: RunSettings) -> bool:
        return section in TAUGHT and bool(getattr(config, section).teacher_share)

    def train(setup: Setup, trained: Trained) -> Fitted:
        config, tables = setup.config, (setup.tables["train"], setup.tables["validation"])
        given = {"lesson": _lesson(section, setup, trained)} if has_teacher(config) else {}
        build = functools.partial(stage, config, *tables, name=name, **given)
        return fit(setup, section, name, lambda rate: build(learning_rate=rate))

    def rows(setup: Setup, trained: Trained) -> list[Row]:
        guide = guide_of(setup, trained, name, maker)
        return [guide_row(setup, guide), *adapted_rows(setup, guide)]

    return Method(
        rows,
        train,
        needs=lambda config: ("generators",) if has_teacher(config) else (),
        summary=summary,
        guide=maker,
        check=functools.partial(check_tokens, section),
    )


def check_tokens(section: str, config: RunSettings) -> None:
    """Raises UserError where a section of the config reads tokens that are not encoded."""
    reads = getattr(config, section).condition == "tokens"
    if reads and not config.question_tokens and config.dataset != "precomputed":
        raise UserError(
            f'{section}.condition is "tokens", and question_tokens is off: set '
            f"--config.question_tokens, or --config.{section}.condition=pooled"
        )


def _model(name: str, setup: Setup, trained: Trained) -> dict[str, Any]:
    params = trained.fitted(name).params
    return {
        "space": {key: params[key] for key in ("e0", "generator")},
        "reader": params["reader"],
        "questions": jax.tree.map(np.asarray, measure_sentences(setup.tables["train"].questions)),
    }


def _shapes(
    section: str, config: RunSettings, network: BaseNetwork, sentence: SentenceFeatures
) -> dict[str, Any]:
    settings = getattr(config, section)
    params = functools.partial(language_params, config, settings, network)
    made = jax.eval_shape(params, jax.tree.map(jnp.asarray, sentence), jax.random.key(0))
    if members := getattr(settings, "num_members", 0):
        made = jax.tree.map(lambda x: jax.ShapeDtypeStruct((members, *x.shape), x.dtype), made)
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], sentence)
    return {
        "space": {key: made[key] for key in ("e0", "generator")},
        "reader": made["reader"],
        "questions": jax.eval_shape(measure_sentences, batch),
    }


def _guide(
    name: str,
    section: str,
    title: str,
    space: str | None,
    config: RunSettings,
    network: BaseNetwork,
    model: Any,
) -> Guide:
    settings = getattr(config, section)

    def read(model: Any, strength: jax.Array, questions: SentenceFeatures) -> jax.Array:
        latents = read_fn(config, settings, model["questions"])(model, questions)
        return towards(model["space"]["e0"], latents, strength)[:, None]

    def generate(model: Any, latents: jax.Array) -> jax.Array:
        return _generator(model["space"]["generator"], latents)

    return Guide(
        name=name,
        title=title,
        network=network,
        model=model,
        sample_fn=_sampler(read, model),
        generate=generate,
        **_strengths(settings),
        space=space,
        learner=latent_learner(network, _generator),
        learner_params=model["space"],
    )


def towards(
    e0: Float[Array, " Z"], latents: Float[Array, "*B Z"], strength: Scalar
) -> Float[Array, "*B Z"]:
    """How far latents go from e0: at strength 1 they are what is read, below 1 nearer to e0."""
    return (1 - strength) * e0 + strength * latents


def _strengths(settings: LanguageSettings) -> dict[str, Any]:
    """What a Guide says of its settings."""
    if len(settings.strengths) == 1:
        return {"settings": {"": settings.strengths[0]}}
    found = {f"{strength:g}": strength for strength in settings.strengths}
    return {"settings": found, "varies": "strength"}


def _sampler(read: Any, model: Any) -> Any:
    """A Guide's sample_fn, of read: (model, strength, n questions) -> points [n, K, ...]; every
    sample of a sentence is the same."""
    mapped = parallel.compile_map(read)

    @functools.cache
    def on_devices() -> Any:
        return parallel.replicate(model)

    def sample(
        _: Any, questions: SentenceFeatures, strength: float, num: int, seed: int
    ) -> np.ndarray:
        count, value = len(questions.pooled), parallel.replicate(np.float32(strength))
        points = mapped(on_devices(), value, parallel.fill_devices(questions))[:count]
        return points if points.shape[1] > 1 else points.repeat(num, axis=1)

    return sample


def _members_guide(config: RunSettings, network: BaseNetwork, model: Any) -> Guide:
    """Its points are the latents of all members, [n, M, Z], each for its own generator."""
    settings = config.generators

    def read(model: Any, strength: jax.Array, questions: SentenceFeatures) -> jax.Array:
        read_one = read_fn(config, settings, model["questions"])

        def read_member(reader: Any, e0: jax.Array) -> jax.Array:
            return towards(e0, read_one({"reader": reader}, questions), strength)

        return jax.vmap(read_member, out_axes=1)(model["reader"], model["space"]["e0"])

    def generate(model: Any, latents: jax.Array) -> jax.Array:
        return jax.vmap(_generator)(model["space"]["generator"], latents)

    return Guide(
        name="generators",
        title=f"average of {settings.num_members} generators",
        network=network,
        model=model,
        sample_fn=_sampler(read, model),
        generate=generate,
        **_strengths(settings),
        num_samples=settings.num_members,
        votes=True,
    )


def _lesson(section: str, setup: Setup, trained: Trained) -> Lesson:
    """The generators, and new sentences where there is an encoder to read them."""
    settings, tasks = getattr(setup.config, section), setup.tasks["train"]
    known, teacher = setup.tables["train"].questions, trained.fitted("generators").params
    made: list[tuple[str, tuple[int, ...]]] = []
    if setup.encode is not None and settings.recombined_share:
        sentences = [task.sentence for task in tasks]
        made = recombined(sentences, most=settings.most_recombined, seed=setup.config.seed)
    if not made:
        none = np.full((len(tasks), 1), -1, np.int32)
        return Lesson(teacher, NewSentences(take(known, slice(1)), none))
    length = 0 if known.tokens is None else known.tokens.shape[1]
    questions, rows = fit_length(setup.encode([sentence for sentence, _ in made]), length)
    return Lesson(teacher, new_sentences(questions, [made[row][1] for row in rows], len(tasks)))


CONDITIONAL = started(
    "conditional_tokens",
    "conditional_tokens",
    "conditional hypernetwork of tokens",
    "hypernetwork from the tokens of the question to the weights",
)
HNET = started(
    "hnet_language",
    "language",
    "HNet started by the sentence",
    "HNet whose latent starts where a reader of the sentence puts it",
    space="language",
)
GENERATORS = _method(
    "generators",
    "generators",
    "several generators from tokens to weights, which answer together",
    GuideMaker(
        model=functools.partial(_model, "generators"),
        shapes=functools.partial(_shapes, "generators"),
        make=_members_guide,
    ),
    generators_stage,
)
DISTILLED = started(
    "distilled",
    "distilled",
    "generators distilled into one",
    "one generator that learns what several answer, on new sentences too",
)
