"""The controls against NumPy, with sampling and scoring replaced by what records its arguments."""

import dataclasses

import numpy as np
import pytest
from toy_setup import DIM, LATENT, NUM_TASKS, make_setup

from hyper_meta.core.settings import changed
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.eval.rows import NEAREST
from hyper_meta.meta import scoring
from hyper_meta.methods import controls
from hyper_meta.methods.guides import Guide, GuideMaker
from hyper_meta.methods.nearest import nearest_tasks
from hyper_meta.methods.trained import AdaptedWeights, Space, Trained

SCALE, NUM_SAMPLES = 1.75, 3
SPLITS = ("validation", "test")


@pytest.fixture
def setup(tmp_path):
    """Questions whose nearest are others once they are standardised: one entry is large."""
    setup = make_setup(tmp_path)
    stretched = {
        name: table.replace(
            questions=SentenceFeatures(table.questions.pooled * np.float32([9, 1, 1, 1, 1]))
        )
        for name, table in setup.tables.items()
    }
    return dataclasses.replace(setup, tables=stretched)


@pytest.fixture
def space():
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(NUM_TASKS["train"], 2, LATENT)).astype(np.float32)
    return Space("HNet", None, {"e0": np.zeros(LATENT)}, None, latents)


@pytest.fixture
def scored(monkeypatch):
    """What is scored, instead of scoring it: a list of (latents, split, change)."""
    calls = []

    def latent_scores(setup, space_name, space, change=None):
        return lambda latents, split: calls.append((latents, split, change))

    def guide_scores(setup, guide, change=None):
        return lambda points, split: calls.append((points, split, change))

    monkeypatch.setattr(controls, "latent_scores", latent_scores)
    monkeypatch.setattr(controls, "guide_scores", guide_scores)
    return calls


@pytest.fixture
def asked(monkeypatch):
    """The questions that latents are sampled for: a list of (questions, scale)."""
    monkeypatch.setattr(controls, "chosen_setting", lambda *args: "chosen")
    return []


@pytest.fixture
def guide(asked):
    """Its latent repeats the first entries of its question, and its samples differ by 1."""

    def sample(model, questions, scale, num_samples, seed):
        asked.append((questions, scale))
        centre = scale + np.asarray(questions.pooled)[:, None, :LATENT]
        return centre + np.arange(-1, num_samples - 1)[:, None]

    settings = {"other": 9.0, "chosen": SCALE}
    return Guide(
        "hnet_hyperldm",
        "HNet + HyperLDM",
        None,
        {},
        sample,
        None,
        settings,
        scaled=True,
        num_samples=NUM_SAMPLES,
    )


def _rows(method, setup, trained):
    return {row.id.removeprefix("hnet_hyperldm."): row for row in method.rows(setup, trained)}


def _nearest(setup, split):
    """For each question the training tasks, from the nearest to the farthest."""
    known, asked = (setup.tables[name].questions.pooled for name in ("train", split))
    mean, std = known.mean(axis=0), known.std(axis=0)
    known, asked = ((x - mean) / std for x in (known, asked))

    def cosine(one, other):
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    return [
        sorted(range(len(known)), key=lambda row: -cosine(question, known[row]))  # noqa: B023
        for question in asked
    ]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("number", [1, 3, 9])
def test_the_nearest_training_tasks_by_standardised_questions(split, number, setup):
    expected = [order[:number] for order in _nearest(setup, split)]
    np.testing.assert_array_equal(nearest_tasks(setup, split, number), expected)


def test_before_standardising_others_are_the_nearest(setup):
    """So that the test above can fail."""
    asked, known = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (setup.tables[name].questions.pooled for name in ("test", "train"))
    )
    standardised = [order[0] for order in _nearest(setup, "test")]
    assert (asked @ known.T).argmax(axis=1).tolist() != standardised
    assert len(set(standardised)) > 1


@pytest.mark.parametrize("split", SPLITS)
def test_latents_of_all_tasks_and_of_the_nearest_sentences(split, setup, space, scored):
    rows = _rows(controls.LATENTS, setup, Trained({"hnet": space}))
    averaged, of_task = "nearest_latents", space.latents.mean(axis=1)
    rows["mean_latent"].score(split, None, None)
    rows[NEAREST].score(split, *rows[NEAREST].settings.values(), None)
    for number in rows[averaged].settings.values():
        rows[averaged].score(split, number, None)
    (mean, *at), (nearest, *_), *several = scored
    assert at == [split, None]
    everything = space.latents.reshape(-1, LATENT).mean(axis=0)
    np.testing.assert_allclose(mean, np.tile(everything, (NUM_TASKS[split], 1, 1)), rtol=1e-5)
    order = np.array(_nearest(setup, split))
    np.testing.assert_allclose(nearest, of_task[order[:, :1]], rtol=1e-5)
    for number, (latents, *_) in zip(rows[averaged].settings.values(), several, strict=True):
        expected = of_task[order[:, :number]].mean(axis=1)
        np.testing.assert_allclose(latents[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_weights_of_the_nearest_sentence(setup, monkeypatch):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(NUM_TASKS["train"], 2, 7)).astype(np.float32)
    scored = []

    def compile_scores(setup, key, task_fn):
        return lambda params, extra, split: scored.append((extra, split))

    monkeypatch.setattr(controls, "compile_scores", compile_scores)
    (row,) = controls.WEIGHTS.rows(setup, Trained({"mnet_weights": AdaptedWeights(weights)}))
    row.score("test", None, None)
    ((chosen, split),) = scored
    nearest = [order[0] for order in _nearest(setup, "test")]
    expected = weights.mean(axis=1)[nearest]
    np.testing.assert_allclose(chosen, expected[:, None], rtol=1e-6)
    assert split == "test"


def _question_rows(setup, guide):
    makers = {guide.name: GuideMaker(lambda *args: {}, None, lambda *args: guide)}
    return _rows(controls.wrong_questions(makers), setup, Trained())


def with_seed(setup, seed):
    return dataclasses.replace(setup, config=changed(setup.config, {"seed": seed}))


WRONG = ("training_question", "other_question", "noise_question")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("variant", WRONG)
def test_the_question_is_replaced_at_the_chosen_scale(variant, split, setup, guide, scored, asked):
    _question_rows(setup, guide)[variant].score(split, None, None)
    ((wrong, scale),) = asked
    wrong = wrong.pooled
    own, known = (setup.tables[name].questions.pooled for name in (split, "train"))
    assert scale == SCALE and wrong.shape == own.shape and wrong.dtype == np.float32
    assert not (wrong[:, None] == own[:, None]).all(axis=-1).any()

    def is_among(questions):
        return [any(np.array_equal(w, q) for q in questions) for w in wrong]

    if variant == "training_question":
        assert all(is_among(known)) and len(np.unique(wrong, axis=0)) > 1
    elif variant == "other_question":
        assert all(is_among(own)) and len(np.unique(wrong, axis=0)) == len(own)
    else:
        assert not any(is_among([*known, *own]))
    ((latents, at, change),) = scored
    np.testing.assert_allclose(latents, SCALE + wrong[:, None, :LATENT], rtol=1e-5)
    assert at == split and change is None


def test_noise_has_the_moments_of_the_training_questions(setup, guide, scored, asked):
    known = setup.tables["train"].questions.pooled
    for seed in range(200):
        rows = _question_rows(with_seed(setup, seed), guide)
        rows["noise_question"].score("test", None, None)
    noise = np.concatenate([wrong.pooled for wrong, _ in asked])
    error = 5 * known.std(axis=0) / np.sqrt(len(noise))
    assert (np.abs(noise.mean(axis=0) - known.mean(axis=0)) < error).all()
    np.testing.assert_allclose(noise.std(axis=0), known.std(axis=0), rtol=0.15)
    assert noise.shape[1] == DIM


def test_wrong_questions_are_drawn_from_the_seed(setup, guide, scored, asked):
    for variant in WRONG:
        asked.clear()
        for seed in (0, 0, 1, 2, 3):
            rows = _question_rows(with_seed(setup, seed), guide)
            rows[variant].score("test", None, None)
        first, again, *others = [wrong.pooled for wrong, _ in asked]
        np.testing.assert_array_equal(first, again)
        assert any(not np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    "variant, scale, change",
    [
        ("unguided", 0.0, None),
        ("shuffled_answers", SCALE, scoring.with_answers_shuffled),
    ],
)
def test_the_right_question_without_guidance_or_with_wrong_answers(
    variant, scale, change, setup, guide, scored, asked
):
    _question_rows(setup, guide)[variant].score("test", None, None)
    own = setup.tables["test"].questions.pooled
    ((questions, used),) = asked
    np.testing.assert_array_equal(questions.pooled, own)
    ((latents, split, changed),) = scored
    assert (used, split, changed) == (scale, "test", change)
    np.testing.assert_allclose(latents, scale + own[:, None, :LATENT], rtol=1e-5)


def test_a_guide_without_a_scale_has_no_row_without_guidance(setup, guide, scored):
    rows = _question_rows(setup, dataclasses.replace(guide, scaled=False))
    assert "unguided" not in rows and {*WRONG, "shuffled_answers"} < set(rows)
