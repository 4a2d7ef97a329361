"""Parts that training stages are built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.data.table import TaskTable
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.networks.registry import configured_network
from hyper_meta.train.state import TrainState


def stage_network(config: RunSettings, table: TaskTable) -> BaseNetwork:
    """The network that the config describes, for the image features of a table."""
    return configured_network(config.network, table.image_features.shape[1])


def schedule_of(draw: Callable[[int], Any]) -> Callable[[int, int], tuple[None, Any]]:
    """A Stage's schedule whose steps share nothing; draw: step -> its arrays [B, ...]."""

    def schedule(start: int, stop: int) -> tuple[None, Any]:
        drawn = [draw(step) for step in range(start, stop)]
        return None, jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)

    return schedule


def update(state: TrainState, loss_fn: Callable[[Any], tuple]) -> tuple[TrainState, dict]:
    """One update of a step: (the next state, metrics over all devices).

    loss_fn: params -> (sum of the loss over this device's examples, (their number, {metric: (sum,
    count)})), see `parallel.global_mean`.
    """
    results = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = parallel.global_mean(*results)
    return state.apply_gradients(grads=grads), metrics


def is_matrix(params: Any) -> Any:
    """Where weight decay applies, a pytree of bool: to matrices only, as in CLIP."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
