"""HyperCLIP inside the sampler of HyperLDM, and its choice among HyperLDM's samples (method.md
section 5)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.diffusion.latent_sampling import latent_statistics
from hyper_meta.methods.guides import Guide
from hyper_meta.methods.hyperldm import hyperldm_shapes
from hyper_meta.methods.interface import Method, Setup
from hyper_meta.methods.language import check_tokens
from hyper_meta.methods.latent_guides import LatentGuide, in_space
from hyper_meta.methods.trained import Fitted
from hyper_meta.models.sentences import take
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.stages.hyperldm import compile_sampler, sample_tasks, validation_scales
from hyper_meta.train.stages.noisy_hyperclip import (
    compile_guided,
    compile_ranking,
    noisy_hyperclip_params,
    noisy_hyperclip_stage,
    read_sentences,
)


def guided_inside(space_name: str, section: str) -> Method:
    """Guidance of the unconditional HyperLDM of a section of the config, by HyperCLIP at every
    noise level."""

    def make(config: RunSettings, space_name: str, model: Any, new: Callable[..., Guide]) -> Guide:
        sampler, on_devices = compile_guided(config, section), _on_devices(model, section)
        ranking = compile_ranking(config)

        def sample(_: Any, questions: SentenceFeatures, scale: float, num: int, seed: int) -> Any:
            return sample_tasks(
                sampler, on_devices(), questions, scale=scale, num_samples=num, seed=seed
            )

        return new(
            sample_fn=sample,
            settings={f"{scale:g}": scale for scale in config.noisy_hyperclip.guidance_scales},
            varies="guidance scale",
            num_samples=getattr(config, section).num_samples,
            random=True,
            fit_fn=lambda latents, questions: ranking(on_devices(), latents, questions),
        )

    about = LatentGuide(
        section="noisy_hyperclip",
        title="HyperCLIP inside the sampler",
        summary="HyperCLIP inside the sampler of HyperLDM,",
        stage=functools.partial(noisy_hyperclip_stage, section=section),
        shapes=_shapes,
        make=make,
        base=section,
        base_shapes=functools.partial(hyperldm_shapes, section),
        finish=_with_known_sentences,
        check=functools.partial(check_tokens, "noisy_hyperclip"),
    )
    return in_space(about, space_name)


def ranked(space_name: str, section: str) -> Method:
    """Samples of HyperLDM, of which those that HyperCLIP finds likeliest are averaged."""

    def make(config: RunSettings, space_name: str, model: Any, new: Callable[..., Guide]) -> Guide:
        settings, on_devices = config.noisy_hyperclip, _on_devices(model, section)
        sampler, ranking = compile_sampler(config, section=section), compile_ranking(config)

        def sample(
            _: Any, questions: SentenceFeatures, value: tuple[float, int], num: int, seed: int
        ) -> np.ndarray:
            scale, best = value
            ldm = {**on_devices()["ldm"], "start": on_devices()["start"]}
            latents = sample_tasks(
                sampler, ldm, questions, scale=scale, num_samples=settings.num_samples, seed=seed
            )
            order = np.argsort(-ranking(on_devices(), latents, questions), axis=1, stable=True)
            kept = np.take_along_axis(latents, order[:, :best, None], axis=1)
            return kept.mean(axis=1, keepdims=True).repeat(num, axis=1)

        scales = validation_scales(config, section=section)
        return new(
            sample_fn=sample,
            settings={
                f"scale {scale:g}, best {best} of {settings.num_samples}": (scale, best)
                for scale in scales
                for best in settings.ranked
            },
            varies="guidance scale and samples",
            fit_fn=lambda latents, questions: ranking(on_devices(), latents, questions),
        )

    about = LatentGuide(
        section="ranked",
        title="HyperLDM, ranked by HyperCLIP",
        summary="samples of HyperLDM ranked by HyperCLIP,",
        stage=None,
        shapes=_shapes,
        make=make,
        base=section,
        base_shapes=functools.partial(hyperldm_shapes, section),
        trained_as="noisy_hyperclip",
        check=functools.partial(check_tokens, "noisy_hyperclip"),
    )
    return in_space(about, space_name)


def _shapes(
    config: RunSettings, network: BaseNetwork, latent_dim: int, sentence: SentenceFeatures
) -> dict[str, Any]:
    settings = config.noisy_hyperclip
    params = functools.partial(noisy_hyperclip_params, config, latent_dim, sentence)
    batch = jax.tree.map(lambda x: jnp.asarray(x)[None], sentence)
    known = jax.ShapeDtypeStruct((settings.batch_size, settings.embed_dim), np.float32)
    return {
        "params": jax.eval_shape(params, jax.random.key(0)),
        "statistics": {
            "latents": jax.eval_shape(latent_statistics, jnp.zeros((1, latent_dim)), batch),
            "known": known,
        },
    }


def _on_devices(model: Any, section: str) -> Callable[[], Any]:
    """() -> what `compile_guided` needs of a guide's model, replicated once."""

    @functools.cache
    def replicated() -> Any:
        clip = model["noisy_hyperclip"]
        return parallel.replicate(
            {
                "ldm": model[section],
                "clip": clip["params"],
                "known": clip["statistics"]["known"],
                "start": model["space"]["e0"],
            }
        )

    return replicated


def _with_known_sentences(setup: Setup, left: Fitted) -> Fitted:
    """With the embeddings [batch_size, E] of training questions in its statistics, as many as a
    batch of training tells apart."""
    config, known = setup.config, setup.tables["train"].questions
    drawn = np.random.default_rng(config.seed).permutation(len(known.pooled))
    some = jax.tree.map(jnp.asarray, take(known, drawn[: config.noisy_hyperclip.batch_size]))
    read = jax.jit(functools.partial(read_sentences, config))
    embedded = np.asarray(read(left.params, left.statistics, some))
    return Fitted(left.params, {"latents": left.statistics, "known": embedded})
