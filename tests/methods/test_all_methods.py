"""The methods of the registry, trained for two steps and scored, through the evaluation."""

import json
import re

import jax
import numpy as np
import pytest
from toy_setup import NUM_TASKS, make_setup, tiny_config

from hyper_meta.core import parallel
from hyper_meta.core.configuration import override
from hyper_meta.eval.rows import CLIP, KINDS, MULTITASK, NEAREST
from hyper_meta.meta import scoring
from hyper_meta.methods.hyperclip import guided_latents
from hyper_meta.methods.hyperldm import chosen_scale, sampled_latents
from hyper_meta.methods.registry import METHODS
from hyper_meta.train import checkpoints
from hyper_meta.workflows.evaluate import evaluate

# All but those that differ from another in the objective of their stage alone.
NAMES = [name for name in METHODS if name not in ("mnet_multitask", "mnet_fomaml", "hnet_fomaml")]


def train(folder, names, *overrides):
    """(setup, what the methods left)."""
    config = tiny_config()
    for argument in overrides:
        override(config, argument.partition("=")[0], [f"--config.{argument}"])
    setup, trained = make_setup(folder, config), {}
    for name in names:
        trained[name] = METHODS[name].train(setup, trained)
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
    evaluate(setup, list(rows.values()), trained, "an encoder")
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
    for name in ("mnet_maml", "film", "hvae_hyperldm", "mnet_weights"):
        jax.tree.map(np.testing.assert_array_equal, left[name], trained[name])
    for name in ("hnet", "hvae"):
        np.testing.assert_array_equal(left[name].latents, trained[name].latents)
        jax.tree.map(np.testing.assert_array_equal, left[name].params, trained[name].params)


def test_an_ensemble_is_the_mean_of_logits_and_differs_from_the_mean_latent(everything):
    """The rows of HyperLDM at a scale, with NumPy's mean in place of the ensemble's."""
    setup, rows, trained = everything
    space, left = trained["hnet"], trained["hnet_hyperldm"]
    latents = sampled_latents(setup, "hnet", space, left)("test", 2.0)
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
        scored, _ = rows[f"hnet_hyperldm{variant}"].score("test", 2.0, None)
        np.testing.assert_allclose(scored, right, rtol=1e-6)


def test_the_model_of_generate_is_left_behind(evaluated, everything):
    setup, _, trained = everything
    tree = {"space": trained["hnet"].params, "hyperldm": trained["hnet_hyperldm"]}
    restored, notes = checkpoints.restore_tree(
        setup.folder / "model", jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    )
    jax.tree.map(np.testing.assert_array_equal, restored, tree)
    assert notes["encoder"] == "an encoder"
    chosen = chosen_scale(setup, "hnet", trained["hnet"], trained["hnet_hyperldm"])
    assert notes["guidance_scale"] == chosen
    with np.load(setup.folder / "shown.npz") as shown:
        adapted = trained["hnet"].latents.mean(axis=1)
        np.testing.assert_array_equal(shown["adapted"], adapted)
        assert len(shown["latents"]) == len(shown["answers"]) == NUM_TASKS["test"]


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


def _guided(folder, *overrides):
    """(latents of the training tasks, those that are guided for the test questions)."""
    setup, trained = train(folder, CHAIN, *overrides)
    space, left = trained["hvae"], trained["hvae_hyperclip"]
    guided = guided_latents(setup, "hvae_hyperclip", space, left)("test")
    return np.concatenate([space.latents.ravel(), *(x.ravel() for x in guided.values())])


def test_options_of_spaces_and_of_guidance_by_hyperclip(tmp_path):
    """Each is reachable by an override, and makes a difference of its own."""
    outcomes = [_guided(tmp_path / str(n), *option) for n, option in enumerate(((), *OPTIONS))]
    assert np.isfinite(outcomes).all()
    for number, one in enumerate(outcomes):
        for other in outcomes[:number]:
            assert np.abs(one - other).max() > 1e-4
