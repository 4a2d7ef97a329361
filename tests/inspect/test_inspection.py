"""Every measure against numpy written from its definition, on random networks, and a run."""

import dataclasses
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import make_adapter, num_weights
from ml_collections import ConfigDict
from PIL import Image
from toy_features import split_features
from toy_sentence_encoder import write_sentence_encoder

from hyper_meta.core.types import UserError
from hyper_meta.data.table import build_table
from hyper_meta.data.tasks import Task
from hyper_meta.encoders.sentence_encoder import (
    encode_sentences,
    load_sentence_encoder,
    read_folder,
    tokenize_sentences,
)
from hyper_meta.eval.latent_map import principal_plane
from hyper_meta.inspect import figures, movements, networks
from hyper_meta.inspect import opened as inspection
from hyper_meta.inspect.movements import Movement, Neighbours
from hyper_meta.inspect.opened import OpenedRun
from hyper_meta.methods.guides import Guide
from hyper_meta.methods.interface import Setup
from hyper_meta.methods.trained import Space, Trained
from hyper_meta.models.generator import GENERATOR, Generator

EMBED_DIM, HIDDEN_DIM, LATENT_DIM = 5, 3, 4
RATE = 0.7
IMAGES, ANSWERS = tuple("abcdefgh"), ("red", "green", "blue")


def _tasks(split, count):
    """Tasks of five families, the later the more query examples."""
    rng = np.random.default_rng(len(split))

    def items(size):
        return tuple(
            (str(rng.choice(IMAGES)), int(rng.integers(len(ANSWERS)))) for _ in range(size)
        )

    return [
        Task(
            f"What {split} {n}?",
            ANSWERS,
            "it is {}",
            f"family {n % 5}",
            split,
            items(4),
            items(6 + n),
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def toy():
    """A run that was never trained: random features, generator and latents; no encoder."""
    rng = np.random.default_rng(0)
    tasks = {split: _tasks(split, count) for split, count in (("train", 6), ("test", 6))}
    sentences = [task.sentence for part in tasks.values() for task in part]
    sentences += [f"it is {answer}" for answer in ANSWERS]
    features = {
        "image_ids": IMAGES,
        "image_features": rng.normal(size=(len(IMAGES), EMBED_DIM)).astype(np.float32),
        "sentences": sentences,
        "sentence_features": rng.normal(size=(len(sentences), EMBED_DIM)).astype(np.float32),
    }
    everyone = [task for part in tasks.values() for task in part]
    known = split_features(everyone, **features)
    tables = {split: build_table(part, known) for split, part in tasks.items()}
    latents = rng.normal(size=(6, 2, LATENT_DIM)).astype(np.float32)
    module = Generator((6, 7), num_weights(EMBED_DIM, HIDDEN_DIM))
    generator = module.init(jax.random.key(1), latents[0])["params"]
    generator = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.01), generator)
    config = ConfigDict({"dataset": "precomputed", "network": {"blend": 1.0}})
    config.latents = ConfigDict({"num_steps": 1, "pull": 0.0})
    params = {"e0": latents[0, 0], "generator": generator}
    space = Space("HNet", make_adapter(EMBED_DIM, HIDDEN_DIM), params, GENERATOR, latents)
    setup = Setup(config, None, tasks, tables)
    setup.choices["hnet_latents"] = {"learning_rate": RATE}
    guide = Guide("hnet_hyperldm", "HNet + HyperLDM", space.network, {}, None, None, space="hnet")
    guides = {guide.name: guide}
    return OpenedRun(config, setup, Trained({"hnet": space}), None, guides, guide.name), features


def _weights(run, latents):
    """The generator in float64, from method.md section 4."""
    x = np.asarray(latents, np.float64)
    layers = run.space.params["generator"]
    for n in range(len(layers)):
        x = (
            x @ np.asarray(layers[f"Dense_{n}"]["kernel"], np.float64)
            + layers[f"Dense_{n}"]["bias"]
        )
        x = np.maximum(x, 0) if n < len(layers) - 1 else x
    return x


def _logits(run, features, latent, items):
    """The adapter in float64, from method.md section 3: [N, A]."""
    row = {name: n for n, name in enumerate(features["image_ids"])}
    x = features["image_features"][[row[image] for image, _ in items]].astype(np.float64)
    texts = features["sentence_features"][-len(ANSWERS) :].astype(np.float64)
    w, size = _weights(run, latent), EMBED_DIM * HIDDEN_DIM
    w1, b1 = w[:size].reshape(EMBED_DIM, HIDDEN_DIM), w[size : size + HIDDEN_DIM]
    w2, b2 = w[size + HIDDEN_DIM : -EMBED_DIM].reshape(HIDDEN_DIM, EMBED_DIM), w[-EMBED_DIM:]
    hidden = np.maximum(x @ w1 / np.sqrt(EMBED_DIM) + b1, 0)
    y = x + hidden @ w2 / np.sqrt(HIDDEN_DIM) + b2
    length = np.linalg.norm(y, axis=1)[:, None] * np.linalg.norm(texts, axis=1)
    return 100 * (y @ texts.T) / length


def test_accuracy_is_the_share_of_right_answers(toy):
    """More latents than one part holds, on a task of the test split."""
    run, features = toy
    latents = np.random.default_rng(3).normal(size=(70, LATENT_DIM)).astype(np.float32)
    task = run.setup.tasks["test"][3]
    right = np.array([label for _, label in task.query])
    expected = [
        np.mean(_logits(run, features, latent, task.query).argmax(1) == right) for latent in latents
    ]
    assert len(set(expected)) > 2
    found = movements.accuracy(run, " what TEST  3? ", latents)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_adaptation_goes_down_the_slope_of_the_support_loss(toy):
    run, features = toy
    task, start = run.setup.tasks["test"][1], run.space.params["e0"].astype(np.float64)
    right = np.array([label for _, label in task.support])

    def loss(latent):
        logits = _logits(run, features, latent, task.support)
        logits -= logits.max(1, keepdims=True)
        chosen = logits[np.arange(len(right)), right]
        return np.mean(np.log(np.exp(logits).sum(1)) - chosen)

    steps = 1e-6 * np.eye(LATENT_DIM)
    slope = np.array([(loss(start + step) - loss(start - step)) / 2e-6 for step in steps])
    assert np.abs(slope).max() > 0.1
    found = movements.adapt(run, task.sentence)
    np.testing.assert_allclose(found, start - RATE * slope, rtol=1e-3, atol=1e-3)


def test_all_test_tasks_are_adapted_as_one_is(opened):
    latents = movements.adapted_to_test(opened)
    for row in (2, 77):
        found = movements.adapt(opened, opened.setup.tasks["test"][row].sentence)
        np.testing.assert_allclose(found, latents[row], rtol=1e-4, atol=1e-5)


def test_network_coordinates_are_as_far_apart_as_the_weights(toy):
    run, _ = toy
    latents = run.space.latents.reshape(-1, LATENT_DIM)
    weights = _weights(run, latents)
    points = networks.network_coordinates(run.space, latents)
    assert points.shape == (12, 7)
    expected = np.linalg.norm(weights[:, None] - weights, axis=-1)
    found = np.linalg.norm(points[:, None] - points, axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_distances_to_the_nearest_adapted_network(toy):
    """Two repeats of six tasks: row 2 t + r."""
    run, _ = toy
    generated = np.random.default_rng(5).normal(size=(3, LATENT_DIM)).astype(np.float32)
    known, points = (
        _weights(run, x) for x in (run.space.latents.reshape(-1, LATENT_DIM), generated)
    )
    found = networks.adapted_distances(run, {"generated": generated})
    between = np.linalg.norm(known[:, None] - known, axis=-1)
    again = [between[row, row ^ 1] for row in range(12)]
    others = [min(between[row, k] for k in range(12) if k // 2 != row // 2) for row in range(12)]
    nearest = [min(np.linalg.norm(point - other) for other in known) for point in points]
    assert list(found) == [
        "adapted, to the same task again",
        "adapted, to another task",
        "generated",
    ]
    for values, expected in zip(found.values(), (again, others, nearest), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_layer_statistics(toy):
    run, _ = toy
    latents = np.random.default_rng(4).normal(size=(40, LATENT_DIM)).astype(np.float32)
    weights = _weights(run, latents)
    cuts = {"W1": (0, 15), "b1": (15, 18), "W2": (18, 33), "b2": (33, 38)}
    found = networks.network_statistics(run, latents)
    assert found.shape == (40, 4, 3) and [layer.name for layer in run.space.network.layers] == list(
        cuts
    )
    for layer, (start, stop) in enumerate(cuts.values()):
        part = weights[:, start:stop]
        mean = part.sum(1) / (stop - start)
        deviation = np.sqrt(((part - mean[:, None]) ** 2).sum(1) / (stop - start))
        expected = np.stack([mean, deviation, np.sqrt((part**2).sum(1))], axis=1)
        np.testing.assert_allclose(found[:, layer], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 32, 70])
def test_parts_are_of_one_size_and_lose_no_row(count):
    sizes = []

    def double(part):
        sizes.append(len(part))
        return 2 * part

    rows = np.arange(2 * count).reshape(count, 2)
    np.testing.assert_array_equal(movements.in_parts(double, rows), 2 * rows)
    assert sizes == [movements.NETWORKS_AT_ONCE] * -(-count // movements.NETWORKS_AT_ONCE)


def test_projection_and_interpolation_and_distances():
    plane = (np.array([1.0, 2, 3]), np.array([[0.0, 1, 0], [0, 0, -1]]), np.array([0.5, 0.2]))
    np.testing.assert_array_equal(figures.on_plane(plane, np.array([[5.0, 4, 1]])), [[2, 2]])
    line = movements.interpolate(np.array([0.0, 2]), np.array([4.0, 0]), np.array([0, 0.25, 1]))
    np.testing.assert_array_equal(line, [[0, 2], [1, 1.5], [4, 0]])
    known, std = np.array([[1.0, 1], [5, 9]]), np.array([1.0, 2])
    found = movements.latent_distances(np.array([1.0, 1]), known, std)
    np.testing.assert_allclose(found, [0, 4])  # sqrt((4 / 1)^2 + (8 / 2)^2 over 2)


@pytest.mark.parametrize(("last", "count"), [(300, 40), (4, 40), (7, 3)])
def test_steps_are_whole_and_reach_both_ends(last, count):
    steps = movements.steps_between(last, count)
    assert steps[0] == 0 and steps[-1] == last
    assert len(steps) == min(count, last + 1)
    gaps = np.diff(steps)
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_example_questions_are_of_different_families(toy):
    run, _ = toy
    assert inspection.example_questions(run, 3) == ["What test 5?", "What test 2?", "What test 4?"]
    assert len(inspection.example_questions(run, 9)) == 5


def test_without_an_encoder_a_sentence_must_be_a_question_of_the_data_set(toy):
    run, features = toy
    row = features["sentences"].index("What train 4?")
    found = inspection.embed_sentence(run, "what train 4?")
    np.testing.assert_array_equal(found.pooled, features["sentence_features"][row])
    assert found.tokens is None and found.mask is None
    with pytest.raises(UserError, match="without an encoder.*no question.*such as 'What test 2"):
        inspection.embed_sentence(run, "What tess 2?")
    with pytest.raises(UserError, match="a question such as"):
        inspection.find_task(run, "  ")


def test_another_sentence_is_read_by_the_encoder_of_questions(toy, tmp_path):
    """To its end: a longer one is refused."""
    encoder = load_sentence_encoder(read_folder(write_sentence_encoder(tmp_path / "toy")), "toy")
    run = dataclasses.replace(toy[0], encoder=encoder)
    found = inspection.embed_sentence(run, "How many?")
    ids = tokenize_sentences(encoder, ["How many?"])
    expected = encode_sentences(encoder, ids, with_tokens=False).pooled[0]
    np.testing.assert_allclose(found.pooled, expected, atol=1e-6)
    with pytest.raises(UserError, match="the sentence has 62 tokens, its encoder reads 24"):
        inspection.embed_sentence(run, "how many " * 30)


def _picture(figure):
    """What a figure shows, in grey."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("L"))


def test_drawings_show_what_they_are_given():
    rng = np.random.default_rng(0)
    adapted, names = rng.normal(size=(30, 6)), [f"family {n % 9}" for n in range(30)]
    plane = principal_plane(adapted)
    grid = figures.draw_families(plane, adapted, names, adapted[:4], ["new", *names[:3]])
    assert [axes.get_title() for axes in grid.axes] == sorted({*names, "new"})
    path, values = rng.normal(size=(5, 6)), rng.uniform(size=5)
    moved = Movement(
        "Costs it $5 or $6?", np.arange(5), path, {"accuracy": values}, path[0], float(values[0])
    )
    figure = figures.draw_movements(plane, adapted, [moved] * 9, places="step", chosen=3)
    shown = [axes.get_lines()[0].get_xydata() for axes in figure.axes]
    np.testing.assert_allclose(shown[0], (path - plane[0]) @ plane[1].T)
    np.testing.assert_allclose(shown[1], np.stack([np.arange(5), values], axis=1))
    found = Neighbours(path, np.arange(3), values[:3], np.arange(2, 5), values[:3])
    statistics = {kind: rng.normal(size=(7, 4, 3)) for kind in ("adapted", "generated")}
    others = [
        figures.draw_neighbours(plane, adapted, found),
        figures.draw_interpolation(
            values, {"one?": values, "two?": values}, {"one?": 0.1, "two?": 0.2}
        ),
        figures.draw_statistics(("W1", "b1", "W2", "b2"), statistics),
        figures.draw_distances({"adapted": values, "generated": values}),
    ]
    for drawn in (grid, figure, *others):
        assert _picture(drawn).std() > 0


@pytest.fixture(scope="module")
def opened(finished_quickstart):
    return inspection.open_run(finished_quickstart, "language_hyperldm_tokens")


def guided_for_test(opened):
    """[T, Z]: what HyperCLIP guides e0 to for the test questions."""
    return movements.latents_for_test(opened, movements.hyperclip_guide(opened))[:, 0]


def _contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_opening_a_run_leaves_it_as_it_was(finished_quickstart, opened):
    before = _contents(finished_quickstart)
    again = inspection.open_run(finished_quickstart)
    assert _contents(finished_quickstart) == before
    guides = {"conditional", "generators", "hnet_language"}
    guides |= {"language_hyperclip", "language_hyperldm_tokens"}
    assert (
        set(again.trained.left) == {"hnet_language", "language", *guides}
        and set(again.guides) == guides
    )
    index = json.loads((finished_quickstart / "seed_0" / "guides.json").read_text())
    assert again.method == index["best"]
    np.testing.assert_array_equal(again.adapted, opened.space.latents.mean(axis=1))


@pytest.mark.parametrize(
    "missing", ["language_hyperclip/00000002", "language_latents", "hnet_language"]
)
def test_a_run_that_is_not_finished_is_refused(finished_quickstart, tmp_path, missing):
    workdir = tmp_path / "unfinished"
    shutil.copytree(finished_quickstart, workdir)
    shutil.rmtree(workdir / "seed_0" / missing)
    name = {"language_latents": "language"}.get(missing, missing.split("/")[0])
    with pytest.raises(UserError, match=f"no finished {name}: run hyper-meta train"):
        inspection.open_run(
            workdir, name if name == "language_hyperclip" else "language_hyperldm_tokens"
        )


def test_a_run_opens_without_a_guide_that_is_not_looked_at(finished_quickstart, tmp_path):
    workdir = tmp_path / "without"
    shutil.copytree(finished_quickstart, workdir)
    shutil.rmtree(workdir / "seed_0" / "language_hyperclip")
    run = inspection.open_run(workdir, "conditional")
    assert set(run.guides) == {
        "conditional",
        "generators",
        "hnet_language",
        "language_hyperldm_tokens",
    }
    with pytest.raises(UserError, match="no finished language_hyperclip: run hyper-meta train"):
        movements.guidance_movements(run, ["Where is the red digit?"], 4)


def test_a_run_opens_without_a_guide_that_was_not_trained(finished_quickstart, tmp_path):
    """HyperCLIP refuses this configuration; a run that leaves it out may have it."""
    workdir = tmp_path / "without"
    shutil.copytree(finished_quickstart, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["hyperclip"]["batch_size"] = 10**6
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "seed_0" / "reads" / "language_hyperclip.json").unlink()
    run = inspection.open_run(workdir, "conditional")
    assert set(run.guides) == {
        "conditional",
        "generators",
        "hnet_language",
        "language_hyperldm_tokens",
    }
    with pytest.raises(UserError, match="hyperclip.batch_size 1000000 is more than the"):
        inspection.open_run(workdir, "language_hyperclip")


def test_a_guide_that_the_run_does_not_have_is_refused(finished_quickstart):
    with pytest.raises(UserError, match="'film' given, this run has the guides conditional,"):
        inspection.open_run(finished_quickstart, "film")


def test_networks_of_a_guide_without_latents(finished_quickstart):
    """Its networks are looked at by their weights, the map shows another guide's latents."""
    run = inspection.open_run(finished_quickstart, "conditional")
    assert run.guide.space is None and run.latent_guide.name == "language_hyperldm_tokens"
    found = networks.generated_statistics(run, run.guide)
    assert found.shape == (len(run.setup.tasks["test"]), 4, 3)
    ours = networks.generated_statistics(run, run.latent_guide)
    latents = movements.sampled_for_test(run).mean(axis=1)
    np.testing.assert_allclose(
        ours, networks.network_statistics(run, latents), rtol=1e-3, atol=1e-4
    )
    with pytest.raises(UserError, match="language_hyperclip has no guidance scale"):
        clip = dataclasses.replace(run, method="language_hyperclip")
        movements.scale_movements(clip, ["Where is the red digit?"], (0.0, 1.0))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        inspection.open_run(tmp_path)


def test_accuracy_is_that_of_the_table(finished_quickstart, opened):
    """Of the mean of HyperLDM's samples, and of what HyperCLIP guides to, as the pipeline scored
    them."""
    scores = json.loads((finished_quickstart / "seed_0" / "scores.json").read_text())
    chosen = {row["id"]: row["chosen"] for row in scores["rows"]}
    for row_id, latents in (
        ("language_hyperldm_tokens", movements.sampled_for_test(opened).mean(axis=1)),
        ("language_hyperclip", guided_for_test(opened)),
    ):
        recorded = scores["test"][row_id][chosen[row_id]]
        for row in (0, 40, 150):
            sentence = opened.setup.tasks["test"][row].sentence
            expected = recorded["correct"][row] / recorded["count"][row]
            (found,) = movements.accuracy(opened, sentence, latents[row : row + 1])
            assert found == pytest.approx(expected, abs=1e-6)


def test_guidance_starts_at_e0_and_passes_where_the_pipeline_reads_it(opened):
    _, _, steps = movements.best_value(opened, movements.hyperclip_guide(opened))
    sentence = opened.setup.tasks["test"][0].sentence
    (moved,) = movements.guidance_movements(opened, [sentence], 40)
    np.testing.assert_array_equal(moved.places, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(moved.latents[0], opened.space.params["e0"])
    expected = guided_for_test(opened)[0]
    np.testing.assert_allclose(moved.latents[steps], expected, rtol=1e-4, atol=1e-5)
    assert moved.curves["cosine"][-1] > moved.curves["cosine"][0]


def test_cosine_is_that_of_hyperclip_and_question(opened):
    """Of explicit weights, layer by layer in float64, from method.md section 5."""
    left, generator = opened.trained.fitted("language_hyperclip"), opened.space.params["generator"]
    latents = opened.space.latents[:3, 0]
    statistics = left.statistics
    x = np.asarray(opened.space.generate(generator, jnp.asarray(latents)), np.float64)
    x = (x - statistics.weight_mean) / statistics.weight_std
    x = x / np.sqrt(x.shape[1])
    for n in range(sum(name.startswith("layers_") for name in left.params)):
        layer = left.params[f"layers_{n}"]
        x = np.asarray(x if n == 0 else np.logaddexp(0, x), np.float64)
        x = x @ np.asarray(layer["kernel"], np.float64) + layer["bias"]
    question = inspection.embed_sentence(opened, "What colour is a seven?")
    asked = (question.pooled - statistics.questions.mean) / statistics.questions.std
    expected = x @ asked / np.linalg.norm(x, axis=1) / np.linalg.norm(asked)
    found = movements.cosine(opened, latents, question)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_samples_follow_the_sentence_only_where_guided(opened):
    one, other = "Which colour does the seven have?", "Where is the red digit?"
    at_zero, at_two = (
        [movements.sample(opened, [sentence], scale) for sentence in (one, other)]
        for scale in (0.0, 2.0)
    )
    np.testing.assert_array_equal(*at_zero)
    assert np.abs(at_two[0] - at_two[1]).max() > 1e-3


def test_neighbours_are_the_nearest(opened):
    train = opened.setup.tables["train"]
    row = 17
    found = movements.neighbours(opened, opened.setup.tasks["train"][row].sentence, 5)
    assert found.by_text[0] == row and found.cosines[0] == pytest.approx(1, abs=1e-5)
    known = np.asarray(train.questions.pooled, np.float64)
    known = (known - known.mean(0)) / known.std(0)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    np.testing.assert_allclose(found.cosines, np.sort(known @ known[row])[::-1][:5], atol=1e-4)
    flat = opened.space.latents.reshape(-1, opened.space.latents.shape[-1])
    gaps = (opened.adapted - found.samples.mean(axis=0)) / flat.std(axis=0)
    expected = np.sqrt((gaps**2).mean(axis=1))
    np.testing.assert_allclose(found.distances, np.sort(expected)[:5], rtol=1e-4)
    assert found.by_latent[0] == expected.argmin()
