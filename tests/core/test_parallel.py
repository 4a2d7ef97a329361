"""What train.parallel promises, on one device and, from test_on_eight_devices, on eight."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

import hyper_meta
from hyper_meta.core import parallel
from hyper_meta.core.types import UserError
from hyper_meta.train.state import create_state

NUM_STEPS, BATCH, DIM = 4, 16, 3


def _problem(seed=0):
    """Least squares whose valid examples lie so unevenly that a mean of device means is wrong."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(NUM_STEPS, BATCH, DIM)).astype(np.float32)
    y = rng.normal(size=(NUM_STEPS, BATCH)).astype(np.float32)
    mask = np.arange(BATCH) < rng.integers(1, BATCH, size=NUM_STEPS)[:, None]
    return {"x": x, "y": y, "mask": mask}


def _sgd_state(rate):
    params = {"w": jnp.zeros(DIM)}
    return create_state(None, params, tx=optax.sgd(rate), ema_decay=None, statistics={})


def _sgd_step(state, data, x, key):
    shared, batch = x

    def loss_fn(params):
        error = jnp.where(batch["mask"], batch["x"] @ params["w"] - batch["y"], 0)
        count = batch["mask"].sum()
        extra = {"first": (jnp.abs(error).sum(), 2 * count)}
        return shared * (error**2).sum(), (count, extra)

    grads, metrics = parallel.global_mean(*jax.value_and_grad(loss_fn, has_aux=True)(state.params))
    return state.apply_gradients(grads=grads), metrics


def _numpy_sgd(problem, weights, rate):
    w = np.zeros(DIM)
    losses, absolutes = [], []
    for x, y, mask, weight in zip(*problem.values(), weights, strict=True):
        error = (x[mask] @ w - y[mask]).astype(np.float64)
        losses.append(weight * (error**2).sum())
        absolutes.append(np.abs(error).sum())
        w = w - rate * 2 * weight * error @ x[mask] / mask.sum()
    return w, sum(losses), sum(absolutes)


def test_steps_equal_numpy_under_unequal_masks():
    problem, weights = _problem(), np.array([1, 2, 0.5, 3], np.float32)
    run = parallel.compile_chunk(_sgd_step)
    state = parallel.replicate(_sgd_state(0.1))
    state, metrics = run(state, parallel.replicate({}), (weights, problem), jax.random.key(0))
    state, metrics = parallel.first((state, metrics))
    w, loss, absolute = _numpy_sgd(problem, weights, 0.1)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5, atol=1e-6)
    count = problem["mask"].sum()
    np.testing.assert_allclose(metrics["loss"], (loss, count), rtol=1e-5)
    np.testing.assert_allclose(metrics["first"], (absolute, 2 * count), rtol=1e-5)
    assert state.step == NUM_STEPS


def test_gradient_equals_finite_differences():
    problem = jax.tree.map(lambda leaf: leaf[:1], _problem(1))
    run = parallel.compile_chunk(_sgd_step)
    state, _ = run(
        parallel.replicate(_sgd_state(1.0)),
        parallel.replicate({}),
        (np.ones(1, np.float32), problem),
        jax.random.key(0),
    )
    gradient = -parallel.first(state).params["w"]

    def mean_loss(w):
        mask = problem["mask"][0]
        return ((problem["x"][0, mask] @ w - problem["y"][0, mask]) ** 2).mean()

    step = 1e-3 * np.eye(DIM)
    differences = [(mean_loss(e) - mean_loss(-e)) / 2e-3 for e in step]
    np.testing.assert_allclose(gradient, differences, rtol=1e-4)


def test_every_device_ends_with_the_same_state():
    run = parallel.compile_chunk(_sgd_step)
    xs = np.ones(NUM_STEPS, np.float32), _problem(2)
    state, _ = run(
        parallel.replicate(_sgd_state(0.1)), parallel.replicate({}), xs, jax.random.key(0)
    )
    copies = np.asarray(state.params["w"])
    assert copies.shape == (jax.local_device_count(), DIM)
    np.testing.assert_array_equal(copies, np.broadcast_to(copies[0], copies.shape))


def test_a_batch_without_valid_examples_changes_nothing():
    problem = _problem() | {"mask": np.zeros((NUM_STEPS, BATCH), bool)}
    run = parallel.compile_chunk(_sgd_step)
    xs = np.ones(NUM_STEPS, np.float32), problem
    state, metrics = run(
        parallel.replicate(_sgd_state(0.1)), parallel.replicate({}), xs, jax.random.key(0)
    )
    np.testing.assert_array_equal(parallel.first(state).params["w"], 0)
    assert parallel.first(metrics)["loss"] == (0, 0)


def test_two_chunks_equal_one():
    problem, weights, key = _problem(3), np.ones(NUM_STEPS, np.float32), jax.random.key(0)
    run, data = parallel.compile_chunk(_sgd_step), parallel.replicate({})
    whole, _ = run(parallel.replicate(_sgd_state(0.1)), data, (weights, problem), key)
    state = parallel.replicate(_sgd_state(0.1))
    for part in (slice(0, 2), slice(2, 4)):
        xs = jax.tree.map(lambda leaf, part=part: leaf[part], (weights, problem))
        state, _ = run(state, data, xs, key)
    np.testing.assert_allclose(
        parallel.first(state).params["w"], parallel.first(whole).params["w"], rtol=1e-6
    )


def test_noise_depends_on_seed_step_and_example_only():
    def step(state, data, x, key):
        _, index = x
        keys = parallel.example_keys(key, index.shape[0])
        noise = jax.vmap(jax.random.normal)(keys)
        total = jax.lax.psum((noise * index).sum(), parallel.AXIS)
        return state.replace(step=state.step + 1), {"noise": (total, jnp.float32(1))}

    key = jax.random.key(5)
    index = np.tile(np.arange(BATCH, dtype=np.float32), (NUM_STEPS, 1))
    state = _sgd_state(0.1).replace(step=jnp.int32(7))
    _, metrics = parallel.compile_chunk(step)(
        parallel.replicate(state), parallel.replicate({}), ({}, index), key
    )
    keys = [jax.random.fold_in(jax.random.fold_in(key, 7 + s), i) for s, i in np.ndindex(4, BATCH)]
    noise = np.array([jax.random.normal(key) for key in keys]).reshape(4, BATCH)
    np.testing.assert_allclose(parallel.first(metrics)["noise"][0], (noise * index).sum(), 1e-5)


def test_map_keeps_the_order_of_examples():
    def fn(params, data, x):
        return {"y": x["a"] * params["w"] + data["b"], "index": x["index"]}

    x = {"a": np.random.default_rng(0).normal(size=(BATCH, 2)), "index": np.arange(BATCH)}
    x["a"] = x["a"].astype(np.float32)
    params, data = parallel.replicate({"w": np.float32(3)}), parallel.replicate({"b": 1.0})
    out = parallel.compile_map(fn)(params, data, x)
    assert isinstance(out["y"], np.ndarray)
    np.testing.assert_allclose(out["y"], 3 * x["a"] + 1, rtol=1e-6)
    np.testing.assert_array_equal(out["index"], x["index"])


def test_replicate_and_shard_are_undone():
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "step": jnp.int32(4)}
    back = parallel.first(parallel.replicate(tree))
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    num_devices = jax.local_device_count()
    batch = np.arange(3 * BATCH * 2).reshape(3, BATCH, 2)
    cut = parallel.shard(batch, axis=1)
    assert cut.shape == (num_devices, 3, BATCH // num_devices, 2)
    np.testing.assert_array_equal(np.concatenate(cut, axis=1), batch)


def test_the_state_is_donated_and_its_source_is_not():
    source = np.zeros((256, 256), np.float32)
    update = parallel.compile_update(lambda state, value: {"a": state["a"] + value})
    state = update(parallel.replicate({"a": source}), 1.0)
    new = parallel.first(update(state, 1.0))
    assert state["a"].is_deleted()
    np.testing.assert_array_equal(new["a"], 2)
    np.testing.assert_array_equal(source, 0)


@pytest.mark.skipif(jax.local_device_count() == 1, reason="any batch divides over one device")
def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="a batch of 9 does not divide over 8 devices"):
        parallel.shard(np.zeros(9))


def _on_devices(number, arguments, *, flags="", **environment):
    inherited = os.environ["XLA_FLAGS"]
    flags = f"{inherited} --xla_force_host_platform_device_count={number} {flags}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("pieces", "left"), [(5, 1), (6, 0), (None, 1)])
def test_programs_are_freed_before_memory_has_too_many_pieces(tmp_path, monkeypatch, pieces, left):
    """At more than half of what the system allows; where it does not say, never."""
    maps, most = tmp_path / "maps", tmp_path / "most"
    monkeypatch.setattr(parallel, "MAPS", maps)
    monkeypatch.setattr(parallel, "MOST_MAPS", most)
    if pieces is not None:
        maps.write_text("a piece\n" * pieces)
        most.write_text("10\n")
    program = jax.jit(lambda x: x + 1)
    assert program(1.0) == 2
    parallel.free_programs()
    assert program._cache_size() == left
    assert program(2.0) == 3


@pytest.mark.skipif(jax.local_device_count() > 1, reason="runs these tests again")
def test_on_eight_devices():
    _on_devices(8, ["-m", "pytest", "-q", "-p", "no:cacheprovider", __file__])


@pytest.mark.skipif(jax.local_device_count() > 1, reason="compares one device with several")
@pytest.mark.parametrize("number", [2, 8])
def test_a_stage_on_several_devices_equals_one_with_one_reduction_a_step(tmp_path, number):
    dump = tmp_path / "hlo"
    flags = f"--xla_dump_to={dump} --xla_dump_hlo_as_text"
    _on_devices(number, [toy.__file__, str(tmp_path / "several"), "24"], flags=flags)
    (several, several_history), (one, one_history) = (
        toy.run(tmp_path / name, num_steps=24) for name in ("several", "one")
    )
    for a, b in zip(jax.tree.leaves(several), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    losses = [[row["loss"] for row in history] for history in (several_history, one_history)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    programs = [path.read_text() for path in dump.glob("*after_optimizations.txt")]
    counts = [len(re.findall(r" all-reduce(?:-start)?\(", program)) for program in programs]
    assert max(counts) == 1


def test_only_parallel_maps_over_devices():
    sources = Path(hyper_meta.__file__).parent.rglob("*.py")
    users = [path.name for path in sources if re.search(r"jax\.pmap|shard_map", path.read_text())]
    assert users == ["parallel.py"]
