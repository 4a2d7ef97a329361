import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compile_in_a_hurry():
    """Most programs of these tests run once: compiling them well would be most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
