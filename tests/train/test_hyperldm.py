"""HyperLDM: training, sampling, and every option of both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import make_adapter
from ml_collections import ConfigDict
from toy_features import random_tokens
from toy_stages import DIM, NUM_TASKS, tiny_config, tiny_table, whole_task

from hyper_meta.core import parallel
from hyper_meta.core.configuration import override
from hyper_meta.core.settings import as_dict, read_settings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.latent_sampling import standardise_latents
from hyper_meta.diffusion.noise import SCHEDULES
from hyper_meta.diffusion.objective import Denoising, denoising_loss
from hyper_meta.meta.fisher import fisher_information
from hyper_meta.meta.inner_loop import task_loss
from hyper_meta.models.denoiser import DENOISERS
from hyper_meta.models.generator import GENERATOR, generate_weights
from hyper_meta.models.sentences import standardise_sentences, take
from hyper_meta.train.loop import run_stage
from hyper_meta.train.stages import hyperldm
from hyper_meta.train.stages.hyperldm import (
    compile_sampler,
    denoiser_module,
    guided_by_support,
    hyperldm_stage,
    sample_noise,
    sample_tasks,
    validation_scales,
)
from hyper_meta.train.stages.latent_data import LatentData
from hyper_meta.train.stages.meta_learning import generator_module
from hyper_meta.train.stages.passes import compile_configured_pass

REPEATS, LATENT = 3, 4
E0 = np.float32([1, -2, 0, 3])


@pytest.fixture(scope="module")
def latents():
    """[T, R, Z]: a function of the question, far from standardised."""
    rng = np.random.default_rng(0)
    told = tiny_table().questions.pooled[:, None, :LATENT]
    noise = 0.05 * rng.normal(size=(NUM_TASKS, REPEATS, LATENT))
    return np.float32(np.tanh(told) * [3, 0.2, 1, 5] + noise + 7)


GENERATE = functools.partial(generate_weights, GENERATOR)


@pytest.fixture(scope="module")
def space():
    """A latent space with a random generator."""
    module = generator_module(tiny_config(), make_adapter(DIM, 8))
    return {"e0": E0, "generator": module.init(jax.random.key(0), E0)["params"]}


def changed(*overrides):
    """The tiny config with overrides such as "hyperldm.denoiser=v1", as the command takes them."""
    config = ConfigDict(as_dict(tiny_config({"batching.num_layouts": 1, "batching.num_shapes": 1})))
    for argument in overrides:
        override(config, argument.partition("=")[0], [f"--config.{argument}"])
    return read_settings(config)


def make_stage(config, latents, space):
    data = LatentData(latents, space, GENERATOR, tiny_table(), tiny_table(1))
    return hyperldm_stage(config, "hyperldm", data, learning_rate=0.01)


@pytest.fixture(scope="module")
def stage(latents, space):
    return make_stage(changed(), latents, space)


@pytest.fixture(scope="module")
def trained(stage, tmp_path_factory):
    """(state, history) of a tiny run."""
    folder = tmp_path_factory.mktemp("hyperldm")
    return run_stage(stage, folder, seed=0, checkpoint_every=9, progress=False)


@pytest.fixture(scope="module")
def ldm(trained):
    """The trained model, replicated. Its outputs depend on question, scale and key."""
    state, _ = trained
    return parallel.replicate({"params": state.params, "statistics": state.statistics, "start": E0})


@pytest.fixture(scope="module")
def sampler():
    return compile_sampler(tiny_config())


@pytest.fixture
def rows():
    """Questions [n, D], scales [n] and noise (keys [n, 2], sign [n]) of different rows."""
    keys = jax.random.key_data(jax.random.split(jax.random.key(5), NUM_TASKS))
    scales = np.linspace(0, 4, NUM_TASKS, dtype=np.float32)
    return tiny_table(2).questions, scales, (np.asarray(keys), np.ones_like(scales))


def test_statistics_are_of_the_training_tasks_and_saved_in_the_state(latents, trained):
    statistics, questions = trained[0].statistics, tiny_table().questions
    flat = latents.reshape(-1, LATENT)
    expected = {
        "latent_mean": flat.mean(axis=0),
        "latent_std": flat.std(axis=0),
        "clip": np.abs((flat - flat.mean(axis=0)) / flat.std(axis=0)).max(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(statistics, name), value, rtol=1e-4, atol=1e-5)
    pooled, measured = questions.pooled, statistics.questions
    np.testing.assert_allclose(measured.mean, pooled.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(measured.std, pooled.std(axis=0), rtol=1e-4, atol=1e-5)
    for values in (
        standardise_latents(statistics, flat),
        standardise_sentences(statistics.questions, questions).pooled,
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
        scales = [row["validation_scale_0.5"], row["validation_scale_1"]]
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
    some = sampler(ldm, *jax.tree.map(lambda x: x[chosen], rows))
    np.testing.assert_allclose(some, everyone[chosen], rtol=1e-4, atol=1e-4)


def test_token_states_change_nothing_that_reads_the_pooled_question(sampler, ldm, rows):
    """Whatever is in them, and behind the mask."""
    questions, *others = rows
    expected = sampler(ldm, *rows)
    for seed in (0, 1):
        tokens, mask = random_tokens(seed, NUM_TASKS)
        spoiled = np.where(mask[..., None], tokens, np.float32(1e6))
        ours = sampler(ldm, questions.replace(tokens=spoiled, mask=mask), *others)
        np.testing.assert_array_equal(ours, expected)


def test_each_row_has_its_own_scale(sampler, ldm, rows):
    questions, scales, noise = rows
    mixed = sampler(ldm, questions, scales, noise)
    for scale in (scales[0], scales[5]):
        uniform = sampler(ldm, questions, np.full_like(scales, scale), noise)
        same = scales == scale
        np.testing.assert_allclose(mixed[same], uniform[same], rtol=1e-4, atol=1e-4)
        assert (np.abs(mixed - uniform).max(axis=1)[~same] > 1e-3).all()


def test_scale_zero_does_not_hear_the_question(sampler, ldm, rows):
    questions, scales, noise = rows
    for scale, hears in ((0, False), (1, True)):
        scales = np.full_like(scales, scale)
        one, other = (
            sampler(ldm, q, scales, noise)
            for q in (questions, take(questions, slice(None, None, -1)))
        )
        changed = np.abs(one - other).max(axis=1) > 1e-3
        # The question in the middle is its own mirror image.
        assert changed.sum() == (NUM_TASKS - 1 if hears else 0)


def test_samples_of_a_task_start_from_the_same_noise_at_every_scale(sampler, trained):
    """An untrained denoiser outputs zero whatever it is asked, which leaves the noise alone."""
    config, questions = tiny_config(), tiny_table(2).questions
    zero = jax.tree.map(np.zeros_like, trained[0].params)
    ldm = parallel.replicate({"params": zero, "statistics": trained[0].statistics, "start": E0})
    assert denoiser_module(config, LATENT).latent_dim == LATENT
    low, high, other = (
        sample_tasks(sampler, ldm, questions, scale=scale, num_samples=5, seed=seed)
        for scale, seed in ((0.0, 1), (4.0, 1), (0.0, 2))
    )
    assert low.shape == (NUM_TASKS, 5, LATENT)
    np.testing.assert_allclose(low, high, rtol=1e-5)
    assert len(np.unique(low.reshape(-1, LATENT), axis=0)) == NUM_TASKS * 5
    assert not np.any(np.isclose(low, other).all(axis=-1))


def test_samples_come_in_antithetic_pairs(sampler, trained):
    """An untrained denoiser leaves the noise alone, so a pair's mean is that of the latents."""
    keys, sign = sample_noise(7, NUM_TASKS, 5)
    assert keys.shape == (NUM_TASKS, 5, 2) and sign.shape == (NUM_TASKS, 5)
    np.testing.assert_array_equal(sign, np.tile([1, -1, 1, -1, 1], (NUM_TASKS, 1)))
    np.testing.assert_array_equal(keys[:, :4:2], keys[:, 1:4:2])
    assert len(np.unique(keys[:, ::2].reshape(-1, 2), axis=0)) == 3 * NUM_TASKS

    zero = jax.tree.map(np.zeros_like, trained[0].params)
    statistics = trained[0].statistics
    ldm = parallel.replicate({"params": zero, "statistics": statistics, "start": E0})
    latents = sample_tasks(sampler, ldm, tiny_table(2).questions, scale=1.0, num_samples=5, seed=7)
    pairs = latents[:, :4].reshape(2 * NUM_TASKS, 2, LATENT)
    expected = np.tile(statistics.latent_mean, (2 * NUM_TASKS, 1))
    np.testing.assert_allclose(pairs.mean(axis=1), expected, rtol=1e-4, atol=1e-5)


def test_a_scale_that_is_set_is_the_only_one_to_choose_from():
    assert validation_scales(tiny_config()) == (0.5, 1.0)
    assert validation_scales(tiny_config({"hyperldm.guidance_scale": 2.5})) == (2.5,)


# Options of training: each must be reachable, give a finite loss, and make a difference.


def one_step(config, latents, space):
    """(parameters after a step, its loss) on one device."""
    stage = make_stage(config, latents, space)
    state = parallel.replicate(stage.init(jax.random.key(0)))
    step = parallel.compile_chunk(stage.step)
    data, xs = parallel.replicate(stage.data), stage.schedule(0, 1)
    state, metrics = step(state, data, xs, jax.random.key(1))
    total, count = parallel.first(metrics["loss"])
    return parallel.first(state.params), total / count


@pytest.fixture(scope="module")
def plain_step(latents, space):
    return one_step(changed(), latents, space)


TRAINING = (
    *(f"hyperldm.schedule={name}" for name in SCHEDULES if name != "cosine"),
    *(f"hyperldm.denoiser={name}" for name in DENOISERS if name != "v2"),
    "hyperldm.prediction=eps",
    "hyperldm.fisher_share=0.5",
)


@pytest.mark.parametrize("option", TRAINING)
def test_options_of_training(option, plain_step, latents, space):
    params, loss = one_step(changed(option), latents, space)
    assert np.isfinite(loss) and all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    same = jax.tree.structure(params) == jax.tree.structure(plain_step[0]) and all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(plain_step[0]), strict=True)
    )
    assert not same


def test_all_schedules_and_denoisers_are_among_the_options():
    assert set(SCHEDULES) == {"cosine", "linear", "scaled_linear", "sqrt", "quartic"}
    assert set(DENOISERS) == {"v1", "v2"}


@pytest.mark.parametrize("blend", [1.0, 0.4])
def test_the_fisher_loss_is_that_of_the_metric_at_each_mean_latent(blend, latents, space):
    """d^T M d / Z with M = share Z F_s / tr F_s + (1 - share) I, F of all examples of a task."""
    share = 0.5
    config = changed(f"hyperldm.fisher_share={share}", f"network.blend={blend}")
    stage = make_stage(config, latents, space)
    metric = stage.data[2]
    std = latents.reshape(-1, LATENT).std(axis=0)
    assert metric.shape == (NUM_TASKS, LATENT, LATENT)
    weights_fn = functools.partial(GENERATE, space["generator"])
    information = jax.jit(
        lambda latent, task: fisher_information(
            make_adapter(DIM, 8, blend), weights_fn, latent, task
        )
    )
    for number in range(3):
        task = whole_task(tiny_table(), number)
        both = jax.tree.map(lambda *x: np.concatenate(x), task.support, task.query)
        fisher = information(latents[number].mean(axis=0), task.replace(support=both))
        scaled = np.asarray(fisher) * std[:, None] * std
        expected = share * LATENT * scaled / np.trace(scaled) + (1 - share) * np.eye(LATENT)
        np.testing.assert_allclose(metric[number], expected, rtol=1e-3, atol=1e-4)
    _, loss = one_step(config, latents, space)
    expected = loss_of_the_first_step(config, stage, metric)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def loss_of_the_first_step(config, stage, metric):
    """The mean of d^T M d / Z; an untrained denoiser outputs zero, so -d is its target."""
    (task, repeat), seen = stage.schedule(0, 1)[1], []
    statistics = stage.init(jax.random.key(0)).statistics
    z0 = np.asarray(standardise_latents(statistics, stage.data[0][task[0], repeat[0]]))
    step_key = jax.random.fold_in(jax.random.key(1), 0)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(len(z0)))

    def outputs_zero(z_t, t, condition, keep):
        seen.append((z_t, t))
        return jnp.zeros_like(z_t)

    process = hyperldm.configured_process(config.hyperldm)
    denoising_loss(
        outputs_zero,
        Denoising(process, "v", 0.2),
        z0=z0,
        condition=SentenceFeatures(z0),
        mask=np.ones(len(z0), bool),
        keys=keys,
    )
    ((z_t, t),) = seen
    levels = process.signal, process.sigma
    signal, sigma = (np.float64(level)[np.asarray(t)][:, None] for level in levels)
    target = signal * (z_t - signal * z0) / sigma - sigma * z0
    return np.einsum("bi,bij,bj->b", target, metric[task[0]], target).mean() / LATENT


# Options of sampling.


SAMPLING = (
    ("hyperldm.start_time=0.4",),
    ("hyperldm.sampling_steps=20",),
    ("hyperldm.sampling_steps=20", "hyperldm.posterior_variance=1.0"),
    ("hyperldm.sampling_steps=20", "hyperldm.start_time=0.4"),
    ("hyperldm.sampling_steps=7",),
)


def test_options_of_sampling(sampler, ldm, rows):
    """Each is reachable, and gives samples of its own."""
    samples = [sampler(ldm, *rows)]
    samples += [compile_sampler(changed(*options))(ldm, *rows) for options in SAMPLING]
    assert np.isfinite(samples).all()
    for number, one in enumerate(samples):
        for other in samples[:number]:
            assert np.abs(one - other).max() > 1e-3


def test_a_start_at_hardly_any_noise_stays_at_e0(sampler, ldm, rows):
    plain, sampler = sampler, compile_sampler(changed("hyperldm.start_time=0.05"))
    statistics = parallel.first(ldm)["statistics"]
    near = {**parallel.first(ldm), "start": statistics.latent_mean + statistics.latent_std}
    samples = sampler(parallel.replicate(near), *rows)
    noise = plain(ldm, *rows)
    away, far = (np.abs(x - near["start"]) / statistics.latent_std for x in (samples, noise))
    assert away.mean() < 0.25 * far.mean()


# Few-shot guidance.


@pytest.fixture(scope="module")
def guided(trained, space):
    """strength -> latents [T, K, Z] of guidance by the support sets, at scale 1."""
    state, _ = trained
    config, table = changed("hyperldm.sampling_steps=20"), tiny_table(1)
    run = compile_configured_pass(
        config, guided_by_support(config, make_adapter(DIM, 8), GENERATE), table
    )
    ldm = {"params": state.params, "statistics": state.statistics, "start": E0}
    params = parallel.replicate({"space": space, "ldm": ldm})
    noise = sample_noise(3, NUM_TASKS, 2)

    def at(strength):
        scale = np.ones(NUM_TASKS, np.float32)
        extra = {"scale": scale, "strength": strength * scale, "noise": noise}
        return run(params, extra)

    return at


def test_without_strength_guided_samples_are_the_plain_ones(guided, ldm):
    sampler = compile_sampler(changed("hyperldm.sampling_steps=20"))
    questions = tiny_table(1).questions
    plain = sample_tasks(sampler, ldm, questions, scale=1.0, num_samples=2, seed=3)
    np.testing.assert_allclose(guided(0.0), plain, rtol=1e-4, atol=1e-4)


def test_guidance_by_the_support_set_lowers_its_loss(guided, space):
    """On average over the tasks, the more the stronger."""
    table = tiny_table(1)
    tasks = [whole_task(table, number) for number in range(NUM_TASKS)]
    loss = jax.jit(
        lambda w, task: task_loss(
            make_adapter(DIM, 8), w, task.support, task.answers, task.answer_mask
        )
    )

    def mean_loss(latents):
        weights = GENERATE(space["generator"], latents)
        return np.mean(
            [loss(w, task) for each, task in zip(weights, tasks, strict=True) for w in each]
        )

    none, some, more = (mean_loss(guided(strength)) for strength in (0.0, 0.3, 1.0))
    assert more < some < none - 0.01
