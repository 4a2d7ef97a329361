"""The HVAE stage. As a script: writes what a few steps end with to a file."""

import functools
import sys

import jax
import numpy as np
import pytest
from devices import run_on_eight_devices
from toy_stages import tiny_config as tiny_settings

from hyper_meta.core import parallel
from hyper_meta.core.types import UserError
from hyper_meta.models.generator import Generator, generate_weights
from hyper_meta.train.loop import run_stage
from hyper_meta.train.stages import hvae
from hyper_meta.train.stages.hvae import HVAE, hvae_generate, hvae_space, hvae_stage, project

NUM_TASKS, REPEATS, P, K = 21, 3, 60, 6


def tiny_config(**changes):
    settings = {"latent_dim": 4, "hidden_dims": (16,), "beta": 1.0, "standardise": True}
    settings |= {"components": K}
    settings |= {"batch_size": 16, "num_steps": 300, "chunk_steps": 150}
    return tiny_settings({f"hvae.{name}": value for name, value in (settings | changes).items()})


def adapted_weights():
    """(weights [T, R, P], start [P]): small moves, within two dimensions, from a large start."""
    rng = np.random.default_rng(0)
    start, directions = rng.normal(size=P), rng.normal(size=(2, P))
    places = rng.normal(size=(NUM_TASKS, 1, 2)) + 0.1 * rng.normal(size=(NUM_TASKS, REPEATS, 2))
    weights = 5 * start + 0.05 * places @ (directions * np.geomspace(1, 20, P))
    return np.float32(weights), np.float32(5 * start)


def held_out(stage):
    """Numbers of the tasks that no step draws."""
    drawn = stage.schedule(0, 200)[1][0]
    return np.setdiff1d(np.arange(NUM_TASKS), drawn)


make_stage = functools.partial(hvae_stage, learning_rate=0.01)


@pytest.fixture(scope="module")
def stage():
    return make_stage(tiny_config(), "hvae", *adapted_weights())


@pytest.fixture(scope="module")
def trained(stage, tmp_path_factory):
    """(state, history)"""
    folder = tmp_path_factory.mktemp("hvae")
    return run_stage(stage, folder, seed=0, checkpoint_every=9, progress=False)


def test_a_tenth_of_the_tasks_is_held_out_of_the_steps_and_of_the_statistics(stage, trained):
    missing = held_out(stage)
    assert len(missing) == 2
    weights = np.float64(adapted_weights()[0])
    fitted = np.delete(weights, missing, axis=0)
    statistics = trained[0].statistics
    np.testing.assert_allclose(statistics["mean"], fitted.mean(axis=(0, 1)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(statistics["scale"], fitted.std(axis=(0, 1)), rtol=1e-4)


def test_it_sees_the_principal_components_of_the_fitted_tasks(stage, trained, monkeypatch):
    """Those of numpy's singular value decomposition, up to their signs; in parts as at once."""
    weights, statistics = adapted_weights()[0], trained[0].statistics
    standardised = (np.float64(weights) - statistics["mean"]) / statistics["scale"]
    fitted = np.delete(standardised, held_out(stage), axis=0).reshape(-1, P)
    _, values, expected = np.linalg.svd(fitted, full_matrices=False)
    directions = statistics["directions"]
    np.testing.assert_allclose(np.abs(directions[:2] @ expected[:2].T), np.eye(2), atol=1e-3)
    mean_square = np.square(values[:K]).sum() / len(fitted) / K
    np.testing.assert_allclose(statistics["size"], np.sqrt(mean_square), rtol=1e-4)
    monkeypatch.setattr(hvae, "COLUMNS", 7)
    components, norms = project(statistics, weights)
    np.testing.assert_allclose(components, standardised @ directions.T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(components, stage.data, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(norms, np.square(standardised).sum(axis=-1), rtol=1e-4)


def test_there_are_no_more_components_than_the_rows_allow():
    """Six tasks less the one held out, three times each."""
    weights, start = adapted_weights()
    stage = make_stage(tiny_config(components=50), "hvae", weights[:6], start)
    directions = stage.init(jax.random.key(0)).statistics["directions"]
    assert directions.shape == (14, P) and stage.data.shape == (6, REPEATS, 14)
    lengths = np.linalg.norm(directions, axis=1)
    # Some have no variance, and then no direction.
    np.testing.assert_allclose(lengths[lengths > 0.5], 1, rtol=1e-2)
    assert np.all((lengths > 0.5) | (lengths == 0)) and np.isfinite(directions).all()


def test_training_learns_to_reconstruct_tasks_it_was_not_fitted_on(stage, trained):
    state, (first, last) = trained
    assert last["loss"] < first["loss"] and last["error"] < first["error"]
    assert last["validation_explained"] > 0.8
    weights, start = adapted_weights()
    space = hvae_space(tiny_config(), state.params, state.statistics, start)
    rows = weights[held_out(stage)]
    moved = [
        hvae_space(tiny_config(), state.params, state.statistics, row)["e0"]
        for row in rows.reshape(-1, P)
    ]
    rebuilt = hvae_generate(space["generator"], np.array(moved)).reshape(rows.shape)
    assert np.square(rebuilt - rows).mean() < 0.2 * np.square(rows - start).mean()


def test_the_space_is_in_the_units_of_the_weights(trained):
    state, start = trained[0], adapted_weights()[1]
    space = hvae_space(tiny_config(), state.params, state.statistics, start)
    assert space["e0"].shape == (4,)
    latents = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)
    statistics, decoder = state.statistics, Generator((16,), K)
    decoded = decoder.apply({"params": state.params["decoder"]}, latents)
    rotated = statistics["size"] * decoded @ statistics["directions"]
    expected = rotated * statistics["scale"] + statistics["mean"]
    weights = hvae_generate(space["generator"], latents)
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-5)
    factored = generate_weights(HVAE, space["generator"], latents)
    np.testing.assert_allclose(factored, expected, rtol=1e-5, atol=1e-5)


def test_validation_is_minus_the_loss_of_the_tasks_held_out(stage, trained):
    """At the same noise whenever it is asked; here a perfect decoder's, which leaves beta KL."""
    state = trained[0]
    scores = [stage.validate(parallel.replicate(state)) for _ in range(2)]
    assert scores[0] == scores[1]
    zero = jax.tree.map(np.zeros_like, state.params)
    score, metrics = stage.validate(parallel.replicate(state.replace(params=zero)))
    rows = adapted_weights()[0][held_out(stage)].reshape(-1, P)
    rows = (rows - state.statistics["mean"]) / state.statistics["scale"]
    rows = rows @ state.statistics["directions"].T
    kl = 4 * (np.exp(-1) - 1 + 1) / 2
    expected = (np.square(rows).sum(axis=1).mean() + kl) / np.sqrt(K)
    np.testing.assert_allclose(score, -expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(metrics["explained"], 0, atol=1e-5)


def test_without_standardising_the_scale_is_one():
    stage = make_stage(tiny_config(standardise=False), "hvae", *adapted_weights())
    statistics = stage.init(jax.random.key(0)).statistics
    np.testing.assert_array_equal(statistics["scale"], np.ones(P))
    assert np.abs(statistics["mean"]).max() > 1


def test_the_schedule_depends_on_the_step_alone(stage):
    whole = stage.schedule(0, 9)
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        expected = jax.tree.map(lambda leaf: leaf[start:stop], whole)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, stage.schedule(start, stop), expected)
    task, repeat = whole[1]
    assert task.shape == repeat.shape == (9, 16) and set(repeat.ravel()) == set(range(REPEATS))


@pytest.mark.parametrize("tasks, size", [(1, P), (NUM_TASKS, P - 1)])
def test_weights_that_cannot_be_fitted_are_refused(tasks, size):
    weights, start = adapted_weights()
    with pytest.raises(UserError, match=rf"stage hvae: weights \({tasks}, 3, 60\).*expected"):
        make_stage(tiny_config(), "hvae", weights[:tasks], start[:size])


def end_of_training():
    """Parameters and metrics after four steps, and the validation, on however many devices."""
    stage = make_stage(tiny_config(), "hvae", *adapted_weights())
    state = parallel.replicate(stage.init(jax.random.key(0)))
    run = parallel.compile_chunk(stage.step)
    xs = stage.schedule(0, 4)
    state, metrics = run(state, parallel.replicate(stage.data), xs, jax.random.key(1))
    score, more = stage.validate(state)
    end = {"params": parallel.first(state.params), "metrics": parallel.first(metrics)}
    end |= {"score": np.float32(score), **more}
    leaves = jax.tree_util.tree_leaves_with_path(end)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def test_eight_devices_train_like_one(tmp_path):
    run_on_eight_devices(__file__, tmp_path / "eight.npz")
    one = end_of_training()
    with np.load(tmp_path / "eight.npz") as eight:
        assert eight["num_devices"] == 8
        for name, leaf in one.items():
            np.testing.assert_allclose(eight[name], leaf, rtol=1e-3, atol=1e-4, err_msg=name)


if __name__ == "__main__":
    np.savez(sys.argv[1], num_devices=jax.local_device_count(), **end_of_training())
