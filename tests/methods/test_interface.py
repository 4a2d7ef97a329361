import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_setup import DIM, NUM_TASKS, make_setup, tiny_config

from hyper_meta.core import parallel
from hyper_meta.core.scores import Scores
from hyper_meta.methods.cache import Program
from hyper_meta.methods.interface import (
    choose,
    compile_scores,
    fit,
    keep_array,
    remember,
    rows_of,
    split_questions,
)
from hyper_meta.train.loop import Stage
from hyper_meta.train.state import create_state

NUM_STEPS = 4


def _descent(rate):
    """Gradient descent on (w - 1)^2 from 0, judged by how near w is: w_n = 1 - (1 - 2 rate)^n."""

    def init(key):
        return create_state(
            None, {"w": jnp.zeros(())}, tx=optax.sgd(rate), ema_decay=None, statistics={"m": rate}
        )

    def step(state, data, x, key):
        def loss_fn(params):
            return (params["w"] - 1) ** 2, (jnp.float32(1), {})

        grads, metrics = parallel.global_mean(
            *jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        )
        return state.apply_gradients(grads=grads), metrics

    def validate(state):
        return -float((parallel.first(state.params)["w"] - 1) ** 2), {}

    def schedule(start, stop):
        return None, np.zeros((stop - start, 1))

    return Stage("film", NUM_STEPS, NUM_STEPS, NUM_STEPS, init, step, {}, schedule, validate)


def _end(rate):
    return 1 - (1 - 2 * rate) ** NUM_STEPS


@pytest.mark.parametrize(
    "rates, best",
    [((0.01, 0.3, 0.1), 0.3), ((0.5, 0.1), 0.5), ((0.25, 0.75, 0.1), 0.25), ((0.75, 0.25), 0.75)],
)
def test_the_learning_rate_that_is_best_on_validation_is_kept(rates, best, tmp_path):
    """0.25 and 0.75 end equally far from 1: of equals, the first."""
    config = tiny_config()
    config.film.learning_rates = rates
    setup = make_setup(tmp_path, config)
    left = fit(setup, "film", "film", _descent)
    np.testing.assert_allclose(left.params["w"], _end(best), rtol=1e-5)
    np.testing.assert_allclose(left.statistics["m"], best, rtol=1e-6)
    curve = json.loads((tmp_path / "curves" / "film.json").read_text())
    assert f"learning rate {best:g} of {', '.join(f'{r:g}' for r in rates)}" in curve["evaluated"]
    np.testing.assert_allclose(
        curve["history"][-1]["validation_score"], -((1 - _end(best)) ** 2), rtol=1e-4, atol=1e-12
    )
    assert setup.config.film.learning_rates == rates  # the setup's config is as it was
    again = fit(setup, "film", "film", _refuse_to_train(_descent))
    np.testing.assert_array_equal(again.params["w"], left.params["w"])


def _refuse_to_train(build):
    """The same stages, which can only be restored."""

    def restored(rate):
        stage = build(rate)
        return Stage(**{**vars(stage), "schedule": None})

    return restored


def test_a_single_learning_rate_is_trained_in_a_folder_of_its_name(tmp_path):
    config = tiny_config()
    config.film.learning_rates = (0.1,)
    left = fit(make_setup(tmp_path, config), "film", "some name", _descent)
    np.testing.assert_allclose(left.params["w"], _end(0.1), rtol=1e-5)
    assert (tmp_path / "some name").is_dir()
    curve = json.loads((tmp_path / "curves" / "some name.json").read_text())
    assert "learning rate" not in curve["evaluated"]


def test_the_setting_with_the_highest_mean_over_tasks_is_chosen():
    """Not the most right answers: a task counts once, however many examples it has."""
    total = np.array([2.0, 100.0])
    right = {"pooled": [0, 90], "tasks": [2, 50], "none": [0, 0]}

    def score(value):
        return Scores(np.array(right[value], float), total)

    assert choose(score, {name: name for name in right}) == "tasks"
    assert choose(score, {"called so": "pooled", "or so": "none"}) == "called so"


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a")])
def test_of_equals_the_first_is_chosen(order):
    values = {"a": 0.5, "b": 0.25, "c": 0.5}
    settings = {name: values[name] for name in order}
    assert choose(lambda value: Scores(np.array([value]), np.ones(1)), settings) == order[0]


def test_the_splits_of_the_evaluation_table(tmp_path):
    setup = make_setup(tmp_path)
    questions = setup.tables["evaluation"].questions.pooled
    for split in ("validation", "test"):
        rows = rows_of(setup, split)
        own = setup.tables[split].questions.pooled
        np.testing.assert_array_equal(questions[rows], own)
        np.testing.assert_array_equal(split_questions(setup, split).pooled, own)
        assert len(rows) == NUM_TASKS[split]
    assert setup.embed_dim == setup.question_dim == DIM


def test_compiled_scores_are_of_the_tasks_of_a_split(tmp_path):
    setup, made = make_setup(tmp_path), []

    def task_fn(params, tasks, extra):
        made.append(1)
        return tasks.question.pooled * params["w"], extra

    params = parallel.replicate({"w": jnp.float32(3)})
    for split in ("validation", "test", "validation"):
        run = compile_scores(setup, Program("questions"), task_fn)
        extra = np.arange(NUM_TASKS[split])
        questions, back = run(params, extra, split)
        np.testing.assert_allclose(questions, 3 * setup.tables[split].questions.pooled, rtol=1e-6)
        np.testing.assert_array_equal(back, extra)
    assert len(made) == 1  # traced for one shape, once


def test_what_is_remembered_is_made_once(tmp_path):
    setup, made = make_setup(tmp_path), []
    for split in ("validation", "test", "validation", "test"):
        value = remember(setup, setup.cache.shot_keys, split, lambda: made.append(split) or split)  # noqa: B023
        assert value == split
    assert remember(setup, setup.cache.chosen, "test", lambda: "of another kind") != "test"
    assert made == ["validation", "test"]
    assert make_setup(tmp_path).cache.shot_keys.values == {}


def test_an_array_is_computed_once_and_kept_in_the_folder(tmp_path):
    array = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    for compute in (lambda: (array, {"rate": 0.5}), None):
        setup = make_setup(tmp_path)
        kept = keep_array(setup, "some", (2, 3), compute)
        np.testing.assert_array_equal(kept, array)
        assert kept.dtype == np.float32 and setup.choices == {"some": {"rate": 0.5}}
