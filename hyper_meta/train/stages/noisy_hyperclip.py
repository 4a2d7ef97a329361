"""The stage of HyperCLIP at every noise level, and sampling that it guides (method.md section
5)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Key

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.settings.training import NoisyHyperCLIPSettings
from hyper_meta.core.types import Array, SentenceFeatures, UserError
from hyper_meta.diffusion.latent_sampling import (
    LatentStatistics,
    draw_latents,
    standardise_latents,
)
from hyper_meta.diffusion.noise import diffuse
from hyper_meta.diffusion.samplers import Noise
from hyper_meta.models.noisy_hyperclip import NoisyHyperCLIP, log_probability
from hyper_meta.models.sentences import standardise_sentences, take
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages.hyperldm import (
    configured_process,
    sample_tasks,
    sampling,
    trained_denoiser,
)
from hyper_meta.train.stages.language import reader_module
from hyper_meta.train.stages.latent_data import LatentData, compile_accuracy
from hyper_meta.train.stages.parts import is_matrix, schedule_of, update
from hyper_meta.train.state import TrainState, create_state, smoothed_params


def noisy_hyperclip_module(config: RunSettings) -> NoisyHyperCLIP:
    """The encoder of diffused latents and of sentences that the config describes."""
    settings = config.noisy_hyperclip
    reader = reader_module(config) if settings.condition == "tokens" else None
    return NoisyHyperCLIP(tuple(settings.hidden_dims), settings.embed_dim, reader)


def noisy_hyperclip_params(
    config: RunSettings, latent_dim: int, sentence: SentenceFeatures, key: Key[jax.Array, ""]
) -> Any:
    """The first parameters, for latents [Z] and sentences like this one."""
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], sentence)
    inputs = jnp.zeros((1, latent_dim)), jnp.zeros(1, jnp.int32), batch
    return noisy_hyperclip_module(config).init(key, *inputs, method="both")["params"]


def read_sentences(
    config: RunSettings, params: Any, statistics: LatentStatistics, questions: SentenceFeatures
) -> Float[Array, "n E"]:
    """The embeddings [n, E] of questions, as the encoder gives them."""
    asked = standardise_sentences(statistics.questions, questions)
    return noisy_hyperclip_module(config).apply({"params": params}, asked, method="read")


def log_prob_fn(
    config: RunSettings, model: Any, questions: SentenceFeatures
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(standardised z_t [B, Z], t) -> log p(question | z_t) [B]; model: see `compile_guided`."""
    module, params = noisy_hyperclip_module(config), model["clip"]
    asked = read_sentences(config, params, model["ldm"]["statistics"], questions)

    def log_prob(z_t: jax.Array, t: jax.Array) -> jax.Array:
        embedded = module.apply({"params": params}, z_t, t)
        return log_probability(embedded, asked, model["known"])

    return log_prob


def compile_guided(config: RunSettings, section: str) -> Callable[..., np.ndarray]:
    """Compiles sampling from the unconditional HyperLDM, guided by the classifier; a Sampler.

    Its model is {"ldm": a trained HyperLDM of the section, "clip": params, "known": [n, E],
    embeddings of training questions, "start": [Z]}, replicated.
    """

    def guided(model: Any, _: None, x: tuple) -> jax.Array:
        questions, scale, (keys, sign) = x
        return draw_latents(
            trained_denoiser(config, model["ldm"], section=section),
            sampling(getattr(config, section)),
            questions=questions,
            scale=scale,
            noise=Noise(jax.random.wrap_key_data(keys), sign),
            start=model["start"],
            log_prob_fn=log_prob_fn(config, model, questions),
        )

    mapped = parallel.compile_map(guided)

    def run(model, questions, scale, noise):
        rows = parallel.fill_devices((questions, scale, noise))
        return mapped(model, None, rows)[: len(questions.pooled)]

    return run


def compile_ranking(config: RunSettings) -> Callable[..., np.ndarray]:
    """Compiles (model, latents [n, K, Z], n questions) -> log p(question | latent) [n, K], of clean
    latents; model: see `compile_guided`."""

    def ranked(model: Any, _: None, x: tuple) -> jax.Array:
        latents, questions = x
        count, num_samples, _ = latents.shape
        rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_samples, axis=0), questions)
        flat = standardise_latents(
            model["ldm"]["statistics"], latents.reshape(-1, latents.shape[2])
        )
        log_prob = log_prob_fn(config, model, rows)(flat, jnp.zeros(1, jnp.int32))
        return log_prob.reshape(count, num_samples)

    mapped = parallel.compile_map(ranked)

    def run(model, latents, questions):
        rows = parallel.fill_devices((latents, questions))
        return mapped(model, None, rows)[: len(latents)]

    return run


def noisy_hyperclip_stage(
    config: RunSettings,
    name: str,
    data: LatentData,
    *,
    base: Any,
    section: str,
    learning_rate: float,
) -> Stage:
    """A classifier of diffused latents by their sentence, trained at all noise levels of HyperLDM.

    base: {"params", "statistics"} of the trained HyperLDM of a section of the config. Best by the
    validation accuracy of the networks of mean latents, sampled with its guidance at the best of
    the scales that are compared. Raises UserError for a batch larger than the number of tasks.
    """
    settings, (num_tasks, repeats, latent_dim) = config.noisy_hyperclip, data.latents.shape
    if settings.batch_size > num_tasks:
        raise UserError(
            f"stage {name}: noisy_hyperclip.batch_size {settings.batch_size} is more than the "
            f"{num_tasks} training tasks, of which a batch has each once: choose a smaller one"
        )
    sentence = take(data.train.questions, 0)

    def init(key: jax.Array) -> TrainState:
        params = noisy_hyperclip_params(config, latent_dim, sentence, key)
        decay = optax.cosine_decay_schedule(learning_rate, settings.num_steps)
        tx = optax.adamw(decay, weight_decay=settings.weight_decay, mask=is_matrix)
        statistics = jax.tree.map(jnp.asarray, base["statistics"])
        return create_state(
            None, params, tx=tx, ema_decay=settings.ema_decay or None, statistics=statistics
        )

    def draw(step: int) -> tuple[np.ndarray, np.ndarray]:
        """Different tasks, and a random repeat of each."""
        rng = np.random.default_rng([config.seed, step])
        task = rng.permutation(num_tasks)[: settings.batch_size]
        return task, rng.integers(repeats, size=settings.batch_size)

    return Stage(
        name=name,
        num_steps=settings.num_steps,
        chunk_steps=settings.chunk_steps,
        most_at_once=8,
        init=init,
        step=functools.partial(_step, config, getattr(config, section)),
        data=(data.latents, data.train.questions),
        schedule=schedule_of(draw),
        validate=_compile_validation(config, data, base, section),
    )


def _step(
    config: RunSettings, diffusion: Any, state: TrainState, data: Any, x: Any, key: jax.Array
) -> tuple[TrainState, dict]:
    """One update on a random repeat each of different tasks, each at a random noise level; the
    sentences of all are what a latent is told apart from."""
    (latents, questions), (_, (task, repeat)) = data, x
    process, module = configured_process(diffusion), noisy_hyperclip_module(config)
    z0 = standardise_latents(state.statistics, latents[task, repeat])

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        time_key, noise_key = jax.random.split(key)
        t = jax.random.randint(time_key, (), 0, process.num_steps, jnp.int32)
        return t, jax.random.normal(noise_key, z0.shape[1:], z0.dtype)

    t, noise = jax.vmap(draw)(parallel.example_keys(key, len(task)))
    z_t = diffuse(process, z0, t=t, noise=noise)
    asked = standardise_sentences(state.statistics.questions, take(questions, task))
    first = jax.lax.axis_index(parallel.AXIS) * len(task)

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        embedded, texts = module.apply({"params": params}, z_t, t, asked, method="both")
        logits = embedded @ parallel.all_gather(texts).T
        label = first + jnp.arange(len(task))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        correct = (logits.argmax(axis=-1) == label).sum().astype(jnp.float32)
        count = jnp.asarray(len(task), jnp.float32)
        return losses.sum(), (count, {"accuracy": (correct, count)})

    return update(state, loss_fn)


def _compile_validation(
    config: RunSettings, data: LatentData, ldm: Any, section: str
) -> Callable[[TrainState], tuple[float, dict[str, float]]]:
    """state -> (the best mean accuracy over the tasks at any scale, that at each)."""
    settings: NoisyHyperCLIPSettings = config.noisy_hyperclip
    sampler, num_samples = compile_guided(config, section), getattr(config, section).num_samples
    accuracy_of, space = compile_accuracy(config, data), parallel.replicate(data.space)
    read = parallel.compile_map(
        lambda params, statistics, x: read_sentences(config, params, statistics, x)
    )
    replicated, some = (
        parallel.replicate(ldm),
        take(data.train.questions, slice(settings.batch_size)),
    )

    def validate(state: TrainState) -> tuple[float, dict[str, float]]:
        params = smoothed_params(state)
        known = read(params, state.statistics, parallel.fill_devices(some))[: settings.batch_size]
        model = {"ldm": replicated, "clip": params, "start": space["e0"]}
        model["known"] = parallel.replicate(known)
        accuracy = {}
        for scale in settings.guidance_scales:
            latents = sample_tasks(
                sampler,
                model,
                data.validation.questions,
                scale=scale,
                num_samples=num_samples,
                seed=config.seed,
            )
            accuracy[f"scale_{scale:g}"] = accuracy_of(space, latents.mean(axis=1, keepdims=True))
        return max(accuracy.values()), accuracy

    return validate
