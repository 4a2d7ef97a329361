"""A cosine process in float32 as users get it, and in float64 for comparisons to many digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyper_meta.diffusion.noise import NoiseProcess, noise_process


def reference_alpha_bar(num_steps, offset=0.008, max_beta=0.999):
    """[S] float64: the cosine schedule step by step, from the published formula."""
    product, values = 1.0, []
    for t in range(1, num_steps + 1):
        now = np.cos((t / num_steps + offset) / (1 + offset) * np.pi / 2) ** 2
        before = np.cos(((t - 1) / num_steps + offset) / (1 + offset) * np.pi / 2) ** 2
        product *= 1 - min(1 - now / before, max_beta)
        values.append(product)
    return np.array(values)


@pytest.fixture(scope="session")
def alpha_bar():
    """num_steps -> [S] float64."""
    return reference_alpha_bar


@pytest.fixture(scope="session")
def process():
    return noise_process("cosine", 1000)


@pytest.fixture
def process64():
    """num_steps -> a float64 NoiseProcess; the test runs with x64 on."""
    with jax.enable_x64(True):
        yield lambda num_steps: NoiseProcess(
            log_alpha_bar=jnp.asarray(np.log(reference_alpha_bar(num_steps)))
        )
