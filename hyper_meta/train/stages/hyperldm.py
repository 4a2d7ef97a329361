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
from hyper_meta.core.settings.training import HyperLDMSettings
from hyper_meta.core.types import SentenceFeatures, TaskBatch
from hyper_meta.diffusion.latent_sampling import (
    FewShot,
    LatentDenoiser,
    LatentStatistics,
    Sampling,
    draw_latents,
    latent_statistics,
    standardise_latents,
)
from hyper_meta.diffusion.noise import NoiseProcess, noise_process
from hyper_meta.diffusion.objective import Denoising, denoising_loss
from hyper_meta.diffusion.samplers import Noise
from hyper_meta.meta import scoring
from hyper_meta.meta.fisher import fisher_information, standardised_metric
from hyper_meta.meta.inner_loop import task_loss
from hyper_meta.meta.objectives import all_examples
from hyper_meta.models.denoiser import denoiser_class
from hyper_meta.models.sentences import standardise_sentences, take
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.language import reader_module
from hyper_meta.train.stages.latent_data import LatentData, compile_accuracy
from hyper_meta.train.stages.parts import schedule_of, stage_network, update
from hyper_meta.train.stages.passes import compile_configured_pass
from hyper_meta.train.state import TrainState, create_state, smoothed_params

# (ldm, n questions, scale [n], (keys [n, 2] uint32, sign [n])) -> latents [n, Z] on the host;
# ldm is {"params": ..., "statistics": LatentStatistics, "start": [Z]}, replicated.
Sampler = Callable[[Any, SentenceFeatures, np.ndarray, tuple[np.ndarray, np.ndarray]], np.ndarray]


def denoiser_module(
    config: RunSettings, latent_dim: int, *, section: str = "hyperldm"
) -> nn.Module:
    """The denoiser that a section of the config describes, of latents [Z]."""
    settings = getattr(config, section)
    return denoiser_class(settings.denoiser)(
        latent_dim=latent_dim,
        hidden_dim=settings.hidden_dim,
        num_blocks=settings.num_blocks,
        reader=reader_module(config) if settings.condition == "tokens" else None,
    )


def configured_process(settings: HyperLDMSettings) -> NoiseProcess:
    """The noise schedule that the settings name."""
    return noise_process(settings.schedule, settings.diffusion_steps)


def sampling(settings: HyperLDMSettings) -> Sampling:
    """How the settings say that latents are sampled."""
    return Sampling(
        prediction=settings.prediction,
        sampling_steps=settings.sampling_steps,
        posterior_variance=settings.posterior_variance,
        start_time=settings.start_time,
    )


def trained_denoiser(config: RunSettings, ldm: Any, *, section: str = "hyperldm") -> LatentDenoiser:
    """The denoiser of a trained {"params", "statistics"}."""
    module = denoiser_module(config, ldm["statistics"].latent_mean.shape[0], section=section)
    process = configured_process(getattr(config, section))
    return LatentDenoiser(predict_fn(module, ldm["params"]), process, ldm["statistics"])


def predict_fn(module: nn.Module, params: Any) -> Callable[..., jax.Array]:
    """(z_t [B, Z], t [B], condition of B rows, keep [B]) -> [B, Z], for these parameters."""
    return functools.partial(module.apply, {"params": params})


def compile_sampler(
    config: RunSettings, *, section: str = "hyperldm", how: Sampling | None = None
) -> Sampler:
    """Compiles sampling for any number of rows; each row has its own question, scale and noise.

    how: None for what the section says.
    """
    how = sampling(getattr(config, section)) if how is None else how

    def compiled(guided: bool) -> Callable:
        def sample(ldm: Any, _: None, x: tuple) -> jax.Array:
            questions, scale, (keys, sign) = x
            return draw_latents(
                trained_denoiser(config, ldm, section=section),
                how,
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
    config: RunSettings, network: BaseNetwork, generate: Callable, *, section: str = "hyperldm"
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
            trained_denoiser(config, params["ldm"], section=section),
            sampling(getattr(config, section)),
            questions=rows(tasks.question),
            scale=rows(extra["scale"]),
            noise=Noise(jax.random.wrap_key_data(keys.reshape(-1, 2)), sign.reshape(-1)),
            start=params["ldm"]["start"],
            few_shot=FewShot(grad_fn, rows(extra["strength"])),
        )
        return latents.reshape(num_tasks, num_samples, -1)

    return sample


def validation_scales(config: RunSettings, *, section: str = "hyperldm") -> tuple[float, ...]:
    """The guidance scales to choose from: the one that is set, or those that are compared."""
    fixed = getattr(config, section).guidance_scale
    return (fixed,) if fixed is not None else tuple(config.evaluate.guidance_scales)


def hyperldm_stage(
    config: RunSettings,
    name: str,
    data: LatentData,
    *,
    learning_rate: float,
    section: str = "hyperldm",
) -> Stage:
    """HyperLDM on a latent data set (method.md section 5), as a section of the config describes it.

    Best by the validation accuracy of networks generated from the moving average, with the mean
    latent of num_samples samples, at the better of the guidance scales that are compared.
    """
    settings, (num_tasks, repeats, latent_dim) = getattr(config, section), data.latents.shape
    module = denoiser_module(config, latent_dim, section=section)
    statistics = latent_statistics(data.latents.reshape(-1, latent_dim), data.train.questions)
    metric = None
    if settings.fisher_share:
        metric = _fisher_metrics(config, data, statistics.latent_std, settings.fisher_share)
    return Stage(
        name=name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        most_at_once=64,
        init=functools.partial(_init, settings, module, data, statistics, learning_rate),
        step=functools.partial(_denoising_step, settings, module),
        data=(data.latents, data.train.questions, metric),
        schedule=schedule_of(
            functools.partial(_draw, config.seed, settings.batch_size, (num_tasks, repeats))
        ),
        validate=_compile_validation(config, data, section),
    )


def _init(
    settings: HyperLDMSettings,
    module: nn.Module,
    data: LatentData,
    statistics: LatentStatistics,
    learning_rate: float,
    key: jax.Array,
) -> TrainState:
    """An untrained denoiser."""
    condition = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:1]), data.train.questions)
    time, keep = jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
    params = module.init(key, data.latents[:1, 0], time, condition, keep)["params"]
    decay = optax.cosine_decay_schedule(learning_rate, settings.num_steps)
    return create_state(
        None,
        params,
        tx=optax.adamw(decay, weight_decay=settings.weight_decay),
        ema_decay=settings.ema_decay,
        statistics=statistics,
    )


def _draw(
    seed: int, size: int, limits: tuple[int, int], step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random tasks and random repeats of them, each [B], below limits = (T, R)."""
    rng = np.random.default_rng([seed, step])
    task, repeat = (rng.integers(limit, size=size) for limit in limits)
    return task, repeat


def _fisher_metrics(
    config: RunSettings, data: LatentData, std: jax.Array, share: float
) -> np.ndarray:
    """The metric [T, Z, Z] of standardised latents of each training task, at its mean latent."""
    network = stage_network(config, data.train)

    def one_task(params: Any, task: TaskBatch, latent: jax.Array) -> jax.Array:
        weights_fn = functools.partial(data.generate, params["generator"])
        fisher = fisher_information(network, weights_fn, latent, task)
        return standardised_metric(fisher, std, share=share)

    def metrics(params: Any, tasks: TaskBatch, latents: jax.Array) -> jax.Array:
        tasks = tasks.replace(support=all_examples(tasks))
        return jax.vmap(one_task, (None, 0, 0))(params, tasks, latents)

    run = compile_configured_pass(config, metrics, data.train)
    return run(parallel.replicate(data.space), data.latents.mean(axis=1))


def _denoising_step(
    settings: HyperLDMSettings,
    module: nn.Module,
    state: TrainState,
    data: Any,
    x: Any,
    key: jax.Array,
) -> tuple[TrainState, dict]:
    """One update on random repeats of random tasks."""
    (latents, questions, metric), (_, (task, repeat)) = data, x
    asked = take(questions, task)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        total, count = denoising_loss(
            predict_fn(module, params),
            Denoising(configured_process(settings), settings.prediction, settings.drop_rate),
            z0=standardise_latents(state.statistics, latents[task, repeat]),
            condition=standardise_sentences(state.statistics.questions, asked),
            mask=jnp.ones(task.shape, bool),
            keys=parallel.example_keys(key, len(task)),
            metric=None if metric is None else metric[task],
        )
        return total, (count, {})

    return update(state, loss_fn)


def _compile_validation(
    config: RunSettings, data: LatentData, section: str
) -> Callable[[TrainState], tuple[float, dict[str, float]]]:
    """state -> (the best mean accuracy over the tasks at any guidance scale, that at each), of the
    moving average and of mean latents."""
    sampler, questions = compile_sampler(config, section=section), data.validation.questions
    accuracy_of, space = compile_accuracy(config, data), parallel.replicate(data.space)
    scales = validation_scales(config, section=section)

    def accuracy_at(ldm: Any, scale: float) -> float:
        num = getattr(config, section).num_samples
        latents = sample_tasks(
            sampler, ldm, questions, scale=scale, num_samples=num, seed=config.seed
        )
        return accuracy_of(space, latents.mean(axis=1, keepdims=True))

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        ldm = {
            "params": smoothed_params(state),
            "statistics": state.statistics,
            "start": space["e0"],
        }
        accuracy = {scale: accuracy_at(ldm, scale) for scale in scales}
        return max(accuracy.values()), {f"scale_{s:g}": a for s, a in accuracy.items()}

    return validate
