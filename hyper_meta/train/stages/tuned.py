"""HyperLDM trained on by the loss of the networks that it generates (method.md section 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import Array, SentenceFeatures, TaskBatch
from hyper_meta.diffusion.latent_sampling import LatentStatistics, Sampling, draw_latents
from hyper_meta.diffusion.samplers import Noise
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import questions_of
from hyper_meta.meta.objectives import judge_networks
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.hyperldm import sample_noise, trained_denoiser
from hyper_meta.train.stages.latent_data import LatentData
from hyper_meta.train.stages.parts import stage_network
from hyper_meta.train.stages.task_stage import Drawn, Plan, TaskModel, task_stage


def few_steps(config: RunSettings, section: str) -> Sampling:
    """Deterministic DDIM of config.tuned.sampling_steps, from noise."""
    return Sampling(getattr(config, section).prediction, config.tuned.sampling_steps, 0.0, 1.0)


def tuned_stage(
    config: RunSettings,
    name: str,
    data: LatentData,
    *,
    base: Any,
    section: str,
    learning_rate: float,
) -> Stage:
    """The denoiser of a HyperLDM, trained on by the task loss of what a few steps of DDIM generate
    (as Clark et al. 2024, "Directly fine-tuning diffusion models on differentiable rewards", with
    the loss for a reward); the space stays as it is.

    base: {"params", "statistics"} of the trained HyperLDM of a section of the config. Best by the
    validation accuracy of the networks of mean latents.
    """
    network, space = stage_network(config, data.train), data.space

    def latents_of(params: Any, questions: SentenceFeatures, noise: Noise) -> Float[Array, "B Z"]:
        return few_step_latents(config, section, params, base["statistics"], questions, noise)

    def loss(
        params: Any, groups: Sequence[TaskBatch], drawn: Sequence[Drawn]
    ) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        noise = Noise(jnp.concatenate([draw.keys for draw in drawn]))
        latents = latents_of(params, questions_of(groups), noise)
        weights = data.generate(space["generator"], latents)
        return judge_networks(network, weights, groups, held_out=False)

    plan = Plan(name, config.tuned, learning_rate)
    method = _mean_latent_method(config, section, latents_of, data)
    start = jax.tree.map(jnp.asarray, base["params"])
    statistics = jax.tree.map(jnp.asarray, base["statistics"])
    model = TaskModel(lambda key: start, loss, judged=[(1.0, method)], statistics=statistics)
    return task_stage(plan, config, (data.train, data.validation), model)


def few_step_latents(
    config: RunSettings,
    section: str,
    params: Any,
    statistics: LatentStatistics,
    questions: SentenceFeatures,
    noise: Noise,
) -> Float[Array, "B Z"]:
    """A latent for each of B questions, by a few steps of DDIM; differentiable in the params."""
    ldm = {"params": params, "statistics": statistics}
    return draw_latents(
        trained_denoiser(config, ldm, section=section),
        few_steps(config, section),
        questions=questions,
        scale=None,
        noise=noise,
        start=jnp.zeros_like(statistics.latent_mean),
    )


def _mean_latent_method(
    config: RunSettings, section: str, latents_of: Callable, data: LatentData
) -> scoring.LogitsFn:
    """The logits [B, 1, N, A] of networks of mean latents; all tasks have the same noise."""
    network = stage_network(config, data.train)
    (keys,), (sign,) = sample_noise(config.seed, 1, getattr(config, section).num_samples)

    def method(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        num_tasks, num_samples = len(tasks.mask), len(sign)
        questions = jax.tree.map(lambda x: jnp.repeat(x, num_samples, axis=0), tasks.question)
        every_key, every_sign = jnp.tile(keys, (num_tasks, 1)), jnp.tile(sign, num_tasks)
        noise = Noise(jax.random.wrap_key_data(every_key), every_sign)
        latents = latents_of(params, questions, noise).reshape(num_tasks, num_samples, -1)
        weights = data.generate(data.space["generator"], latents.mean(axis=1, keepdims=True))
        return scoring.query_logits(network, weights, tasks)

    return method
