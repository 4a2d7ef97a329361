"""The HyperCLIP stage: a contrastive encoder of generated weights, and guidance by it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.training import HyperCLIPSettings
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.diffusion.classifier_guidance import (
    Guidance,
    WeightStatistics,
    fold_embed,
    guide,
    standardise_weights,
    weight_moments,
)
from hyper_meta.models.generator import Factors, generate_weights
from hyper_meta.models.hyperclip import HyperCLIP
from hyper_meta.models.sentences import measure_sentences, standardise_sentences, take
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.encoder import contrastive_sums
from hyper_meta.train.stages.latent_data import LatentData, compile_accuracy
from hyper_meta.train.stages.parts import is_matrix, schedule_of, update
from hyper_meta.train.state import TrainState, create_state

# (model, n questions, rate, pull, seed) -> latents [n, len(steps), Z] on the host; model is that of
# `hyperclip_model`, replicated.
GuidanceFn = Callable[[Any, SentenceFeatures, float, float, int], np.ndarray]
Setting = tuple[float, float, int]  # learning rate, pull and steps of guidance


def hyperclip_module(config: RunSettings, question_dim: int) -> HyperCLIP:
    """The weight encoder that the config describes, for pooled questions [Dq]."""
    return HyperCLIP(tuple(config.hyperclip.hidden_dims), question_dim)


def guidance_settings(config: RunSettings) -> Guidance:
    """How latents are guided."""
    given = config.hyperclip.guidance
    return Guidance(given.optimizer, tuple(given.steps), given.cosine, given.langevin)


def hyperclip_model(params: Any, statistics: WeightStatistics, space: Any) -> dict[str, Any]:
    """What guidance needs, in one tree; space: {"e0": [Z], "generator": generator params}."""
    return {"hyperclip": params, "statistics": statistics, **space}


def compile_guidance(config: RunSettings, factors: Factors, question_dim: int) -> GuidanceFn:
    """Compiles guidance for any number of questions, at any rate and pull."""
    module, settings = hyperclip_module(config, question_dim), guidance_settings(config)

    def guided(model: Any, _: None, x: tuple) -> jax.Array:
        questions, rate, pull, keys = x
        embed_fn = fold_embed(factors, module, model)

        def one(question, rate, pull, key):
            settled = {"question": question, "rate": rate, "pull": pull, "key": key}
            return guide(embed_fn, model["e0"], **settled, settings=settings)

        asked = standardise_sentences(model["statistics"].questions, questions).pooled
        return jax.vmap(one)(asked, rate, pull, jax.random.wrap_key_data(keys))

    mapped = parallel.compile_map(guided)

    def run(model, questions, rate, pull, seed):
        num_rows = len(questions.pooled)
        keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), num_rows)))
        rows = questions, np.full(num_rows, rate, np.float32), np.full(num_rows, pull, np.float32)
        return mapped(model, None, parallel.fill_devices((*rows, keys)))[:num_rows]

    return run


def guidance_choices(config: RunSettings) -> list[Setting]:
    """Every setting of guidance that is compared."""
    given = config.hyperclip.guidance
    return list(itertools.product(given.learning_rates, given.pull, given.steps))


def guide_tasks(
    config: RunSettings, guide_fn: GuidanceFn, model: Any, questions: SentenceFeatures
) -> dict[Setting, Float[np.ndarray, "T Z"]]:
    """The guided latents of T questions at every setting that is compared: each [T, Z] float32."""
    given, latents = config.hyperclip.guidance, {}
    for rate, pull in itertools.product(given.learning_rates, given.pull):
        path = guide_fn(model, questions, rate, pull, config.seed)
        for place, steps in enumerate(given.steps):
            latents[rate, pull, steps] = path[:, place]
    return latents


def setting_name(setting: Setting) -> str:
    """A setting in words."""
    rate, pull, steps = setting
    return f"rate {rate:g}, pull {pull:g}, {steps} steps"


def hyperclip_stage(
    config: RunSettings, name: str, data: LatentData, *, learning_rate: float
) -> Stage:
    """HyperCLIP on a latent data set (method.md section 5).

    Best by the validation accuracy of networks guided from e0, at the best of the settings that are
    compared. Raises UserError for a batch larger than the number of tasks.
    """
    settings, questions = config.hyperclip, data.train.questions
    num_tasks, repeats, _ = data.latents.shape
    if settings.batch_size > num_tasks:
        raise UserError(
            f"stage {name}: hyperclip.batch_size {settings.batch_size} is more than the "
            f"{num_tasks} training tasks, of which a batch has each once: choose a smaller one"
        )
    module = hyperclip_module(config, questions.pooled.shape[1])
    statistics = _weight_statistics(config, data)
    return Stage(
        name=name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        most_at_once=8,
        init=functools.partial(_init, settings, module, statistics, learning_rate),
        step=functools.partial(_contrastive_step, module, data.factors, settings.batch_size),
        data=(data.latents, questions, data.space["generator"]),
        schedule=schedule_of(functools.partial(_draw, config, num_tasks, repeats)),
        validate=_compile_validation(config, data),
    )


def _init(
    settings: HyperCLIPSettings,
    module: HyperCLIP,
    statistics: WeightStatistics,
    learning_rate: float,
    key: jax.Array,
) -> TrainState:
    """An untrained encoder of weights."""
    params = module.init(key, jnp.zeros_like(statistics.weight_mean))["params"]
    decay = optax.cosine_decay_schedule(learning_rate, settings.num_steps)
    tx = optax.adamw(decay, weight_decay=settings.weight_decay, mask=is_matrix)
    return create_state(None, params, tx=tx, ema_decay=None, statistics=statistics)


def _draw(config: RunSettings, num_tasks: int, repeats: int, step: int) -> tuple[np.ndarray, ...]:
    """Different tasks, a random repeat of each, and its row in the batch."""
    rng, size = np.random.default_rng([config.seed, step]), config.hyperclip.batch_size
    task = rng.permutation(num_tasks)[:size]
    return task, rng.integers(repeats, size=size), np.arange(size)


def _weight_statistics(config: RunSettings, data: LatentData) -> WeightStatistics:
    """Of the weights of the latents, unless hyperclip.standardise is off, and of the questions."""
    flat = data.latents.reshape(-1, data.latents.shape[-1])
    moments = jax.jit(functools.partial(weight_moments, data.factors))
    mean, std = moments(data.space["generator"], flat)
    if not config.hyperclip.standardise:
        mean, std = jnp.zeros_like(mean), jnp.ones_like(std)
    return WeightStatistics(mean, std, measure_sentences(data.train.questions))


def _contrastive_step(
    module: HyperCLIP,
    factors: Factors,
    batch_size: int,
    state: TrainState,
    data: Any,
    x: Any,
    key: jax.Array,
) -> tuple[TrainState, dict]:
    """One update on a random repeat each of different tasks, against the questions of all."""
    (latents, questions, generator), (_, (task, repeat, row)) = data, x
    weights = generate_weights(factors, generator, latents[task, repeat])
    weights = standardise_weights(state.statistics, weights)
    texts = standardise_sentences(state.statistics.questions, take(questions, task)).pooled
    target = jax.nn.one_hot(row, batch_size)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        embedded = module.apply({"params": params}, weights)
        scale = module.apply({"params": params}, method="scale")
        loss, count = contrastive_sums(embedded, texts, scale, target, target)
        return loss, (count, {"logit_scale": (scale * count, count)})

    return update(state, loss_fn)


def _compile_validation(
    config: RunSettings, data: LatentData
) -> Callable[[TrainState], tuple[float, dict[str, float]]]:
    """state -> (the best mean accuracy over the tasks of any setting, that of each)."""
    questions = data.validation.questions
    guide_fn = compile_guidance(config, data.factors, questions.pooled.shape[1])
    accuracy_of, space = compile_accuracy(config, data), parallel.replicate(data.space)

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        model = hyperclip_model(state.params, state.statistics, space)
        guided = guide_tasks(config, guide_fn, model, questions)
        accuracy = {
            setting_name(setting): accuracy_of(space, latents[:, None])
            for setting, latents in guided.items()
        }
        return max(accuracy.values()), accuracy

    return validate
