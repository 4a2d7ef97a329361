"""What the samplers do to a Gaussian, in float64 numpy from the published formulas.

A denoiser that is affine in z_t makes every reverse step affine, so that the end of the process is
z_end = linear z_start + shift + N(0, noise), whatever the step size.
"""

from typing import NamedTuple

import numpy as np


class AffineMap(NamedTuple):
    """linear: [Z, Z]; shift: [Z]; noise: [Z, Z], a covariance."""

    linear: np.ndarray
    shift: np.ndarray
    noise: np.ndarray

    def law(self, mean, covariance):
        """(mean, covariance) of the end for a start N(mean, covariance)."""
        return self.linear @ mean + self.shift, (
            self.linear @ covariance @ self.linear.T + self.noise
        )


def exact_eps(ab, mean, covariance):
    """(gain, offset) of E[eps | z_t] = gain z_t + offset for z0 ~ N(mean, covariance)."""
    gain = np.sqrt(1 - ab) * np.linalg.inv(ab * covariance + (1 - ab) * np.eye(len(mean)))
    return gain, -gain @ (np.sqrt(ab) * mean)


def diffused_law(ab, mean, covariance):
    """(mean, covariance) of z_t for z0 ~ N(mean, covariance) (Ho et al. 2020, equation 4)."""
    return np.sqrt(ab) * mean, ab * covariance + (1 - ab) * np.eye(len(mean))


def reverse_map(alpha_bar, times, eps_fn, *, eta, posterior_variance=0.0):
    """The reverse process through the falling `times`, then the clean latent.

    Song et al. 2021, equation 12; with every step, eta = 1 and posterior_variance v it is DDPM of
    variance (1 - v) beta_tilde + v beta. eps_fn: alpha_bar_t -> (gain, offset).
    """
    size = len(eps_fn(alpha_bar[times[0]])[1])
    linear, shift, noise = np.eye(size), np.zeros(size), np.zeros((size, size))
    for t, s in zip(times, [*times[1:], None], strict=True):
        a, b = alpha_bar[t], 1.0 if s is None else alpha_bar[s]
        beta = 1 - a / b
        beta_tilde = (1 - b) / (1 - a) * beta
        variance = eta**2 * ((1 - posterior_variance) * beta_tilde + posterior_variance * beta)
        direction = np.sqrt(max(1 - b - eta**2 * beta_tilde, 0))
        gain, offset = eps_fn(a)
        on_eps = direction - np.sqrt(b / a) * np.sqrt(1 - a)
        step = np.sqrt(b / a) * np.eye(size) + on_eps * gain
        linear, shift = step @ linear, step @ shift + on_eps * offset
        noise = step @ noise @ step.T + (0 if s is None else variance) * np.eye(size)
    return AffineMap(linear, shift, noise)


def assert_moments(samples, mean, covariance):
    """Both moments within five standard errors."""
    samples, count = np.asarray(samples, np.float64), len(samples)
    variance = np.diag(covariance)
    errors = np.sqrt((np.outer(variance, variance) + covariance**2) / count)
    assert np.all(np.abs(samples.mean(0) - mean) < 5 * np.sqrt(variance / count))
    assert np.all(np.abs(np.cov(samples.T) - covariance) < 5 * errors)
