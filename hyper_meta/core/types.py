"""The vocabulary every other module speaks.

Axes: T tasks, N examples, A candidate answers, D embedding of images and answers, Dq and W those of
questions and their L tokens, H adapter hidden units, P adapter weights, Z latent, K samples, S
diffusion steps, B anything batched.

Annotations of arrays name them: `Float[Array, "T N D"]`. Float is float32 unless a docstring says
otherwise; "*T" is any number of axes, none under vmap. The tests check annotations at every call.
"""

import jax
import numpy as np
from flax import struct
from jaxtyping import ArrayLike, Bool, Float, Int

from hyper_meta.core.errors import UserError as UserError

# On a device or on the host (np.generic: numbers of numpy); jax takes either.
Array = jax.Array | np.ndarray | np.generic
Scalar = Float[ArrayLike, ""]  # of Python too


@struct.dataclass
class Examples:
    """Labelled images of T tasks, padded to N per task.

    features: image embeddings; label: an index into the task's answers; mask: False where padded.
    """

    features: Float[Array, "*T N D"]
    label: Int[Array, "*T N"]
    mask: Bool[Array, "*T N"]


@struct.dataclass
class SentenceFeatures:
    """What an encoder reads in one sentence, or in many with leading axes.

    pooled: the whole sentence; tokens: the states of its tokens, padded, and mask: False where
    padded; both None where only the sentence as a whole was encoded. Neither Dq nor W need be the D
    of images and answers.
    """

    pooled: Float[Array, "*B Dq"]
    tokens: Float[Array, "*B L W"] | None = None
    mask: Bool[Array, "*B L"] | None = None


@struct.dataclass
class TaskBatch:
    """T tasks at one fixed padded shape.

    question: leading axis T; answer_mask: False where padded; mask: False for a task that only
    fills the batch.
    """

    question: SentenceFeatures
    answers: Float[Array, "*T A D"]
    answer_mask: Bool[Array, "*T A"]
    support: Examples
    query: Examples
    mask: Bool[Array, "*T"]
