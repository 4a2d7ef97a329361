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

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.run import TaskTrainingSettings
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
from hyper_meta.meta.objectives import Objective
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.passes import compile_configured_pass
from hyper_meta.train.state import TrainState, create_state


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a learner is trained. name: of its stage; settings: its section of the config;
    learning_rate: of Adam."""

    name: str
    settings: TaskTrainingSettings
    learning_rate: float


def task_stage(
    plan: Plan,
    config: RunSettings,
    tables: tuple[TaskTable, TaskTable],
    init_params: Callable[[jax.Array], Any],
    objective: Objective,
    method: scoring.LogitsFn,
) -> Stage:
    """A stage that learns from batches of tasks; tables are (train, validation)."""
    (train, validation), settings = tables, plan.settings
    sizes = cap_sizes(task_shapes(train), config.batching.max_support, config.batching.max_query)
    layouts = choose_layouts(
        sizes,
        settings.batch_size,
        max_layouts=config.batching.num_layouts,
        num_groups=math.gcd(config.batching.num_groups, settings.batch_size),
    )
    tx = optax.chain(optax.clip_by_global_norm(settings.clip_norm), optax.adam(plan.learning_rate))
    score = compile_configured_pass(config, scoring.scores_of(method), validation)

    def init(key: jax.Array) -> TrainState:
        params = init_params(key)
        return create_state(None, params, tx=tx, ema_decay=None, statistics={})

    def schedule(start: int, stop: int) -> tuple[np.ndarray, Any]:
        batches = scheduled_batches(
            config.seed, start, stop, layouts=layouts, batch_size=settings.batch_size
        )
        # The layout is shared by all devices; everything else is cut over them.
        return batches.shape, batches.replace(shape=np.broadcast_to(0, batches.ids.shape))

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        return float(np.mean(score(state.params, None).accuracy)), {}

    return Stage(
        name=plan.name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        most_at_once=8,
        init=init,
        step=functools.partial(_task_step, objective, layouts, config.batching.feature_noise),
        data=train,
        schedule=schedule,
        validate=validate,
    )


def _task_step(
    objective: Objective,
    layouts: Sequence[Layout],
    noise: float,
    state: TrainState,
    table: TaskTable,
    x: tuple[jax.Array, Any],
    key: jax.Array,
) -> tuple[TrainState, dict]:
    """One update on a batch of tasks of one of the layouts; only that layout's branch runs."""
    layout_index, batch = x
    keys = parallel.example_keys(key, len(batch.ids))

    def of_layout(layout: Layout) -> Callable:
        shapes = merge_shapes(layout.shapes, len(batch.ids))

        def group(first: int, shape: BatchShape) -> TaskBatch:
            part, part_keys = jax.tree.map(lambda x: x[first :: len(shapes)], (batch, keys))
            tasks = gather(table, part, shape)
            return perturb(tasks, part_keys, noise) if noise else tasks

        def loss_fn(params: Any) -> Any:
            return objective(params, [group(*pair) for pair in enumerate(shapes)])

        return jax.value_and_grad(loss_fn, has_aux=True)

    results = lax.switch(layout_index, [of_layout(layout) for layout in layouts], state.params)
    grads, metrics = parallel.global_mean(*results)
    return state.apply_gradients(grads=grads), metrics
