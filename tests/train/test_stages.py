"""The stages that learn from tasks. As a script: writes what some of them end with to a file."""

import dataclasses
import functools
import sys

import jax
import numpy as np
import pytest
from adapters import make_adapter, num_weights
from devices import ends_on_eight_devices
from toy_stages import DIM, NUM_TASKS, tiny_config, tiny_table, whole_task

from hyper_meta.core import parallel
from hyper_meta.core.settings import changed
from hyper_meta.meta.inner_loop import InnerLoop, adapt_task
from hyper_meta.meta.learners import latent_learner, weights_learner
from hyper_meta.models.generator import GENERATOR, Generator, generate_weights
from hyper_meta.models.sentences import measure_sentences, take
from hyper_meta.networks.film import film_weights
from hyper_meta.train.loop import run_stage
from hyper_meta.train.stages import meta_learning as stages
from hyper_meta.train.stages.parts import stage_network
from hyper_meta.train.stages.passes import compile_adaptation


def _stage(network, objective="maml", *, num_layouts=1, config=None):
    config = changed(config or tiny_config(), {"batching.num_layouts": num_layouts})
    return stages.learner_stage(
        network,
        config,
        tiny_table(),
        tiny_table(1),
        name=network,
        objective="multitask" if network == "film" else objective,
        learning_rate=0.02,
    )


@pytest.mark.parametrize(
    "network, objective",
    [
        ("hnet", "multitask"),
        ("hnet", "fomaml"),
        ("hnet", "maml"),
        ("mnet", "multitask"),
        ("mnet", "maml"),
        ("conditional", "multitask"),
        ("conditional", "maml"),
        ("film", "multitask"),
    ],
)
def test_training_lowers_the_loss_and_raises_the_accuracy(network, objective, tmp_path):
    stage = _stage(network, objective)
    state, history = run_stage(stage, tmp_path, seed=0, checkpoint_every=9, progress=False)
    first, last = history
    assert last["loss"] < 0.8 * first["loss"]
    assert last["accuracy"] > first["accuracy"]
    assert state.step == 30 and state.ema_params is None
    scores = [row["validation_score"] for row in history]
    assert all(0 <= score <= 1 for score in scores) and state.best_score == np.float32(max(scores))


@pytest.mark.parametrize("network", ["hnet", "mnet", "conditional"])
@pytest.mark.parametrize(
    "objective, num_steps, first_order",
    [("multitask", 0, False), ("fomaml", 2, True), ("maml", 2, False)],
)
def test_objectives_and_settings_become_an_inner_loop(
    network, objective, num_steps, first_order, monkeypatch
):
    """In training and in validation alike, with the blend of the adapter."""
    used = []
    for module, name in ((stages, "meta_objective"), (stages.scoring, "adapted_method")):
        monkeypatch.setattr(module, name, lambda *args: used.append(args))
    config = tiny_config({"network.blend": 0.3, f"{network}.inner_learning_rate": 0.7})
    _stage(network, objective, config=config)
    rate = 0.7 if num_steps else 0.0
    assert [loop for _, loop in used] == 2 * [InnerLoop(num_steps, rate, first_order)]
    assert [learner.network.blend for learner, _ in used] == [0.3, 0.3]


def test_blend_zero_is_clip_and_teaches_nothing(tmp_path):
    """Whatever the adapter, the logits are CLIP's: no gradient, and the accuracy is CLIP's."""
    config = tiny_config({"network.blend": 0, "hnet.num_steps": 2, "hnet.chunk_steps": 2})
    stage = _stage("hnet", "multitask", config=config)
    state, (row,) = run_stage(stage, tmp_path, seed=0, checkpoint_every=1, progress=False)
    start = stage.init(jax.random.split(jax.random.key(0))[0]).params
    jax.tree.map(np.testing.assert_array_equal, state.params, start)
    table, accuracy = tiny_table(1), []
    for number in range(NUM_TASKS):
        task = whole_task(table, number)
        cosine = np.asarray(task.query.features) @ np.asarray(task.answers).T
        cosine /= np.linalg.norm(task.answers, axis=1)
        accuracy.append((cosine.argmax(axis=1) == task.query.label).mean())
    np.testing.assert_allclose(row["validation_score"], np.mean(accuracy), rtol=1e-5)


def test_the_schedule_depends_on_the_step_alone():
    schedule = _stage("conditional", num_layouts=3).schedule
    whole = schedule(0, 7)
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        expected = jax.tree.map(lambda leaf: leaf[start:stop], whole)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, schedule(start, stop), expected)


@pytest.fixture(params=[True, False], ids=["standardised", "as they are"])
def seen(request):
    """(config, questions [T, D] at mean 0 and deviation 1, or as they are)."""
    names = ("conditional.standardise", "film.standardise")
    config = tiny_config(dict.fromkeys(names, request.param))
    questions = tiny_table().questions.pooled
    if request.param:
        questions = (questions - questions.mean(axis=0)) / questions.std(axis=0)
    return config, questions


def test_the_conditional_hypernetwork_sees_the_questions(seen):
    (config, questions), table = seen, tiny_table()
    module = Generator(config.conditional.hidden_dims, num_weights(DIM, config.network.hidden_dim))
    measured = measure_sentences(table.questions)
    learner = stages.conditional_learner(config, stage_network(config, table), measured)
    params = module.init(jax.random.key(0), questions)["params"]
    expected = module.apply({"params": params}, questions)
    for row, weights in enumerate(expected[:3]):
        question = take(table.questions, row)
        point = learner.start(params, question, 0)
        ours = learner.weights(params, question, point)
        np.testing.assert_allclose(ours, weights, rtol=1e-4, atol=1e-4)


def test_film_sees_the_questions(seen):
    (config, questions), table = seen, tiny_table()
    module, measured = stages.film_module("film", config), measure_sentences(table.questions)
    learner = stages.film_learner("film", config, stage_network(config, table), measured)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), questions)["params"]
    params = {
        "film": jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes),
        "adapter": rng.normal(size=num_weights(DIM, 8)).astype(np.float32),
    }
    scale, shift = module.apply({"params": params["film"]}, questions[2])
    expected = film_weights(params["adapter"], scale, shift, DIM)
    question = take(table.questions, 2)
    weights = learner.weights(params, question, learner.start(params, question, 0))
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-4)


def test_mnet_starts_as_a_unit_normal_adapter():
    params = _stage("mnet").init(jax.random.key(0)).params
    assert params["e0"].shape == (num_weights(DIM, 8),) and params["generator"] == {}
    assert abs(np.std(params["e0"]) - 1) < 0.2


SETTINGS = dataclasses.replace(tiny_config().latents, repeats=3, smallest_share=1.0)


@pytest.mark.parametrize("network", ["hnet", "mnet"])
def test_a_data_set_is_every_task_adapted_on_all_its_examples(network):
    """Support and query set, whole however large; here a share of them all, so repeats agree."""
    config, table = tiny_config({"batching.num_shapes": 1}), tiny_table()
    params, base = _stage(network).init(jax.random.key(0)).params, make_adapter(DIM, 8)
    pulled = latent_learner(base, functools.partial(generate_weights, GENERATOR), pull=0.1)
    learner = {"hnet": pulled, "mnet": weights_learner(base)}[network]
    loop = InnerLoop(4, 0.05)
    adapt = compile_adaptation(config, learner, table, loop, settings=SETTINGS, name="some points")
    points = adapt(params)
    assert points.shape == (NUM_TASKS, 3, len(params["e0"]))
    number = int(np.argmax(table.support_size))
    assert table.support_size[number] > config.batching.max_support
    task = whole_task(table, number)
    both = jax.tree.map(lambda *x: np.concatenate(x), task.support, task.query)
    alone = jax.jit(lambda task: adapt_task(learner, params, task, loop))(
        task.replace(support=both)
    )
    np.testing.assert_allclose(points[number], np.tile(alone, (3, 1)), rtol=1e-3, atol=1e-4)


def test_each_data_set_has_draws_of_its_own():
    config, table = tiny_config({"batching.num_shapes": 1}), tiny_table()
    params = _stage("mnet").init(jax.random.key(0)).params
    settings = dataclasses.replace(SETTINGS, smallest_share=0.4)
    inputs = config, weights_learner(make_adapter(DIM, 8)), table, InnerLoop(4, 0.05)
    one, again, other = (
        compile_adaptation(*inputs, settings=settings, name=name)(params)
        for name in ("one", "one", "other")
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-2
    # Not of every task: a random adapter may answer all of its examples with certainty.
    assert sum(len(np.unique(repeats, axis=0)) == 3 for repeats in one) > NUM_TASKS / 2


def end_of_training(network, generated):
    """Parameters, metrics and validation score after four steps, on however many devices."""
    config = tiny_config({"batching.feature_noise": 0.2, "network.name": generated})
    stage = _stage(network, "fomaml", num_layouts=2, config=config)
    state = parallel.replicate(stage.init(jax.random.key(0)))
    run = parallel.compile_chunk(stage.step)
    xs = stage.schedule(0, 4)
    state, metrics = run(state, parallel.replicate(stage.data), xs, jax.random.key(1))
    score, _ = stage.validate(state)
    end = {"params": parallel.first(state.params), "metrics": parallel.first(metrics)}
    leaves = jax.tree_util.tree_leaves_with_path(end | {"score": np.float32(score)})
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


# Learners, and what they generate.
TRAINED = [
    ("hnet", "adapter"),
    ("hnet", "low_rank"),
    ("hnet", "two_layers"),
    ("conditional", "adapter"),
]


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """What all of TRAINED end with on eight devices."""
    with ends_on_eight_devices(__file__, tmp_path_factory.mktemp("eight")) as ends:
        yield ends


@pytest.mark.parametrize("pair", TRAINED, ids="-".join)
def test_eight_devices_train_like_one(pair, eight):
    for leaf, value in end_of_training(*pair).items():
        found = eight[f"{pair}{leaf}"]
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-4, err_msg=leaf)


if __name__ == "__main__":
    ends = {f"{pair}{leaf}": x for pair in TRAINED for leaf, x in end_of_training(*pair).items()}
    np.savez(sys.argv[1], num_devices=jax.local_device_count(), **ends)
