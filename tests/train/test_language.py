"""The stages that read sentences word by word. As a script: writes what each of them ends with to a
file."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import ends_on_eight_devices
from toy_features import random_tokens
from toy_stages import NUM_TASKS, tiny_config, tiny_table, whole_task

from hyper_meta.core import parallel
from hyper_meta.diffusion.latent_sampling import latent_statistics
from hyper_meta.diffusion.samplers import Noise
from hyper_meta.meta.inner_loop import adapt_task, task_loss
from hyper_meta.meta.learners import latent_learner
from hyper_meta.models.generator import GENERATOR
from hyper_meta.models.sentences import keep_sentences, measure_sentences, take
from hyper_meta.train.loop import run_stage
from hyper_meta.train.stages import hyperldm, language, tuned
from hyper_meta.train.stages.distilled import Lesson, distilled_stage, fit_length, new_sentences
from hyper_meta.train.stages.hyperldm import denoiser_module
from hyper_meta.train.stages.latent_data import LatentData
from hyper_meta.train.stages.meta_learning import learner_stage
from hyper_meta.train.stages.noisy_hyperclip import noisy_hyperclip_stage
from hyper_meta.train.stages.parts import stage_network

LATENT, RATE = 4, 0.02


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def token_table(seed=0):
    """The toy's table, whose questions have token states of another width."""
    table = tiny_table(seed)
    tokens, mask = random_tokens(seed, NUM_TASKS, length=4)
    return table.replace(questions=table.questions.replace(tokens=tokens, mask=mask))


def config_of(**values):
    small = {"batching.num_layouts": 1, "batching.num_shapes": 1}
    return tiny_config(small | {name.replace("__", "."): value for name, value in values.items()})


def language_of(config, section="language"):
    return language.language_stage(
        section, config, token_table(), token_table(1), name="language", learning_rate=RATE
    )


def generators_of(config):
    return language.generators_stage(
        config, token_table(), token_table(1), name="generators", learning_rate=RATE
    )


def film_of(config):
    return learner_stage(
        "film_tokens",
        config,
        token_table(),
        token_table(1),
        name="film_tokens",
        objective="multitask",
        learning_rate=RATE,
    )


def latent_data():
    """A random space of the generator's sizes, with random latents of the training tasks."""
    config, rng = config_of(), np.random.default_rng(0)
    network = stage_network(config, token_table())
    sentence = take(token_table().questions, 0)
    params = language.language_params(config, config.language, network, sentence, jax.random.key(2))
    latents = rng.normal(size=(NUM_TASKS, 3, LATENT)).astype(np.float32)
    space = jax.tree.map(np.asarray, {name: params[name] for name in ("e0", "generator")})
    return LatentData(latents, space, GENERATOR, token_table(), token_table(1))


def random_ldm(config, data):
    """A HyperLDM that reads tokens, with random parameters."""
    statistics = latent_statistics(data.latents.reshape(-1, LATENT), data.train.questions)
    module = denoiser_module(config, LATENT, section="hyperldm_tokens")
    inputs = data.latents[:2, 0], jnp.zeros(2, jnp.int32), take(data.train.questions, slice(2))
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs, jnp.ones(2, bool))["params"]
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), shapes)
    return {"params": params, "statistics": jax.tree.map(np.asarray, statistics)}


def tuned_of(config):
    data = latent_data()
    return tuned.tuned_stage(
        config,
        "tuned",
        data,
        base=random_ldm(config, data),
        section="hyperldm_tokens",
        learning_rate=RATE,
    )


def noisy_of(config):
    data = latent_data()
    return noisy_hyperclip_stage(
        config,
        "noisy",
        data,
        base=random_ldm(config, data),
        section="hyperldm_tokens",
        learning_rate=RATE,
    )


def distilled_of(config, seed=5, section="distilled"):
    """From two random generators, with new sentences for some of the tasks."""
    table = token_table()
    teacher = generators_of(config).init(jax.random.key(7)).params
    new = new_sentences(take(token_table(seed).questions, slice(6)), ROWS_OF, NUM_TASKS)
    return distilled_stage(
        section,
        config,
        table,
        token_table(1),
        name="distilled",
        lesson=Lesson(teacher, new),
        learning_rate=RATE,
    )


def taught_of(config):
    """HNet started by the sentence, with a teacher."""
    return distilled_of(config, section="language")


# New sentences, and the training tasks that each belongs to.
ROWS_OF = [[0], [1, 2], [2], [4, 5], [7], [7]]
STAGES = {
    "distilled": distilled_of,
    "language": language_of,
    "taught": taught_of,
    "generators": generators_of,
    "film_tokens": film_of,
    "tuned": tuned_of,
    "noisy": noisy_of,
}


@pytest.mark.parametrize(
    "name", ["language", "taught", "generators", "distilled", "film_tokens", "tuned"]
)
def test_training_lowers_the_loss(name):
    """Over 28 steps, four at a time."""
    stage, run = compiled_stage(name)
    state = parallel.replicate(stage.init(jax.random.key(0)))
    data, losses = parallel.replicate(stage.data), []
    for start in range(0, 28, NUM_STEPS):
        xs = stage.schedule(start, start + NUM_STEPS)
        state, metrics = run(state, data, xs, jax.random.key(start))
        total, count = parallel.first(metrics)["loss"]
        losses.append(float(np.sum(total) / np.sum(count)))
    assert losses[-1] < losses[0]
    score, _ = stage.validate(state)
    assert 0 <= float(score) <= 1


def test_the_classifier_learns_to_tell_sentences_apart(tmp_path):
    config = config_of(noisy_hyperclip__num_steps=120, noisy_hyperclip__chunk_steps=60)
    stage = noisy_of(config)
    _, (first, last) = run_stage(stage, tmp_path, seed=0, checkpoint_every=9, progress=False)
    assert last["loss"] < first["loss"] and last["accuracy"] > 1.5 / 8


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_is_taken_in_shares_where_the_sentence_starts_and_after_inner_steps(share):
    """Against both losses by themselves, task by task."""
    config = config_of(
        language__adapted_share=share,
        language__drop_rate=0.0,
        batching__max_support=9,  # so that every task comes whole
        batching__max_query=7,
        language__batch_size=4,
    )
    table, stage = token_table(), language_of(config)
    state = stage.init(jax.random.key(0))
    measured = measure_sentences(table.questions)
    network = stage_network(config, table)
    learner = language.language_learner(config, config.language, network, measured)
    loop = language.inner_loop(config.language)
    _, batch = stage.schedule(0, 1)
    expected = []
    for number in batch.ids[0][batch.mask[0]]:
        task = jax.tree.map(jnp.asarray, whole_task(table, int(number)))
        task = task.replace(question=jax.tree.map(jnp.asarray, take(table.questions, int(number))))

        def loss(point, examples, task):
            weights = learner.weights(state.params, task.question, point)
            return task_loss(network, weights, examples, task.answers, task.answer_mask)

        @jax.jit
        def in_shares(task):
            every = jax.tree.map(lambda *x: jnp.concatenate(x), task.support, task.query)
            start = learner.start(state.params, task.question, 0)
            adapted = adapt_task(learner, state.params, task, loop)
            return (1 - share) * loss(start, every, task) + share * loss(adapted, task.query, task)  # noqa: B023

        expected.append(in_shares(task))
    run = parallel.compile_chunk(stage.step)
    xs = stage.schedule(0, 1)
    _, metrics = run(
        parallel.replicate(state), parallel.replicate(stage.data), xs, jax.random.key(1)
    )
    total, count = parallel.first(metrics)["loss"]
    np.testing.assert_allclose(total / count, np.mean(expected), rtol=1e-3)


@pytest.mark.parametrize("first_order", [True, False])
def test_gradients_through_the_inner_steps_are_finite_differences(first_order, x64):
    """Of the loss after two inner steps, in the reader's parameters; at first order the start alone
    moves the end, one to one."""
    config = config_of()
    table = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64) if x.dtype == np.float32 else jnp.asarray(x),
        token_table(),
    )
    network, measured = stage_network(config, table), measure_sentences(table.questions)
    settings = dataclasses.replace(
        config.language, objective="fomaml" if first_order else "maml", inner_learning_rate=0.1
    )
    learner = language.language_learner(config, settings, network, measured)
    params = language.language_params(
        config, settings, network, take(table.questions, 0), jax.random.key(0)
    )
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    task = jax.tree.map(jnp.asarray, whole_task(table, 1))
    loop = language.inner_loop(settings)

    @jax.jit
    def loss(params, fixed):
        start = learner.start(params, task.question, 0)
        end = adapt_task(learner, params, task, loop, start=start)
        if first_order:  # the way from the start to the end is a constant
            end = start + fixed
        weights = learner.weights(params, task.question, end)
        return task_loss(network, weights, task.query, task.answers, task.answer_mask)

    @jax.jit
    def moved(params):
        start = learner.start(params, task.question, 0)
        return adapt_task(learner, params, task, loop, start=start) - start

    way = moved(params)

    @jax.jit
    def plain(params):
        end = adapt_task(learner, params, task, loop)
        weights = learner.weights(params, task.question, end)
        return task_loss(network, weights, task.query, task.answers, task.answer_mask)

    gradient = jax.grad(plain)(params)["reader"]
    flat, unravel = jax.flatten_util.ravel_pytree(params["reader"])
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = rng.normal(size=flat.shape)
        step = 1e-5

        def at(amount, direction=direction):
            return loss({**params, "reader": unravel(flat + amount * direction)}, way)

        numeric = (at(step) - at(-step)) / (2 * step)
        ours = jax.flatten_util.ravel_pytree(gradient)[0] @ direction
        np.testing.assert_allclose(ours, numeric, rtol=1e-4, atol=1e-8)


def test_a_dropped_sentence_starts_at_e0_and_teaches_it():
    config = config_of(language__drop_rate=1.0, language__adapted_share=0.0)
    stage = language_of(config)
    state = stage.init(jax.random.key(0))
    run = parallel.compile_chunk(stage.step)
    after, _ = run(
        parallel.replicate(state),
        parallel.replicate(stage.data),
        stage.schedule(0, 2),
        jax.random.key(1),
    )
    before, after = state.params, parallel.first(after.params)
    assert np.abs(after["e0"] - before["e0"]).min() > 0
    jax.tree.map(np.testing.assert_array_equal, after["reader"], before["reader"])
    learner = language.language_learner(
        config,
        config.language,
        stage_network(config, stage.data[0]),
        measure_sentences(stage.data[0].questions),
    )
    question = keep_sentences(take(stage.data[0].questions, slice(1)), np.array([False]))
    start = learner.start(before, take(question, 0), 0)
    np.testing.assert_array_equal(start, before["e0"])


def test_members_learn_as_each_would_alone():
    """Side by side they have the same tasks; clipping and Adam are of each by itself."""
    config = config_of(generators__num_members=3, generators__clip_norm=0.5)
    stage = generators_of(config)
    together = stage.init(jax.random.key(0))
    run = parallel.compile_chunk(stage.step)
    data, xs, key = parallel.replicate(stage.data), stage.schedule(0, 3), jax.random.key(1)
    state, _ = run(parallel.replicate(together), data, xs, key)
    ends = parallel.first(state.params)
    alone = language.language_stage(
        "generators", config, token_table(), token_table(1), name="generators", learning_rate=RATE
    )
    run_alone = parallel.compile_chunk(alone.step)
    for member, member_key in enumerate(jax.random.split(jax.random.key(0), 3)):
        first = alone.init(member_key)
        jax.tree.map(
            lambda x, y, m=member: np.testing.assert_array_equal(x[m], y),
            together.params,
            first.params,
        )
        end, _ = run_alone(parallel.replicate(first), data, xs, key)
        jax.tree.map(
            lambda x, y, m=member: np.testing.assert_allclose(x[m], y, rtol=1e-3, atol=1e-4),
            ends,
            parallel.first(end.params),
        )


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_members_see_images_with_noise_of_their_own(noise):
    stage = generators_of(config_of(batching__feature_noise=noise))
    state = stage.init(jax.random.key(0))
    equal = jax.tree.map(lambda x: jnp.stack([x[0]] * len(x)), state.params)
    inputs = parallel.replicate(stage.data), stage.schedule(0, 1), jax.random.key(1)
    end, _ = parallel.compile_chunk(stage.step)(
        parallel.replicate(state.replace(params=equal)), *inputs
    )
    weights = parallel.first(end.params)["generator"]
    apart = [np.abs(x[0] - x[1]).max() for x in jax.tree.leaves(weights)]
    assert (max(apart) > 0) == (noise > 0)


def test_the_gradient_through_the_sampler_is_finite_differences(x64, monkeypatch):
    """Of a loss of latents that three steps of DDIM make, in the denoiser's parameters."""
    config, data = config_of(tuned__sampling_steps=3), latent_data()
    process = hyperldm.configured_process(config.hyperldm_tokens)
    exact = process.replace(log_alpha_bar=process.log_alpha_bar.astype(jnp.float64))
    monkeypatch.setattr(hyperldm, "configured_process", lambda settings: exact)
    ldm = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), random_ldm(config, data))
    # No entry at the bound that predictions are held to, where there is no derivative.
    ldm["statistics"] = ldm["statistics"].replace(clip=jnp.asarray(1e6))
    questions = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64) if x.dtype == np.float32 else jnp.asarray(x),
        take(data.train.questions, slice(3)),
    )
    noise = Noise(jax.random.split(jax.random.key(0), 3))
    flat, unravel = jax.flatten_util.ravel_pytree(ldm["params"])

    @jax.jit
    def loss(flat):
        latents = tuned.few_step_latents(
            config, "hyperldm_tokens", unravel(flat), ldm["statistics"], questions, noise
        )
        return jnp.sum(jnp.sin(latents))

    gradient, rng, step = jax.grad(loss)(flat), np.random.default_rng(0), 1e-6
    for _ in range(3):
        direction = rng.normal(size=flat.shape)
        numeric = (loss(flat + step * direction) - loss(flat - step * direction)) / (2 * step)
        np.testing.assert_allclose(gradient @ direction, numeric, rtol=1e-4)


def test_new_sentences_of_a_task_are_repeated_to_one_length():
    new = new_sentences(take(token_table(5).questions, slice(6)), ROWS_OF, NUM_TASKS)
    assert new.choices.shape == (NUM_TASKS, 2)
    expected = [[0, 0], [1, 1], [1, 2], [-1, -1], [3, 3], [3, 3], [-1, -1], [4, 5]]
    assert new.choices.tolist()[:8] == expected and (new.choices[8:] == -1).all()


def test_sentences_that_are_longer_than_the_table_are_left_out():
    questions = token_table().questions
    fitted, rows = fit_length(questions, 3)
    assert rows.tolist() == np.flatnonzero(questions.mask.sum(axis=1) <= 3).tolist()
    assert fitted.tokens.shape[1] == fitted.mask.shape[1] == 3
    longer, rows = fit_length(questions, 6)
    assert len(rows) == NUM_TASKS and longer.tokens.shape[1] == 6
    np.testing.assert_array_equal(longer.tokens[:, :4], questions.tokens)
    assert not longer.mask[:, 4:].any()


@pytest.mark.parametrize(("teacher_share", "new_share"), [(1.0, 0.0), (0.3, 0.0), (0.3, 1.0)])
def test_the_distillation_is_the_divergence_from_the_mean_of_the_generators(
    teacher_share, new_share
):
    """Of Hinton et al. 2015 at temperature 1, in numpy; new sentences have no labels."""
    config = config_of(
        distilled__teacher_share=teacher_share,
        distilled__recombined_share=new_share,
        batching__max_support=9,
        batching__max_query=7,
        distilled__batch_size=4,
    )
    stage, table = distilled_of(config), token_table()
    state, (_, given) = stage.init(jax.random.key(0)), stage.data
    learner = language.language_learner(
        config, config.distilled, stage_network(config, table), measure_sentences(table.questions)
    )
    _, batch = stage.schedule(0, 1)
    run = parallel.compile_chunk(stage.step)
    _, metrics = run(
        parallel.replicate(state),
        parallel.replicate(stage.data),
        stage.schedule(0, 1),
        jax.random.key(1),
    )

    def log_probabilities(params, question, features, task):
        weights = learner.weights(params, question, learner.start(params, question, 0))
        logits = learner.network.logits(weights, features, task.answers, task.answer_mask)
        return np.float64(jax.nn.log_softmax(logits, axis=-1))

    possible = []  # of each task, the losses for every new sentence that may be drawn
    for number in batch.ids[0][batch.mask[0]]:
        task = whole_task(table, int(number))
        examples = jax.tree.map(lambda *x: np.concatenate(x), task.support, task.query)
        rows = sorted({row for row in given["choices"][number] if row >= 0})
        is_new = bool(rows) and new_share == 1
        asked = [take(given["questions"], row) for row in rows] if is_new else [task.question]
        losses = []
        for question in asked:
            question = jax.tree.map(jnp.asarray, question)
            inputs = question, examples.features, task
            ours = log_probabilities(state.params, *inputs)
            members = [jax.tree.map(lambda x, m=m: x[m], given["teacher"]) for m in range(2)]
            theirs = np.mean([log_probabilities(one, *inputs) for one in members], axis=0)
            theirs -= np.log(np.exp(theirs).sum(axis=-1, keepdims=True))
            divergence = (np.exp(theirs) * (theirs - ours)).sum(axis=-1).mean()
            right = ours[np.arange(len(ours)), examples.label]
            labelled = 0 if is_new else -right.mean()
            losses.append(teacher_share * divergence + (1 - teacher_share) * labelled)
        possible.append(losses)
    total, count = parallel.first(metrics)["loss"]
    lowest, highest = (np.mean([fn(x) for x in possible]) for fn in (min, max))
    assert count == len(possible)
    assert lowest * (1 - 1e-3) <= total / count <= highest * (1 + 1e-3)


@pytest.mark.parametrize(("drop", "share"), [(1.0, 0.0), (0.0, 0.4)])
def test_a_taught_generator_also_learns_without_the_sentence_and_after_inner_steps(drop, share):
    """Dropped, a task's loss is that of its labels at e0, whatever the teacher's share; the share
    after inner steps is that of HNet started by the sentence, which is tested by itself."""
    values = {"drop_rate": drop, "adapted_share": share, "teacher_share": 1.0}
    values |= {"recombined_share": 0.0}
    config = config_of(**{f"language__{name}": value for name, value in values.items()})
    taught, alone = taught_of(config), language_of(config)
    state = taught.init(jax.random.key(0))

    def loss_of(stage):
        run = parallel.compile_chunk(stage.step)
        inputs = parallel.replicate(state), parallel.replicate(stage.data), stage.schedule(0, 1)
        total, count = parallel.first(run(*inputs, jax.random.key(1))[1])["loss"]
        return float(total / count)

    if drop:
        np.testing.assert_allclose(loss_of(taught), loss_of(alone), rtol=1e-5)
    else:
        values |= {"adapted_share": 1.0}
        after = config_of(**{f"language__{name}": value for name, value in values.items()})
        values |= {"adapted_share": 0.0}
        start = config_of(**{f"language__{name}": value for name, value in values.items()})
        expected = (1 - share) * loss_of(taught_of(start)) + share * loss_of(language_of(after))
        np.testing.assert_allclose(loss_of(taught), expected, rtol=1e-5)


def test_tuning_starts_at_the_trained_denoiser_and_leaves_the_space():
    config, data = config_of(), latent_data()
    ldm = random_ldm(config, data)
    stage = tuned_of(config)
    state = stage.init(jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, state.params, ldm["params"])
    assert set(state.params) == set(ldm["params"])


NUM_STEPS = 4


@functools.cache
def compiled_stage(name):
    """(stage, its training of NUM_STEPS steps)."""
    config = config_of(batching__feature_noise=0.2, language__drop_rate=0.3)
    stage = STAGES[name](config)
    return stage, parallel.compile_chunk(stage.step)


def end_of_training(name):
    """Parameters, metrics and validation score after NUM_STEPS, on however many devices."""
    stage, run = compiled_stage(name)
    state = parallel.replicate(stage.init(jax.random.key(0)))
    xs = stage.schedule(0, NUM_STEPS)
    state, metrics = run(state, parallel.replicate(stage.data), xs, jax.random.key(1))
    score, _ = stage.validate(state)
    end = {"params": parallel.first(state.params), "metrics": parallel.first(metrics)}
    leaves = jax.tree_util.tree_leaves_with_path(end | {"score": np.float32(score)})
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """What every stage ends with on eight devices."""
    with ends_on_eight_devices(__file__, tmp_path_factory.mktemp("eight")) as ends:
        yield ends


@pytest.mark.parametrize("name", STAGES)
def test_eight_devices_train_like_one(name, eight):
    for leaf, value in end_of_training(name).items():
        found = eight[f"{name}{leaf}"]
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-4, err_msg=leaf)


def test_a_latent_starts_where_it_is_read_and_moves_as_one_of_hnet():
    config, data = config_of(), latent_data()
    network = stage_network(config, data.train)
    measured = measure_sentences(data.train.questions)
    sentence = take(data.train.questions, 1)
    params = language.language_params(config, config.language, network, sentence, jax.random.key(2))
    read = language.read_fn(config, config.language, measured)
    ours = language.language_learner(config, config.language, network, measured)
    question = jax.tree.map(jnp.asarray, sentence)
    start = ours.start(params, question, 0)
    np.testing.assert_allclose(start, read(params, question), rtol=1e-6)
    plain = latent_learner(network, data.generate)
    task = whole_task(data.train, 1)
    loop = language.inner_loop(config.language)
    np.testing.assert_allclose(
        adapt_task(ours, params, task, loop),
        adapt_task(plain, params, task, loop, start=start),
        rtol=1e-5,
        atol=1e-6,
    )


if __name__ == "__main__":
    ends = {f"{name}{leaf}": x for name in STAGES for leaf, x in end_of_training(name).items()}
    np.savez(sys.argv[1], num_devices=jax.local_device_count(), **ends)
