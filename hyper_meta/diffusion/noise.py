"""The discrete variance-preserving noise process and the ways to read a denoiser's output.

A clean latent z0 becomes z_t = sqrt(alpha_bar_t) z0 + sqrt(1 - alpha_bar_t) eps, eps ~ N(0, I)
(Ho et al. 2020, equation 4). Steps count from 0: t = 0 is the least noisy, t = S - 1 the most.

Axes: B batch, Z latent, S diffusion steps.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int

from hyper_meta.core.types import Array


@struct.dataclass
class NoiseProcess:
    """The noise level of each of S steps.

    log_alpha_bar: negative and strictly falling. The logarithm is stored because
      float32 has the same relative precision for it at both ends: 1 - alpha_bar (4e-5 at the first
      step) and alpha_bar (2e-9 at the last) both follow from it without cancellation.
    """

    log_alpha_bar: Float[Array, " S"]

    @property
    def num_steps(self) -> int:
        """S, a static integer."""
        return self.log_alpha_bar.shape[0]

    @property
    def alpha_bar(self) -> Float[Array, " S"]:
        """In [0, 1): the share of the clean latent in the variance of z_t.

        It underflows to 0 at the end of "sqrt"; the other properties do not.
        """
        return jnp.exp(self.log_alpha_bar)

    @property
    def signal(self) -> Float[Array, " S"]:
        """In (0, 1): sqrt(alpha_bar), the factor on the clean latent."""
        return jnp.exp(self.log_alpha_bar / 2)

    @property
    def sigma(self) -> Float[Array, " S"]:
        """In (0, 1): sqrt(1 - alpha_bar), the factor on the noise."""
        return jnp.sqrt(-jnp.expm1(self.log_alpha_bar))

    @property
    def log_snr(self) -> Float[Array, " S"]:
        """Falling: log(alpha_bar / (1 - alpha_bar))."""
        return self.log_alpha_bar - jnp.log(-jnp.expm1(self.log_alpha_bar))


def _cosine_beta(num_steps: int) -> np.ndarray:
    """Nichol and Dhariwal 2021, equation 17: alpha_bar_t = f((t + 1) / S) / f(0).

    f(u) = cos^2((u + 0.008) / 1.008 * pi / 2). The offset keeps the first betas from being too
    small.
    """
    u = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return 1 - f[1:] / f[:-1]


def _power_beta(num_steps: int, *, degree: int, root: int = 1) -> np.ndarray:
    """beta [S] with beta^(root / degree) linear in the step.

    The first and last beta of 1000 steps are those of Ho et al. 2020, section 4.
    """
    start, end = np.array([1e-4, 0.02]) ** (1 / degree)
    return 1000 / num_steps * np.linspace(start, end, num_steps) ** (degree / root)


# The largest beta, so that no step erases its input (Nichol and Dhariwal 2021, section 3.2).
MAX_BETA = 0.999
# S -> beta [S] float64, before MAX_BETA is applied. All but the cosine scale beta by 1000 / S, so
# that the noise of all steps together hardly depends on S (as improved-diffusion does in "linear").
# Published names, and the signal left at the last of 1000 steps:
#   cosine         Nichol and Dhariwal 2021                                      5e-5
#   linear         Ho et al. 2020; "sqrt_linear" in CompVis latent-diffusion     6e-3
#   scaled_linear  Rombach et al. 2022, diffusers; "linear" in CompVis           0.03
#   sqrt           CompVis                                                       2e-22
#   quartic        none                                                          0.06
SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {
    "cosine": _cosine_beta,
    "linear": functools.partial(_power_beta, degree=1),
    "scaled_linear": functools.partial(_power_beta, degree=2),
    "sqrt": functools.partial(_power_beta, degree=1, root=2),
    "quartic": functools.partial(_power_beta, degree=4),
}


def noise_process(schedule: str, num_steps: int) -> NoiseProcess:
    """The noise process of a schedule, computed in float64.

    Args:
      schedule: a key of SCHEDULES.
      num_steps: S, at least 1.

    Raises:
      ValueError: unknown schedule, S < 1, or a signal too small for float32 at the last step
        ("sqrt" in 27 to 153 steps).
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}, expected one of {list(SCHEDULES)}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be 1 or more, got {num_steps}")
    log_alpha_bar = np.cumsum(np.log1p(-np.minimum(SCHEDULES[schedule](num_steps), MAX_BETA)))
    if np.exp(log_alpha_bar[-1] / 2) < np.finfo(np.float32).tiny:
        raise ValueError(
            f"schedule {schedule!r} in {num_steps} steps leaves no signal that float32 holds: "
            "take more steps (1000 are usual) or another schedule"
        )
    return NoiseProcess(log_alpha_bar=jnp.asarray(log_alpha_bar, jnp.float32))


def levels(
    process: NoiseProcess, t: Int[Array, " B"]
) -> tuple[Float[Array, "B 1"], Float[Array, "B 1"]]:
    """(signal, sigma) at steps t, each [B, 1] float32, as factors of [B, Z] arrays.

    t: in [0, S).
    """
    return process.signal[t][:, None], process.sigma[t][:, None]


def diffuse(
    process: NoiseProcess,
    z0: Float[Array, "B Z"],
    *,
    t: Int[Array, "#B"],
    noise: Float[Array, "B Z"],
) -> Float[Array, "B Z"]:
    """z_t [B, Z], the noisy latents signal z0 + sigma noise at steps t.

    z0: clean latents.
    t: in [0, S).
    noise: standard normal.
    """
    signal, sigma = levels(process, t)
    return signal * z0 + sigma * noise


def score(
    process: NoiseProcess, eps: Float[Array, "B Z"], *, t: Int[Array, "#B"]
) -> Float[Array, "B Z"]:
    """The score [B, Z], d log p_t(z_t) / d z_t = -E[eps | z_t] / sigma_t.

    Args:
      eps: the predicted noise E[eps | z_t].
      t: in [0, S).
    """
    _, sigma = levels(process, t)
    return -eps / sigma


class Prediction(NamedTuple):
    """What a denoiser predicts. In both functions signal and sigma are [B, 1], the rest [B, Z].

    target: (signal, sigma, z0, eps) -> the target of the denoiser's output in training.
    decode: (signal, sigma, z_t, output) -> (z0, eps) with z_t = signal z0 + sigma eps.
    """

    target: Callable[..., jax.Array]
    decode: Callable[..., tuple[jax.Array, jax.Array]]


def _eps_target(signal, sigma, z0, eps):
    return eps


def _eps_decode(signal, sigma, z_t, eps):
    return (z_t - sigma * eps) / signal, eps


def _v_target(signal, sigma, z0, eps):
    return signal * eps - sigma * z0


def _v_decode(signal, sigma, z_t, v):
    return signal * z_t - sigma * v, sigma * z_t + signal * v


# "eps" is the noise (Ho et al. 2020). "v" = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) z0 (Salimans
# and Ho 2022, section 4). Decoding eps divides by signal, 5e-5 at the last cosine step, so an
# error in eps grows by 2e4 in z0 there; decoding v never amplifies.
PREDICTIONS = {
    "eps": Prediction(target=_eps_target, decode=_eps_decode),
    "v": Prediction(target=_v_target, decode=_v_decode),
}


def _lookup(prediction: str) -> Prediction:
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction {prediction!r}, expected one of {list(PREDICTIONS)}")
    return PREDICTIONS[prediction]


def prediction_target(
    process: NoiseProcess,
    z0: Float[Array, "B Z"],
    *,
    t: Int[Array, "#B"],
    noise: Float[Array, "B Z"],
    prediction: str,
) -> Float[Array, "B Z"]:
    """The target [B, Z] of a denoiser's output for the noisy latents of `diffuse`.

    Args:
      z0, noise: see `diffuse`.
      t: in [0, S).
      prediction: a key of PREDICTIONS.

    Raises:
      ValueError: unknown prediction.
    """
    return _lookup(prediction).target(*levels(process, t), z0, noise)


def decode_prediction(
    process: NoiseProcess,
    z_t: Float[Array, "B Z"],
    *,
    t: Int[Array, "#B"],
    output: Float[Array, "B Z"],
    prediction: str,
) -> tuple[Float[Array, "B Z"], Float[Array, "B Z"]]:
    """(z0, eps), each [B, Z]: the clean latents and the noise that a denoiser's output implies.

    Args:
      z_t: the noisy latents, input of the denoiser.
      t: in [0, S).
      output: the output of the denoiser.
      prediction: a key of PREDICTIONS.

    Raises:
      ValueError: unknown prediction.
    """
    return _lookup(prediction).decode(*levels(process, t), z_t, output)
