import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

import hyper_meta
from hyper_meta.core.types import UserError
from hyper_meta.train import checkpoints, loop

SHORT = 24


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """State and history of a run that nothing stopped."""
    return toy.run(tmp_path_factory.mktemp("short"), num_steps=SHORT)


def _assert_same(a, b):
    (state_a, history_a), (state_b, history_b) = a, b
    assert history_a == history_b
    for x, y in zip(jax.tree.leaves(state_a), jax.tree.leaves(state_b), strict=True):
        assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())


def _schedule_that(action, *, at):
    """The toy's schedule, which calls action before the chunk that starts at step at."""
    schedule = toy.make_stage().schedule

    def changed(start, stop):
        if start == at:
            action()
        return schedule(start, stop)

    return changed


def _refuse(*args):
    raise RuntimeError("not to be called")


def test_it_learns_and_keeps_the_best(short):
    state, history = short
    assert [row["step"] for row in history] == list(range(4, SHORT + 1, 4))
    assert set(history[0]) == {"step", "loss", "bias", "validation_score", "validation_bias"}
    assert history[-1]["loss"] < history[0]["loss"]
    scores = [row["validation_score"] for row in history]
    assert state.best_score == np.float32(max(scores))
    assert state.best_step == history[int(np.argmax(scores))]["step"]
    assert state.step == SHORT


@pytest.mark.parametrize("at", [4, 12, 20])
def test_resumed_equals_uninterrupted(tmp_path, short, at):
    with pytest.raises(RuntimeError):
        toy.run(tmp_path, num_steps=SHORT, schedule=_schedule_that(_refuse, at=at))
    assert checkpoints.latest_step(tmp_path) == (at // 8 * 8 or None)
    _assert_same(toy.run(tmp_path, num_steps=SHORT), short)


def test_a_finished_stage_is_only_restored(tmp_path, short):
    toy.run(tmp_path, num_steps=SHORT)
    again = toy.run(tmp_path, num_steps=SHORT, step=_refuse, schedule=_refuse, validate=_refuse)
    _assert_same(again, short)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, short, number):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    schedule = _schedule_that(lambda: os.kill(os.getpid(), number), at=8)
    with pytest.raises(loop.Interrupted, match=f"{number.name} at step 12 of 24 .*same command"):
        toy.run(tmp_path, num_steps=SHORT, schedule=schedule)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert checkpoints.latest_step(tmp_path) == 12
    _assert_same(toy.run(tmp_path, num_steps=SHORT), short)


def test_a_signal_within_a_chunk_is_heard_and_the_chunk_goes_on(tmp_path):
    whole = toy.run(tmp_path / "whole", num_steps=SHORT, most_at_once=3)  # 2 divides a chunk
    schedule = _schedule_that(lambda: os.kill(os.getpid(), signal.SIGTERM), at=12)
    killed = {"num_steps": SHORT, "most_at_once": 3}
    with pytest.raises(loop.Interrupted, match="at step 14 of 24"):
        toy.run(tmp_path / "killed", schedule=schedule, **killed)
    assert checkpoints.latest_step(tmp_path / "killed") == 14
    _assert_same(toy.run(tmp_path / "killed", **killed), whole)


def test_it_runs_in_a_thread_too(tmp_path, short):
    results = []
    thread = threading.Thread(target=lambda: results.append(toy.run(tmp_path, num_steps=SHORT)))
    thread.start()
    thread.join()
    _assert_same(results[0], short)


def _start(directory):
    root = str(Path(hyper_meta.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, toy.__file__, str(directory), str(toy.NUM_STEPS)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_checkpoint(process, directory, after):
    while process.poll() is None and (checkpoints.latest_step(directory) or 0) <= after:
        time.sleep(0.005)


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path):
    rng = np.random.default_rng(0)
    directory, kills = tmp_path / "killed", 0
    for _ in range(3):
        process = _start(directory)
        # From its first checkpoint on, the process spends most of its time saving the next ones.
        _wait_for_checkpoint(process, directory, checkpoints.latest_step(directory) or 0)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
    assert kills == 3
    assert checkpoints.latest_step(directory) < toy.NUM_STEPS
    _assert_same(toy.run(directory), toy.run(tmp_path / "whole"))


def test_a_terminated_process_exits_clean(tmp_path):
    process = _start(tmp_path)
    _wait_for_checkpoint(process, tmp_path, 0)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    step = checkpoints.latest_step(tmp_path)
    assert out == (
        f"stage toy stopped by SIGTERM at step {step} of {toy.NUM_STEPS} and saved to {tmp_path}: "
        "the same command goes on from there\n"
    )


COMPILES = """
import dataclasses, hashlib, sys
import toy
from hyper_meta.core import interrupts

stage = toy.make_stage()

def schedule(start, stop):
    print("compiles", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)

interrupts.listen()
toy.run(sys.argv[1], schedule=schedule)
"""


def test_a_signal_does_not_wait_for_what_is_compiled(tmp_path):
    toy.run(tmp_path, num_steps=8)
    paths = [str(Path(hyper_meta.__file__).parents[1]), str(Path(toy.__file__).parent)]
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILES, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "compiles\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    told = "stage toy stopped by SIGTERM while it was compiled, at step 8 of 240: the same command"
    assert process.returncode == 143 and told in err
    assert checkpoints.latest_step(tmp_path) == 8


@pytest.mark.parametrize(
    ("num_steps", "nearest"), [(10, "8 or 12"), (3, "4"), (0, "1 or more"), (-4, "1 or more")]
)
def test_steps_that_are_no_multiple_of_a_chunk_are_refused(tmp_path, num_steps, nearest):
    with pytest.raises(UserError, match=f"stage toy: .*set .* to {nearest}$"):
        toy.run(tmp_path, num_steps=num_steps, init=_refuse)


def test_a_state_that_no_memory_holds_is_refused_before_it_is_made(tmp_path):
    small = toy.make_stage()

    def init(key):
        table = {"table": jnp.zeros((1 << 30, 1 << 12))}
        return small.init(key).replace(statistics=table)

    stage = dataclasses.replace(small, init=init)
    with pytest.raises(UserError, match="takes at least 16,384.0 GiB, there are .*: choose a smal"):
        loop.run_stage(stage, tmp_path / "a", seed=0, checkpoint_every=2, progress=False)


def test_a_checkpoint_the_run_never_reaches_is_refused(tmp_path):
    toy.run(tmp_path, num_steps=8)
    for changes in ({"num_steps": 4}, {"num_steps": 24, "chunk_steps": 3}):
        with pytest.raises(UserError, match="is at step 8, which a run of .* never reaches"):
            toy.run(tmp_path, **changes)


def _step_that(change, *, at):
    """The toy's step, whose (state, metrics) are changed from step number at on."""

    def step(state, data, x, key):
        later = state.step >= at
        return change(later, *toy.make_stage().step(state, data, x, key))

    return step


def _nan_loss(later, state, metrics):
    total, count = metrics["loss"]
    return state, metrics | {"loss": (jnp.where(later, jnp.nan, total), count)}


def _nan_params(later, state, metrics):
    params = jax.tree.map(lambda leaf: jnp.where(later, jnp.nan, leaf), state.params)
    return state.replace(params=params), metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan_loss, "stage toy diverged in steps 13 to 16, its loss is nan"),
        (_nan_params, "stage toy diverged in steps 13 to 16, its parameters are not finite"),
    ],
    ids=["loss", "parameters"],
)
def test_divergence_is_an_error_and_never_saved(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        toy.run(tmp_path, num_steps=SHORT, step=_step_that(change, at=15))
    assert checkpoints.latest_step(tmp_path) == 8


def test_a_step_that_does_not_count_is_a_mistake(tmp_path):
    def stuck(later, state, metrics):
        return state.replace(step=jnp.int32(0)), metrics

    with pytest.raises(ValueError, match="step 8 left state.step at 0"):
        toy.run(tmp_path, num_steps=SHORT, step=_step_that(stuck, at=0))


def test_without_validation_nothing_is_best(tmp_path, short):
    state, history = toy.run(tmp_path, num_steps=SHORT, validate=None)
    assert (state.best_step, state.best_score) == (0, -np.inf)
    assert set(history[0]) == {"step", "loss", "bias"}
    np.testing.assert_array_equal(
        state.params["Dense_0"]["kernel"], short[0].params["Dense_0"]["kernel"]
    )


def test_progress_goes_to_stderr(tmp_path, capfd):
    stage = dataclasses.replace(toy.make_stage(), num_steps=8)
    state, history = loop.run_stage(stage, tmp_path, seed=0, checkpoint_every=1, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "toy: 100%" in err
    assert f"loss={history[-1]['loss']:.3g}" in err
    assert "validation_score=" in err
