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
from jaxtyping import Float, UInt

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import Array, SentenceFeatures, TaskBatch
from hyper_meta.data.table import TaskTable
from hyper_meta.diffusion.latent_sampling import (
    FewShot,
    LatentDenoiser,
    Sampling,
    draw_latents,
    latent_statistics,
    standardise_latents,
)
from hyper_meta.diffusion.noise import NoiseProcess
from hyper_meta.diffusion.noise import noise_process as make_process
from hyper_meta.diffusion.objective import denoising_loss
from hyper_meta.diffusion.samplers import Noise
from hyper_meta.meta import scoring
from hyper_meta.meta.fisher import fisher_information, standardised_metric
from hyper_meta.meta.inner_loop import task_loss
from hyper_meta.meta.objectives import all_examples
from hyper_meta.models.denoiser import denoiser_class
from hyper_meta.models.sentences import standardise_sentences, take
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.networks.registry import configured_network
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.passes import compile_configured_pass
from hyper_meta.train.state import TrainState, create_state, smoothed_params

# (ldm, n questions, scale [n], (keys [n, 2] uint32, sign [n])) -> latents [n, Z] on the host;
# ldm is {"params": ..., "statistics": LatentStatistics, "start": [Z]}, replicated.
Sampler = Callable[[Any, SentenceFeatures, np.ndarray, tuple[np.ndarray, np.ndarray]], np.ndarray]


def denoiser_module(config: RunSettings, latent_dim: int) -> nn.Module:
    """The denoiser that the config describes, of latents [Z]."""
    settings = config.hyperldm
    return denoiser_class(settings.denoiser)(
        latent_dim=latent_dim,
        hidden_dim=settings.hidden_dim,
        num_blocks=settings.num_blocks,
    )


def noise_process(config: RunSettings) -> NoiseProcess:
    """The noise schedule that the config names."""
    return make_process(config.hyperldm.schedule, config.hyperldm.diffusion_steps)


def sampling(config: RunSettings) -> Sampling:
    """How the config says that latents are sampled."""
    settings = config.hyperldm
    return Sampling(
        prediction=settings.prediction,
        sampling_steps=settings.sampling_steps,
        posterior_variance=settings.posterior_variance,
        start_time=settings.start_time,
    )


def trained_denoiser(config: RunSettings, ldm: Any) -> LatentDenoiser:
    """The denoiser of a trained {"params", "statistics"}."""
    module = denoiser_module(config, ldm["statistics"].latent_mean.shape[0])
    return LatentDenoiser(
        predict_fn(module, ldm["params"]), noise_process(config), ldm["statistics"]
    )


def predict_fn(module: nn.Module, params: Any) -> Callable[..., jax.Array]:
    """(z_t [B, Z], t [B], condition of B rows, keep [B]) -> [B, Z], for these parameters."""
    return functools.partial(module.apply, {"params": params})


def compile_sampler(config: RunSettings) -> Sampler:
    """Compiles sampling for any number of rows; each row has its own question, scale and noise."""

    def compiled(guided: bool) -> Callable:
        def sample(ldm: Any, _: None, x: tuple) -> jax.Array:
            questions, scale, (keys, sign) = x
            return draw_latents(
                trained_denoiser(config, ldm),
                sampling(config),
                questions=questions,
                scale=scale if guided else None,
                noise=Noise(jax.random.wrap_key_data(keys), sign),
                start=ldm["start"],
            )

        return parallel.compile_map(sample)

    mapped = {guided: compiled(guided) for guided in (False, True)}

    def run(ldm, questions, scale, noise):
        num_rows = len(questions.pooled)
        rows = parallel.fill_devices((questions, scale, noise))
        guided = bool((scale != 1).any())
        return mapped[guided](ldm, None, rows)[:num_rows]

    return run


def sample_tasks(
    sampler: Sampler,
    ldm: Any,
    questions: SentenceFeatures,
    *,
    scale: float,
    num_samples: int,
    seed: int,
) -> Float[np.ndarray, "T K Z"]:
    """num_samples latents for each of T questions, in one call: [T, K, Z] float32.

    The k-th sample of a question starts from the same noise at every scale.
    """
    num_tasks = len(questions.pooled)
    keys, sign = sample_noise(seed, num_tasks, num_samples)
    scales = np.full(sign.size, scale, np.float32)
    repeated = jax.tree.map(lambda leaf: leaf.repeat(num_samples, axis=0), questions)
    latents = sampler(ldm, repeated, scales, (keys.reshape(-1, 2), sign.reshape(-1)))
    return latents.reshape(num_tasks, num_samples, -1)


def sample_noise(
    seed: int, num_tasks: int, num_samples: int
) -> tuple[UInt[np.ndarray, "T K 2"], Float[np.ndarray, "T K"]]:
    """(keys [T, K, 2] uint32, sign [T, K] float32) of K samples of each task, in antithetic pairs;
    the last of an odd number is alone."""
    drawn = jax.random.split(jax.random.key(seed), (num_tasks, -(-num_samples // 2)))
    keys = np.asarray(jax.random.key_data(drawn)).repeat(2, axis=1)[:, :num_samples]
    sign = np.where(np.arange(num_samples) % 2, np.float32(-1), np.float32(1))
    return keys, np.broadcast_to(sign, keys.shape[:2])


def guided_by_support(
    config: RunSettings, network: BaseNetwork, generate: Callable
) -> scoring.TaskFn:
    """Few-shot guidance (method.md section 5): latents [B, K, Z] of samples that are pushed down
    the loss of their task's support set at every step.

    network: whose weights they are; generate: (generator params, latent) -> weights. The params of
    the TaskFn are {"space": {"e0", "generator"}, "ldm": ...}, its extra {"scale": [B], "strength":
    [B], "noise": as `sample_noise` returns it}.
    """

    def sample(params: Any, tasks: TaskBatch, extra: Any) -> jax.Array:
        keys, sign = extra["noise"]
        num_tasks, num_samples = sign.shape

        def support_loss(latent: jax.Array, task: TaskBatch) -> jax.Array:
            weights = generate(params["space"]["generator"], latent)
            judged = (weights, task.support, task.answers, task.answer_mask)
            return task_loss(network, *judged)

        gradients = jax.vmap(jax.vmap(jax.grad(support_loss), (0, None)))

        def grad_fn(latents: jax.Array) -> jax.Array:
            grid = latents.reshape(num_tasks, num_samples, -1)
            return gradients(grid, tasks).reshape(latents.shape)

        def rows(values: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.repeat(leaf, num_samples, axis=0), values)

        latents = draw_latents(
            trained_denoiser(config, params["ldm"]),
            sampling(config),
            questions=rows(tasks.question),
            scale=rows(extra["scale"]),
            noise=Noise(jax.random.wrap_key_data(keys.reshape(-1, 2)), sign.reshape(-1)),
            start=params["ldm"]["start"],
            few_shot=FewShot(grad_fn, rows(extra["strength"])),
        )
        return latents.reshape(num_tasks, num_samples, -1)

    return sample


def validation_scales(config: RunSettings) -> tuple[float, ...]:
    """The guidance scales to choose from: the one that is set, or those that are compared."""
    fixed = config.hyperldm.guidance_scale
    return (fixed,) if fixed is not None else tuple(config.evaluate.guidance_scales)


def hyperldm_stage(
    config: RunSettings,
    name: str,
    *,
    latents: Float[Array, "T R Z"],
    space: Any,
    generate: Callable,
    tables: tuple[TaskTable, TaskTable],
    learning_rate: float,
) -> Stage:
    """HyperLDM on the latent data set [T, R, Z] of a latent space (method.md section 5).

    space: {"e0", "generator"}; generate: (generator params, latent) -> weights. Best by the
    validation accuracy of networks generated from the moving average, with the mean latent of
    num_samples samples, at the better of the guidance scales that are compared.
    """
    train, validation = tables
    settings, questions = config.hyperldm, train.questions
    module = denoiser_module(config, latents.shape[-1])
    statistics = latent_statistics(latents.reshape(-1, latents.shape[-1]), questions)
    metric = None
    if settings.fisher_share:
        metric = _fisher_metrics(config, latents, statistics.latent_std, space, generate, train)
    accuracy_at = _compile_accuracy(config, validation, space, generate)

    def init(key: jax.Array) -> TrainState:
        condition = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:1]), questions)
        time, keep = jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
        params = module.init(key, latents[:1, 0], time, condition, keep)["params"]
        decay = optax.cosine_decay_schedule(learning_rate, settings.num_steps)
        return create_state(
            None,
            params,
            tx=optax.adamw(decay, weight_decay=settings.weight_decay),
            ema_decay=settings.ema_decay,
            statistics=statistics,
        )

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        params = smoothed_params(state)
        accuracy = {
            scale: accuracy_at(params, state.statistics, scale)
            for scale in validation_scales(config)
        }
        return max(accuracy.values()), {f"scale_{s:g}": a for s, a in accuracy.items()}

    return Stage(
        name=name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        most_at_once=64,
        init=init,
        step=functools.partial(_denoising_step, config, module),
        data=(latents, questions, metric),
        schedule=functools.partial(_schedule, config.seed, settings.batch_size, latents.shape[:2]),
        validate=validate,
    )


def _schedule(
    seed: int, batch_size: int, limits: tuple[int, int], start: int, stop: int
) -> tuple[None, tuple[np.ndarray, np.ndarray]]:
    """Random tasks and random repeats of them, each [steps, B], below limits = (T, R)."""
    rngs = [np.random.default_rng([seed, step]) for step in range(start, stop)]
    draws = [[rng.integers(limit, size=batch_size) for limit in limits] for rng in rngs]
    task, repeat = np.stack(draws, axis=1)
    return None, (task, repeat)


def _fisher_metrics(
    config: RunSettings,
    latents: np.ndarray,
    std: jax.Array,
    space: Any,
    generate: Callable,
    train: TaskTable,
) -> np.ndarray:
    """The metric [T, Z, Z] of standardised latents of each training task, at its mean latent."""
    network = configured_network(config.network, train.image_features.shape[1])

    def one_task(params: Any, task: TaskBatch, latent: jax.Array) -> jax.Array:
        weights_fn = functools.partial(generate, params["generator"])
        fisher = fisher_information(network, weights_fn, latent, task)
        return standardised_metric(fisher, std, share=config.hyperldm.fisher_share)

    def metrics(params: Any, tasks: TaskBatch, latents: jax.Array) -> jax.Array:
        tasks = tasks.replace(support=all_examples(tasks))
        return jax.vmap(one_task, (None, 0, 0))(params, tasks, latents)

    return compile_configured_pass(config, metrics, train)(
        parallel.replicate(space), latents.mean(axis=1)
    )


def _denoising_step(
    config: RunSettings, module: nn.Module, state: TrainState, data: Any, x: Any, key: jax.Array
) -> tuple[TrainState, dict]:
    """One update on random repeats of random tasks."""
    (latents, questions, metric), (_, (task, repeat)) = data, x
    asked = take(questions, task)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        total, count = denoising_loss(
            predict_fn(module, params),
            noise_process(config),
            z0=standardise_latents(state.statistics, latents[task, repeat]),
            condition=standardise_sentences(state.statistics.questions, asked),
            mask=jnp.ones(task.shape, bool),
            keys=parallel.example_keys(key, len(task)),
            drop_rate=config.hyperldm.drop_rate,
            prediction=config.hyperldm.prediction,
            metric=None if metric is None else metric[task],
        )
        return total, (count, {})

    results = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = parallel.global_mean(*results)
    return state.apply_gradients(grads=grads), metrics


def _compile_accuracy(
    config: RunSettings, validation: TaskTable, space: Any, generate: Callable
) -> Callable[[Any, Any, float], float]:
    """(replicated params, replicated statistics, guidance scale) -> mean accuracy over the
    validation tasks, of the mean latents."""
    sampler = compile_sampler(config)
    network = configured_network(config.network, validation.image_features.shape[1])
    method = scoring.latent_method(network, generate)
    score = compile_configured_pass(config, scoring.scores_of(method), validation)
    replicated = parallel.replicate(space)

    def accuracy_at(params: Any, statistics: Any, scale: float) -> float:
        latents = sample_tasks(
            sampler,
            {"params": params, "statistics": statistics, "start": replicated["e0"]},
            validation.questions,
            scale=scale,
            num_samples=config.hyperldm.num_samples,
            seed=config.seed,
        )
        return float(np.mean(score(replicated, latents.mean(axis=1, keepdims=True)).accuracy))

    return accuracy_at
