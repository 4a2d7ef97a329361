"""Samplers: from noise back to clean latents, one lax.scan each.

Both samplers take a Start and a denoise_fn: (z_t [B, Z], t [1] int32) -> (z0 [B, Z], eps [B, Z]),
whose outputs satisfy z_t = signal z0 + sigma eps. All randomness comes from the keys.

Axes: B batch, Z latent, S diffusion steps, n visited steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Int, Key

from hyper_meta.core.types import Array, Scalar
from hyper_meta.diffusion.noise import NoiseProcess, diffuse, levels

DenoiseFn = Callable[
    [Float[Array, "B Z"], Int[Array, "#B"]], tuple[Float[Array, "B Z"], Float[Array, "B Z"]]
]


@struct.dataclass
class Noise:
    """The source of the noise of B samples: sample b draws from keys[b] alone, times sign[b].

    Two samples of one key and opposite signs are antithetic: each has the law of a sample, but
    their noise is opposite, so that their mean is nearer to the mean of the law (Jia et al. 2025,
    arXiv 2506.06185).

    keys: PRNG keys.
    sign: of 1 and -1, or a scalar.
    """

    keys: Key[jax.Array, " B"]
    sign: Scalar | Float[Array, " B"] = 1.0


@struct.dataclass
class Start:
    """The beginning of the reverse process. Made by `from_noise` or `from_latents`.

    z_t: latents with the noise of step `time`.
    noise: the source of the noise of all steps.
    time: static integer in [0, S).
    """

    z_t: Float[Array, "B Z"]
    noise: Noise
    time: int = struct.field(pytree_node=False)


def from_noise(process: NoiseProcess, noise: Noise, *, latent_dim: int) -> Start:
    """The start at step S - 1, from N(0, I)."""
    z_t = _normal(process, noise, index=process.num_steps, latent_dim=latent_dim)
    return Start(z_t, noise, process.num_steps - 1)


def from_latents(
    process: NoiseProcess, noise: Noise, *, latents: Float[Array, "B Z"], time: int
) -> Start:
    """The start at step `time`, from clean latents that are diffused to it.

    The noise that is added is that of `from_noise`.

    Args:
      noise: the source of the noise of B samples.
      latents: in the units of the denoiser.
      time: Python integer in [0, S).

    Raises:
      ValueError: time lies outside its range.
    """
    if not 0 <= time < process.num_steps:
        raise ValueError(f"time must lie in [0, {process.num_steps - 1}], got {time}")
    normal = _normal(process, noise, index=process.num_steps, latent_dim=latents.shape[-1])
    t = jnp.full(len(latents), time)
    return Start(diffuse(process, latents, t=t, noise=normal), noise, time)


def ddpm_sample(
    denoise_fn: DenoiseFn,
    process: NoiseProcess,
    *,
    start: Start,
    clip: Scalar | Float[Array, " Z"],
    posterior_variance: float,
) -> Float[Array, "B Z"]:
    """[B, Z]: ancestral samples through every step from start.time (Ho et al. 2020, algorithm 2).

    Each step draws around the mean of q(z_{t-1} | z_t, z0) at the predicted z0 (their equation 7),
    with variance (1 - v) beta_tilde_t + v beta_t, the two choices of their section 3.2. At v = 0
    that is DDIM with eta = 1 on every step (Song et al. 2021, section 4.1). The last step adds no
    noise.

    Args:
      denoise_fn, start: see the module.
      clip: scalar or [Z], positive; the predicted z0 is clipped to [-clip, clip], in the units of
        the latent. jnp.inf for no clipping.
      posterior_variance: v, Python float in [0, 1].

    Raises:
      ValueError: posterior_variance lies outside its range.
    """
    if not 0 <= posterior_variance <= 1:
        raise ValueError(f"posterior_variance must lie in [0, 1], got {posterior_variance}")
    times = np.arange(start.time + 1)[::-1]
    factors = reverse_coefficients(process, times, eta=1.0, posterior_variance=posterior_variance)
    return _reverse(
        denoise_fn, process, start=start, clip=clip, times=times, factors=factors, noisy=True
    )


def ddim_sample(
    denoise_fn: DenoiseFn,
    process: NoiseProcess,
    *,
    start: Start,
    clip: Scalar | Float[Array, " Z"],
    num_steps: int,
    eta: float,
) -> Float[Array, "B Z"]:
    """[B, Z]: DDIM samples through num_steps evenly spaced steps (Song et al. 2021, equation 12).

    Args:
      denoise_fn, start, clip: as in ddpm_sample.
      num_steps: n in [1, start.time + 1], static; see strided_times. The first visited step is
        start.time.
      eta: Python float in [0, 1]. 0 is deterministic given the start, 1 is ancestral sampling on
        the strided process.

    Raises:
      ValueError: num_steps or eta lies outside its range.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    times = strided_times(start.time + 1, num_steps)[::-1]
    factors = reverse_coefficients(process, times, eta=eta, posterior_variance=0.0)
    noisy = eta > 0  # drawing noise is half of the work
    return _reverse(
        denoise_fn, process, start=start, clip=clip, times=times, factors=factors, noisy=noisy
    )


def strided_times(process_steps: int, num_steps: int) -> Int[np.ndarray, " n"]:
    """n rising steps [n] that divide S steps into near-equal strides; the last is S - 1.

    Step -1, the clean latent, precedes the first, so every stride, the first included, is S // n or
    one more.

    Raises:
      ValueError: num_steps is not in [1, S].
    """
    if not 1 <= num_steps <= process_steps:
        raise ValueError(f"num_steps must lie in [1, {process_steps}], got {num_steps}")
    return np.arange(1, num_steps + 1) * process_steps // num_steps - 1


def reverse_coefficients(
    process: NoiseProcess, times: Int[Array, " n"], *, eta: float, posterior_variance: float
) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]:
    """The factors (of z0, of eps, of fresh noise), each [n], of the steps t -> s between `times`.

    s is the next entry of `times`, and after the last entry the clean latent. With the alpha of the
    strided process, alpha_{t|s} = alpha_bar_t / alpha_bar_s,
        noise^2 = eta^2 (1 - alpha_bar_s) / (1 - alpha_bar_t) (1 - alpha_{t|s})
        eps^2 = 1 - alpha_bar_s - noise^2,   z0^2 = alpha_bar_s
    (Song et al. 2021, equations 12 and 16). Both are written through the ratio of signal-to-noise
    ratios SNR_t / SNR_s, in [0, 1), which float32 gives without subtracting near-equal numbers.
    At eta = 1 noise^2 is beta_tilde; posterior_variance v moves it to (1 - v) beta_tilde + v beta,
    beta = 1 - alpha_{t|s}, except before the clean latent, and leaves the other two alone.

    Args:
      times: falling steps in [0, S).
      eta, posterior_variance: in [0, 1].
    """
    log_t = process.log_alpha_bar[times]
    log_s = jnp.append(log_t[1:], jnp.zeros(1, log_t.dtype))
    variance_s = -jnp.expm1(log_s)
    snr_ratio = jnp.exp(log_t - log_s) * variance_s / -jnp.expm1(log_t)
    beta = jnp.where(variance_s > 0, -jnp.expm1(log_t - log_s), 0)
    beta_tilde = variance_s * (1 - snr_ratio)
    variance = (1 - posterior_variance) * beta_tilde + posterior_variance * beta
    noise = eta * jnp.sqrt(variance)
    eps = jnp.sqrt(variance_s * ((1 - eta**2) + eta**2 * snr_ratio))
    return jnp.exp(log_s / 2), eps, noise


def clip_denoised(
    process: NoiseProcess,
    z0: Float[Array, "B Z"],
    *,
    eps: Float[Array, "B Z"],
    t: Int[Array, "#B"],
    clip: Scalar | Float[Array, " Z"],
) -> tuple[Float[Array, "B Z"], Float[Array, "B Z"]]:
    """(z0, eps), each [B, Z], with z0 clipped to [-clip, clip] and eps changed so that z_t is kept.

    Entries inside the range keep their eps to the last bit.

    Args:
      z0, eps: the output of a denoise_fn.
      t: in [0, S).
      clip: scalar or [Z], positive.
    """
    signal, sigma = levels(process, t)
    clipped = jnp.clip(z0, -clip, clip)
    return clipped, eps + signal / sigma * (z0 - clipped)


def _normal(process, noise, *, index, latent_dim):
    """[B, Z] standard normal, one draw per key and index: a step has its own, the start has S."""

    def draw(key):
        key = jax.random.fold_in(key, index)
        return jax.random.normal(key, (latent_dim,), process.log_alpha_bar.dtype)

    return jnp.reshape(noise.sign, (-1, 1)) * jax.vmap(draw)(noise.keys)


def _reverse(denoise_fn, process, *, start, clip, times, factors, noisy):
    """[B, Z], the end of the reverse process.

    times: [n] falling steps, the first is start.time.
    factors: those of `reverse_coefficients`.
    noisy: whether noise is added.
    """

    def step(z_t, inputs):
        time, z0_factor, eps_factor, noise_factor = inputs
        t = time[None]  # of all rows
        z0, eps = denoise_fn(z_t, t)
        z0, eps = clip_denoised(process, z0, eps=eps, t=t, clip=clip)
        z_s = z0_factor * z0 + eps_factor * eps
        if noisy:
            normal = _normal(process, start.noise, index=time, latent_dim=z_t.shape[-1])
            z_s += noise_factor * normal
        return z_s, None

    z0, _ = jax.lax.scan(step, start.z_t, (jnp.asarray(times, jnp.int32), *factors))
    return z0
