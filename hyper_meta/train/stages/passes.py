"""Passes over all tasks of a table, batched as the config says: scores, and adaptation."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.run import AdaptationSettings
from hyper_meta.core.types import TaskBatch
from hyper_meta.data.table import TaskTable
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.latents import stochastic_points
from hyper_meta.meta.learners import Learner
from hyper_meta.meta.objectives import all_examples


def compile_configured_pass(
    config: RunSettings, task_fn: scoring.TaskFn, table: TaskTable
) -> Callable:
    """`scoring.compile_pass` with the config's batching."""
    return scoring.compile_pass(
        task_fn,
        table,
        max_shapes=config.batching.num_shapes,
        max_examples=config.batching.max_examples,
    )


def compile_adaptation(
    config: RunSettings,
    learner: Learner,
    table: TaskTable,
    loop: InnerLoop,
    *,
    settings: AdaptationSettings,
    name: str,
) -> Callable[[Any], Any]:
    """Compiles params -> points, numpy leaves [T, R, ...]: every task adapted on random shares of
    all its images, settings.repeats times.

    settings: {"repeats", "smallest_share"}; name: of what is made, so that each has draws of its
    own.
    """
    seed = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode()))
    keys = jax.random.split(seed, (len(table.answer_count), settings.repeats))
    adapt = functools.partial(
        stochastic_points, learner, loop=loop, smallest_share=settings.smallest_share
    )

    def points_of(params: Any, tasks: TaskBatch, keys: jax.Array) -> jax.Array:
        tasks = tasks.replace(support=all_examples(tasks))
        keys = jax.random.wrap_key_data(keys)
        return jax.vmap(adapt, in_axes=(None, 0, 0))(params, tasks, keys)

    run = compile_configured_pass(config, points_of, table)
    return lambda params: run(parallel.replicate(params), np.asarray(jax.random.key_data(keys)))
