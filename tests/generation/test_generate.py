"""From a sentence to weights to answers, on a random model with a random encoder."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from toy_run import (
    ANSWERS,
    BLEND,
    EMBED_DIM,
    HIDDEN_DIM,
    KNOWN,
    LATENT_DIM,
    SCALE,
    SIZE,
    TEMPLATES,
    make_images,
    make_run,
)
from toy_sentence_encoder import write_sentence_encoder

from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.encoders.folder import (
    encode_images,
    encode_texts,
    preprocess,
    tokenize,
)
from hyper_meta.generation.generate import (
    _read,
    generate,
    nearest_sentences,
    nearest_templates,
)
from hyper_meta.generation.model import load_model
from hyper_meta.generation.predict import predict
from hyper_meta.generation.weights_file import load_weights, save_weights
from hyper_meta.methods.registry import GUIDES
from hyper_meta.methods.signs import SIGNS, network_signs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("generate"))


@pytest.fixture(scope="module")
def model(workdir):
    return load_model(workdir)


@pytest.fixture(scope="module")
def weights(model):
    return generate(model, "Which colour does the seven have?", num_samples=4, seed=1)


def forward(params, latent):
    """The generator in NumPy."""
    layers = [params[f"Dense_{i}"] for i in range(len(params))]
    for layer in layers[:-1]:
        latent = np.maximum(latent @ layer["kernel"] + layer["bias"], 0)
    return latent @ layers[-1]["kernel"] + layers[-1]["bias"]


def test_weights_are_the_generator_of_the_sampled_latents(model, weights, monkeypatch):
    assert weights.weights.shape == (SIZE,) and weights.samples.shape == (4, SIZE)
    assert weights.weights.dtype == weights.samples.dtype == np.float32
    latents = np.random.default_rng(0).normal(size=(1, 4, LATENT_DIM)).astype(np.float32)
    monkeypatch.setattr("hyper_meta.methods.hyperldm.sample_tasks", lambda *args, **kwargs: latents)
    ours = generate(model, "Any?", num_samples=4, template="{}")
    np.testing.assert_allclose(
        ours.samples, forward(model.guide.model["space"]["generator"], latents[0]), atol=1e-5
    )
    mean = forward(model.guide.model["space"]["generator"], latents[0].mean(axis=0))
    np.testing.assert_allclose(ours.weights, mean, atol=1e-5)
    assert np.abs(ours.weights - ours.samples.mean(axis=0)).max() > 1e-3


def test_same_arguments_same_weights(model, weights):
    again = generate(model, weights.task, num_samples=4, seed=1)
    np.testing.assert_array_equal(again.samples, weights.samples)
    np.testing.assert_array_equal(again.weights, weights.weights)


def test_what_the_process_sets_in_jax_changes_nothing(workdir, weights, tmp_path):
    images = make_images(tmp_path, 2)
    expected = predict(weights, images, answers=["red", "green"])
    with (
        jax.enable_x64(True),
        jax.default_prng_impl("rbg"),
        jax.numpy_dtype_promotion("strict"),
    ):
        again = generate(load_model(workdir), weights.task, num_samples=4, seed=1)
        found = predict(again, images, answers=["red", "green"])
    np.testing.assert_array_equal(again.samples, weights.samples)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_more_samples_than_memory_holds_are_refused(model):
    with pytest.raises(UserError, match="10,000,000,000 networks .* GiB .*: ask for fewer samples"):
        generate(model, "Which colour does the seven have?", num_samples=10**10)


def test_every_argument_matters(model, weights):
    task = weights.task
    others = [
        generate(model, "How many digits are there?", num_samples=4, seed=1),
        generate(model, task, num_samples=4, seed=2),
        generate(model, task, num_samples=4, seed=1, guidance_scale=0),
    ]
    for other in others:
        assert np.abs(other.samples - weights.samples).max() > 1e-4
    assert len(np.unique(weights.samples, axis=0)) == 4


def test_without_guidance_the_sentence_is_ignored(model):
    one, other = (
        generate(model, task, num_samples=4, guidance_scale=0)
        for task in ("Which colour?", "How many digits are there?")
    )
    np.testing.assert_allclose(one.samples, other.samples, atol=1e-6)


def test_samples_may_start_from_e0(workdir, weights, tmp_path):
    """As in the run: near the end of the noise, all samples are near the network of e0."""
    text = (workdir / "config.json").read_text()
    changed = tmp_path / "run"
    shutil.copytree(workdir, changed)
    (changed / "config.json").write_text(text.replace('"start_time": 1.0', '"start_time": 0.05'))
    model = load_model(changed)
    ours = generate(model, weights.task, num_samples=4, seed=1)
    e0 = forward(model.guide.model["space"]["generator"], model.guide.model["space"]["e0"])
    near, far = (np.abs(each.samples - e0).mean() for each in (ours, weights))
    assert near < 0.5 * far


def test_defaults_are_those_of_the_evaluation(model, weights):
    plain = generate(model, weights.task, seed=1)
    assert plain.method == weights.method == "hnet_hyperldm"
    assert len(plain.samples) == model.config.hyperldm.num_samples
    assert plain.guidance_scale == SCALE
    np.testing.assert_array_equal(plain.weights, weights.weights)


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    """A run whose questions a sentence encoder reads."""
    folder = tmp_path_factory.mktemp("sentence_encoder")
    toy = write_sentence_encoder(folder / "toy", modules=("Transformer", "Pooling"))
    return make_run(folder, toy)


@pytest.mark.parametrize("name", GUIDES)
def test_every_language_method_generates(name, other_run):
    """A network a sentence, read by the run's own encoder of questions; another for another
    sentence, the same again; several only where the method samples."""
    model = load_model(other_run, name)
    one, again, other = (
        generate(model, task, seed=1)
        for task in ("Which colour?", "which  COLOUR?", "How many digits are there?")
    )
    assert one.method == name and one.weights.shape == (SIZE,)
    guide = model.guide
    assert one.samples.shape == ({"generators": 3}.get(name, 4 if guide.random else 1), SIZE)
    assert one.votes == (name == "generators")
    np.testing.assert_array_equal(one.weights, again.weights)
    assert np.abs(one.weights - other.weights).max() > 1e-5
    # Images and answers are the other encoder's.
    assert one.encoder_fingerprint == model.encoder.fingerprint
    assert model.question_encoder.fingerprint != model.encoder.fingerprint
    assert set(one.templates) == set(KNOWN)
    if guide.scaled:
        assert generate(model, "Which?", num_samples=2, guidance_scale=3).guidance_scale == 3
        return
    assert one.guidance_scale is None
    if not guide.random:
        np.testing.assert_array_equal(one.samples[0], one.weights)
        told = "is made of 3 networks that answer together" if guide.votes else "generates one"
        with pytest.raises(UserError, match=f"2 samples asked for, {name} {told}"):
            generate(model, "Which colour?", num_samples=2)
    with pytest.raises(UserError, match=f"guidance scale 3 given, {name} has none"):
        generate(model, "Which colour?", guidance_scale=3)


def test_another_encoder_of_questions_is_refused(other_run, tmp_path):
    changed = shutil.copytree(other_run, tmp_path / "run")
    settings = json.loads((changed / "config.json").read_text())
    other = write_sentence_encoder(tmp_path / "other", seed=1)
    (changed / "config.json").write_text(json.dumps(settings | {"question_encoder": str(other)}))
    with pytest.raises(UserError, match=f"another encoder of questions .* than {other}"):
        load_model(changed)


def test_a_sentence_that_is_not_read_to_its_end_is_refused(workdir, other_run):
    """Two of them would have the same weights."""
    for run, longest in ((workdir, 32), (other_run, 24)):
        model = load_model(run)
        with pytest.raises(UserError) as caught:
            generate(model, "how many " * 30)
        assert f"tokens, its encoder reads {longest}, and would not" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights", "samples"])
def test_networks_that_give_no_number_are_refused(name, weights):
    image = np.zeros((8, 8, 3), np.uint8)
    large = dataclasses.replace(weights, **{name: getattr(weights, name) * np.float32(1e30)})
    with pytest.raises(UserError, match="no finite answers, their largest weight is .*e[+]"):
        predict(large, [image], answers=["red", "green"])


def test_an_answer_that_is_not_read_to_its_end_is_refused(weights):
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="tokens, the encoder reads 32: shorten the answer"):
        predict(weights, [image], answers=["red", "green " * 30])


def test_a_method_that_the_run_does_not_have_is_refused_with_those_it_has(workdir):
    with pytest.raises(UserError, match="'hnet_maml' given, this run has the guides conditional,"):
        load_model(workdir, "hnet_maml")


def test_the_first_template_is_that_of_the_nearest_training_sentence(model):
    for sentence, template in TEMPLATES.items():
        templates = generate(model, sentence).templates
        assert next(iter(templates)) == template and templates == KNOWN
    assert generate(model, sentence, template="it is {}").templates == {"it is {}": []}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["one", "two"], "there are {} digits"),
        (["two", "left", "top  right", "yellow"], "the red digit is {}"),
        (["RED", "yellow"], "the one is {}"),
        (["yellow", "pink"], "there are {} digits"),  # unknown to all: the nearest
        (["left", "one"], "there are {} digits"),  # known to two alike: the nearer
    ],
)
def test_the_template_is_the_one_that_knows_the_answers(answers, expected, weights, tmp_path):
    order = ["there are {} digits", "the one is {}", "the red digit is {}"]
    changed = dataclasses.replace(weights, templates={name: KNOWN[name] for name in order})
    save_weights(tmp_path / "w.safetensors", changed)
    image = np.zeros((8, 8, 3), np.uint8)
    result = predict(load_weights(tmp_path / "w.safetensors"), [image], answers=answers)
    assert result.template == expected


def test_nearness_is_the_cosine_of_standardised_questions(model):
    axes = np.eye(EMBED_DIM, dtype=np.float32)
    mean, std = 3 * axes[1], 1 + 9 * axes[0]
    # The sentences lie along the first axes of the standardised space.
    model = dataclasses.replace(model, sentences=axes[: len(TEMPLATES)] * std + mean)
    # Nearest to the third of them, but before standardising to the first.
    asked = (1.9 * axes[0] + 2 * axes[2]) * std + mean
    near = nearest_sentences(model, SentenceFeatures(asked[None]))
    assert list(near) == [list(TEMPLATES)[i] for i in (2, 0, 1)]
    assert list(near.values()) == sorted(near.values(), reverse=True)
    assert list(nearest_templates(model, near)) == [TEMPLATES[sentence] for sentence in near]


def test_sentences_of_training_lie_where_they_were_read(model):
    for sentence in TEMPLATES:
        near = nearest_sentences(model, _read(model, sentence))
        assert next(iter(near)) == sentence
        assert near[sentence] == pytest.approx(1, abs=1e-5)


def test_nothing_is_compiled_anew_for_another_sentence(workdir):
    """Of as many tokens, rounded up to a multiple of 8."""
    model = load_model(workdir)
    short, long = "Which is it?", "Which colour is red?"
    for task in (short, long):
        generate(model, task)
    before = [program._cache_size() for program in model.programs]
    for task in (short[:-1], long[:-1], short[1:]):
        generate(model, task, seed=3)
    assert [program._cache_size() for program in model.programs] == before


def test_what_is_expected_is_that_of_the_signs_of_the_samples(model, weights):
    """Of the nearest training sentence's answers and the images that came with the guide."""
    assert weights.warnings == () and weights.baseline_accuracy == 0.5
    assert weights.accuracy_deviation == model.trust.calibration.deviation
    near = next(iter(nearest_sentences(model, _read(model, weights.task)).items()))
    template = TEMPLATES[near[0]]
    prompts = [template.replace("{}", answer) for answer in KNOWN[template]]
    answers = jax.jit(encode_texts)(model.encoder, tokenize(model.encoder, prompts))
    networks = np.concatenate([weights.weights[None], weights.samples])
    signs = network_signs(
        model.guide.network, False, networks, model.images, answers, np.ones(len(prompts), bool)
    )
    signs = {**signs, "nearness": near[1], "fit": 0.0}
    fitted, expected = model.trust.calibration, model.trust.calibration.centre
    for place, name in enumerate(SIGNS):
        away = (float(signs[name]) - fitted.mean[place]) / fitted.std[place]
        expected += fitted.coefficients[place] * away
    assert weights.expected_accuracy == pytest.approx(expected, abs=1e-5)


def test_what_is_expected_is_of_as_many_samples_as_were_evaluated(model, weights):
    one = generate(model, weights.task, num_samples=1, seed=1)
    assert len(one.samples) == 1
    assert one.expected_accuracy == pytest.approx(weights.expected_accuracy, abs=1e-5)
    assert one.warnings == ()


def test_unknown_words_and_another_scale_are_warned_of(model):
    told = "in none of the 3 sentences that this model was trained and checked on"
    told += ": the accuracy to be expected is less certain"
    (warning,) = generate(model, "Is there a dog?").warnings
    assert warning == f"the words 'a' and 'dog' are {told}"
    (warning,) = generate(model, "Are there seven?", guidance_scale=0).warnings
    assert warning == "accuracy was checked at guidance scale 1.5, not at 0"


def test_what_is_near_no_language_is_warned_of(model):
    poor = dataclasses.replace(model.trust.calibration, centre=0.4)
    changed = dataclasses.replace(model, trust=dataclasses.replace(model.trust, calibration=poor))
    (warning,) = generate(changed, "Are there seven?").warnings
    assert "is below that of a network without language (50%)" in warning


def test_a_saved_file_is_the_same_weights(weights, tmp_path):
    path = tmp_path / "folder" / "seven.safetensors"
    save_weights(path, weights)
    loaded = load_weights(path)
    for field in dataclasses.fields(weights):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(weights, field.name))
    assert list(path.parent.iterdir()) == [path]
    assert set(load_file(path)) == {"weights", "samples"}


def test_an_interrupted_save_keeps_the_old_file(weights, tmp_path, monkeypatch):
    path = tmp_path / "seven.safetensors"
    save_weights(path, weights)
    before = path.read_bytes()

    def interrupt(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_weights(path, dataclasses.replace(weights, task="Another?"))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def reference_probabilities(network, features, prompts, blend=BLEND):
    """The adapter in NumPy, of method.md section 3, blended with CLIP's own logits."""
    cut = np.cumsum([EMBED_DIM * HIDDEN_DIM, HIDDEN_DIM, EMBED_DIM * HIDDEN_DIM])
    w1, b1, w2, b2 = np.split(network.astype(np.float64), cut)
    hidden = features @ w1.reshape(EMBED_DIM, HIDDEN_DIM) / np.sqrt(EMBED_DIM) + b1
    adapted = np.maximum(hidden, 0) @ w2.reshape(HIDDEN_DIM, EMBED_DIM) / np.sqrt(HIDDEN_DIM)
    adapted += features + b2
    clip, own = (
        (x / np.linalg.norm(x, axis=1, keepdims=True))
        @ (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).T
        for x in (features, adapted)
    )
    cosine = clip + blend * (own - clip)
    odds = np.exp(100 * (cosine - cosine.max(axis=1, keepdims=True)))
    return odds / odds.sum(axis=1, keepdims=True)


def embedded(encoder, images, prompts):
    """Embeddings one by one: images [N, D], prompts [A, D]."""
    embed_image, embed_text = jax.jit(encode_images), jax.jit(encode_texts)
    return (
        np.concatenate([embed_image(encoder, preprocess(encoder, [image])) for image in images]),
        np.concatenate([embed_text(encoder, tokenize(encoder, [text])) for text in prompts]),
    )


@pytest.fixture(scope="module")
def weights_that_disagree(weights):
    noise = 3 * np.random.default_rng(0).normal(size=(4, SIZE)).astype(np.float32)
    return dataclasses.replace(weights, samples=weights.samples + noise)


@pytest.fixture(scope="module")
def predicted(model, weights_that_disagree, tmp_path_factory):
    weights = weights_that_disagree
    paths = make_images(tmp_path_factory.mktemp("scenes"), 5)
    images = [Image.open(path).convert("RGB") for path in paths]
    prompts = [f"the one is {answer}" for answer in ANSWERS]  # it alone knows them
    return paths, predict(weights, paths, answers=ANSWERS), embedded(model.encoder, images, prompts)


def test_predictions_equal_the_adapter_in_numpy(weights_that_disagree, predicted):
    weights = weights_that_disagree
    _, result, (features, prompts) = predicted
    expected = reference_probabilities(weights.weights, features, prompts)
    np.testing.assert_allclose(result.probabilities, expected, atol=2e-3)
    assert result.answer == tuple(ANSWERS[i] for i in expected.argmax(axis=1))
    choices = [
        reference_probabilities(network, features, prompts).argmax(axis=1)
        for network in weights.samples
    ]
    agreement = (np.array(choices) == expected.argmax(axis=1)).mean(axis=0)
    np.testing.assert_allclose(result.agreement, agreement)
    assert 0 < agreement.mean() < 1
    unblended = reference_probabilities(weights.weights, features, prompts, blend=1)
    assert np.abs(unblended - expected).max() > 0.01


def test_networks_that_vote_answer_by_the_mean_of_their_log_probabilities(
    weights_that_disagree, predicted
):
    voting = dataclasses.replace(weights_that_disagree, votes=True)
    paths, _, (features, prompts) = predicted
    ours = predict(voting, paths, answers=ANSWERS)
    each = np.array([reference_probabilities(w, features, prompts) for w in voting.samples])
    joint = np.exp(np.log(each + 1e-300).mean(axis=0))
    expected = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours.probabilities, expected, rtol=1e-2, atol=1e-3)
    chosen = expected.argmax(axis=1)
    assert ours.answer == tuple(ANSWERS[row] for row in chosen)
    agreement = (each.argmax(axis=2) == chosen).mean(axis=0)
    np.testing.assert_allclose(ours.agreement, agreement)


def test_an_image_is_answered_alike_in_any_batch_and_form(weights, predicted, monkeypatch):
    paths, result, _ = predicted
    monkeypatch.setattr("hyper_meta.generation.predict.IMAGE_BATCH", 2)
    images = [Image.open(paths[0]), str(paths[1]), np.asarray(Image.open(paths[2]))]
    other = predict(weights, images, answers=ANSWERS)
    np.testing.assert_allclose(other.probabilities, result.probabilities[:3], atol=1e-4)


def test_answers_may_come_in_any_order(weights, predicted):
    paths, result, _ = predicted
    turned = predict(weights, paths, answers=ANSWERS[::-1])
    np.testing.assert_allclose(turned.probabilities[:, ::-1], result.probabilities, atol=1e-4)
    assert turned.answer == result.answer


def test_an_answer_may_hold_braces(weights, predicted):
    paths, _, _ = predicted
    result = predict(weights, paths[:1], answers=["{}", "{red}"], template="the colour is {}")
    assert result.probabilities.shape == (1, 2)


def test_a_run_on_precomputed_features_may_name_their_encoder(workdir, weights, tmp_path):
    changed = tmp_path / "run"
    shutil.copytree(workdir, changed)
    content = json.loads((workdir / "config.json").read_text()) | {"dataset": "precomputed"}
    (changed / "config.json").write_text(json.dumps(content))
    again = generate(load_model(changed), weights.task, num_samples=4, seed=1)
    np.testing.assert_array_equal(again.weights, weights.weights)
    (changed / "config.json").write_text(json.dumps(content | {"encoder": ""}))
    with pytest.raises(UserError, match="features whose encoder is not known, which a new"):
        load_model(changed)


def test_a_relative_workdir_and_file_of_weights(workdir, weights, predicted, tmp_path, monkeypatch):
    paths, result, _ = predicted
    monkeypatch.chdir(workdir.parent)
    weights = generate(load_model(workdir.name), weights.task, num_samples=4, seed=1)
    monkeypatch.chdir(tmp_path)
    save_weights("seven.safetensors", weights)
    again = predict(load_weights("seven.safetensors"), paths, answers=ANSWERS)
    np.testing.assert_allclose(again.probabilities, result.probabilities, atol=1e-4)
