"""The training state: a Flax TrainState with all that resuming and evaluating need."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.training import train_state
from jaxtyping import Float, Int

from hyper_meta.core.types import Array, Scalar


class TrainState(train_state.TrainState):
    """A Flax TrainState with an optional moving average and the best parameters so far.

    step: int32 scalar, the number of updates.
    params, opt_state, apply_fn, tx: as in Flax.
    ema_params: like params, or None without a moving average.
    best_params: like params, the best on validation tasks.
    best_score: float32 scalar, the score of best_params, -inf before the first validation.
    best_step: int32 scalar, the step of best_params.
    statistics: pytree of arrays that belong to the model but are not trained, such as the mean and
      the standard deviation of its inputs.
    ema_decay: float in [0, 1), or None without a moving average.
    """

    ema_params: Any
    best_params: Any
    best_score: Float[Array, " ..."]
    best_step: Int[Array, " ..."]
    statistics: Any
    ema_decay: float | None = struct.field(pytree_node=False)

    def apply_gradients(self, *, grads: Any, **kwargs: Any) -> "TrainState":
        """The state after one optimizer update, with its moving average updated too.

        The decay of the average is min(ema_decay, (1 + t) / (10 + t)) at update t = 0, 1, ..., so
        that the first parameters soon lose their weight.
        """
        state = super().apply_gradients(grads=grads, **kwargs)
        if self.ema_decay is None:
            return state
        decay = jnp.minimum(self.ema_decay, (1 + self.step) / (10 + self.step))
        ema_params = optax.incremental_update(state.params, self.ema_params, 1 - decay)
        return state.replace(ema_params=ema_params)


def create_state(
    apply_fn: Callable,
    params: Any,
    *,
    tx: optax.GradientTransformation,
    ema_decay: float | None,
    statistics: Any,
) -> TrainState:
    """The state at step 0.

    Args:
      apply_fn: the module's apply.
      params: pytree of float arrays.
      tx: the optimizer.
      ema_decay: in [0, 1), or None for no moving average.
      statistics: pytree of arrays, {} for none.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        apply_fn=apply_fn,
        params=params,
        tx=tx,
        opt_state=tx.init(params),
        ema_params=None if ema_decay is None else params,
        best_params=params,
        best_score=jnp.full((), -jnp.inf, jnp.float32),
        best_step=jnp.zeros((), jnp.int32),
        statistics=statistics,
        ema_decay=ema_decay,
    )


def smoothed_params(state: TrainState) -> Any:
    """The moving average of the parameters, or without one the parameters of the last step."""
    return state.params if state.ema_params is None else state.ema_params


def keep_best(state: TrainState, score: Scalar) -> TrainState:
    """The state with smoothed_params as best_params where score is above best_score.

    Args:
      state: the state of one device.
      score: float scalar, higher is better; nan is never better, and of equals the older stays.
    """
    better = score > state.best_score

    def choose(new, old):
        return jnp.where(better, new, old)

    return state.replace(
        best_params=jax.tree.map(choose, smoothed_params(state), state.best_params),
        best_score=choose(jnp.asarray(score, jnp.float32), state.best_score),
        best_step=choose(state.step, state.best_step),
    )


def evaluation_params(state: TrainState) -> tuple[Any, str]:
    """The parameters that an evaluation uses, and a phrase that names them in its report.

    They are the best on validation, or without a validation the smoothed ones of the last step.

    Args:
      state: a host copy, not replicated.
    """
    kind = "parameters" if state.ema_params is None else "moving average"
    if state.best_step > 0:
        score = float(state.best_score)
        return state.best_params, f"{kind} at step {state.best_step}, best validation {score:.4f}"
    return smoothed_params(state), f"{kind} at step {state.step}, the last"
