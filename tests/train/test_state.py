import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

from hyper_meta.train.state import (
    create_state,
    evaluation_params,
    keep_best,
    smoothed_params,
)


def _state(*, ema_decay):
    params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    return create_state(None, params, tx=optax.sgd(0.1), ema_decay=ema_decay, statistics={})


def test_is_a_flax_train_state_at_step_zero():
    state = _state(ema_decay=None)
    assert isinstance(state, train_state.TrainState)
    assert (state.step, state.best_step, state.best_score) == (0, 0, -np.inf)
    assert (state.step.dtype, state.best_score.dtype) == (jnp.int32, jnp.float32)


def test_moving_average_equals_numpy():
    state = _state(ema_decay=0.6)
    update = jax.jit(lambda state, grads: state.apply_gradients(grads=grads))
    expected = np.array(state.params["w"], np.float64)
    rng = np.random.default_rng(0)
    for t in range(12):
        grads = {"w": rng.normal(size=2).astype(np.float32), "b": np.float32(0)}
        state = update(state, grads)
        decay = min(0.6, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["w"], np.float64)
        np.testing.assert_allclose(state.ema_params["w"], expected, rtol=1e-5)
    assert state.step == 12
    assert smoothed_params(state) is state.ema_params


def test_without_a_decay_there_is_no_average():
    state = _state(ema_decay=None)
    state = state.apply_gradients(grads=state.params)
    np.testing.assert_allclose(state.params["w"], [0.9, -1.8])
    assert state.ema_params is None
    assert smoothed_params(state) is state.params


def test_keep_best_follows_the_highest_score():
    state = _state(ema_decay=0.5)
    scores = [0.1, np.nan, 0.4, 0.2, 0.4]
    averages = []
    for score in scores:
        state = state.apply_gradients(grads=state.params)
        averages.append(state.ema_params["w"])
        state = jax.jit(keep_best)(state, score)
    assert (state.best_step, state.best_score) == (3, np.float32(0.4))
    np.testing.assert_array_equal(state.best_params["w"], averages[2])


def test_evaluation_says_which_parameters_it_uses():
    state = _state(ema_decay=None).apply_gradients(grads={"w": jnp.ones(2), "b": 1.0})
    params, which = evaluation_params(state)
    assert params is state.params
    assert which == "parameters at step 1, the last"
    best = keep_best(state, 0.25)
    params, which = evaluation_params(best.apply_gradients(grads=best.params))
    assert params is best.best_params
    assert which == "parameters at step 1, best validation 0.2500"
    average = _state(ema_decay=0.5)
    assert evaluation_params(average) == (
        average.ema_params,
        "moving average at step 0, the last",
    )
