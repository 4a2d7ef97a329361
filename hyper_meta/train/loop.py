"""The training loop: one stage, from its first step or its newest checkpoint to its last step.

A run that is killed at any moment and started again ends bit for bit like an uninterrupted run:
the schedule and all randomness are functions of the seed and the step number, and a checkpoint
holds everything else.
"""

from __future__ import annotations

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
from tqdm import tqdm

from hyper_meta.core import interrupts, parallel, processes
from hyper_meta.core.memory import check_fits, tree_bytes
from hyper_meta.core.progress import LOG, progress_bar
from hyper_meta.core.types import UserError
from hyper_meta.train import checkpoints
from hyper_meta.train.state import TrainState, keep_best

COMPILING = "compiling"  # said of a bar that stands


class Interrupted(Exception):
    """A signal ended the run after a checkpoint was saved; the message says how to resume."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A training stage: what is trained, on which data, for how long.

    name: for messages.
    num_steps: the number of training steps.
    chunk_steps: the steps from one row of the history to the next; between chunks the state is
      validated and saved. It divides num_steps.
    most_at_once: the largest number of steps in one compiled call. Signals are handled between
      calls.
    init: PRNG key -> TrainState at step 0.
    step: see parallel.compile_chunk; its metrics have a "loss".
    data: pytree of constant arrays, copied once to every device.
    schedule: (start, stop) -> (shared, sharded), host arrays with a leading axis of stop - start
      steps.
    validate: replicated state -> (score, metrics): a finite float, higher is better, and a dict of
      floats. None for a stage without validation.
    patience: the stage ends after so many chunks without a better score; 0: after num_steps only.
    """

    name: str
    num_steps: int
    chunk_steps: int
    most_at_once: int
    init: Callable[[jax.Array], TrainState]
    step: Callable
    data: Any
    schedule: Callable[[int, int], tuple[Any, Any]]
    validate: Callable[[TrainState], tuple[float, dict[str, float]]] | None
    patience: int = 0


def run_stage(
    stage: Stage, directory: Path, *, seed: int, checkpoint_every: int, progress: bool
) -> tuple[TrainState, list[dict]]:
    """The state of a stage after its last step, and its history.

    Training begins at the newest checkpoint in directory, if there is one. A finished stage is only
    restored.

    Args:
      directory: the folder of its checkpoints.
      seed: seed of the initial parameters and of the steps.
      checkpoint_every: chunks from one checkpoint to the next; the last chunk always has one.
      progress: whether a progress bar is shown on stderr.

    Returns:
      The state, with numpy leaves, and the history: per chunk a dict with the step, the mean of
      each metric over the chunk, and under validation_... the validation's score and metrics.

    Raises:
      Interrupted: one of the processes received SIGTERM or SIGINT, and the state was saved. A
        second signal acts at once.
      UserError: num_steps is no multiple of chunk_steps, the state does not fit into memory, loss
        or parameters are not finite, or a checkpoint cannot be read or written.
    """
    _check_steps(stage, checkpoint_every)
    init_key, steps_key = jax.random.split(jax.random.key(seed))
    state, history = _start(stage, directory, init_key)
    step = int(state.step)
    if _is_over(stage, step, history):
        return state, history
    processes.from_main(lambda: checkpoints.create_folder(directory))
    # The last row of an interrupted chunk holds its sums.
    sums = history.pop()["sums"] if history and "sums" in history[-1] else {}
    calls = _calls(stage, _compile(stage, steps_key), parallel.replicate(state), step, sums)
    with _signals() as received, interrupts.saving(), _bar(stage, step, progress) as bar:
        for trained, row in _heard_at_once(stage, step, calls):
            _show(bar, row, row["step"] - step)
            step = row["step"]
            number = processes.largest(received[0] if received else 0)
            if "sums" not in row or number:
                history.append(row)
            over = _is_over(stage, step, history)
            if over or number or step % (stage.chunk_steps * checkpoint_every) == 0:
                state = _save(stage, directory, trained, history)
            if number:
                raise Interrupted(_advice(stage, directory, step, number))
            if over:
                break
    LOG.info("%s: ended at step %d, %s", stage.name, step, _figures(history[-1]))
    return state, history


def _check_size(stage: Stage, state: TrainState) -> None:
    """Raises UserError where a state of these shapes and its gradients cannot be in memory."""
    needed = tree_bytes(state) + tree_bytes(state.params)
    check_fits(
        needed,
        f"the state of stage {stage.name}",
        "choose a smaller network, such as with a smaller config.network.hidden_dim, or a smaller "
        "hidden_dims of the stage",
    )


def is_finished(stage: Stage, directory: Path, *, seed: int) -> bool:
    """Whether the newest checkpoint in directory is that of the stage's end."""
    if checkpoints.latest_step(directory) is None:
        return False
    state, history = _start(stage, directory, jax.random.split(jax.random.key(seed))[0])
    return _is_over(stage, int(state.step), history)


def _is_over(stage: Stage, step: int, history: list[dict]) -> bool:
    """Whether a stage ends at this step: its last, or the end of its patience."""
    if step == stage.num_steps:
        return True
    if not stage.patience or not history or "sums" in history[-1]:
        return False
    scores = [row["validation_score"] for row in history]
    return len(scores) - 1 - int(np.argmax(scores)) >= stage.patience


def _calls(
    stage: Stage, programs: tuple[Callable, Callable], state: TrainState, step: int, sums: dict
) -> Iterator[tuple[TrainState, dict]]:
    """Trains from step to the last one: (replicated state, row) after each compiled call.

    programs: see `_compile`; sums: of the chunk so far. The row is one of the history at the end of
    a chunk, and {"step", "sums"} within it.
    """
    (run_steps, end_chunk), size = programs, _steps_at_once(stage)
    while step < stage.num_steps:
        state, sums = run_steps(state, step, size, sums)
        step += size
        row = {"step": step, "sums": sums}
        if step % stage.chunk_steps == 0:
            state, row = end_chunk(state, step, sums)
            sums = {}
        yield state, row


def _heard_at_once(
    stage: Stage, step: int, calls: Iterator[tuple[TrainState, dict]]
) -> Iterator[tuple[TrainState, dict]]:
    """The calls. The first compiles, for how long nobody knows, and a signal does not wait for it:
    nothing is lost. Several processes wait for each other."""
    told = f"stage {stage.name} stopped by {{}} while it was compiled, at step {step} of "
    told += f"{stage.num_steps}: the same command goes on from there"
    alone = jax.process_count() == 1
    with interrupts.at_once(told) if alone else contextlib.nullcontext():
        first = next(calls)
    yield first
    yield from calls


def _steps_at_once(stage: Stage) -> int:
    """The largest divisor of a chunk that is no more than most_at_once."""
    sizes = range(1, min(stage.most_at_once, stage.chunk_steps) + 1)
    return max(size for size in sizes if stage.chunk_steps % size == 0)


def _check_steps(stage: Stage, checkpoint_every: int) -> None:
    num_steps, size = stage.num_steps, stage.chunk_steps
    if min(num_steps, size, stage.most_at_once, checkpoint_every) < 1:
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
    """The state and history of the newest checkpoint, or those of step 0."""
    structure = jax.eval_shape(stage.init, key)
    _check_size(stage, structure)

    def read() -> dict | None:
        step = checkpoints.latest_step(directory)
        if step is None:
            return None
        if step > stage.num_steps or step % _steps_at_once(stage):
            raise UserError(
                f"stage {stage.name}: {directory} is at step {step}, which a run of "
                f"{stage.num_steps} steps in chunks of {stage.chunk_steps} never reaches: "
                "use the configuration that wrote it, or another folder"
            )
        state, history = checkpoints.restore(directory, structure)
        return {"leaves": jax.tree.leaves(state), "history": history}

    found = processes.from_main(read)
    if found is None:
        return stage.init(key), []
    return jax.tree.unflatten(jax.tree.structure(structure), found["leaves"]), found["history"]


def _compile(stage: Stage, key: jax.Array) -> tuple[Callable, Callable]:
    """The two compiled parts of the loop, (run_steps, end_chunk).

    run_steps: (state, start, number of steps, sums so far) -> (state, sums).
    end_chunk: (state, step, sums) -> (validated state, history row).
    """
    train = parallel.compile_chunk(stage.step)
    keep = parallel.compile_update(keep_best)
    data = parallel.replicate(stage.data)

    def run_steps(state, start, size, before):
        state, sums = train(state, data, stage.schedule(start, start + size), key)
        sums = {
            name: [
                float(new) + old for new, old in zip(pair, before.get(name, (0, 0)), strict=True)
            ]
            for name, pair in parallel.first(sums).items()
        }
        return state, sums

    def end_chunk(state, step, sums):
        row = {"step": step, **_means(sums)}
        if not math.isfinite(row["loss"]):
            raise UserError(_diverged(stage, f"its loss is {row['loss']}", step))
        if stage.validate is not None:
            score, metrics = stage.validate(state)
            state = keep(state, score)
            metrics = {"score": score, **metrics}
            row |= {f"validation_{name}": float(value) for name, value in metrics.items()}
        return state, row

    return run_steps, end_chunk


def _means(sums: dict) -> dict[str, float]:
    """The quotient of each (sum, count), nan where nothing was counted."""
    return {name: total / count if count else math.nan for name, (total, count) in sums.items()}


def _save(stage: Stage, directory: Path, state: TrainState, history: list[dict]) -> TrainState:
    """The host copy of a replicated state, saved. Raises UserError where it is not finite."""
    state, step = parallel.first(state), history[-1]["step"]
    if state.step != step:
        raise ValueError(f"stage {stage.name}: step {step} left state.step at {state.step}")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)):
        raise UserError(_diverged(stage, "its parameters are not finite", step))
    processes.from_main(lambda: checkpoints.save(directory, step, state=state, history=history))
    return state


def _diverged(stage: Stage, what: str, step: int) -> str:
    start = (step - 1) // stage.chunk_steps * stage.chunk_steps + 1
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
    """The list of received signals: SIGTERM and SIGINT are appended to it and end nothing.

    Only in the main thread; elsewhere the list stays empty. The first signal restores the former
    handlers, so that a second one acts at once.
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


def _bar(stage: Stage, first_step: int, progress: bool) -> tqdm:
    LOG.info("%s: from step %d of %d", stage.name, first_step, stage.num_steps)
    bar = progress_bar(
        desc=stage.name,
        total=stage.num_steps,
        initial=first_step,
        postfix=COMPILING,
        disable=not progress,
    )
    if first_step and not bar.disable:
        bar.write(f"{stage.name}: going on from step {first_step}", file=sys.stderr)
    return bar


def _show(bar: tqdm, row: dict, num_steps: int) -> None:
    if getattr(bar, "postfix", None) == COMPILING:
        bar.set_postfix_str("", refresh=False)
    bar.update(num_steps)
    if "sums" not in row:
        bar.set_postfix_str(_figures(row))


def _figures(row: dict) -> str:
    return ", ".join(
        f"{name}={row[name]:.3g}" for name in ("loss", "validation_score") if name in row
    )
