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
from hyper_meta.core.types import Array, SentenceFeatures, UserError
from hyper_meta.data.table import TaskTable
from hyper_meta.diffusion.classifier_guidance import (
    Factors,
    Guidance,
    WeightStatistics,
    fold_embed,
    generate_weights,
    guide,
    standardise_weights,
    weight_moments,
)
from hyper_meta.meta import scoring
from hyper_meta.models.hyperclip import HyperCLIP
from hyper_meta.models.sentences import measure_sentences, standardise_sentences, take
from hyper_meta.networks.registry import configured_network
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.encoder import contrastive_sums
from hyper_meta.train.stages.passes import compile_configured_pass
from hyper_meta.train.state import TrainState, create_state

# (model, n questions, rate, pull, seed) -> latents [n, len(steps), Z] on the host; model is that of
# `hyperclip_model`, replicated.
Guide = Callable[[Any, SentenceFeatures, float, float, int], np.ndarray]
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


def compile_guidance(config: RunSettings, factors: Factors, question_dim: int) -> Guide:
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
    config: RunSettings, guide_fn: Guide, model: Any, questions: SentenceFeatures
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
    config: RunSettings,
    name: str,
    *,
    latents: Float[Array, "T R Z"],
    space: Any,
    factors: Factors,
    tables: tuple[TaskTable, TaskTable],
    learning_rate: float,
) -> Stage:
    """HyperCLIP on the latent data set [T, R, Z] of a latent space (method.md section 5).

    space: {"e0": [Z], "generator": generator params}; factors: of that generator. Best by the
    validation accuracy of networks guided from e0, at the best of the settings that are compared.
    Raises UserError for a batch larger than the number of tasks.
    """
    train, validation = tables
    settings, questions = config.hyperclip, train.questions
    num_tasks, repeats, _ = latents.shape
    if settings.batch_size > num_tasks:
        raise UserError(
            f"stage {name}: hyperclip.batch_size {settings.batch_size} is more than the "
            f"{num_tasks} training tasks, of which a batch has each once: choose a smaller one"
        )
    module = hyperclip_module(config, questions.pooled.shape[1])
    statistics = _weight_statistics(config, factors, space["generator"], latents, questions)

    def init(key: jax.Array) -> TrainState:
        params = module.init(key, jnp.zeros_like(statistics.weight_mean))["params"]
        decay = optax.cosine_decay_schedule(learning_rate, settings.num_steps)
        tx = optax.adamw(decay, weight_decay=settings.weight_decay, mask=_is_matrix)
        return create_state(None, params, tx=tx, ema_decay=None, statistics=statistics)

    def schedule(start: int, stop: int) -> tuple[None, Any]:
        rngs = [np.random.default_rng([config.seed, step]) for step in range(start, stop)]
        size = settings.batch_size
        task = np.stack([rng.permutation(num_tasks)[:size] for rng in rngs])
        repeat = np.stack([rng.integers(repeats, size=size) for rng in rngs])
        return None, (task, repeat, np.broadcast_to(np.arange(size), task.shape))

    return Stage(
        name=name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        most_at_once=8,
        init=init,
        step=functools.partial(_contrastive_step, module, factors, settings.batch_size),
        data=(latents, questions, space["generator"]),
        schedule=schedule,
        validate=_compile_validation(config, factors, space, validation),
    )


def _is_matrix(params: Any) -> Any:
    """Weight decay is for matrices only, as in CLIP."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _weight_statistics(
    config: RunSettings,
    factors: Factors,
    generator: Any,
    latents: np.ndarray,
    questions: SentenceFeatures,
) -> WeightStatistics:
    """Of the weights of latents [T, R, Z], unless hyperclip.standardise is off, and of T
    questions."""
    flat = latents.reshape(-1, latents.shape[-1])
    mean, std = jax.jit(functools.partial(weight_moments, factors))(generator, flat)
    if not config.hyperclip.standardise:
        mean, std = jnp.zeros_like(mean), jnp.ones_like(std)
    return WeightStatistics(mean, std, measure_sentences(questions))


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

    results = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = parallel.global_mean(*results)
    return state.apply_gradients(grads=grads), metrics


def _compile_validation(
    config: RunSettings, factors: Factors, space: Any, table: TaskTable
) -> Callable[[TrainState], tuple[float, dict[str, float]]]:
    """state -> (the best mean accuracy over the tasks of any setting, that of each)."""
    guide_fn = compile_guidance(config, factors, table.questions.pooled.shape[1])
    generate = functools.partial(generate_weights, factors)
    network = configured_network(config.network, table.image_features.shape[1])
    method = scoring.latent_method(network, generate)
    score = compile_configured_pass(config, scoring.scores_of(method), table)
    replicated = parallel.replicate(space)

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        model = hyperclip_model(state.params, state.statistics, replicated)
        guided = guide_tasks(config, guide_fn, model, table.questions)
        accuracy = {}
        for setting, latents in guided.items():
            scores = score(replicated, latents[:, None])
            accuracy[setting_name(setting)] = float(np.mean(scores.accuracy))
        return max(accuracy.values()), accuracy

    return validate
