"""The methods of the registry, trained for two steps and scored, through the evaluation."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from toy_setup import NUM_TASKS, make_setup, tiny_config

from hyper_meta.core import parallel
from hyper_meta.core.configuration import override
from hyper_meta.core.settings import changed
from hyper_meta.eval.calibration import expected_accuracy
from hyper_meta.eval.rows import CLIP, KINDS, MULTITASK, NEAREST
from hyper_meta.meta import scoring
from hyper_meta.methods.guide_store import choose_guide, load_guide
from hyper_meta.methods.guides import chosen_setting, guide_of, guide_score, points_of
from hyper_meta.methods.interface import split_questions
from hyper_meta.methods.novelty import novelty
from hyper_meta.methods.places import trained_parts
from hyper_meta.methods.registry import GUIDES, METHODS, in_order
from hyper_meta.methods.signs import SIGNS, probe_images, stack_signs
from hyper_meta.methods.trained import Trained
from hyper_meta.methods.trust import trust_from
from hyper_meta.models.sentences import take
from hyper_meta.train import checkpoints
from hyper_meta.workflows import evaluate as evaluation
from hyper_meta.workflows.evaluate import evaluate

SOURCE = {"encoder": "an encoder", "question_encoder": "another"}
# All but those that differ from another in the objective of their stage alone.
NAMES = [name for name in METHODS if name not in ("mnet_multitask", "mnet_fomaml", "hnet_fomaml")]

# Guides that differ from another in their space alone, or in reading tokens.
OF_A_KIND = {
    *("conditional_tokens", "film_tokens", "language_ridge", "hvae_hyperclip", "hnet_hyperclip"),
    *("hnet_hyperldm_tokens", "hnet_noisy_hyperclip", "hnet_ranked"),
}


def train(folder, names, *overrides):
    """(setup, what the methods left)."""
    config = tiny_config()
    for argument in overrides:
        override(config, argument.partition("=")[0], [f"--config.{argument}"])
    setup, trained = make_setup(folder, config), Trained()
    for name in names:
        trained.left[name] = METHODS[name].train(setup, trained)
    return setup, trained


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """(setup, rows by id, what the methods left)."""
    setup, trained = train(tmp_path_factory.mktemp("methods"), NAMES)
    rows = [row for name in NAMES for row in METHODS[name].rows(setup, trained)]
    assert len({row.title for row in rows}) == len(rows)
    assert len({row.id for row in rows}) == len(rows)
    return setup, {row.id: row for row in rows}, trained


@pytest.fixture(scope="module")
def evaluated(everything):
    setup, rows, trained = everything
    guides = [guide_of(setup, trained, name, maker) for name, maker in GUIDES.items()]
    evaluate(setup, list(rows.values()), trained, guides, SOURCE)
    return json.loads((setup.folder / "scores.json").read_text())


def test_the_rows_that_others_are_compared_with_are_there(everything):
    _, rows, _ = everything
    assert {CLIP, MULTITASK, NEAREST, "hnet_maml", "majority"} <= set(rows)
    direct = {row.id for row in rows.values() if row.maps_question_directly}
    assert direct == {"conditional", "conditional_maml"}
    assert {row.kind for row in rows.values()} == set(KINDS)
    # A row is called by its method's name, or by that and its variant.
    assert all(re.fullmatch(r"[a-z_]+([.][a-z_]+)?", name) for name in rows)


def test_every_row_is_scored_on_every_task(evaluated, everything):
    setup, rows, _ = everything
    kinds = list(KINDS)
    order = [kinds.index(row["kind"]) for row in evaluated["rows"]]
    assert order == sorted(order) and {row["id"] for row in evaluated["rows"]} == set(rows)
    assert all(row["title"] == rows[row["id"]].title for row in evaluated["rows"])
    for split in ("validation", "test"):
        count = [len(task.query) for task in setup.tasks[split]]
        for by_setting in evaluated[split].values():
            for scores in by_setting.values():
                assert scores["count"] == count
                assert all(0 <= c <= n for c, n in zip(scores["correct"], count, strict=True))
    assert set(evaluated["shots"]) == {name for name, row in rows.items() if row.shots}
    assert all(set(by_shots) == {"1", "2"} for by_shots in evaluated["shots"].values())


def test_a_run_that_is_trained_already_is_only_restored(everything, monkeypatch):
    setup, _, trained = everything

    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(parallel, "compile_chunk", refuse)
    _, left = train(setup.folder, NAMES)
    for name in ("mnet_maml", "film", "hvae_hyperldm"):
        both = left.fitted(name).as_tree(), trained.fitted(name).as_tree()
        jax.tree.map(np.testing.assert_array_equal, *both)
    both = left.weights("mnet_weights"), trained.weights("mnet_weights")
    np.testing.assert_array_equal(*both)
    for name in ("hnet", "hvae"):
        np.testing.assert_array_equal(left.space(name).latents, trained.space(name).latents)
        jax.tree.map(
            np.testing.assert_array_equal, left.space(name).params, trained.space(name).params
        )


def test_an_ensemble_is_the_mean_of_logits_and_differs_from_the_mean_latent(everything):
    """The rows of HyperLDM at a scale, with NumPy's mean in place of the ensemble's."""
    setup, rows, trained = everything
    space = trained.space("hnet")
    guide = guide_of(setup, trained, "hnet_hyperldm", GUIDES["hnet_hyperldm"])
    latents = points_of(setup, guide, "test", 2.0)
    assert latents.shape[:2] == (NUM_TASKS["test"], 2)
    run = scoring.compile_pass(
        scoring.latent_method(space.network, space.generate),
        setup.tables["test"],
        max_shapes=1,
        max_examples=1000,
    )
    params = parallel.replicate(space.params)
    logits, of_mean = run(params, latents), run(params, latents.mean(axis=1, keepdims=True))
    expected = {
        "": of_mean,
        ".mean_of_logits": logits.mean(axis=1, keepdims=True),
        ".one_sample": logits,
    }
    for variant, values in expected.items():
        right = []
        for task, of_task in zip(setup.tasks["test"], values, strict=True):
            labels = [label for _, label in task.query]
            chosen = of_task[:, : len(labels)].argmax(axis=-1)
            right.append((chosen == labels).sum(axis=-1).mean())
        scored = rows[f"hnet_hyperldm{variant}"].score("test", 2.0, None)
        np.testing.assert_allclose(scored.correct, right, rtol=1e-6)


def test_the_model_of_generate_is_left_behind(evaluated, everything):
    setup, _, trained = everything
    tree = {
        "space": trained.space("hnet").params,
        "hyperldm": trained.fitted("hnet_hyperldm").as_tree(),
    }
    sentences = np.asarray(setup.tables["train"].questions.pooled)
    tree = {"guide": tree, "images": probe_images(setup), "sentences": sentences}
    restored, notes = checkpoints.restore_tree(
        setup.folder / "guides" / "hnet_hyperldm",
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree),
    )
    jax.tree.map(np.testing.assert_array_equal, restored, tree)
    assert {name: notes[name] for name in SOURCE} == SOURCE
    assert notes["templates"] == {t.sentence: t.template for t in setup.tasks["train"]}
    guide = guide_of(setup, trained, "hnet_hyperldm", GUIDES["hnet_hyperldm"])
    assert notes["setting"] == guide.settings[chosen_setting(setup, guide)]


def test_the_best_guide_on_validation_tasks_is_the_default_and_is_shown(evaluated, everything):
    setup, _, trained = everything
    means = {
        name: np.mean(np.divide(scores["correct"], scores["count"]))
        for name in GUIDES
        for row in evaluated["rows"]
        if row["id"] == name
        for scores in [evaluated["validation"][name][row["chosen"]]]
    }
    assert set(means) == set(GUIDES)
    best = choose_guide(setup.folder, None)
    assert means[best] == max(means.values())
    guide = guide_of(setup, trained, best, GUIDES[best])
    with np.load(setup.folder / "shown.npz") as shown:
        assert len(shown["answers"]) == NUM_TASKS["test"]
        if guide.space is None:
            assert "latents" not in shown
        else:
            adapted = trained.space(guide.space).latents.mean(axis=1)
            np.testing.assert_array_equal(shown["adapted"], adapted)
            assert len(shown["latents"]) == NUM_TASKS["test"]


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_shown_in_a_run_of_its_method_alone(name, evaluated, everything, tmp_path):
    """With what it needs, and nothing else that other methods leave."""
    setup, _, trained = everything
    needed = in_order((name,), setup.config)
    alone = Trained({key: left for key, left in trained.left.items() if key in needed})
    assert {*needed} - {*alone.left} <= {"mnet_multitask", "mnet_fomaml", "hnet_fomaml"}
    guide = guide_of(setup, trained, name, GUIDES[name])
    evaluation._show(dataclasses.replace(setup, folder=tmp_path), guide, alone)
    with np.load(tmp_path / "shown.npz") as shown:
        assert len(shown["answers"]) == NUM_TASKS["test"]
        assert ("latents" in shown) == (guide.space in needed)


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_read_back_as_it_was(name, evaluated, everything):
    """Its model to the bit, its setting, and with them the same networks."""
    setup, _, trained = everything
    ours = guide_of(setup, trained, name, GUIDES[name])
    sentence = take(setup.tables["train"].questions, 0)
    stored = load_guide(
        setup.folder,
        name,
        GUIDES[name],
        config=setup.config,
        network=setup.network,
        sentence=sentence,
    )
    jax.tree.map(np.testing.assert_array_equal, stored.guide.model, ours.model)
    np.testing.assert_array_equal(stored.images, probe_images(setup))
    assert stored.value == ours.settings[chosen_setting(setup, ours)]
    questions = split_questions(setup, "test")
    points = (
        guide.sample(questions, stored.value, num_samples=2, seed=5)
        for guide in (ours, stored.guide)
    )
    jax.tree.map(np.testing.assert_array_equal, *points)


@pytest.mark.parametrize("name", GUIDES)
def test_how_far_a_guide_can_be_trusted_is_left_behind(name, evaluated, everything):
    """What trust.json says of the test tasks is what was saved with the guide says of the signs."""
    setup, rows, trained = everything
    record = json.loads((setup.folder / "trust.json").read_text())[name]
    notes = json.loads((setup.folder / "guides" / name / "notes.json").read_text())
    trust = trust_from(notes["trust"])
    signs = {split: stack_signs(found) for split, found in record["signs"].items()}
    assert np.isfinite(signs["validation"]).all()
    assert signs["test"].shape == (NUM_TASKS["test"], len(SIGNS))
    expected = expected_accuracy(trust.calibration, signs["test"])
    np.testing.assert_allclose(record["expected"], expected)
    scores = rows[name].score("validation", _value(notes["setting"]), None)
    assert trust.mean == pytest.approx(scores.accuracy.mean())
    assert trust.baseline == pytest.approx(
        rows[MULTITASK].score("validation", None, None).accuracy.mean()
    )
    # The toy sentences are "test 3?".
    assert record["unseen"] == [True] * NUM_TASKS["test"] and "validation" in trust.words
    guide, one = guide_of(setup, trained, name, GUIDES[name]), record["signs"]["test"]
    assert (max(one["spread"]) > 0) == guide.random
    assert (max(map(abs, one["fit"])) > 0) == ("noisy" in name or "ranked" in name)


def _value(saved):
    return tuple(saved) if isinstance(saved, list) else saved


@pytest.mark.parametrize("name", ["conditional", "conditional_maml", "film"])
def test_the_guide_of_a_learner_is_the_learner_where_it_starts(name, everything):
    setup, rows, trained = everything
    guide = guide_of(setup, trained, name, GUIDES[name])
    for split in ("validation", "test"):
        ours, expected = (
            score(split, None, None) for score in (guide_score(setup, guide), rows[name].score)
        )
        np.testing.assert_array_equal(ours.correct, expected.correct)


def test_controls_and_few_shot_rows_take_any_guide(everything):
    """One of each kind of guide: others differ in their space, or in what they read."""
    setup, _, trained = everything
    kinds = [name for name in GUIDES if name not in OF_A_KIND]
    asked = {f"evaluate.{name}_guides": tuple(kinds) for name in ("control", "few_shot")}
    setup = dataclasses.replace(setup, config=changed(setup.config, asked))
    controls = METHODS["questions"].rows(setup, trained)
    wrong = {"training_question", "other_question", "noise_question", "shuffled_answers"}
    networks = {"nearest_network", "noised_network", "averaged_networks"}
    for name in kinds:
        variants = {row.id.partition(".")[2] for row in controls if row.id.startswith(f"{name}.")}
        own = networks if guide_of(setup, trained, name, GUIDES[name]).space is None else set()
        assert variants - {"unguided"} == wrong | own
        assert ("unguided" in variants) == ("hyperldm" in name)
        rows = {row.id: row for row in METHODS[name].rows(setup, trained)}
        if guide_of(setup, trained, name, GUIDES[name]).votes:
            assert f"{name}.adapted" not in rows  # its networks have no one start
            continue
        adapted = rows[f"{name}.adapted"]
        assert adapted.shots is not None
        before, after = (
            adapted.score("test", value, None)
            for value in list(adapted.settings.values())[:2]  # none and two steps
        )
        start = rows[name].score("test", _chosen(setup, trained, name), None)
        np.testing.assert_array_equal(before.correct, start.correct)
        assert len(after.correct) == NUM_TASKS["test"]
    ids = {row.id for row in controls}
    assert {"hnet.noised_network", "hnet.averaged_networks"} < ids
    assert {f"hvae.{variant}" for variant in networks} < ids
    for row in controls:
        (value, *_) = row.settings.values()
        assert len(row.score("test", value, None).correct) == NUM_TASKS["test"]
    for name in kinds:
        guide = guide_of(setup, trained, name, GUIDES[name])
        found = novelty(setup, trained, guide)
        assert min(found["distance"]) >= 0 and found["between"] > 0
        if guide.votes:
            continue
        value = _chosen(setup, trained, name)
        scores = METHODS[name].rows(setup, trained)[0].score("test", value, None)
        np.testing.assert_array_equal(found["correct"]["generated"], scores.correct)


def _chosen(setup, trained, name):
    guide = guide_of(setup, trained, name, GUIDES[name])
    return guide.settings[chosen_setting(setup, guide)]


OPTIONS = (
    ("network.blend=0.5",),
    ("latents.pull=1.0",),
    ("hvae.standardise=false",),
    ("hyperclip.standardise=false",),
    ("hyperclip.guidance.cosine=true",),
    ("hyperclip.guidance.langevin=0.3",),
    ("hyperclip.guidance.optimizer=adam",),
)
# Of which something depends on each of these options, directly or through what is trained on it.
CHAIN = ("mnet_maml", "mnet_weights", "hvae", "hvae_hyperclip")


def _guided(folder, base, *overrides):
    """(latents of the training tasks, those that are guided for the test questions).

    base: the folder without options, whose networks and space are those of options of HyperCLIP.
    """
    if all(option.startswith("hyperclip.") for option in overrides) and base.exists():
        for part in (part for name in CHAIN[:-1] for part in trained_parts(base, name)):
            shutil.copytree(part, folder / part.name, dirs_exist_ok=True)
    setup, trained = train(folder, CHAIN, *overrides)
    space = trained.space("hvae")
    guide = guide_of(setup, trained, "hvae_hyperclip", GUIDES["hvae_hyperclip"])
    guided = [points_of(setup, guide, "test", value) for value in guide.settings.values()]
    return np.concatenate([space.latents.ravel(), *(x.ravel() for x in guided)])


def test_options_of_spaces_and_of_guidance_by_hyperclip(tmp_path):
    """Each is reachable by an override, and makes a difference of its own."""
    base = tmp_path / "0"
    outcomes = [
        _guided(tmp_path / str(n), base, *option) for n, option in enumerate(((), *OPTIONS))
    ]
    assert np.isfinite(outcomes).all()
    for number, one in enumerate(outcomes):
        for other in outcomes[:number]:
            assert np.abs(one - other).max() > 1e-4
