"""The HyperLDM stage: training the latent diffusion model, and sampling from it for many tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from hyper_meta import parallel
from hyper_meta.data.tasks import TaskTable
from hyper_meta.diffusion.hyperldm import (
    measure,
    sample_latents,
    standardise_latents,
    standardise_questions,
)
from hyper_meta.diffusion.noise import NoiseProcess, cosine_process
from hyper_meta.diffusion.objective import denoising_loss
from hyper_meta.meta import scoring
from hyper_meta.models.denoiser import denoiser_class
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages import compile_pass, generate_fn, generator_module
from hyper_meta.train.state import TrainState, create_state, smoothed_params

# (ldm, questions [n, D], scale [n], keys [n, 2] uint32) -> latents [n, Z] on the host; ldm is
# {"params": ..., "statistics": Statistics}, replicated.
Sampler = Callable[[Any, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def denoiser_module(config: ConfigDict) -> nn.Module:
    """The denoiser that the config describes."""
    settings = config.hyperldm
    return denoiser_class(settings.denoiser)(
        latent_dim=config.generator.latent_dim,
        hidden_dim=settings.hidden_dim,
        num_blocks=settings.num_blocks,
    )


def noise_process(config: ConfigDict) -> NoiseProcess:
    """The cosine schedule of Nichol and Dhariwal with their constants."""
    return cosine_process(config.hyperldm.diffusion_steps, offset=0.008, max_beta=0.999)


def predict_fn(module: nn.Module, params: Any) -> Callable[..., jax.Array]:
    """(z_t [B, Z], t [B], condition [B, D], keep [B]) -> [B, Z], for these parameters."""
    return functools.partial(module.apply, {"params": params})


def compile_sampler(config: ConfigDict) -> Sampler:
    """Compiles sampling for any number of rows; each row has its own question, scale and key."""
    settings = config.hyperldm
    module, process = denoiser_module(config), noise_process(config)

    def sample(ldm: Any, _: None, x: tuple) -> jax.Array:
        questions, scale, keys = x
        return sample_latents(
            predict_fn(module, ldm["params"]),
            process,
            ldm["statistics"],
            questions=questions,
            scale=scale,
            keys=jax.random.wrap_key_data(keys),
            prediction=settings.prediction,
            sampling_steps=settings.sampling_steps,
        )

    mapped = parallel.compile_map(sample)

    def run(ldm, questions, scale, keys):
        padding = -len(questions) % jax.local_device_count()
        rows = [np.concatenate([x, x[:1].repeat(padding, 0)]) for x in (questions, scale, keys)]
        return mapped(ldm, None, tuple(rows))[: len(questions)]

    return run


def sample_tasks(
    sampler: Sampler, ldm: Any, questions: np.ndarray, *, scale: float, num_samples: int, seed: int
) -> np.ndarray:
    """num_samples latents for each of T questions [T, D], in one call: [T, K, Z] float32.

    The k-th sample of a question starts from the same noise at every scale.
    """
    rows = len(questions) * num_samples
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), rows)))
    scales = np.full(rows, scale, np.float32)
    latents = sampler(ldm, questions.repeat(num_samples, axis=0), scales, keys)
    return latents.reshape(len(questions), num_samples, -1)


def validation_scales(config: ConfigDict) -> tuple[float, ...]:
    """The guidance scales to choose from: the one that is set, or those that are compared."""
    fixed = config.hyperldm.guidance_scale
    return (fixed,) if fixed is not None else tuple(config.evaluate.guidance_scales)


def hyperldm_stage(
    config: ConfigDict,
    latents: np.ndarray,
    train: TaskTable,
    validation: TaskTable,
    generator_params: Any,
) -> Stage:
    """HyperLDM on the latent data set [T, R, Z] (METHOD section 5).

    Best by the validation accuracy of networks generated from the moving average, with the mean
    latent of num_samples samples, at the better of the guidance scales that are compared.
    """
    settings, questions = config.hyperldm, train.question_features
    module = denoiser_module(config)
    statistics = measure(latents.reshape(-1, latents.shape[-1]), questions)
    accuracy_at = _compile_accuracy(config, validation, generator_params)
    num_tasks, repeats, _ = latents.shape

    def init(key: jax.Array) -> TrainState:
        condition = jnp.zeros((1, questions.shape[1]))
        time, keep = jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
        params = module.init(key, latents[:1, 0], time, condition, keep)["params"]
        decay = optax.cosine_decay_schedule(settings.learning_rate, settings.num_steps)
        return create_state(
            None,
            params,
            tx=optax.adamw(decay, weight_decay=settings.weight_decay),
            ema_decay=settings.ema_decay,
            statistics=statistics,
        )

    def schedule(start: int, stop: int) -> tuple[None, Any]:
        rngs = [np.random.default_rng([config.seed, step]) for step in range(start, stop)]
        limits, size = (num_tasks, repeats), settings.batch_size
        draws = [[rng.integers(limit, size=size) for limit in limits] for rng in rngs]
        task, repeat = np.stack(draws, axis=1)
        return None, (task, repeat)

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        ldm = {"params": smoothed_params(state), "statistics": state.statistics}
        accuracy = {scale: accuracy_at(ldm, scale) for scale in validation_scales(config)}
        return max(accuracy.values()), {f"scale_{s:g}": a for s, a in accuracy.items()}

    return Stage(
        name="hyperldm",
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        init=init,
        step=functools.partial(_denoising_step, config, module),
        data=(latents, questions),
        schedule=schedule,
        validate=validate,
    )


def _denoising_step(
    config: ConfigDict, module: nn.Module, state: TrainState, data: Any, x: Any, key: jax.Array
) -> tuple[TrainState, dict]:
    """One update on random repeats of random tasks."""
    (latents, questions), (_, (task, repeat)) = data, x

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        total, count = denoising_loss(
            predict_fn(module, params),
            noise_process(config),
            z0=standardise_latents(state.statistics, latents[task, repeat]),
            condition=standardise_questions(state.statistics, questions[task]),
            mask=jnp.ones(task.shape, bool),
            keys=parallel.example_keys(key, len(task)),
            drop_rate=config.hyperldm.drop_rate,
            prediction=config.hyperldm.prediction,
        )
        return total, (count, {})

    results = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = parallel.global_mean(*results)
    return state.apply_gradients(grads=grads), metrics


def _compile_accuracy(
    config: ConfigDict, validation: TaskTable, generator_params: Any
) -> Callable[[Any, float], float]:
    """(ldm, guidance scale) -> mean accuracy over the validation tasks, of the mean latents."""
    sampler = compile_sampler(config)
    generate = generate_fn(generator_module(config, validation.image_features.shape[1]))
    score = compile_pass(config, scoring.scores_of(scoring.latent_method(generate)), validation)
    replicated = parallel.replicate(generator_params)

    def accuracy_at(ldm: Any, scale: float) -> float:
        latents = sample_tasks(
            sampler,
            ldm,
            validation.question_features,
            scale=scale,
            num_samples=config.hyperldm.num_samples,
            seed=config.seed,
        )
        right, total = score(replicated, latents.mean(axis=1, keepdims=True))
        return float(np.mean(right / total))

    return accuracy_at
