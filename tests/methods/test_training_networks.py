"""Controls made of the networks of training tasks, and how new a network is, against NumPy: for
guides whose networks are a matrix times their points."""

import dataclasses

import jax
import numpy as np
import pytest
from toy_setup import LATENT, NUM_TASKS, make_setup

from hyper_meta.methods import novelty as measured
from hyper_meta.methods.guides import Guide
from hyper_meta.methods.nearest import nearest_tasks
from hyper_meta.methods.trained import Space, Trained
from hyper_meta.methods.training_networks import (
    NOISES,
    mixed,
    noise_keys,
    noise_like,
    training_network_rows,
)

SPLITS = ("validation", "test")
REPEATS = 2


@pytest.fixture
def setup(tmp_path):
    return make_setup(tmp_path)


@pytest.fixture
def matrix(setup):
    rng = np.random.default_rng(1)
    return rng.normal(size=(LATENT, setup.network.num_weights)).astype(np.float32)


@pytest.fixture
def trained(setup):
    """The latents of training tasks, of which several are adapted twice."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(NUM_TASKS["train"], REPEATS, LATENT)).astype(np.float32)
    params = {"e0": np.zeros(LATENT, np.float32), "generator": {}}
    return Trained({"hvae": Space("HVAE", setup.network, params, None, latents)})


def _generate(model, points):
    return points @ model["matrix"]


def _guide(setup, matrix, *, space="hvae", sample=None):
    def of_question(model, questions, value, num_samples, seed):
        return np.asarray(questions.pooled)[:, None, :LATENT] * np.float32(value)

    return Guide(
        "a_guide",
        "a guide",
        setup.network,
        {"matrix": matrix},
        sample or of_question,
        _generate,
        {"chosen": 1.5},
        space=space,
    )


def _right(setup, weights, split):
    """[T], the right answers of networks [T, P], one task after another."""
    right = []
    for row, task in enumerate(setup.tasks[split]):
        answers = _answers(setup, weights[row], split, row)
        right.append(np.sum(answers == [label for _, label in task.query]))
    return right


def _answers(setup, weights, split, row):
    """The answers of a network [P] to the query set of a task."""
    table = setup.tables[split]
    first = table.item_offset[row] + table.support_size[row]
    images = table.item_image[first : first + table.query_size[row]]
    start = table.answer_offset[row]
    answers = table.answer_features[start : start + table.answer_count[row]]
    features = table.image_features[images]
    mask = np.ones(len(answers), bool)
    return np.asarray(setup.network.logits(weights, features, answers, mask)).argmax(axis=-1)


def _rows(setup, trained, guide):
    return {row.id: row for row in training_network_rows(setup, trained, [guide])}


@pytest.mark.parametrize("split", SPLITS)
def test_networks_of_the_nearest_sentences_are_averaged_as_weights(split, setup, trained, matrix):
    rows = _rows(setup, trained, _guide(setup, matrix))
    assert list(rows) == ["hvae.nearest_network", "hvae.noised_network", "hvae.averaged_networks"]
    weights = trained.space("hvae").latents.mean(axis=1) @ matrix
    order = nearest_tasks(setup, split, NUM_TASKS["train"])
    nearest = rows["hvae.nearest_network"].score(split, None, None)
    np.testing.assert_array_equal(nearest.correct, _right(setup, weights[order[:, 0]], split))
    averaged = rows["hvae.averaged_networks"]
    assert list(averaged.settings.values()) == [3, 5, 10, 20]
    for number in averaged.settings.values():  # the last two are all of 9
        expected = _right(setup, weights[order[:, :number]].mean(axis=1), split)
        scored = averaged.score(split, number, None)
        np.testing.assert_array_equal(scored.correct, expected)
        assert scored.count.tolist() == [len(task.query) for task in setup.tasks[split]]


def test_without_a_space_a_guides_own_networks_for_training_sentences_stand_for_them(setup, matrix):
    guide = _guide(setup, matrix, space=None)
    rows = _rows(setup, Trained(), guide)
    weights = 1.5 * np.asarray(setup.tables["train"].questions.pooled)[:, :LATENT] @ matrix
    order = nearest_tasks(setup, "test", 3)
    for name, chosen in (("nearest_network", order[:, :1]), ("averaged_networks", order)):
        row = rows[f"a_guide.{name}"]
        expected = _right(setup, weights[chosen].mean(axis=1), "test")
        np.testing.assert_array_equal(row.score("test", 3, None).correct, expected)


def test_noise_on_a_network_is_drawn_from_the_seed_and_grows(setup, trained, matrix):
    guide = _guide(setup, matrix)
    row = _rows(setup, trained, guide)["hvae.noised_network"]
    assert tuple(row.settings.values()) == NOISES and row.settings["0.1"] == 0.1
    weights = (trained.space("hvae").latents.mean(axis=1) @ matrix)[
        nearest_tasks(setup, "test")[:, 0]
    ]
    keys = noise_keys(setup, "test")
    for noise in (1e-7, 0.3):
        noised = [
            one + noise_like(jax.random.wrap_key_data(key), one[None], _norms(noise * one[None]))[0]
            for one, key in zip(weights, keys, strict=True)
        ]
        scored = row.score("test", noise, None)
        np.testing.assert_array_equal(scored.correct, _right(setup, np.stack(noised), "test"))
    again = make_setup(setup.folder)
    np.testing.assert_array_equal(noise_keys(again, "test"), keys)
    assert not np.array_equal(noise_keys(again, "validation")[:3], keys[:3])


def _norms(weights):
    return np.linalg.norm(weights, axis=-1)


def test_noise_has_the_norm_that_it_is_given():
    weights, norm = np.zeros((3, 40_000), np.float32), np.array([0.5, 2, 0], np.float32)
    noise = np.asarray(noise_like(jax.random.key(0), weights, norm))
    np.testing.assert_allclose(_norms(noise), norm, rtol=0.02)
    assert abs(np.corrcoef(noise[:2])[0, 1]) < 0.03


def test_a_mixture_is_a_weighted_mean_with_relative_noise(matrix):
    points = np.random.default_rng(2).normal(size=(4, 1, LATENT)).astype(np.float32)
    share = np.array([0.5, 0.25, 0.25, 0], np.float32)
    mixture = {"points": points, "share": share, "noise": np.float32(0)}
    mixture["key"] = np.asarray(jax.random.key_data(jax.random.key(3)))
    plain = mixed(_generate)({"matrix": matrix}, mixture)
    expected = np.tensordot(share, points @ matrix, 1)
    np.testing.assert_allclose(plain, expected, rtol=1e-5, atol=1e-6)
    wide = np.tile(matrix, (1, 1000))
    clean, noised = (
        np.asarray(mixed(_generate)({"matrix": wide}, {**mixture, "noise": np.float32(noise)}))
        for noise in (0, 0.3)
    )
    assert _norms(noised - clean) / _norms(clean) == pytest.approx(0.3, rel=0.03)


def test_guides_of_one_space_share_their_rows(setup, trained, matrix):
    one = _guide(setup, matrix)
    other = dataclasses.replace(one, name="another")
    own = dataclasses.replace(one, name="own", title="own", space=None)
    rows = training_network_rows(setup, trained, [one, own, other])
    assert [row.id.partition(".")[0] for row in rows] == ["hvae"] * 3 + ["own"] * 3
    assert len({row.title for row in rows}) == 6


def test_the_nearest_network_is_the_nearest(matrix):
    """Far from the origin, where products of float32 would not tell."""
    rng = np.random.default_rng(0)
    others = (1000 + rng.normal(size=(7, 2, 30))).astype(np.float32)
    weights = (1000 + rng.normal(size=(5, 30))).astype(np.float32)
    weights[2] = others[4, 1]
    gaps = np.linalg.norm(weights[:, None].astype(float) - others.reshape(14, 30), axis=-1)
    found = measured.search(weights, iter((others[:3], others[3:6], others[6:])))
    assert found.row.tolist() == gaps.argmin(axis=1).tolist() and found.row[2] == 9
    np.testing.assert_allclose(found.distance, gaps.min(axis=1), rtol=1e-3)
    assert found.distance[2] == 0
    norms = _norms(others.reshape(14, 30).astype(float))[found.row]
    np.testing.assert_allclose(found.norm, norms, rtol=1e-5)


def test_the_networks_of_ones_own_task_do_not_count():
    rng = np.random.default_rng(0)
    others = rng.normal(size=(7, 2, 30)).astype(np.float32)
    own = np.array([0, 6, 3])
    found = measured.search(others[own, 0], iter((others[:4], others[4:])), own=own)
    gaps = np.linalg.norm(others[own, :1] - others.reshape(1, 14, 30), axis=-1)
    for row, task in enumerate(own):
        gaps[row, 2 * task : 2 * task + 2] = np.inf
    assert found.row.tolist() == gaps.argmin(axis=1).tolist()


def test_answers_are_compared_by_their_errors():
    label = np.array([[0, 0, 1, 2, 1], [0, 1, 0, 0, 0]])
    mask = np.array([[True] * 5, [True, True, False, False, False]])
    nearest = [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]
    generated = [[0, 1, 2, 2, 2], [0, 1, 2, 2, 2]]
    noised = [[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    answers = np.stack([generated, nearest, noised], axis=1)
    found = jax.tree.map(np.asarray, measured.compare_answers(answers, label, mask))
    assert found["count"].tolist() == [5, 2]
    correct = {name: values.tolist() for name, values in found["correct"].items()}
    assert correct == {"generated": [2, 2], "nearest": [2, 2], "noised": [2, 1]}
    # Of four examples that either gets wrong, both get two wrong; without errors both err alike.
    np.testing.assert_allclose(found["overlap"]["generated"], [2 / 4, 1])
    np.testing.assert_allclose(found["overlap"]["noised"], [1, 0])
    np.testing.assert_allclose(found["agreement"]["generated"], [2 / 5, 1])
    np.testing.assert_allclose(found["agreement"]["noised"], [1, 1 / 2])


def test_a_guide_that_repeats_training_networks_is_found_out(setup, trained, matrix):
    latents = trained.space("hvae").latents

    def repeat(model, questions, value, num_samples, seed):
        return latents[np.arange(len(questions.pooled)) % len(latents), 1:]

    found = measured.novelty(setup, trained, _guide(setup, matrix, sample=repeat))
    np.testing.assert_allclose(found["distance"], np.zeros(NUM_TASKS["test"]), atol=1e-6)
    for name in ("overlap", "agreement"):
        assert found[name] == dict.fromkeys(("generated", "noised"), [1] * NUM_TASKS["test"])
    right = _right(setup, latents[: NUM_TASKS["test"], 1] @ matrix, "test")
    assert found["correct"] == dict.fromkeys(("generated", "nearest", "noised"), right)
    mean, every = (latents.mean(axis=1) @ matrix, (latents @ matrix).reshape(-1, matrix.shape[1]))
    gaps = np.linalg.norm(mean[:, None] - every, axis=-1)
    gaps[np.arange(len(every)) // REPEATS == np.arange(len(mean))[:, None]] = np.inf
    chosen = gaps.argmin(axis=1)
    between = gaps[np.arange(len(mean)), chosen] / _norms(every[chosen])
    assert found["between"] == pytest.approx(between.mean(), rel=1e-5)


@pytest.mark.parametrize("space", ["hvae", None])
def test_what_is_new_is_measured_on_the_test_tasks(space, setup, trained, matrix):
    guide = _guide(setup, matrix, space=space)
    found = measured.novelty(setup, trained, guide)
    questions = {
        name: np.asarray(setup.tables[name].questions.pooled) for name in ("train", "test")
    }
    ours = 1.5 * questions["test"][:, :LATENT] @ matrix
    known = trained.space("hvae").latents if space else 1.5 * questions["train"][:, None, :LATENT]
    every = (known @ matrix).reshape(-1, matrix.shape[1])
    gaps = np.linalg.norm(ours[:, None] - every, axis=-1)
    nearest = every[gaps.argmin(axis=1)]
    np.testing.assert_allclose(found["distance"], gaps.min(axis=1) / _norms(nearest), rtol=1e-4)
    noised = [
        one + noise_like(jax.random.wrap_key_data(key), one[None], gap[None].astype(np.float32))[0]
        for one, key, gap in zip(nearest, noise_keys(setup, "test"), gaps.min(axis=1), strict=True)
    ]
    networks = {"generated": ours, "nearest": nearest, "noised": np.stack(noised)}
    for name, weights in networks.items():
        assert found["correct"][name] == _right(setup, weights, "test")
    for name in ("generated", "noised"):
        same = [
            np.mean(_answers(setup, one, "test", row) == _answers(setup, other, "test", row))
            for row, (one, other) in enumerate(zip(networks[name], nearest, strict=True))
        ]
        np.testing.assert_allclose(found["agreement"][name], same, rtol=1e-6)


def test_networks_that_answer_together_are_each_compared_with_those_of_their_place(
    setup, trained, matrix, monkeypatch
):
    """Two members, each with its own matrix; the second repeats what it gives for a training
    sentence, and the first nothing."""
    matrices = np.stack([matrix, matrix[::-1] + 1])
    known = np.random.default_rng(3).normal(size=(9, 2, LATENT)).astype(np.float32)
    points = np.random.default_rng(4).normal(size=(5, 2, LATENT)).astype(np.float32)
    points[:, 1] = known[[3, 1, 4, 1, 5], 1]
    guide = dataclasses.replace(
        _guide(setup, matrices, space=None),
        generate=lambda model, points: jax.vmap(lambda m, e: e @ m)(model["matrix"], points),
    )
    weights_of = measured._weights_fn(setup, guide)
    nearest, chosen = measured._nearest(guide, points, known, weights_of)
    assert nearest[1].distance.tolist() == [0] * 5 and nearest[1].row.tolist() == [3, 1, 4, 1, 5]
    assert (nearest[0].distance > 0).all()
    np.testing.assert_array_equal(chosen[:, 1], points[:, 1])
    np.testing.assert_array_equal(chosen[:, 0], known[nearest[0].row, 0])
