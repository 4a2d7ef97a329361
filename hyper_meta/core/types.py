"""The vocabulary every other module speaks.

Axes: T tasks, N examples, A candidate answers, D embedding, H adapter hidden units,
P adapter weights, Z latent, K samples, S diffusion steps, B anything batched.
"""

import jax
from flax import struct

from hyper_meta.core.errors import UserError as UserError


@struct.dataclass
class Examples:
    """Labelled images of T tasks, padded to N per task.

    features: [T, N, D] float32 image embeddings; label: [T, N] int32, an index into the task's
    answers; mask: [T, N] bool, False where padded.
    """

    features: jax.Array
    label: jax.Array
    mask: jax.Array


@struct.dataclass
class TaskBatch:
    """T tasks at one fixed padded shape.

    question: [T, D] float32; answers: [T, A, D] float32; answer_mask: [T, A] bool;
    support, query: Examples; mask: [T] bool, False for a task that only fills the batch.
    """

    question: jax.Array
    answers: jax.Array
    answer_mask: jax.Array
    support: Examples
    query: Examples
    mask: jax.Array
