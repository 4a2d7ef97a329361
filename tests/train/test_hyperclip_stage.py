"""The HyperCLIP stage. As a script: writes what a few steps end with to a file."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from adapters import num_weights
from devices import run_on_eight_devices
from toy_stages import DIM, NUM_TASKS, tiny_table
from toy_stages import tiny_config as tiny_settings

from hyper_meta.core import parallel
from hyper_meta.core.losses import info_nce
from hyper_meta.core.settings import changed
from hyper_meta.core.types import UserError
from hyper_meta.diffusion.classifier_guidance import fold_embed, guide
from hyper_meta.models.generator import GENERATOR, Generator
from hyper_meta.models.sentences import take
from hyper_meta.train.loop import run_stage
from hyper_meta.train.stages.hyperclip import (
    compile_guidance,
    guidance_settings,
    guide_tasks,
    hyperclip_model,
    hyperclip_module,
    hyperclip_stage,
)
from hyper_meta.train.stages.latent_data import LatentData

REPEATS, LATENT, BATCH = 3, 4, 8
MODULE = Generator((8,), num_weights(DIM, 8))


def tiny_config(**guidance):
    settings = {"optimizer": "adam", "steps": (2, 10), "learning_rates": (0.1, 0.3)}
    settings |= {"pull": (0.0, 0.1), "cosine": False, "langevin": 0.0, **guidance}
    values = {"hidden_dims": (16, 16), "batch_size": BATCH, "weight_decay": 0.1}
    values |= {"standardise": True, "num_steps": 200, "chunk_steps": 100, "guidance": settings}
    values = {f"hyperclip.{name}": value for name, value in values.items()}
    return tiny_settings({"batching.num_shapes": 1, **values})


@functools.cache
def latent_data():
    """(latents [T, R, Z], space): the latents are a function of the question, with some noise."""
    rng = np.random.default_rng(0)
    told = tiny_table().questions.pooled[:, None, :LATENT]
    latents = np.float32(np.tanh(told) + 0.05 * rng.normal(size=(NUM_TASKS, REPEATS, LATENT)))
    generator = MODULE.init(jax.random.key(0), latents[0, 0])["params"]
    return latents, {"e0": latents.mean(axis=(0, 1)), "generator": generator}


def make_stage(config):
    data = LatentData(*latent_data(), GENERATOR, tiny_table(), tiny_table(1))
    return hyperclip_stage(config, "hyperclip", data, learning_rate=0.01)


@pytest.fixture(scope="module")
def stage():
    return make_stage(tiny_config())


@pytest.fixture(scope="module")
def trained(stage, tmp_path_factory):
    """(state, history)"""
    folder = tmp_path_factory.mktemp("hyperclip")
    return run_stage(stage, folder, seed=0, checkpoint_every=9, progress=False)


@pytest.fixture(scope="module")
def model(trained):
    """What guidance needs, on the host."""
    state = jax.tree.map(jnp.asarray, (trained[0].params, trained[0].statistics))
    return hyperclip_model(*state, latent_data()[1])


@pytest.fixture(scope="module")
def guide_fn():
    return compile_guidance(tiny_config(), GENERATOR, DIM)


def test_training_lowers_the_loss_below_chance_and_scores_every_setting(trained):
    state, (first, last) = trained
    # Guessing among the tasks of a batch costs log B.
    assert last["loss"] < 0.5 * np.log(BATCH) and last["loss"] < first["loss"]
    assert 1 < last["logit_scale"] <= 100 and state.step == 200
    names = [
        f"validation_rate {rate}, pull {pull}, {steps} steps"
        for rate in ("0.1", "0.3")
        for pull in ("0", "0.1")
        for steps in (2, 10)
    ]
    for row in (first, last):
        assert {name for name in row if name.startswith("validation_rate")} == set(names)
        assert row["validation_score"] == max(row[name] for name in names)


def test_statistics_are_of_the_weights_and_questions_of_training(trained):
    statistics, questions = trained[0].statistics, tiny_table().questions.pooled
    latents, space = latent_data()
    weights = MODULE.apply({"params": space["generator"]}, latents.reshape(-1, LATENT))
    for values, mean, std in (
        (weights, statistics.weight_mean, statistics.weight_std),
        (questions, statistics.questions.mean, statistics.questions.std),
    ):
        np.testing.assert_allclose(mean, np.float64(values).mean(axis=0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(std, np.float64(values).std(axis=0), rtol=1e-3)


def test_without_standardising_weights_enter_as_they_are():
    config = changed(tiny_config(), {"hyperclip.standardise": False})
    statistics = make_stage(config).init(jax.random.key(0)).statistics
    np.testing.assert_array_equal(statistics.weight_mean, np.zeros(MODULE.num_weights))
    np.testing.assert_array_equal(statistics.weight_std, np.ones(MODULE.num_weights))
    np.testing.assert_allclose(
        statistics.questions.mean, tiny_table().questions.pooled.mean(axis=0), atol=1e-6
    )


def test_a_batch_has_different_tasks_and_depends_on_the_step_alone(stage):
    whole = stage.schedule(0, 60)
    for start, stop in ((0, 4), (4, 5), (5, 60)):
        expected = jax.tree.map(lambda leaf: leaf[start:stop], whole)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, stage.schedule(start, stop), expected)
    task, repeat, row = whole[1]
    assert task.shape == repeat.shape == row.shape == (60, BATCH)
    assert all(len(set(tasks)) == BATCH for tasks in task)
    assert set(task.ravel()) == set(range(NUM_TASKS)) and set(repeat.ravel()) == set(range(REPEATS))
    np.testing.assert_array_equal(row, np.tile(np.arange(BATCH), (60, 1)))


def one_step():
    """The loss, and the parameters after one step of SGD at rate 1, on however many devices."""
    stage = make_stage(tiny_config())
    state = stage.init(jax.random.key(0))
    tx = optax.sgd(1.0)
    state = parallel.replicate(state.replace(tx=tx, opt_state=tx.init(state.params)))
    run = parallel.compile_chunk(stage.step)
    xs = stage.schedule(0, 1)
    state, metrics = run(state, parallel.replicate(stage.data), xs, jax.random.key(1))
    total, count = parallel.first(metrics)["loss"]
    leaves = jax.tree_util.tree_leaves_with_path(parallel.first(state.params))
    after = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return after | {"loss": total / count, "count": count}


def expected_step(stage):
    """The same of the contrastive loss of the whole batch at once."""
    latents, space = latent_data()
    state, questions = stage.init(jax.random.key(0)), tiny_table().questions.pooled
    task, repeat, _ = (leaf[0] for leaf in stage.schedule(0, 1)[1])
    everyone = MODULE.apply({"params": space["generator"]}, latents)
    weights = everyone[task, repeat] - everyone.mean(axis=(0, 1))
    weights /= everyone.std(axis=(0, 1))
    texts = (questions[task] - questions.mean(axis=0)) / questions.std(axis=0)
    module = hyperclip_module(tiny_config(), DIM)

    def loss_fn(params):
        embedded = module.apply({"params": params}, weights)
        return info_nce(embedded, texts, jnp.exp(params["log_scale"]))

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(state.params)
    after = jax.tree.map(lambda x, g: x - g, state.params, grads)
    leaves = jax.tree_util.tree_leaves_with_path(after)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves} | {"loss": loss}


def test_a_step_follows_the_loss_of_the_whole_batch_on_any_number_of_devices(stage, tmp_path):
    run_on_eight_devices(__file__, tmp_path / "eight.npz")
    with np.load(tmp_path / "eight.npz") as file:
        eight = dict(file)
    assert eight["num_devices"] == 8
    expected, start = expected_step(stage), stage.init(jax.random.key(0)).params
    for result in (one_step(), eight):
        assert result["count"] == BATCH
        for name, leaf in expected.items():
            np.testing.assert_allclose(result[name], leaf, rtol=1e-3, atol=1e-4, err_msg=name)
    moved = np.abs(expected["['layers_0']['kernel']"] - start["layers_0"]["kernel"])
    assert moved.max() > 0.01
    np.testing.assert_allclose(
        eight["guided"], guided_tasks(), rtol=1e-3, atol=1e-3, err_msg="guided"
    )


def guided_tasks():
    """Latents guided with noise by an untrained encoder, on however many devices."""
    config, space = tiny_config(langevin=0.01, cosine=True), latent_data()[1]
    state = make_stage(config).init(jax.random.key(0))
    model = parallel.replicate(hyperclip_model(state.params, state.statistics, space))
    guide_fn = compile_guidance(config, GENERATOR, DIM)
    return guide_fn(model, tiny_table(2).questions, 0.1, 0.0, 7)


def test_each_question_is_guided_by_itself_from_e0(model, guide_fn):
    questions = tiny_table(2).questions
    replicated = parallel.replicate(model)
    everyone = guide_fn(replicated, questions, 0.1, 0.2, 0)
    assert everyone.shape == (NUM_TASKS, 2, LATENT) and everyone.dtype == np.float32
    few = guide_fn(replicated, take(questions, [4, 0]), 0.1, 0.2, 0)
    np.testing.assert_allclose(few, everyone[[4, 0]], rtol=1e-4, atol=1e-4)
    statistics = model["statistics"]
    standardised = (questions.pooled - statistics.questions.mean) / statistics.questions.std
    alone = guide(
        fold_embed(GENERATOR, hyperclip_module(tiny_config(), DIM), model),
        model["e0"],
        question=standardised[4],
        rate=jnp.float32(0.1),
        pull=jnp.float32(0.2),
        key=jax.random.key(0),
        settings=guidance_settings(tiny_config()),
    )
    np.testing.assert_allclose(everyone[4], alone, rtol=1e-4, atol=1e-4)


def test_guidance_raises_the_cosine_with_the_question(model, guide_fn):
    questions = tiny_table().questions
    embed = fold_embed(GENERATOR, hyperclip_module(tiny_config(), DIM), model)
    statistics = model["statistics"]
    told = (questions.pooled - statistics.questions.mean) / statistics.questions.std

    def cosine(latents):
        embedded = np.asarray(embed(latents))
        length = np.linalg.norm(embedded, axis=-1) * np.linalg.norm(told, axis=-1)
        return (embedded * told).sum(axis=-1) / length

    start = np.broadcast_to(model["e0"], (NUM_TASKS, LATENT))
    named = guide_tasks(tiny_config(), guide_fn, parallel.replicate(model), questions)
    early, late = named[0.1, 0.0, 2], named[0.1, 0.0, 10]
    assert (cosine(late) > cosine(early)).mean() > 0.8
    assert cosine(early).mean() > cosine(start).mean() + 0.05
    held = named[0.1, 0.1, 10]
    assert np.square(held - start).sum() < np.square(late - start).sum()


def test_a_batch_of_more_than_all_tasks_is_refused():
    config = changed(tiny_config(), {"hyperclip.batch_size": NUM_TASKS + 1})
    with pytest.raises(UserError, match="batch_size 12 is more than the 11 training tasks"):
        make_stage(config)


if __name__ == "__main__":
    np.savez(sys.argv[1], num_devices=jax.local_device_count(), guided=guided_tasks(), **one_step())
