"""The vocabulary every other module speaks.

Axes: T tasks, N examples, A candidate answers, D embedding of images and answers, Dq and W those of
questions and their L tokens, H adapter hidden units, P adapter weights, Z latent, K samples, S
diffusion steps, B anything batched.
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
class SentenceFeatures:
    """What an encoder reads in one sentence, or in many with leading axes.

    pooled: [..., Dq] float32, the whole sentence; tokens: [..., L, W] float32, the states of its
    tokens, padded, and mask: [..., L] bool, False where padded; both None where only the sentence
    as a whole was encoded. Neither Dq nor W need be the D of images and answers.
    """

    pooled: jax.Array
    tokens: jax.Array | None = None
    mask: jax.Array | None = None


@struct.dataclass
class TaskBatch:
    """T tasks at one fixed padded shape.

    question: leading axis T; answers: [T, A, D] float32; answer_mask: [T, A] bool; support, query:
    Examples; mask: [T] bool, False for a task that only fills the batch.
    """

    question: SentenceFeatures
    answers: jax.Array
    answer_mask: jax.Array
    support: Examples
    query: Examples
    mask: jax.Array
