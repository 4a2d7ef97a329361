"""The Fisher information of a task's support set in the latent: the metric that says which
directions of the latent change the task's answers (method.md section 5).

Axes: N examples, A answers, P weights, Z latent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hyper_meta.core.types import Array, TaskBatch
from hyper_meta.networks.base import BaseNetwork

# How many directions of the latent go through the generator at once: what bounds the memory.
DIRECTIONS = 16


def fisher_information(
    network: BaseNetwork,
    weights_fn: Callable[[Float[Array, " Z"]], Float[Array, " P"]],
    latent: Float[Array, " Z"],
    task: TaskBatch,
) -> Float[Array, "Z Z"]:
    """[Z, Z] float32, the mean over the support set of E_{a ~ p}[(d log p_a/de) (d log p_a/de)^T].

    It equals the expected Hessian of the cross-entropy when labels are drawn from the network
    itself (Amari 1998; Martens 2020), and as a sum of outer products it is
    positive semi-definite, which the Hessian at the labels is not. Zero for a task without
    examples. Memory: Z N A + 16 P values.

    Args:
      network: of the weights.
      weights_fn: latent [Z] -> weights [P].
      latent: [Z] float32, the point e; usually where the task's adaptation ended.
      task: a TaskBatch without its axis T; vmap brings it.
    """
    support = task.support

    def log_probabilities(latent: jax.Array) -> jax.Array:
        logits = network.logits(
            weights_fn(latent), support.features, task.answers, task.answer_mask
        )
        return jax.nn.log_softmax(logits)

    log_p, push = jax.linearize(log_probabilities, latent)
    directions = jnp.eye(latent.shape[0], dtype=latent.dtype)
    slopes = jax.lax.map(push, directions, batch_size=DIRECTIONS)
    there = support.mask[:, None] & task.answer_mask
    root = jnp.where(there, jnp.exp(log_p / 2) * slopes, 0).reshape(len(latent), -1)
    return root @ root.T / jnp.maximum(support.mask.sum(), 1)


def standardised_metric(
    fisher: Float[Array, "Z Z"], std: Float[Array, " Z"], *, share: float
) -> Float[Array, "Z Z"]:
    """[Z, Z], the metric of standardised latents z = (e - mean) / std, of trace Z:

        share Z F_s / trace(F_s) + (1 - share) I,   F_s = diag(std) F diag(std)

    The trace of the identity, so that losses under both compare; a zero F gives the identity.

    Args:
      fisher: positive semi-definite, in the latent's own units.
      std: positive.
      share: Python float in [0, 1]; below 1 no direction of the latent goes unlearnt.

    Raises:
      ValueError: share lies outside its range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    scaled = fisher * std[:, None] * std
    trace, identity = jnp.trace(scaled), jnp.eye(len(std), dtype=scaled.dtype)
    known = trace > 0
    unit = jnp.where(known, len(std) * scaled / jnp.where(known, trace, 1), identity)
    return share * unit + (1 - share) * identity
