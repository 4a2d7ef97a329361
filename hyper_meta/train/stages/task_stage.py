"""A stage that learns from batches of tasks."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax import lax
from jaxtyping import Int, Key

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.training import TaskTrainingSettings
from hyper_meta.core.types import TaskBatch
from hyper_meta.data.batching import (
    BatchShape,
    Layout,
    cap_sizes,
    choose_layouts,
    merge_shapes,
    scheduled_batches,
)
from hyper_meta.data.table import TaskTable, gather, perturb, task_shapes
from hyper_meta.meta import scoring
from hyper_meta.meta.objectives import Objective, members_objective
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.passes import compile_configured_pass
from hyper_meta.train.state import TrainState, create_state, smoothed_params


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a learner is trained. name: of its stage; settings: its section of the config;
    learning_rate: of Adam."""

    name: str
    settings: TaskTrainingSettings
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What the loss of a TaskModel may use of a group of t tasks, beside the tasks.

    keys: PRNG keys [t], of its own draws; rows: [t] int32, of the tasks in the table; data: of the
    TaskModel.
    """

    keys: Key[jax.Array, " t"]
    rows: Int[jax.Array, " t"]
    data: Any


@dataclasses.dataclass(frozen=True)
class TaskModel:
    """What learns from batches of tasks.

    init_params: PRNG key -> pytree.
    loss: (params, groups, drawn) -> as an Objective; groups: TaskBatches that differ in padding;
        drawn: a Drawn of each.
    judged: (share, its logits) of the ways in which it is validated; the score is the sum of their
        accuracies times their shares.
    num_members: M where params have a leading axis of M members, each with an optimizer and draws
        of its own; 0 without that axis. The loss is of one member.
    statistics: of the state.
    data: pytree of arrays that the loss reads, copied once to every device.
    """

    init_params: Callable[[jax.Array], Any]
    loss: Callable[..., tuple[jax.Array, tuple[jax.Array, dict]]]
    judged: Sequence[tuple[float, scoring.LogitsFn]]
    num_members: int = 0
    statistics: Any = dataclasses.field(default_factory=dict)
    data: Any = None


def without_draws(objective: Objective) -> Callable[..., tuple]:
    """An objective as the loss of a TaskModel that draws nothing."""
    return lambda params, groups, drawn: objective(params, groups)


def task_stage(
    plan: Plan, config: RunSettings, tables: tuple[TaskTable, TaskTable], model: TaskModel
) -> Stage:
    """A stage that learns from batches of tasks; tables are (train, validation). Best by the
    validation score of the moving average, or without one of the parameters."""
    (train, validation), settings = tables, plan.settings
    sizes = cap_sizes(task_shapes(train), config.batching.max_support, config.batching.max_query)
    layouts = choose_layouts(
        sizes,
        settings.batch_size,
        max_layouts=config.batching.num_layouts,
        num_groups=math.gcd(config.batching.num_groups, settings.batch_size),
    )

    def init(key: jax.Array) -> TrainState:
        return create_state(
            None,
            model.init_params(key),
            tx=_optimizer(plan, model.num_members),
            ema_decay=settings.ema_decay or None,
            statistics=model.statistics,
        )

    def schedule(start: int, stop: int) -> tuple[np.ndarray, Any]:
        batches = scheduled_batches(
            config.seed, start, stop, layouts=layouts, batch_size=settings.batch_size
        )
        # The layout is shared by all devices; everything else is cut over them.
        return batches.shape, batches.replace(shape=np.broadcast_to(0, batches.ids.shape))

    return Stage(
        name=plan.name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        most_at_once=8,
        init=init,
        step=functools.partial(_task_step, model, layouts, config.batching.feature_noise),
        data=(train, model.data),
        schedule=schedule,
        validate=_compile_validation(config, model, validation),
        patience=settings.patience,
    )


def _optimizer(plan: Plan, num_members: int) -> optax.GradientTransformation:
    """Adam after the gradient is clipped, of each member by itself."""
    clip = optax.clip_by_global_norm(plan.settings.clip_norm)
    tx = optax.chain(clip, optax.adam(plan.learning_rate))
    if not num_members:
        return tx
    return optax.GradientTransformation(jax.vmap(tx.init), jax.vmap(tx.update))


def _compile_validation(
    config: RunSettings, model: TaskModel, validation: TaskTable
) -> Callable[[TrainState], tuple[float, dict[str, float]]]:
    """state -> (the score, the accuracy of each way to judge, where there are several)."""
    judged = [(share, method) for share, method in model.judged if share]
    passes = [
        compile_configured_pass(config, scoring.scores_of(method), validation)
        for _, method in judged
    ]

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        params = smoothed_params(state)
        accuracy = [float(np.mean(run(params, None).accuracy)) for run in passes]
        score = sum(share * value for (share, _), value in zip(judged, accuracy, strict=True))
        several = {f"accuracy_{number}": value for number, value in enumerate(accuracy)}
        return score, several if len(accuracy) > 1 else {}

    return validate


def _task_step(
    model: TaskModel,
    layouts: Sequence[Layout],
    noise: float,
    state: TrainState,
    data: tuple[TaskTable, Any],
    x: tuple[jax.Array, Any],
    key: jax.Array,
) -> tuple[TrainState, dict]:
    """One update on a batch of tasks of one of the layouts; only that layout's branch runs."""
    (table, given), (layout_index, batch) = data, x
    keys = parallel.example_keys(key, len(batch.ids))

    def of_layout(layout: Layout) -> Callable:
        shapes = merge_shapes(layout.shapes, len(batch.ids))

        def group(first: int, shape: BatchShape, keys: jax.Array) -> tuple[TaskBatch, Drawn]:
            part, part_keys = jax.tree.map(lambda x: x[first :: len(shapes)], (batch, keys))
            tasks = gather(table, part, shape)
            drawn = Drawn(jax.vmap(jax.random.fold_in, (0, None))(part_keys, 0), part.ids, given)
            return perturb(tasks, part_keys, noise) if noise else tasks, drawn

        def loss_of(params: Any, keys: jax.Array) -> Any:
            groups, drawn = zip(*[group(*pair, keys) for pair in enumerate(shapes)], strict=True)
            return model.loss(params, groups, drawn)

        def of_member(params: Any, number: jax.Array) -> Any:
            return loss_of(params, jax.vmap(jax.random.fold_in, (0, None))(keys, number))

        def loss_fn(params: Any) -> Any:
            if model.num_members:
                return members_objective(of_member, model.num_members)(params)
            return loss_of(params, keys)

        return jax.value_and_grad(loss_fn, has_aux=True)

    results = lax.switch(layout_index, [of_layout(layout) for layout in layouts], state.params)
    grads, metrics = parallel.global_mean(*results)
    return state.apply_gradients(grads=grads), metrics
