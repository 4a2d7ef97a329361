import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_tasks import (
    DIM,
    LATENT,
    generate,
    init_params,
    make_table,
    numpy_cosines,
    numpy_logits,
    task_alone,
)

from hyper_meta import parallel
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import adapt_latent

# Few different (support, answers): the loop over unpadded tasks compiles each of them.
SIZES = [(3, 3, 2), (9, 7, 4), (3, 2, 2), (4, 8, 3), (9, 1, 4), (4, 4, 3), (3, 6, 2)]
STEPS = {"num_steps": 3, "learning_rate": 0.05}
NUM_SAMPLES = 3


@pytest.fixture(scope="module")
def table():
    return make_table(SIZES)


@pytest.fixture(scope="module")
def latents():
    shape = (len(SIZES), NUM_SAMPLES, LATENT)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def _compile(task_fn, table, max_shapes=2):
    return scoring.compile_pass(task_fn, table, max_shapes=max_shapes, max_examples=24)


def _right(logits, task):
    return float((logits.argmax(axis=1) == task.query.label[0]).sum())


def _logits(weights, task):
    return numpy_logits(weights, task.query.features[0], task.answers[0])


def _clip(params, task, latents):
    return _right(numpy_cosines(task.query.features[0], task.answers[0]), task)


def _mean_over_samples(params, task, latents):
    weights = generate(params["generator"], latents)
    return np.mean([_right(_logits(w, task), task) for w in weights])


@jax.jit
def _adapted(params, *inputs):
    generate_one = functools.partial(generate, params["generator"])
    return generate_one(adapt_latent(generate_one, params["e0"], *inputs, **STEPS))


def _few_shot(params, task, latents):
    inputs = jax.tree.map(lambda x: x[0], (task.support, task.answers, task.answer_mask))
    return _right(_logits(_adapted(params, *inputs), task), task)


def _conditional(params, task, latents):
    return _right(_logits(generate(params, task.question[0]), task), task)


METHODS = {
    "clip": (scoring.clip_method, _clip),
    "latent": (scoring.latent_method(generate), _mean_over_samples),
    "few-shot": (scoring.few_shot_method(generate, **STEPS), _few_shot),
    "conditional": (scoring.conditional_method(generate), _conditional),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_pass_equals_a_loop_over_unpadded_tasks(name, table, latents):
    method, by_hand = METHODS[name]
    params = init_params(0)
    if name == "conditional":
        params = init_params(0, DIM)["generator"]
    run = _compile(scoring.scores_of(method), table)
    right, total = run(parallel.replicate(params), latents)
    expected = [by_hand(params, task_alone(table, i), latents[i]) for i in range(len(SIZES))]
    np.testing.assert_allclose(right, expected, rtol=1e-6)
    np.testing.assert_array_equal(total, [query for _, query, _ in SIZES])
    assert 0 < sum(right) < sum(total)


@pytest.mark.parametrize("max_shapes", [1, 3, 20])
def test_extra_and_output_are_in_the_order_of_the_table(table, max_shapes):
    def task_fn(params, tasks, extra):
        sizes = tasks.support.mask.sum(axis=1)
        return {"extra": extra["a"] * params["w"], "question": tasks.question, "support": sizes}

    extra = {"a": np.arange(len(SIZES), dtype=np.float32)}
    run = _compile(task_fn, table, max_shapes)
    out = run(parallel.replicate({"w": jnp.float32(2)}), extra)
    np.testing.assert_array_equal(out["extra"], 2 * extra["a"])
    np.testing.assert_array_equal(out["question"], table.question_features)
    np.testing.assert_array_equal(out["support"], [support for support, _, _ in SIZES])
