"""Latent spaces of networks, with the latents of the training tasks in them (method.md sections 4
and 5): HNet's, and that of HVAE, an autoencoder of adapted weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.scores import Scores
from hyper_meta.core.settings import RunSettings
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.learners import Learner, latent_learner, weights_learner
from hyper_meta.methods.cache import Program
from hyper_meta.methods.few_shot import choose_rate
from hyper_meta.methods.interface import (
    Method,
    Row,
    RowName,
    Setup,
    compile_scores,
    fit,
    keep_array,
)
from hyper_meta.methods.learnt import learner_rows
from hyper_meta.methods.trained import AdaptedWeights, Space, Trained
from hyper_meta.models.generator import GENERATOR, Factors, Generator, generate_weights
from hyper_meta.models.sentences import measure_sentences
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.train.stages import hvae
from hyper_meta.train.stages.language import language_learner
from hyper_meta.train.stages.passes import compile_adaptation

# Latent spaces by the method that leaves them: their name in tables, and their generator.
TITLES = {"hnet": "HNet", "hvae": "HVAE", "language": "HNet-language"}
FACTORS = {"hnet": GENERATOR, "hvae": hvae.HVAE, "language": GENERATOR}


def _train_hnet(setup: Setup, trained: Trained) -> Space:
    params = trained.fitted(setup.config.latents.base).params
    return _space(setup, "hnet", params)


def _train_language(setup: Setup, trained: Trained) -> Space:
    """The latents of training tasks are adapted from where their own sentences start."""
    config, params = setup.config, trained.fitted("hnet_language").params
    measured = measure_sentences(setup.tables["train"].questions)
    learner = language_learner(config, config.language, setup.network, measured)
    return _space(setup, "language", params, learner)


def _train_weights(setup: Setup, trained: Trained) -> AdaptedWeights:
    settings = setup.config.hvae.weights
    params = trained.fitted(settings.base).params
    shape = (len(setup.tasks["train"]), settings.repeats, setup.network.num_weights)
    learner = weights_learner(setup.network)
    weights = _adapted(setup, "mnet_weights", shape, learner, params, settings, key="mnet")
    return AdaptedWeights(weights)


def _train_hvae(setup: Setup, trained: Trained) -> Space:
    weights = trained.weights("mnet_weights")
    start = trained.fitted(setup.config.hvae.weights.base).params["e0"]
    left = fit(
        setup,
        "hvae",
        "hvae",
        lambda rate: hvae.hvae_stage(setup.config, "hvae", weights, start, learning_rate=rate),
    )
    params = hvae.hvae_space(setup.config, left.params, left.statistics, start)
    return _space(setup, "hvae", params)


def _space(setup: Setup, name: str, params: Any, learner: Learner | None = None) -> Space:
    """A trained space with its latents, which are computed once.

    learner: that adapts them; None: from e0, and pulled towards it.
    """
    settings, factors = setup.config.latents, FACTORS[name]
    # Few-shot rows adapt in the same space without the pull.
    key = f"{name}, pull {settings.pull:g}"
    if learner is None:
        generate = functools.partial(generate_weights, factors)
        learner = latent_learner(setup.network, generate, pull=settings.pull)
    shape = (len(setup.tasks["train"]), settings.repeats, len(params["e0"]))
    latents = _adapted(setup, f"{name}_latents", shape, learner, params, settings, key=key)
    space = {part: params[part] for part in ("e0", "generator")}
    return Space(TITLES[name], setup.network, space, factors, latents)


def _adapted(
    setup: Setup,
    name: str,
    shape: tuple[int, ...],
    learner: Learner,
    params: Any,
    settings: RunSettings,
    *,
    key: str,
) -> np.ndarray:
    """The points of all training tasks, adapted at the learning rate that is best on validation
    tasks; computed once."""

    def compute() -> tuple[np.ndarray, Any]:
        rate = choose_rate(setup, learner, params, settings, key=key)
        loop = InnerLoop(settings.num_steps, rate)
        adapt = compile_adaptation(
            setup.config, learner, setup.tables["train"], loop, settings=settings, name=name
        )
        return adapt(params), {"learning_rate": rate, "of": list(settings.learning_rates)}

    return keep_array(setup, name, shape, compute)


def _rows(name: str, title: str, setup: Setup, trained: Trained) -> list[Row]:
    """Where the space starts without a sentence, and adapted from there."""
    space = trained.space(name)
    learner, row = space.learner(), RowName(name, title)
    return learner_rows(setup, row, "unconditional", learner, space.params, key=name, shots=False)


def space_title(name: str) -> str:
    """The space of a method in words."""
    return TITLES[name]


def space_factors(name: str) -> Factors:
    """The generator of the space of a method, taken apart."""
    return FACTORS[name]


def latent_generate(name: str) -> Callable[[Any, jax.Array], jax.Array]:
    """(a guide's model with the key "space", latents [..., Z]) -> weights [..., P]."""
    factors = FACTORS[name]
    return lambda model, latents: generate_weights(factors, model["space"]["generator"], latents)


def space_learner(name: str, network: BaseNetwork) -> Learner:
    """What adapts a latent of the space of a method."""
    return latent_learner(network, functools.partial(generate_weights, FACTORS[name]))


def space_shapes(config: RunSettings, network: BaseNetwork, name: str) -> dict[str, Any]:
    """jax.ShapeDtypeStruct in place of each array of `Space.params`."""
    settings = getattr(config, name)
    module = Generator(tuple(settings.hidden_dims), network.num_weights)
    latent = jax.ShapeDtypeStruct((settings.latent_dim,), np.float32)
    generator = jax.eval_shape(module.init, jax.random.key(0), latent)["params"]
    if name == "hvae":
        moment = jax.ShapeDtypeStruct((network.num_weights,), np.float32)
        generator = {"decoder": generator, "mean": moment, "scale": moment}
    return {"e0": latent, "generator": generator}


def latent_scores(
    setup: Setup, space_name: str, space: Space, change: Callable | None = None
) -> Callable[[np.ndarray, str], Scores]:
    """(latents [T, K, Z], split) -> Scores of their networks, on average over K.

    change: one of scoring's functions of a Method, such as `ensemble`.
    """
    method = scoring.latent_method(space.network, space.generate)
    task_fn = scoring.scores_of(method if change is None else change(method))
    run = compile_scores(setup, Program("latents", space_name, change), task_fn)
    replicated = parallel.replicate(space.params)
    return lambda latents, split: run(replicated, latents, split)


HNET = Method(
    train=_train_hnet,
    needs=lambda config: (config.latents.base,),
    summary="latent space of HNet, with the latents of the training tasks; no row",
)
MNET_WEIGHTS = Method(
    train=_train_weights,
    needs=lambda config: (config.hvae.weights.base,),
    summary="weights of MNet, adapted to every training task; no row",
)
LANGUAGE = Method(
    functools.partial(_rows, "language", f"{TITLES['language']}, without the sentence"),
    _train_language,
    needs=lambda config: ("hnet_language",),
    summary="latent space of HNet started by the sentence, with latents of the tasks",
)
HVAE = Method(
    functools.partial(_rows, "hvae", TITLES["hvae"]),
    _train_hvae,
    needs=lambda config: ("mnet_weights", config.hvae.weights.base),
    summary="latent space of HVAE, a variational autoencoder of adapted weights",
)
