import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import make_adapter, num_weights
from toy_tasks import (
    ADAPTER_DIM,
    DIM,
    LATENT,
    NETWORK,
    generate,
    init_params,
    make_table,
    numpy_cosines,
    numpy_logits,
    one_task,
    task_alone,
)

from hyper_meta.core import parallel
from hyper_meta.core.scores import Scores
from hyper_meta.data.batching import Batches
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop, adapt_task
from hyper_meta.meta.learners import fixed_learner, latent_learner, weights_learner

# Few different (support, answers): the loop over unpadded tasks compiles each of them.
SIZES = [(4, 13, 3), (9, 17, 4), (4, 12, 3), (4, 18, 3), (9, 11, 4), (4, 14, 3), (9, 16, 4)]
HNET, FIXED = (
    latent_learner(NETWORK, generate),
    fixed_learner(NETWORK, lambda params, question: generate(params, question.pooled)),
)
MNET, SIZE = weights_learner(NETWORK), num_weights(DIM, ADAPTER_DIM)
BLENDED = weights_learner(make_adapter(DIM, ADAPTER_DIM, 0.9))
ADAPTER = {"e0": np.random.default_rng(3).normal(size=SIZE).astype(np.float32), "generator": {}}
LOOP, STILL = InnerLoop(3, 0.05), InnerLoop(0, 0.0)
BLEND = 0.4
NUM_SAMPLES = 3


@pytest.fixture(scope="module")
def table():
    """Images less alike than in the cone, so that one network gives different answers to them."""
    table, rng = make_table(SIZES), np.random.default_rng(7)
    images = 1 + rng.normal(size=table.image_features.shape)
    return table.replace(image_features=images.astype(np.float32))


@pytest.fixture(scope="module")
def latents():
    shape = (len(SIZES), NUM_SAMPLES, LATENT)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def _compile(task_fn, table, max_shapes=2):
    return scoring.compile_pass(task_fn, table, max_shapes=max_shapes, max_examples=60)


def _right(logits, task):
    return float((logits.argmax(axis=1) == task.query.label[0]).sum())


def _logits(weights, task, blend=1.0, answers=None):
    answers = task.answers[0] if answers is None else answers
    base = numpy_cosines(task.query.features[0], answers)
    return base + blend * (numpy_logits(weights, task.query.features[0], answers) - base)


def _clip(params, task, latents):
    return _right(numpy_cosines(task.query.features[0], task.answers[0]), task)


def _mean_over_samples(params, task, latents, blend=1.0):
    weights = generate(params["generator"], latents)
    return np.mean([_right(_logits(w, task, blend), task) for w in weights])


def _blended(params, task, latents):
    return _mean_over_samples(params, task, latents, BLEND)


def _ensemble(params, task, latents):
    weights = generate(params["generator"], latents)
    return _right(np.mean([_logits(w, task) for w in weights], axis=0), task)


def _shuffled(params, task, latents):
    """Each answer is read as the one after it, the last as the first."""
    answers = np.concatenate([task.answers[0][1:], task.answers[0][:1]])
    weights = generate(params["generator"], latents)
    return np.mean([_right(_logits(w, task, answers=answers), task) for w in weights])


@jax.jit
def _adapted(params, task):
    return generate(params["generator"], adapt_task(HNET, params, task, LOOP))


def _few_shot(params, task, latents):
    alone = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), task)
    return _right(_logits(_adapted(params, alone), task), task)


def _from_question(params, task, latents):
    return _right(_logits(generate(params, task.question.pooled[0]), task), task)


LATENT_METHOD = scoring.latent_method(NETWORK, generate)
METHODS = {
    "clip": (scoring.clip_method, _clip),
    "latent": (LATENT_METHOD, _mean_over_samples),
    "blended": (scoring.latent_method(make_adapter(DIM, ADAPTER_DIM, BLEND), generate), _blended),
    "ensemble": (scoring.ensemble(LATENT_METHOD), _ensemble),
    "shuffled": (scoring.with_answers_shuffled(LATENT_METHOD), _shuffled),
    "few-shot": (scoring.adapted_method(HNET, LOOP), _few_shot),
    "from the question": (scoring.adapted_method(FIXED, STILL), _from_question),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_pass_equals_a_loop_over_unpadded_tasks(name, table, latents):
    method, by_hand = METHODS[name]
    params = init_params(0)
    if name == "from the question":
        params = init_params(0, DIM)["generator"]
    run = _compile(scoring.scores_of(method), table)
    scores = run(parallel.replicate(params), latents)
    assert isinstance(scores, Scores)
    right, total = scores.correct, scores.count
    expected = [by_hand(params, task_alone(table, i), latents[i]) for i in range(len(SIZES))]
    np.testing.assert_allclose(right, expected, rtol=1e-6)
    np.testing.assert_array_equal(total, [query for _, query, _ in SIZES])
    assert 0 < sum(right) < sum(total)


def test_the_ways_to_join_samples_and_answers_differ(table, latents):
    """So that the test above can tell them apart."""
    params = init_params(0)
    tasks = [task_alone(table, i) for i in range(len(SIZES))]
    ways = (_mean_over_samples, _blended, _ensemble, _shuffled)
    sums = {
        way: sum(way(params, t, e) for t, e in zip(tasks, latents, strict=True)) for way in ways
    }
    assert len({round(value, 3) for value in sums.values()}) == len(ways)


def _echo(params, tasks, extra):
    sizes = tasks.support.mask.sum(axis=1)
    return {"extra": extra["a"] * params["w"], "question": tasks.question.pooled, "support": sizes}


@pytest.mark.parametrize("max_shapes", [1, 3, 20])
def test_extra_and_output_are_in_the_order_of_the_table(table, max_shapes):
    extra = {"a": np.arange(len(SIZES), dtype=np.float32)}
    run = _compile(_echo, table, max_shapes)
    out = run(parallel.replicate({"w": jnp.float32(2)}), extra)
    np.testing.assert_array_equal(out["extra"], 2 * extra["a"])
    np.testing.assert_array_equal(out["question"], table.questions.pooled)
    np.testing.assert_array_equal(out["support"], [support for support, _, _ in SIZES])


@pytest.mark.parametrize("rows", [[0], [1, 4], [0, 2, 3, 6], list(range(7))], ids=str)
def test_a_pass_over_some_tasks_is_that_part_of_the_whole(table, rows):
    """The extra and the output are of these tasks alone, in their order."""
    run, params = _compile(_echo, table), parallel.replicate({"w": jnp.float32(1)})
    extra = {"a": np.arange(len(rows), dtype=np.float32)}
    out = run(params, extra, np.array(rows))
    np.testing.assert_array_equal(out["extra"], extra["a"])
    np.testing.assert_array_equal(out["question"], table.questions.pooled[rows])
    np.testing.assert_array_equal(out["support"], [SIZES[row][0] for row in rows])


@pytest.mark.parametrize("rows", [[], [5], [3, 8, 9], [0, 1, 2, 3, 5, 7, 8, 9]], ids=str)
def test_some_tasks_of_batches_fill_as_few_batches_of_the_same_size(rows):
    ids = np.array([[9, 3, 7], [1, 5, 8], [2, 0, 0]], np.int32)
    mask = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0]], bool)
    batches = Batches(np.full(3, 4, np.int32), ids, mask, 100 + ids)
    some = scoring.only(batches, np.array(rows, int))
    num_batches = -(-len(rows) // 3)
    assert some.ids.shape == some.mask.shape == some.window.shape == (num_batches, 3)
    assert sorted(some.ids[some.mask]) == rows
    np.testing.assert_array_equal(some.window[some.mask], 100 + some.ids[some.mask])
    assert set(some.ids.ravel()) <= set(rows)  # fillers too have a row in the extra
    np.testing.assert_array_equal(some.shape, np.full(num_batches, 4))
    assert some.ids.dtype == ids.dtype and some.mask.dtype == bool


def _extra(rate=1.0, shots=100, start=None, seed=0):
    keys = jax.random.key_data(jax.random.split(jax.random.key(seed), len(SIZES)))
    return {
        "learning_rate": np.full(len(SIZES), rate, np.float32),
        "shots": np.full(len(SIZES), shots, np.int32),
        "key": np.asarray(keys),
        "start": start,
    }


@pytest.fixture(scope="module")
def curves(table):
    """(extra, most) -> scores along two steps, compiled for `most` shots at most, or for all.

    The learner is MNet, whose answers a step changes most; the learning rate of the loop gives way
    to that of the extra.
    """
    loop, params = InnerLoop(2, np.nan), parallel.replicate(ADAPTER)
    compiled = {
        most: _compile(
            scoring.adaptation_curve(BLENDED, loop, steps=(0, 1, 2), max_shots=most), table, 1
        )
        for most in (None, 2)
    }
    return lambda extra, most=None: compiled[most](params, extra)


def test_column_s_of_a_curve_is_the_method_adapted_for_s_steps(table, curves):
    right, total = curves(_extra())
    assert right.shape == (len(SIZES), 3) and total.shape == (len(SIZES), 1)
    np.testing.assert_array_equal(total[:, 0], [query for _, query, _ in SIZES])
    for steps in range(3):
        method = scoring.adapted_method(BLENDED, InnerLoop(steps, 1.0))
        run = _compile(scoring.scores_of(method), table, 1)
        expected = run(parallel.replicate(ADAPTER), None)
        np.testing.assert_array_equal(right[:, steps], expected.correct)
    assert len(set(right.sum(axis=0))) == 3


def test_a_curve_may_start_from_points_of_each_task(table, curves):
    start = np.random.default_rng(4).normal(size=(len(SIZES), SIZE)).astype(np.float32)
    right, _ = curves(_extra(start=start))

    @jax.jit
    def adapted(task, start):
        return adapt_task(BLENDED, ADAPTER, task, InnerLoop(2, 1.0), start=start)

    for number in range(len(SIZES)):
        task, ends = task_alone(table, number), [start[number]]
        ends.append(adapted(one_task(table, number), start[number]))
        expected = [_right(_logits(weights, task, 0.9), task) for weights in ends]
        np.testing.assert_array_equal(right[number, [0, 2]], expected)


def test_a_curve_of_few_shots_adapts_on_these_alone(curves):
    """Cut narrow or not; without a shot nothing moves; another key draws others."""
    start, end = curves(_extra())[0].T[[0, -1]]
    none = curves(_extra(shots=0))[0]
    np.testing.assert_array_equal(none, np.repeat(start[:, None], 3, axis=1))
    ends = {}
    for shots in (1, 2):
        wide, narrow = (curves(_extra(shots=shots), most)[0] for most in (None, 2))
        np.testing.assert_array_equal(wide, narrow)
        ends[shots] = wide[:, -1]
    assert all(np.any(one != end) and np.any(one != start) for one in ends.values())
    assert np.any(ends[1] != ends[2])
    assert np.any(curves(_extra(shots=1, seed=1))[0][:, -1] != ends[1])
