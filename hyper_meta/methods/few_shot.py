"""Rows that see labelled examples: a learner adapted on the support set, or on k examples of each
answer, from its own start or from points generated from language."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.scores import Scores
from hyper_meta.core.settings.run import AdaptationSettings
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.learners import Learner
from hyper_meta.methods.cache import Program
from hyper_meta.methods.interface import (
    Row,
    RowName,
    Setup,
    choose,
    compile_scores,
    remember,
)


def few_shot_row(
    setup: Setup,
    name: RowName,
    learner: Learner,
    params: Any,
    *,
    key: str,
    shots: bool,
    starts: Callable[[str], np.ndarray] | None = None,
) -> Row:
    """The row of a learner adapted with the steps and learning rates of config.evaluate.

    key: what the compiled function is remembered by; shots: whether it is scored with few examples
    too, at the learning rate chosen with all; starts: split -> points [T, ...], None for the
    learner's own.
    """
    evaluate = setup.config.evaluate

    def settings(steps: tuple[int, ...], rates: tuple[float, ...]) -> dict[str, tuple]:
        return {f"{n} steps, rate {rate:g}": (n, rate) for rate in rates for n in steps}

    read_at = [tuple(sorted(set(n))) for n in (evaluate.few_shot_steps, evaluate.shot_steps)]
    with_all, with_few = (
        (steps, adaptation_curves(setup, learner, params, steps=steps, key=key, starts=starts))
        for steps in read_at
    )

    def score(split: str, value: tuple[int, float], shots: int | None) -> Scores:
        num_steps, rate = value
        steps, curve = with_all if shots is None else with_few
        right, total = curve(split, rate, shots)
        return Scores(right[:, steps.index(num_steps)], total[:, 0])

    every = settings(evaluate.few_shot_steps, evaluate.few_shot_rates)
    return Row(
        *name,
        "few-shot",
        score,
        every,
        varies="inner steps and learning rate",
        shots=(lambda chosen: settings(evaluate.shot_steps, every[chosen][1:])) if shots else None,
    )


def adaptation_curves(
    setup: Setup,
    learner: Learner,
    params: Any,
    *,
    steps: tuple[int, ...],
    key: str,
    starts: Callable[[str], np.ndarray] | None = None,
) -> Callable[[str, float, int | None], tuple[np.ndarray, np.ndarray]]:
    """(split, learning rate, shots) -> (right [T, len(steps)], total [T, 1]) after each of an
    increasing tuple of numbers of steps.

    The shots of a task are drawn anew in every seed; those of k are among those of k + 1.
    """
    loop = InnerLoop(steps[-1], 0.0)
    replicated = parallel.replicate(params)

    @functools.cache
    def curve(split: str, rate: float, shots: int | None) -> tuple[np.ndarray, np.ndarray]:
        most = None if shots is None else max(setup.config.evaluate.shots)
        task_fn = scoring.adaptation_curve(learner, loop, steps=steps, max_shots=most)
        run = compile_scores(
            setup, Program("curve", key, (steps, starts is not None, most)), task_fn
        )
        num_tasks = len(setup.tasks[split])
        everything = np.iinfo(np.int32).max
        extra = {
            "learning_rate": np.full(num_tasks, rate, np.float32),
            "shots": np.full(num_tasks, everything if shots is None else shots, np.int32),
            "key": _keys(setup, split),
            "start": None if starts is None else starts(split),
        }
        return run(replicated, extra, split)

    return curve


def choose_rate(
    setup: Setup, learner: Learner, params: Any, settings: AdaptationSettings, *, key: str
) -> float:
    """The one of settings.learning_rates whose settings.num_steps steps on the support sets are
    best on the validation tasks, the first of equals."""
    rates = settings.learning_rates
    if len(rates) == 1:
        return rates[0]
    curve = adaptation_curves(setup, learner, params, steps=(settings.num_steps,), key=key)

    def score(rate: float) -> Scores:
        right, total = curve("validation", rate, None)
        return Scores(right[:, -1], total[:, 0])

    return float(choose(score, {rate: rate for rate in rates}))


def _keys(setup: Setup, split: str) -> np.ndarray:
    """[T, 2] uint32: a key for each task, from which its shots are drawn."""

    def make() -> np.ndarray:
        key = jax.random.fold_in(jax.random.key(setup.config.seed), len(split))
        keys = jax.random.split(key, len(setup.tasks[split]))
        return np.asarray(jax.random.key_data(keys))

    return remember(setup, setup.cache.shot_keys, split, make)
