"""Signs of sentences, against loops over tasks and networks in NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
from adapters import make_adapter
from toy_setup import DIM, NUM_TASKS, make_setup
from toy_tasks import numpy_logits

from hyper_meta.methods import signs as module
from hyper_meta.methods.guides import Guide
from hyper_meta.methods.interface import split_questions
from hyper_meta.methods.nearest import nearest_tasks
from hyper_meta.methods.signs import (
    SIGNS,
    ask,
    fit_of,
    network_signs,
    probe_images,
    signs_of,
    some_answers,
)

NETWORK = make_adapter(DIM, 3)


def expected_signs(samples, joint, images, answers, votes=False):
    """{"spread", "agreement", "confidence"} of networks [K, P] and of the one [P] that answers."""

    def logs(weights):
        logits = numpy_logits(weights, np.float64(images), answers)
        return (
            logits
            - np.log(np.exp(logits - logits.max()).sum(axis=1, keepdims=True))
            - (logits.max())
        )

    all_logs = [logs(weights) for weights in samples]
    chosen = np.mean(all_logs, axis=0) if votes else logs(joint)
    odds = np.exp(chosen - chosen.max(axis=1, keepdims=True))
    mean = np.float64(samples).mean(axis=0)
    away = [np.linalg.norm(weights - mean) for weights in samples]
    return {
        "spread": 0 if votes else np.sqrt(np.mean(np.square(away))) / np.linalg.norm(mean),
        "agreement": np.mean([one.argmax(axis=1) == chosen.argmax(axis=1) for one in all_logs]),
        "confidence": (odds.max(axis=1) / odds.sum(axis=1)).mean(),
    }


def cone(rng, *shape):
    return (1 + 0.2 * rng.normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("votes", [False, True])
def test_signs_of_networks_are_those_of_numpy_and_do_not_see_padding(votes):
    rng = np.random.default_rng(0)
    images, answers = cone(rng, 20, DIM), cone(rng, 4, DIM)
    weights = rng.normal(size=(6, NETWORK.num_weights)).astype(np.float32)
    found = network_signs(NETWORK, votes, weights, images, answers, np.ones(4, bool))
    expected = expected_signs(weights[1:], weights[0], images, answers, votes)
    assert 0.2 < expected["agreement"] < 1
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    padded = np.concatenate([answers, cone(rng, 3, DIM)])
    others = network_signs(NETWORK, votes, weights, images, padded, np.arange(7) < 4)
    for name, value in found.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-5, err_msg=name)


def test_one_network_agrees_with_itself():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(1, NETWORK.num_weights)).astype(np.float32)
    images, answers = cone(rng, 20, DIM), cone(rng, 4, DIM)
    both = np.concatenate([weights, weights])
    found = network_signs(NETWORK, False, both, images, answers, np.ones(4, bool))
    assert (found["spread"], found["agreement"]) == (0, 1)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """With two templates, in turn, of which the training tasks of each have all answers."""
    setup = make_setup(tmp_path_factory.mktemp("signs"))
    tasks = {
        split: [
            dataclasses.replace(task, template=("{}", "it is {}")[row % 2])
            for row, task in enumerate(part)
        ]
        for split, part in setup.tasks.items()
    }
    return dataclasses.replace(setup, tasks=tasks)


def own_answers(setup, template):
    """The features of all answers of the training tasks with a template, task after task."""
    table, found = setup.tables["train"], []
    for row, task in enumerate(setup.tasks["train"]):
        if task.template == template:
            start = int(np.asarray(table.answer_offset)[row])
            found += [
                np.asarray(table.answer_features)[start + n] for n in range(len(task.answers))
            ]
    return np.array(found)


def by_rows(answers):
    return np.array(sorted(map(tuple, answers.tolist())))


def test_a_task_is_asked_with_the_answers_of_the_nearest_training_sentence(setup):
    asked = ask(setup, "test")
    known = np.float64(setup.tables["train"].questions.pooled)
    mean, std = known.mean(axis=0), known.std(axis=0)
    ours = (np.float64(split_questions(setup, "test").pooled) - mean) / std
    known = (known - mean) / std
    for row, (task, nearest) in enumerate(zip(ours, nearest_tasks(setup, "test"), strict=True)):
        cosine = known @ task / np.linalg.norm(known, axis=1) / np.linalg.norm(task)
        np.testing.assert_allclose(asked.nearness[row], cosine.max(), rtol=1e-4)
        template = setup.tasks["train"][nearest[0]].template
        answers = own_answers(setup, template)
        found = asked.answers[row][asked.answer_mask[row]]
        np.testing.assert_array_equal(by_rows(found), by_rows(answers))
    assert not asked.answers[~asked.answer_mask].any()


def test_a_template_is_tried_with_so_many_answers(monkeypatch):
    monkeypatch.setattr(module, "MOST_ANSWERS", 2)
    assert some_answers({"red": 1, "blue": 2, "green": 3}) == ["blue", "green"]


def test_images_are_training_images_drawn_by_the_seed(setup, monkeypatch):
    monkeypatch.setattr(module, "NUM_IMAGES", 6)
    table = setup.tables["train"]
    own = np.asarray(table.image_features)[np.unique(table.item_image)]
    images = probe_images(setup)
    assert images.shape == (6, DIM)
    assert {*map(tuple, images.tolist())} <= {*map(tuple, own.tolist())}
    np.testing.assert_array_equal(images, probe_images(setup))
    other = dataclasses.replace(setup, config=dataclasses.replace(setup.config, seed=9))
    assert np.abs(probe_images(other) - images).max() > 0
    monkeypatch.setattr(module, "NUM_IMAGES", 10_000)
    np.testing.assert_array_equal(probe_images(setup), own)


def stand_in(**changes):
    """Three networks for a sentence: a linear function of its features and of their number."""
    rng = np.random.default_rng(0)
    model = rng.normal(size=(DIM, NETWORK.num_weights)).astype(np.float32)

    def sample(model, questions, value, num_samples, seed):
        draws = np.random.default_rng(seed).normal(size=(num_samples, DIM))
        return (value * np.asarray(questions.pooled)[:, None] + draws).astype(np.float32)

    about = {"name": "stand_in", "title": "stand-in", "network": NETWORK, "model": model}
    about |= {"sample_fn": sample, "generate": lambda model, points: points @ model}
    return Guide(**about | {"num_samples": 3, "random": True, "settings": {"two": 2.0}} | changes)


@pytest.mark.parametrize("votes", [False, True])
def test_signs_of_tasks_are_those_of_each_by_itself(votes, setup, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)  # which no split is a multiple of
    setup = dataclasses.replace(setup, cache=type(setup.cache)())
    guide = stand_in(votes=votes, fit_fn=lambda points, questions: points[..., 0])
    asked, images = ask(setup, "test"), probe_images(setup)
    found = signs_of(setup, guide, value=2.0, split="test", asked=asked, images=images)
    assert found.shape == (NUM_TASKS["test"], len(SIGNS)) and found.dtype == np.float64
    points = guide.sample(asked.questions, 2.0, num_samples=3, seed=setup.config.seed)
    for row, values in enumerate(found):
        weights = points[row] @ guide.model
        answers = asked.answers[row][asked.answer_mask[row]]
        expected = expected_signs(weights, weights.mean(axis=0), images, answers, votes)
        expected |= {"nearness": asked.nearness[row], "fit": points[row, :, 0].mean()}
        for name, value in zip(SIGNS, values, strict=True):
            np.testing.assert_allclose(value, expected[name], rtol=2e-3, atol=1e-6, err_msg=name)


def test_without_hyperclip_nothing_is_said_of_the_fit(setup):
    questions = split_questions(setup, "validation")
    points = jax.numpy.zeros((NUM_TASKS["validation"], 1, 2))
    np.testing.assert_array_equal(fit_of(stand_in(), questions, points), 0)
