"""What holds for every network that can be generated."""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.core.configuration import load_settings
from hyper_meta.core.types import UserError
from hyper_meta.networks import registry
from hyper_meta.networks.base import answer_logits
from hyper_meta.networks.from_flax import from_flax
from hyper_meta.networks.registry import NETWORKS, make_network
from hyper_meta.workflows.grid import plan

DIM, SETTINGS = 6, {"hidden_dim": 4, "rank": 2, "blend": 0.7}
NAMES = sorted(NETWORKS)
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.py"


def by_hand(name, weights, x):
    """The adapted features [N, D] in float64 numpy."""
    w, x, start = np.asarray(weights, np.float64), np.asarray(x, np.float64), 0

    def take(*shape):
        nonlocal start
        part = w[start : start + np.prod(shape)].reshape(shape)
        start += np.prod(shape)
        return part

    if name == "adapter":
        w1, b1, w2, b2 = take(DIM, 4), take(4), take(4, DIM), take(DIM)
        return x + np.maximum(x @ w1 / DIM**0.5 + b1, 0) @ w2 / 4**0.5 + b2
    if name == "low_rank":
        a, b = take(DIM, 2), take(2, DIM)
        return x + (x @ a / DIM**0.5) @ b / 2**0.5
    b1, w1, b2, w2, b3, w3 = take(4), take(DIM, 4), take(4), take(4, 4), take(DIM), take(4, DIM)
    shift, scale = take(4), take(4)
    hidden = x @ w1 / DIM**0.5 + 0.1 * b1
    hidden = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-6)
    hidden = np.maximum(hidden * (1 + 0.1 * scale) + 0.1 * shift, 0)
    hidden = np.maximum(hidden @ w2 / 4**0.5 + 0.1 * b2, 0)
    return x + hidden @ w3 / 4**0.5 + 0.1 * b3


@pytest.fixture(params=NAMES)
def network(request):
    return make_network(request.param, DIM, SETTINGS)


@pytest.fixture
def problem(network):
    rng = np.random.default_rng(0)
    shapes = {"weights": (network.num_weights,), "features": (5, DIM), "answers": (3, DIM)}
    return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def test_features_and_logits_equal_the_formula(network, problem):
    adapted = by_hand(network.name, problem["weights"], problem["features"])
    np.testing.assert_allclose(
        network.adapt(problem["weights"], problem["features"]), adapted, rtol=1e-4, atol=1e-4
    )
    mask = jnp.ones(3, bool)
    base, own = (
        answer_logits(jnp.asarray(x, jnp.float32), problem["answers"], mask)
        for x in (problem["features"], adapted)
    )
    np.testing.assert_allclose(
        network.logits(**problem, answer_mask=mask), base + 0.7 * (own - base), atol=5e-3
    )


def test_layers_cover_the_weights_once_in_order(network):
    places = [
        place for layer in network.layers for place in range(layer.start, layer.start + layer.size)
    ]
    assert places == list(range(network.num_weights))
    weights = np.arange(2 * network.num_weights).reshape(2, -1)
    parts = network.split(weights)
    assert [part.shape[1:] for part in parts.values()] == [layer.shape for layer in network.layers]
    np.testing.assert_array_equal(
        np.concatenate([part.reshape(2, -1) for part in parts.values()], axis=1), weights
    )


def test_padded_answers_and_other_images_change_nothing(network, problem):
    weights, features, answers = problem.values()
    alone = network.logits(weights, features, answers, jnp.ones(3, bool))
    padded = network.logits(
        weights,
        np.concatenate([features, np.zeros((2, DIM), np.float32)]),
        np.concatenate([answers, np.zeros((4, DIM), np.float32)]),
        np.arange(7) < 3,
    )
    np.testing.assert_array_equal(padded[:5, :3], alone)
    assert np.all(np.isfinite(padded)) and np.all(padded[:, 3:] < -1e8 * 0.9)


def test_gradients_equal_finite_differences(network, problem):
    with jax.enable_x64(True):
        weights, features, answers = (jnp.asarray(x, jnp.float64) for x in problem.values())

        def loss(weights):
            logits = network.logits(weights, features, answers, jnp.ones(3, bool))
            return -jax.nn.log_softmax(logits)[:, 0].mean()

        gradient = jax.jit(jax.grad(loss))(weights)
        steps = 1e-6 * np.eye(len(weights))
        losses = jax.jit(jax.vmap(loss))
        numeric = (losses(weights + steps) - losses(weights - steps)) / 2e-6
    assert np.abs(numeric).max() > 0.1
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-6)


def test_unit_weights_move_features_by_about_their_own_size(network):
    """Every family starts where an adapter does: neither dead nor beyond the features."""
    large = make_network(network.name, 64, {"hidden_dim": 32, "rank": 8, "blend": 1.0})
    features = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)
    weights = jax.vmap(large.init)(jax.random.split(jax.random.key(0), 20))
    moved = jax.vmap(large.adapt, (0, None))(weights, features) - features
    assert 0.3 < np.sqrt(np.mean(np.square(moved))) < 2


def test_the_same_name_and_settings_make_the_same_network(network):
    again = make_network(network.name, DIM, dict(network.settings))
    assert again == network
    assert again != make_network(network.name, DIM + 1, SETTINGS)


class Wide(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1] + 1)(x)


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True)(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Wide(), r"maps features \[N, 6\] to \[1, 7\]"),
        (Counting(), r"collections \['batch_stats', 'params'\]"),
    ],
)
def test_a_module_that_is_no_network_is_refused(module, message):
    with pytest.raises(UserError, match=message):
        from_flax("mine", module, DIM, {"blend": 1.0})


def test_networks_of_others_are_registered_by_name(monkeypatch):
    monkeypatch.setattr(registry, "NETWORKS", dict(NETWORKS))

    def mine(embed_dim, *, blend):
        return from_flax("mine", nn.Dense(embed_dim), embed_dim, {"blend": blend})

    registry.register("mine", mine)
    registry.register("mine", mine)  # the same again is no mistake
    assert make_network("mine", DIM, SETTINGS).num_weights == DIM * DIM + DIM
    with pytest.raises(UserError, match="'mine' is registered already"):
        registry.register("mine", NETWORKS["adapter"])
    with pytest.raises(UserError, match="has no setting 'blend'"):
        make_network("mine", DIM, {})


def test_networks_of_installed_packages_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "NETWORKS", dict(NETWORKS))
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hyper_meta.networks]\ntheirs = hyper_meta.networks.low_rank:low_rank\n"
    )
    with pytest.raises(UserError, match="network 'theirs' given, one of"):
        make_network("theirs", DIM, SETTINGS)
    monkeypatch.syspath_prepend(tmp_path)
    assert make_network("theirs", DIM, SETTINGS).num_weights == 2 * DIM * 2


# A configuration file, which a sweep executes once for each combination.
CONFIG = """
from pathlib import Path

import flax.linen as nn
from hyper_meta.core.configuration import execute_file
from hyper_meta.networks.from_flax import from_flax
from hyper_meta.networks.registry import register

def mine(embed_dim, *, widths, gate, act, blend):
    layers = [layer for width in widths for layer in (nn.Dense(width), getattr(nn, act))]
    module = nn.Sequential([*layers, nn.Dense(embed_dim)])
    return from_flax("called otherwise", module, embed_dim, {"act": "of old"})

register("mine", mine)

def get_config():
    config = execute_file(QUICKSTART)
    config.network.update(name="mine", widths=(4, 3), gate=False, act="gelu")
    return config
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "NETWORKS", dict(NETWORKS))
    text = CONFIG.replace("QUICKSTART", f"Path({str(QUICKSTART)!r})")
    path = tmp_path / "own.py"
    path.write_text(text)
    return path


def test_a_configuration_file_registers_its_network_again(config_file):
    first, second = plan(config_file, ["network.widths=4,3;2"], [])
    for combination in (first, second):
        registry.check_network(combination.config.network)
    made = registry.configured_network(first.config.network, DIM)
    assert made.num_weights == DIM * 4 + 4 + 4 * 3 + 3 + 3 * DIM + DIM
    # What a weights file names is what makes it again, whatever the function says.
    assert made.name == "mine" and make_network("mine", DIM, made.settings) == made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('gate=False, act="gelu"', "network 'mine' has no setting 'widths': widths, gate, act"),
        ('widths=(4,), gate=False, act="glu_"', "network 'mine' cannot be made with widths=(4,)"),
        (
            'widths=(4,), wdths=(3,), gate=False, act="gelu"',
            "a setting network.wdths that no network has, did you mean network.widths?",
        ),
    ],
)
def test_settings_that_make_no_network_are_refused(given, message, config_file):
    text = config_file.read_text().replace('widths=(4, 3), gate=False, act="gelu"', given)
    config_file.write_text(text)
    settings = load_settings(str(config_file), config_file.parent, [])
    with pytest.raises(UserError, match=re.escape(message)):
        registry.check_network(settings.network)
        registry.configured_network(settings.network, DIM)


def test_another_function_of_the_same_file_is_not_the_same(monkeypatch):
    monkeypatch.setattr(registry, "NETWORKS", dict(NETWORKS))

    def of_width(width):
        return lambda embed_dim, *, blend: nn.Dense(width)

    registry.register("mine", of_width(3))
    with pytest.raises(UserError, match="'mine' is registered already"):
        registry.register("mine", of_width(4))
