"""The training stages, built from a config and a table of tasks.

Here a ConfigDict ends: everything below takes plain arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from ml_collections import ConfigDict

from hyper_meta import parallel
from hyper_meta.data.tasks import (
    BatchShape,
    TaskTable,
    cap_sizes,
    choose_shapes,
    gather,
    perturb,
    scheduled_batches,
    smallest_fit,
    task_shapes,
)
from hyper_meta.diffusion.hyperldm import moments
from hyper_meta.meta import scoring
from hyper_meta.meta.latents import stochastic_latents
from hyper_meta.meta.objectives import (
    Objective,
    all_examples,
    conditional_objective,
    hypernet_objective,
)
from hyper_meta.models.adapter import num_weights
from hyper_meta.models.hypernet import Generator
from hyper_meta.train.loop import Stage
from hyper_meta.train.state import TrainState, create_state
from hyper_meta.types import TaskBatch, UserError

# Inner steps and whether their gradients are constants.
OBJECTIVES = {"multitask": (False, False), "fomaml": (True, True), "maml": (True, False)}


def hypernet(hidden_dims: Sequence[int], embed_dim: int, adapter_dim: int) -> nn.Module:
    """The generator of adapters of one shape."""
    return Generator(tuple(hidden_dims), num_weights(embed_dim, adapter_dim))


def generate_fn(module: nn.Module) -> Callable:
    """(generator params, input [..., Z] or [..., D]) -> weights [..., P]."""
    return lambda params, inputs: module.apply({"params": params}, inputs)


def generator_stage(config: ConfigDict, train: TaskTable, validation: TaskTable) -> Stage:
    """HNet: multitask, FOMAML or MAML (METHOD section 4). Best by adapted validation accuracy."""
    settings = config.generator
    if settings.objective not in OBJECTIVES:
        raise UserError(
            f"generator.objective {settings.objective!r} given, "
            f"one of {sorted(OBJECTIVES)} is expected"
        )
    adapts, first_order = OBJECTIVES[settings.objective]
    module = generator_module(config, train.image_features.shape[1])
    generate = generate_fn(module)

    def init_params(key: jax.Array) -> dict:
        latent_key, key = jax.random.split(key)
        latent = jax.random.normal(latent_key, (settings.latent_dim,))
        return {"e0": latent, "generator": module.init(key, latent)["params"]}

    objective = hypernet_objective(
        generate,
        num_steps=settings.inner_steps if adapts else 0,
        learning_rate=settings.inner_learning_rate,
        first_order=first_order,
    )
    method = scoring.few_shot_method(
        generate,
        num_steps=settings.inner_steps,
        learning_rate=settings.inner_learning_rate,
    )
    return _task_stage(
        "generator", config, settings, (train, validation), init_params, objective, method
    )


def generator_module(config: ConfigDict, embed_dim: int) -> nn.Module:
    """The module of the unconditional generator."""
    return hypernet(config.generator.hidden_dims, embed_dim, config.adapter.hidden_dim)


def conditional_stage(config: ConfigDict, train: TaskTable, validation: TaskTable) -> Stage:
    """The conditional hypernetwork, multitask (METHOD section 4)."""
    module = conditional_module(config, train.image_features.shape[1])
    generate = conditional_generate_fn(module, train.question_features)

    def init_params(key: jax.Array) -> Any:
        return module.init(key, jnp.zeros(train.question_features.shape[1:]))["params"]

    return _task_stage(
        "conditional",
        config,
        config.conditional,
        (train, validation),
        init_params,
        conditional_objective(generate),
        scoring.conditional_method(generate),
    )


def conditional_module(config: ConfigDict, embed_dim: int) -> nn.Module:
    """The module of the conditional hypernetwork."""
    return hypernet(config.conditional.hidden_dims, embed_dim, config.adapter.hidden_dim)


def conditional_generate_fn(module: nn.Module, train_questions: np.ndarray) -> Callable:
    """(params, question [..., D]) -> weights [..., P]; questions are standardised by [T, D]."""
    mean, std = moments(train_questions)
    return lambda params, question: module.apply({"params": params}, (question - mean) / std)


def _task_stage(
    name: str,
    config: ConfigDict,
    settings: ConfigDict,
    tables: tuple[TaskTable, TaskTable],
    init_params: Callable[[jax.Array], Any],
    objective: Objective,
    method: scoring.Method,
) -> Stage:
    """A stage that learns from batches of tasks; tables are (train, validation)."""
    train, validation = tables
    sizes = cap_sizes(task_shapes(train), config.batching.max_support, config.batching.max_query)
    shapes = choose_shapes(sizes, config.batching.num_shapes)
    fit = smallest_fit(sizes, shapes)
    tx = optax.chain(
        optax.clip_by_global_norm(settings.clip_norm), optax.adam(settings.learning_rate)
    )
    score = compile_pass(config, scoring.scores_of(method), validation)

    def init(key: jax.Array) -> TrainState:
        params = init_params(key)
        return create_state(None, params, tx=tx, ema_decay=None, statistics={})

    def schedule(start: int, stop: int) -> tuple[np.ndarray, Any]:
        batches = scheduled_batches(
            config.seed, start, stop, fit=fit, batch_size=settings.batch_size
        )
        # The shape is shared by all devices; everything else is cut over them.
        return batches.shape, batches.replace(shape=np.broadcast_to(0, batches.ids.shape))

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        right, total = score(state.params, None)
        return float(np.mean(right / total)), {}

    return Stage(
        name=name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        init=init,
        step=functools.partial(_task_step, objective, shapes, config.batching.feature_noise),
        data=train,
        schedule=schedule,
        validate=validate,
    )


def _task_step(
    objective: Objective,
    shapes: Sequence[BatchShape],
    noise: float,
    state: TrainState,
    table: TaskTable,
    x: tuple[jax.Array, Any],
    key: jax.Array,
) -> tuple[TrainState, dict]:
    """One update on a batch of tasks of one of the shapes; only that shape's branch runs."""
    shape_index, batch = x
    keys = parallel.example_keys(key, len(batch.ids))

    def at_shape(shape: BatchShape) -> Callable:
        def loss_fn(params: Any) -> Any:
            return objective(params, perturb(gather(table, batch, shape), keys, noise))

        return jax.value_and_grad(loss_fn, has_aux=True)

    results = lax.switch(shape_index, [at_shape(shape) for shape in shapes], state.params)
    grads, metrics = parallel.global_mean(*results)
    return state.apply_gradients(grads=grads), metrics


def compile_pass(config: ConfigDict, task_fn: scoring.TaskFn, table: TaskTable) -> Callable:
    """`scoring.compile_pass` with the config's batching."""
    return scoring.compile_pass(
        task_fn,
        table,
        max_shapes=config.batching.num_shapes,
        max_examples=config.batching.max_examples,
    )


def adapt_all_tasks(config: ConfigDict, params: Any, table: TaskTable) -> np.ndarray:
    """The latent data set: every task adapted on random shares of its images.

    params: of the generator stage. Returns [T, R, Z] float32, R = latents.repeats.
    """
    settings = config.latents
    generate = generate_fn(generator_module(config, table.image_features.shape[1]))
    keys = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), 1),
        (len(table.answer_count), settings.repeats),
    )

    def latents_of(params: Any, tasks: TaskBatch, keys: jax.Array) -> jax.Array:
        return jax.vmap(
            functools.partial(
                stochastic_latents,
                functools.partial(generate, params["generator"]),
                params["e0"],
                smallest_share=settings.smallest_share,
                num_steps=settings.num_steps,
                learning_rate=settings.learning_rate,
                pull=settings.pull,
            )
        )(all_examples(tasks), tasks.answers, tasks.answer_mask, jax.random.wrap_key_data(keys))

    run = compile_pass(config, latents_of, table)
    return run(parallel.replicate(params), np.asarray(jax.random.key_data(keys)))
