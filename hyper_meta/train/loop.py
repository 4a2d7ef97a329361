"""The training loop: one stage from its first step, or its newest checkpoint, to its last.

A run that is killed at any moment and started again ends with the bits of a run that was not:
state, schedule and randomness are functions of the seed and of the step number, and a checkpoint
holds the rest.
"""

import contextlib
import dataclasses
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm

from hyper_meta import parallel
from hyper_meta.train import checkpoints
from hyper_meta.train.state import TrainState, keep_best
from hyper_meta.types import UserError


class Interrupted(Exception):
    """A signal stopped the run after a checkpoint; the message says how to go on."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is trained, and how.

    name: for messages. num_steps, chunk_steps: the steps in all and in one compiled call; metrics
    are logged and the state validated and saved only between chunks. init: PRNG key -> TrainState
    at step 0. step: as parallel.compile_chunk wants it; its metrics have a "loss". data: pytree of
    constant arrays, copied once to every device. schedule: (start, stop) -> (shared, sharded), host
    arrays with a leading axis of stop - start steps. validate: replicated state -> (score,
    metrics), a finite float, higher is better, and a dict of floats; or None.
    """

    name: str
    num_steps: int
    chunk_steps: int
    init: Callable[[jax.Array], TrainState]
    step: Callable
    data: Any
    schedule: Callable[[int, int], tuple[Any, Any]]
    validate: Callable[[TrainState], tuple[float, dict[str, float]]] | None


def run_stage(
    stage: Stage, directory: Path, *, seed: int, checkpoint_every: int, progress: bool
) -> tuple[TrainState, list[dict]]:
    """Trains a stage to its end, from the newest checkpoint in directory if there is one.

    Args:
      stage: the stage; finished already, it is only restored.
      directory: the folder of its checkpoints.
      seed: of the initial parameters and of the steps.
      checkpoint_every: chunks from one checkpoint to the next; the last chunk always has one.
      progress: shows a progress bar on stderr.

    Returns:
      The state, with numpy leaves, and the history: per chunk a dict with the step, the mean of
      each metric over the chunk, and under validation_... the validation's score and metrics.

    Raises:
      Interrupted: SIGTERM or SIGINT came; the state was saved at the end of the chunk. A second
        signal acts at once.
      UserError: num_steps is no multiple of chunk_steps, the loss or the parameters are not finite,
        or a checkpoint cannot be read or written.
    """
    _check_steps(stage, checkpoint_every)
    init_key, steps_key = jax.random.split(jax.random.key(seed))
    state, history = _start(stage, directory, init_key)
    first_step = int(state.step)
    if first_step == stage.num_steps:
        return state, history
    checkpoints.prepare(directory)
    run_chunk = _compile(stage, steps_key)
    state = parallel.replicate(state)
    with _signals() as received, _bar(stage, first_step, progress) as bar:
        for start in range(first_step, stage.num_steps, stage.chunk_steps):
            state, row = run_chunk(state, start)
            history.append(row)
            _show(bar, row, stage.chunk_steps)
            finished = row["step"] == stage.num_steps
            if finished or received or len(history) % checkpoint_every == 0:
                saved = _save(stage, directory, state, history)
            if received:
                raise Interrupted(_advice(stage, directory, row["step"], received[0]))
    return saved, history


def _check_steps(stage: Stage, checkpoint_every: int) -> None:
    num_steps, size = stage.num_steps, stage.chunk_steps
    if min(num_steps, size, checkpoint_every) < 1:
        raise UserError(
            f"stage {stage.name}: num_steps {num_steps}, chunk_steps {size} and checkpoint_every "
            f"{checkpoint_every} must be positive: set each to 1 or more"
        )
    if num_steps % size:
        below = num_steps // size * size
        nearest = f"{below} or {below + size}" if below else f"{size}"
        raise UserError(
            f"stage {stage.name}: num_steps {num_steps} is no multiple of chunk_steps {size}: "
            f"set num_steps to {nearest}"
        )


def _start(stage: Stage, directory: Path, key: jax.Array) -> tuple[TrainState, list[dict]]:
    """The state and history to go on from: of the newest checkpoint, or at step 0."""
    step = checkpoints.latest_step(directory)
    if step is None:
        return stage.init(key), []
    if step > stage.num_steps or step % stage.chunk_steps:
        raise UserError(
            f"stage {stage.name}: {directory} is at step {step}, which a run of {stage.num_steps} "
            f"steps in chunks of {stage.chunk_steps} never reaches: "
            "use the configuration that wrote it, or another folder"
        )
    return checkpoints.restore(directory, jax.eval_shape(stage.init, key))


def _compile(stage: Stage, key: jax.Array) -> Callable:
    """Returns (state, start) -> (state, row): a chunk, its validation, and its history row."""
    train = parallel.compile_chunk(stage.step)
    keep = parallel.compile_update(keep_best)
    data = parallel.replicate(stage.data)

    def run_chunk(state, start):
        stop = start + stage.chunk_steps
        state, sums = train(state, data, stage.schedule(start, stop), key)
        row = {"step": stop, **_means(parallel.first(sums))}
        if not math.isfinite(row["loss"]):
            raise UserError(_diverged(stage, f"its loss is {row['loss']}", stop))
        if stage.validate is not None:
            score, metrics = stage.validate(state)
            state = keep(state, score)
            metrics = {"score": score, **metrics}
            row |= {f"validation_{name}": float(value) for name, value in metrics.items()}
        return state, row

    return run_chunk


def _means(sums: dict) -> dict[str, float]:
    """The quotient of each (sum, count), nan where nothing was counted."""
    return {
        name: float(total) / float(count) if count else math.nan
        for name, (total, count) in sums.items()
    }


def _save(stage: Stage, directory: Path, state: TrainState, history: list[dict]) -> TrainState:
    """Saves the replicated state, unless it is not finite, and returns its host copy."""
    state, step = parallel.first(state), history[-1]["step"]
    if state.step != step:
        raise ValueError(f"stage {stage.name}: step {step} left state.step at {state.step}")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)):
        raise UserError(_diverged(stage, "its parameters are not finite", step))
    checkpoints.save(directory, step, state=state, history=history)
    return state


def _diverged(stage: Stage, what: str, step: int) -> str:
    start = step - stage.chunk_steps + 1
    return (
        f"stage {stage.name} diverged in steps {start} to {step}, {what}: "
        "nothing of that was saved; lower the learning rate and start over"
    )


def _advice(stage: Stage, directory: Path, step: int, number: int) -> str:
    return (
        f"stage {stage.name} stopped by {signal.Signals(number).name} at step {step} of "
        f"{stage.num_steps} and saved to {directory}: the same command goes on from there"
    )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT append to, instead of ending the process, in the main thread.

    The first signal puts the former handlers back, so that a second one acts at once.
    """
    received: list[int] = []
    previous = {}

    def restore():
        while previous:
            signal.signal(*previous.popitem())

    def note(number, frame):
        received.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        restore()


def _bar(stage: Stage, first_step: int, progress: bool) -> tqdm.tqdm:
    return tqdm.tqdm(
        desc=stage.name,
        total=stage.num_steps,
        initial=first_step,
        file=sys.stderr,
        # A log file gets a line twice a minute, a terminal a live bar.
        mininterval=0.1 if sys.stderr.isatty() else 30,
        disable=not progress,
    )


def _show(bar: tqdm.tqdm, row: dict, num_steps: int) -> None:
    shown = {name: row[name] for name in ("loss", "validation_score") if name in row}
    bar.set_postfix(shown, refresh=False)
    bar.update(num_steps)
