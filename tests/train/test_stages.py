"""The stages that learn from tasks. As a script: writes what one of them ends with to a file."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import hyper_meta
from hyper_meta import parallel
from hyper_meta.configuration import execute_file
from hyper_meta.data.tasks import TaskTable
from hyper_meta.meta.inner_loop import adapt_latent
from hyper_meta.train import stages
from hyper_meta.train.loop import run_stage
from hyper_meta.train.stages import (
    adapt_all_tasks,
    conditional_generate_fn,
    conditional_module,
    conditional_stage,
    generate_fn,
    generator_module,
    generator_stage,
)
from hyper_meta.types import Examples, UserError

REPOSITORY = Path(hyper_meta.__file__).parents[1]
DIM, NUM_TASKS = 6, 11


@pytest.fixture(scope="module", autouse=True)
def compile_in_a_hurry():
    """Most programs of these tests run once: compiling them well would be most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def tiny_config():
    """The full run's config at the size of `tiny_table`."""
    config = execute_file(REPOSITORY / "configs" / "digits_vqa.py")
    config.adapter.hidden_dim = 8
    config.batching.update(num_shapes=2, max_support=6, max_query=5, max_examples=40)
    shared = {"hidden_dims": (8,), "learning_rate": 0.02, "batch_size": 8}
    shared |= {"num_steps": 30, "chunk_steps": 15}
    config.generator.update(latent_dim=4, inner_steps=2, inner_learning_rate=0.02, **shared)
    config.conditional.update(shared)
    config.latents.update(repeats=3, num_steps=4, learning_rate=0.05, pull=0.1)
    config.hyperldm.update(hidden_dim=32, num_blocks=1, diffusion_steps=20, sampling_steps=4)
    config.hyperldm.update(batch_size=32, num_steps=400, chunk_steps=200, num_samples=2)
    config.hyperldm.learning_rate = 0.01
    config.evaluate.guidance_scales = (0.0, 1.0)
    return config


def tiny_table(seed=0) -> TaskTable:
    """Tasks that an adapter can learn: an image is its answer, turned the same way in all tasks."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, DIM)))[0]
    support, query, answers = rng.integers([[3], [2], [2]], [[9], [7], [5]], (3, NUM_TASKS))
    answer_offset, item_offset = (np.cumsum(n) - n for n in (answers, support + query))
    answer_features = rng.normal(size=(answers.sum(), DIM))
    task_of_item = np.repeat(np.arange(NUM_TASKS), support + query)
    label = rng.integers(answers[task_of_item])
    noise = 0.3 * rng.normal(size=(len(label), DIM))
    images = answer_features[answer_offset[task_of_item] + label] @ turn + noise
    return TaskTable(
        image_features=images.astype(np.float32),
        question_features=rng.normal(size=(NUM_TASKS, DIM)).astype(np.float32),
        answer_features=answer_features.astype(np.float32),
        item_image=np.arange(len(label), dtype=np.int32),
        item_label=label.astype(np.int32),
        item_offset=item_offset.astype(np.int32),
        support_size=support.astype(np.int32),
        query_size=query.astype(np.int32),
        answer_offset=answer_offset.astype(np.int32),
        answer_count=answers.astype(np.int32),
    )


def _stage(name, objective="maml", num_shapes=1):
    config = tiny_config()
    config.generator.objective = objective
    config.batching.num_shapes = num_shapes
    build = {"generator": generator_stage, "conditional": conditional_stage}[name]
    return build(config, tiny_table(), tiny_table(1))


@pytest.mark.parametrize(
    "name, objective",
    [
        ("generator", "multitask"),
        ("generator", "fomaml"),
        ("generator", "maml"),
        ("conditional", "maml"),
    ],
)
def test_training_lowers_the_loss_and_raises_the_accuracy(name, objective, tmp_path):
    stage = _stage(name, objective)
    state, history = run_stage(stage, tmp_path, seed=0, checkpoint_every=9, progress=False)
    first, last = history
    assert last["loss"] < 0.7 * first["loss"]
    assert last["accuracy"] > first["accuracy"]
    assert state.step == 30 and state.ema_params is None
    scores = [row["validation_score"] for row in history]
    assert all(0 <= score <= 1 for score in scores) and state.best_score == np.float32(max(scores))


@pytest.mark.parametrize(
    "objective, num_steps, first_order",
    [("multitask", 0, False), ("fomaml", 2, True), ("maml", 2, False)],
)
def test_names_of_objectives(objective, num_steps, first_order, monkeypatch):
    chosen = {}
    monkeypatch.setattr(stages, "hypernet_objective", lambda _, **options: chosen.update(options))
    _stage("generator", objective)
    expected = {"num_steps": num_steps, "first_order": first_order, "learning_rate": 0.02}
    assert chosen == expected


def test_an_unknown_objective_is_refused_with_the_known_names():
    with pytest.raises(UserError, match=r"'reptile' given.*'fomaml', 'maml', 'multitask'"):
        _stage("generator", "reptile")


def test_the_schedule_depends_on_the_step_alone():
    schedule = _stage("conditional", num_shapes=3).schedule
    whole = schedule(0, 7)
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        expected = jax.tree.map(lambda leaf: leaf[start:stop], whole)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, schedule(start, stop), expected)


def test_the_conditional_hypernetwork_sees_standardised_questions():
    config, questions = tiny_config(), tiny_table().question_features
    module = conditional_module(config, DIM)
    params = module.init(jax.random.key(0), questions)["params"]
    standardised = (questions - questions.mean(axis=0)) / questions.std(axis=0)
    weights = conditional_generate_fn(module, questions)(params, questions)
    expected = module.apply({"params": params}, standardised)
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-4)


def test_the_latent_data_set_is_every_task_adapted_on_all_its_examples():
    """Support and query set, whole however large."""
    config, table = tiny_config(), tiny_table()
    config.batching.num_shapes = 1
    generate = generate_fn(generator_module(config, DIM))
    params = _stage("generator").init(jax.random.key(0)).params
    config.latents.smallest_share = 1.0
    latents = adapt_all_tasks(config, params, table)
    assert latents.shape == (NUM_TASKS, 3, 4)
    adapt = functools.partial(
        adapt_latent,
        functools.partial(generate, params["generator"]),
        params["e0"],
        num_steps=4,
        learning_rate=0.05,
        pull=0.1,
    )
    task = int(np.argmax(table.support_size))
    start, size = table.item_offset[task], table.support_size[task] + table.query_size[task]
    assert table.support_size[task] > config.batching.max_support
    items = slice(start, start + size)
    examples = Examples(table.image_features[items], table.item_label[items], np.ones(size, bool))
    start, size = table.answer_offset[task], table.answer_count[task]
    answers = table.answer_features[start : start + size]
    alone = jax.jit(adapt)(examples, answers, np.ones(size, bool))
    np.testing.assert_allclose(latents[task], np.tile(alone, (3, 1)), rtol=1e-3, atol=1e-4)


def end_of_training():
    """Parameters, metrics and validation score after four steps, on however many devices."""
    stage = _stage("generator", "fomaml", num_shapes=2)
    state = parallel.replicate(stage.init(jax.random.key(0)))
    run = parallel.compile_chunk(stage.step)
    xs = stage.schedule(0, 4)
    state, metrics = run(state, parallel.replicate(stage.data), xs, jax.random.key(1))
    score, _ = stage.validate(state)
    end = {"params": parallel.first(state.params), "metrics": parallel.first(metrics)}
    leaves = jax.tree_util.tree_leaves_with_path(end | {"score": np.float32(score)})
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def run_on_eight_devices(script, *arguments):
    """Runs a test file as a script that sees eight devices, and compiles in a hurry."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_eight_devices_train_like_one(tmp_path):
    run_on_eight_devices(__file__, tmp_path / "eight.npz")
    one = end_of_training()
    with np.load(tmp_path / "eight.npz") as eight:
        assert eight["num_devices"] == 8
        for name, leaf in one.items():
            np.testing.assert_allclose(eight[name], leaf, rtol=1e-3, atol=1e-4, err_msg=name)


if __name__ == "__main__":
    np.savez(sys.argv[1], num_devices=jax.local_device_count(), **end_of_training())
