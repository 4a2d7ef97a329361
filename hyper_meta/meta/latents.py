"""Latent data sets: every training task adapted several times (METHOD section 5)."""

import jax
import jax.numpy as jnp

from hyper_meta.meta.inner_loop import GenerateFn, adapt_latent
from hyper_meta.types import Examples


def random_subset(key: jax.Array, mask: jax.Array, smallest_share: float) -> jax.Array:
    """Keeps a random share, uniform in [smallest_share, 1], of the examples: mask [N] -> [N]."""
    share_key, order_key = jax.random.split(key)
    share = jax.random.uniform(share_key, minval=smallest_share, maxval=1.0)
    keep = jnp.ceil(share * mask.sum())
    scores = jnp.where(mask, jax.random.uniform(order_key, mask.shape), jnp.inf)
    rank = jnp.argsort(jnp.argsort(scores))
    return mask & (rank < keep)


def stochastic_latents(
    generate_fn: GenerateFn,
    start: jax.Array,
    examples: Examples,
    answers: jax.Array,
    answer_mask: jax.Array,
    keys: jax.Array,
    *,
    smallest_share: float,
    num_steps: int,
    learning_rate: float,
    pull: float,
) -> jax.Array:
    """Adapts one task once per key, each on its own random subset of the examples.

    keys: [R] PRNG keys; the other shapes as in `adapt_latent`. Returns [R, Z] float32.
    """

    def repeat(key: jax.Array) -> jax.Array:
        subset = examples.replace(mask=random_subset(key, examples.mask, smallest_share))
        return adapt_latent(
            generate_fn,
            start,
            subset,
            answers,
            answer_mask,
            num_steps=num_steps,
            learning_rate=learning_rate,
            pull=pull,
        )

    return jax.vmap(repeat)(keys)
