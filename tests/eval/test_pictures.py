import io
import itertools

import matplotlib
import numpy as np
import pytest
from PIL import Image

from hyper_meta.eval import pictures
from hyper_meta.eval.figure_style import PALETTE, SHAPES
from hyper_meta.eval.latent_map import latent_map, principal_plane


def _size(png):
    """Width and height of a PNG that decodes and is not blank."""
    image = Image.open(io.BytesIO(png)).convert("L")
    assert np.asarray(image).std() > 0
    return image.size


def _panel(title, chosen):
    return pictures.ScalePanel(
        title=title,
        varies="guidance scale",
        settings=("0", "1", "2"),
        curve=np.array([[50.0, 45.0, 55.0]] * 3),
        lines={f"baseline {n}": 30.0 + n for n in range(7)},
        chosen=chosen,
    )


def _shots(title):
    band = np.array([[50.0, 45.0, 55.0]] * 3)
    gap = np.array([[np.nan] * 3, [60, 58, 61], [np.nan] * 3])
    curves = {**{f"start {n}": band + n for n in range(9)}, "with gaps": gap}
    return pictures.ShotPanel(title, ("0", "1", "10"), curves)


def _scene(right, question):
    image = np.full((6, 6, 3), 200, np.uint8)
    return pictures.Scene(image, question, "the answer", right, "paraphrase")


@pytest.fixture(scope="module")
def drawn():
    """All pictures, with inputs at the edge of what they take, and the settings around them."""
    before = dict(matplotlib.rcParams)
    rng = np.random.default_rng(0)
    families = [f"family {n}" for n in range(40)]
    rows = [{"step": 10, "loss": 1.0, "validation_score": 0.5}, {"step": 20, "loss": 0.5}]
    result = {
        "scales": pictures.accuracy_by_scale([_panel(str(n), ("1", "1", "2")) for n in range(3)]),
        "one scale": pictures.accuracy_by_scale([_panel("one seed", ("0",))]),
        "shots": pictures.accuracy_by_shots([_shots(str(n)) for n in range(3)]),
        "expected": pictures.expected_accuracy(
            {f"group {n}": rng.uniform(0, 100, size=(2, 5)) for n in range(7)}
        ),
        "curves": pictures.training_curves({"one": {"seed_0": rows}, "two": {"seed_0": rows[1:]}}),
        "one stage": pictures.training_curves({"one": {"seed_0": rows}}),
        "many stages": pictures.training_curves(
            {str(n): {"seed_0": rows, "seed_1": rows} for n in range(9)}
        ),
        "latents": latent_map(
            rng.normal(size=(40, 6)), families, rng.normal(size=(3, 6)), ["new", *families[:2]]
        ),
        "scenes": pictures.example_scenes(
            [
                _scene("the answer", "What does $5 or $6 buy, " * 9),
                _scene("another one " * 5, "Why?"),
            ]
        ),
    }
    return result, before, dict(matplotlib.rcParams)


def test_pictures_decode_and_are_large_enough_to_read(drawn):
    for png in drawn[0].values():
        assert min(_size(png)) >= 400


def test_no_setting_is_left_behind(drawn):
    _, before, after = drawn
    assert before == after


def test_pictures_are_the_same_every_time():
    scenes = [_scene("the answer", "Why?")]
    assert pictures.example_scenes(scenes) == pictures.example_scenes(scenes)


def test_families_have_looks_of_their_own():
    looks = list(itertools.product(PALETTE, SHAPES))
    assert len(set(looks)) == len(looks) >= 17


def test_principal_plane_is_the_plane_that_data_lie_in():
    rng = np.random.default_rng(0)
    true_axes = np.linalg.qr(rng.normal(size=(7, 2)))[0].T
    latents = rng.normal(size=(200, 2)) * [5, 1] @ true_axes + rng.normal(size=7)
    origin, axes, share = principal_plane(latents)
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(axes.T @ axes, true_axes.T @ true_axes, atol=1e-12)
    np.testing.assert_allclose((latents - origin) @ axes.T @ axes + origin, latents, atol=1e-12)
    variance = np.linalg.eigvalsh(np.cov(latents.T))[::-1]
    np.testing.assert_allclose(share, variance[:2] / variance.sum(), atol=1e-12)


def test_principal_plane_does_not_flip():
    latents = np.random.default_rng(0).normal(size=(50, 4)) * [4, 3, 2, 1]
    _, axes, _ = principal_plane(latents)
    _, mirrored, _ = principal_plane(-latents)
    np.testing.assert_allclose(axes, mirrored, atol=1e-12)
