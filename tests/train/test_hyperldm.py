import jax
import numpy as np
import pytest
from test_stages import (
    DIM,
    NUM_TASKS,
    compile_in_a_hurry,  # noqa: F401
    tiny_config,
    tiny_table,
)

from hyper_meta import parallel
from hyper_meta.diffusion.hyperldm import standardise_latents, standardise_questions
from hyper_meta.train.hyperldm import (
    compile_sampler,
    denoiser_module,
    hyperldm_stage,
    sample_tasks,
    validation_scales,
)
from hyper_meta.train.loop import run_stage
from hyper_meta.train.stages import generator_module

REPEATS, LATENT = 3, 4


@pytest.fixture(scope="module")
def latents():
    """[T, R, Z]: a function of the question, far from standardised."""
    rng = np.random.default_rng(0)
    told = tiny_table().question_features[:, None, :LATENT]
    noise = 0.05 * rng.normal(size=(NUM_TASKS, REPEATS, LATENT))
    return np.float32(np.tanh(told) * [3, 0.2, 1, 5] + noise + 7)


@pytest.fixture(scope="module")
def stage(latents):
    config, table = tiny_config(), tiny_table()
    config.batching.num_shapes = 1
    generator = generator_module(config, DIM).init(jax.random.key(0), latents[0, 0])["params"]
    params = {"e0": latents[0, 0], "generator": generator}
    return hyperldm_stage(config, latents, table, tiny_table(1), params)


@pytest.fixture(scope="module")
def trained(stage, tmp_path_factory):
    """(state, history) of a tiny run."""
    folder = tmp_path_factory.mktemp("hyperldm")
    return run_stage(stage, folder, seed=0, checkpoint_every=9, progress=False)


@pytest.fixture(scope="module")
def ldm(trained):
    """The trained model, replicated. Its outputs depend on question, scale and key."""
    state, _ = trained
    return parallel.replicate({"params": state.params, "statistics": state.statistics})


@pytest.fixture(scope="module")
def sampler():
    return compile_sampler(tiny_config())


@pytest.fixture
def rows():
    """Questions [n, D], scales [n] and keys [n, 2] of different rows."""
    keys = jax.random.key_data(jax.random.split(jax.random.key(5), NUM_TASKS))
    scales = np.linspace(0, 4, NUM_TASKS, dtype=np.float32)
    return tiny_table(2).question_features, scales, np.asarray(keys)


def test_statistics_are_of_the_training_tasks_and_saved_in_the_state(latents, trained):
    statistics, questions = trained[0].statistics, tiny_table().question_features
    flat = latents.reshape(-1, LATENT)
    expected = {
        "latent_mean": flat.mean(axis=0),
        "latent_std": flat.std(axis=0),
        "question_mean": questions.mean(axis=0),
        "question_std": questions.std(axis=0),
        "clip": np.abs((flat - flat.mean(axis=0)) / flat.std(axis=0)).max(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(statistics, name), value, rtol=1e-4, atol=1e-5)
    for values in (
        standardise_latents(statistics, flat),
        standardise_questions(statistics, questions),
    ):
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(values.std(axis=0), 1, rtol=1e-3)


def test_training_lowers_the_denoising_loss_and_scores_every_scale(trained):
    state, history = trained
    losses = [row["loss"] for row in history]
    # An untrained denoiser, which outputs zero, has a loss of 1: the variance of its target.
    assert losses[-1] < 0.9 * losses[0] and losses[0] < 1.1
    assert state.step == 400 and state.ema_params is not None
    for row in history:
        scales = [row["validation_scale_0"], row["validation_scale_1"]]
        assert row["validation_score"] == max(scales) and 0 <= min(scales)


def test_the_schedule_depends_on_the_step_alone(stage):
    whole = stage.schedule(0, 9)
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        expected = jax.tree.map(lambda leaf: leaf[start:stop], whole)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, stage.schedule(start, stop), expected)
    task, repeat = stage.schedule(0, 60)[1]
    assert set(task.ravel()) == set(range(NUM_TASKS))
    assert set(repeat.ravel()) == set(range(REPEATS))
    assert task.shape == repeat.shape == (60, 32)


def test_samples_are_in_the_units_of_the_latents(sampler, ldm, rows, latents):
    mean, std = latents.mean(axis=(0, 1)), latents.std(axis=(0, 1))
    samples = sampler(ldm, *rows)
    assert (np.abs(samples.mean(axis=0) - mean) < 2 * std).all()
    bound = np.abs((latents - mean) / std).max()
    assert (np.abs((samples - mean) / std) < 1.01 * bound).all()


@pytest.mark.parametrize("chosen", [[4], [4, 0, 9], [9, 4]])
def test_a_row_is_sampled_alike_in_any_company(sampler, ldm, rows, chosen):
    everyone = sampler(ldm, *rows)
    assert everyone.shape == (NUM_TASKS, LATENT) and everyone.dtype == np.float32
    assert len(np.unique(everyone, axis=0)) == NUM_TASKS
    some = sampler(ldm, *(x[chosen] for x in rows))
    np.testing.assert_allclose(some, everyone[chosen], rtol=1e-4, atol=1e-4)


def test_each_row_has_its_own_scale(sampler, ldm, rows):
    questions, scales, keys = rows
    mixed = sampler(ldm, questions, scales, keys)
    for scale in (scales[0], scales[5]):
        uniform = sampler(ldm, questions, np.full_like(scales, scale), keys)
        same = scales == scale
        np.testing.assert_allclose(mixed[same], uniform[same], rtol=1e-4, atol=1e-4)
        assert (np.abs(mixed - uniform).max(axis=1)[~same] > 1e-3).all()


def test_scale_zero_does_not_hear_the_question(sampler, ldm, rows):
    questions, scales, keys = rows
    for scale, hears in ((0, False), (1, True)):
        scales = np.full_like(scales, scale)
        one, other = (sampler(ldm, q, scales, keys) for q in (questions, questions[::-1]))
        changed = np.abs(one - other).max(axis=1) > 1e-3
        # The question in the middle is its own mirror image.
        assert changed.sum() == (NUM_TASKS - 1 if hears else 0)


def test_samples_of_a_task_start_from_the_same_noise_at_every_scale(sampler, trained):
    """An untrained denoiser outputs zero whatever it is asked, which leaves the noise alone."""
    config, questions = tiny_config(), tiny_table(2).question_features
    zero = jax.tree.map(np.zeros_like, trained[0].params)
    ldm = parallel.replicate({"params": zero, "statistics": trained[0].statistics})
    assert denoiser_module(config).latent_dim == LATENT
    low, high, other = (
        sample_tasks(sampler, ldm, questions, scale=scale, num_samples=5, seed=seed)
        for scale, seed in ((0.0, 1), (4.0, 1), (0.0, 2))
    )
    assert low.shape == (NUM_TASKS, 5, LATENT)
    np.testing.assert_allclose(low, high, rtol=1e-5)
    assert len(np.unique(low.reshape(-1, LATENT), axis=0)) == NUM_TASKS * 5
    assert not np.any(np.isclose(low, other).all(axis=-1))


def test_a_scale_that_is_set_is_the_only_one_to_choose_from():
    config = tiny_config()
    assert validation_scales(config) == (0.0, 1.0)
    config.hyperldm.guidance_scale = 2.5
    assert validation_scales(config) == (2.5,)
