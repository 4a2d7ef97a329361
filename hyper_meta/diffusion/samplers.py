"""Samplers: from N(0, I) back to clean latents, one lax.scan each.

Both take a denoise_fn: (z_t [B, Z], t [B] int32) -> (z0 [B, Z], eps [B, Z]), whose two answers
satisfy z_t = signal z0 + sigma eps. Nothing here is random except through the keys.

Axes: B batch, Z latent, S diffusion steps, n visited steps.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hyper_meta.diffusion.noise import NoiseProcess, levels

DenoiseFn = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def ddpm_sample(
    denoise_fn: DenoiseFn,
    process: NoiseProcess,
    *,
    keys: jax.Array,
    latent_dim: int,
    clip: float | jax.Array,
) -> jax.Array:
    """[B, Z]: ancestral samples through all S steps (Ho et al. 2020, algorithm 2).

    Each step draws from q(z_{t-1} | z_t, z0) at the predicted z0 (their equations 6 and 7), so the
    variance is beta_tilde. That is DDIM with eta = 1 on every step (Song et al. 2021, section 4.1).

    Args:
      denoise_fn: see the module.
      keys: [B] PRNG keys; sample b depends on keys[b] alone.
      latent_dim: Z.
      clip: scalar or [Z], positive; the predicted z0 is held in [-clip, clip], in the units of the
        latent. jnp.inf leaves it alone.
    """
    times = np.arange(process.num_steps)[::-1]
    return _reverse(
        denoise_fn, process, times=times, keys=keys, latent_dim=latent_dim, eta=1.0, clip=clip
    )


def ddim_sample(
    denoise_fn: DenoiseFn,
    process: NoiseProcess,
    *,
    keys: jax.Array,
    latent_dim: int,
    clip: float | jax.Array,
    num_steps: int,
    eta: float,
) -> jax.Array:
    """[B, Z]: DDIM samples through num_steps evenly spaced steps (Song et al. 2021, equation 12).

    Args:
      denoise_fn, keys, latent_dim, clip: as in ddpm_sample.
      num_steps: n in [1, S], static; see strided_times. The first visited step is S - 1.
      eta: Python float in [0, 1]. 0 is deterministic given the starting noise, 1 is ancestral
        sampling on the strided process.

    Raises:
      ValueError: num_steps or eta lies outside its range.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    times = strided_times(process.num_steps, num_steps)[::-1]
    return _reverse(
        denoise_fn, process, times=times, keys=keys, latent_dim=latent_dim, eta=eta, clip=clip
    )


def strided_times(process_steps: int, num_steps: int) -> np.ndarray:
    """[n] rising steps that cut S steps into n near-equal strides, the last one S - 1.

    Step -1, the clean latent, is the point before the first, so every stride, the first included,
    is S // n or one more.

    Raises:
      ValueError: num_steps is not in [1, S].
    """
    if not 1 <= num_steps <= process_steps:
        raise ValueError(f"num_steps must lie in [1, {process_steps}], got {num_steps}")
    return np.arange(1, num_steps + 1) * process_steps // num_steps - 1


def reverse_coefficients(
    process: NoiseProcess, times: np.ndarray, *, eta: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The factors (on z0, on eps, on fresh noise), each [n], of the steps t -> s between `times`.

    s is the next entry of `times`, and after the last the clean latent. With
    alpha_{t|s} = alpha_bar_t / alpha_bar_s, the strided process's own alpha,
        noise^2 = eta^2 (1 - alpha_bar_s) / (1 - alpha_bar_t) (1 - alpha_{t|s})
        eps^2 = 1 - alpha_bar_s - noise^2,   z0^2 = alpha_bar_s
    (Song et al. 2021, equations 12 and 16). Both are written through the ratio of signal-to-noise
    ratios SNR_t / SNR_s, in [0, 1), which float32 gives without subtracting near-equal numbers.

    Args:
      times: [n] falling steps in [0, S).
      eta: in [0, 1].
    """
    log_t = process.log_alpha_bar[times]
    log_s = jnp.append(log_t[1:], jnp.zeros(1, log_t.dtype))
    variance_s = -jnp.expm1(log_s)
    snr_ratio = jnp.exp(log_t - log_s) * variance_s / -jnp.expm1(log_t)
    noise = eta * jnp.sqrt(variance_s * (1 - snr_ratio))
    eps = jnp.sqrt(variance_s * ((1 - eta**2) + eta**2 * snr_ratio))
    return jnp.exp(log_s / 2), eps, noise


def clip_denoised(
    process: NoiseProcess, z0: jax.Array, *, eps: jax.Array, t: jax.Array, clip: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(z0, eps), each [B, Z], with z0 held in [-clip, clip] and eps moved so z_t stays the same.

    Entries inside the range keep their eps to the last bit.

    Args:
      z0, eps: [B, Z], a denoise_fn's answer.
      t: [B] int32 in [0, S).
      clip: scalar or [Z], positive.
    """
    signal, sigma = levels(process, t)
    clipped = jnp.clip(z0, -clip, clip)
    return clipped, eps + signal / sigma * (z0 - clipped)


def _reverse(denoise_fn, process, *, times, keys, latent_dim, eta, clip):
    """[B, Z]: the reverse process through `times`: [n] falling steps."""

    def step(z_t, inputs):
        time, z0_factor, eps_factor, noise_factor = inputs
        t = jnp.full(z_t.shape[:1], time)
        z0, eps = denoise_fn(z_t, t)
        z0, eps = clip_denoised(process, z0, eps=eps, t=t, clip=clip)
        noise = normal(time)
        return z0_factor * z0 + eps_factor * eps + noise_factor * noise, None

    def normal(index):
        def draw(key):
            key = jax.random.fold_in(key, index)
            return jax.random.normal(key, (latent_dim,), process.log_alpha_bar.dtype)

        return jax.vmap(draw)(keys)

    factors = reverse_coefficients(process, times, eta=eta)
    # Steps fold in 0 .. S - 1, so S is free for the starting noise.
    start = normal(process.num_steps)
    z0, _ = jax.lax.scan(step, start, (jnp.asarray(times, jnp.int32), *factors))
    return z0
