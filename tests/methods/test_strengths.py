"""How far a latent goes from e0 to where its sentence is read."""

import jax
import numpy as np
import pytest
from adapters import make_adapter
from toy_run import EMBED_DIM, HIDDEN_DIM, make_config, random_model

from hyper_meta.core.settings import changed
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.methods.registry import GUIDES

SECTIONS = {"hnet_language": "language", "generators": "generators"}


def make_guide(name, strengths, tmp_path):
    settings = {"strengths": strengths, "drop_rate": 0.1}
    section = SECTIONS[name]
    config = make_config(tmp_path)
    config = changed(config, {f"{section}.{key}": value for key, value in settings.items()})
    network, maker = make_adapter(EMBED_DIM, HIDDEN_DIM, 1.0), GUIDES[name]
    shapes = maker.shapes(config, network, jax.tree.map(lambda leaf: leaf[0], sentences()))
    return maker.make(config, network, random_model(shapes))


def sentences():
    rng = np.random.default_rng(0)
    pooled, tokens = rng.normal(size=(3, 4)), rng.normal(size=(3, 6, 5))
    return SentenceFeatures(
        pooled.astype(np.float32), tokens.astype(np.float32), np.ones((3, 6), bool)
    )


@pytest.mark.parametrize("name", SECTIONS)
def test_a_latent_is_on_the_line_from_e0_to_where_its_sentence_is_read(name, tmp_path):
    guide = make_guide(name, (0.25, 1.0), tmp_path)
    assert guide.settings == {"0.25": 0.25, "1": 1.0} and guide.varies == "strength"

    def points(guide, strength):
        return guide.sample(sentences(), strength, num_samples=guide.num_samples, seed=0)

    read = points(make_guide(name, (1.0,), tmp_path), 1.0)
    np.testing.assert_array_equal(points(guide, 1.0), read)
    e0 = guide.model["space"]["e0"]  # [Z], or one of each member
    expected = e0 + 0.25 * (read - e0)
    np.testing.assert_allclose(points(guide, 0.25), expected, rtol=1e-6, atol=1e-6)
    assert np.abs(points(guide, 0.25) - read).max() > 0.1


def test_one_strength_is_no_choice(tmp_path):
    guide = make_guide("hnet_language", (1.0,), tmp_path)
    assert guide.settings == {"": 1.0} and guide.varies is None


def test_a_start_that_is_not_trained_is_refused(tmp_path):
    config = make_config(tmp_path)
    with pytest.raises(UserError, match=r"conditional_tokens.strengths=\(0.5,\) go from e0, which"):
        changed(config, {"conditional_tokens.strengths": (0.5,)})
