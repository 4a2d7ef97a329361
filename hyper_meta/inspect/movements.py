"""What moves in a latent space: samples over guidance scales, a latent along HyperCLIP's path, and
the neighbours of a sentence.

Latents [n, Z] are float32 numpy arrays of the run's space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num, Shaped

from hyper_meta.core import parallel
from hyper_meta.core.losses import correct_sum, normalise
from hyper_meta.core.moments import moments
from hyper_meta.core.settings import changed
from hyper_meta.core.types import Array, SentenceFeatures, TaskBatch, UserError
from hyper_meta.diffusion.classifier_guidance import fold_embed
from hyper_meta.inspect.opened import OpenedRun, embed_sentences, task_batch
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop, adapt_task
from hyper_meta.methods.cache import Program
from hyper_meta.methods.guides import Guide, chosen_setting, points_of
from hyper_meta.methods.interface import compile_scores, remember
from hyper_meta.models.sentences import (
    measure_sentences,
    sentence_cosine,
    standardise_sentences,
    take,
)
from hyper_meta.train.stages.hyperclip import (
    compile_guidance,
    hyperclip_model,
    hyperclip_module,
)

NETWORKS_AT_ONCE = 32  # so many are in memory


@dataclasses.dataclass(frozen=True)
class Movement:
    """How one question's latent moves at S places, guidance scales or steps.

    places: [S]; latents: [S, Z]; curves: {what is measured: [S]}, "accuracy" in [0, 1] among them;
    goal: [Z], the latent adapted to the support set; goal_accuracy: of its network.
    """

    sentence: str
    places: Num[np.ndarray, " S"]
    latents: Float[np.ndarray, "S Z"]
    curves: dict[str, Float[np.ndarray, " S"]]
    goal: Float[np.ndarray, " Z"]
    goal_accuracy: float


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The training tasks nearest to a sentence, nearest first.

    samples: [K, Z], generated for it; by_text, by_latent: [n] rows of the training tasks; cosines:
    [n], of the standardised questions; distances: [n], of the tasks' adapted latents to the mean
    sample, root mean square over the dimensions, each in its own deviations.
    """

    samples: Float[np.ndarray, "K Z"]
    by_text: Int[np.ndarray, " n"]
    cosines: Float[np.ndarray, " n"]
    by_latent: Int[np.ndarray, " n"]
    distances: Float[np.ndarray, " n"]


def accuracy(
    run: OpenedRun, sentence: str, latents: Float[Array, "n Z"]
) -> Float[np.ndarray, " n"]:
    """[n] float64 in [0, 1]: accuracy of the networks of latents on a question's query set."""

    def make() -> Callable:
        method = scoring.latent_method(run.space.network, run.space.generate)

        def score(params: Any, task: TaskBatch, latents: jax.Array) -> jax.Array:
            (logits,) = method(params, task, latents[None])
            query = jax.tree.map(lambda leaf: leaf[0], task.query)
            right, total = jax.vmap(correct_sum, (0, None, None))(logits, query.label, query.mask)
            return right / total

        return jax.jit(score)

    score = remember(run.setup, run.setup.cache.programs, Program("accuracy of latents"), make)
    task = task_batch(run, sentence)
    return in_parts(lambda part: score(run.space.params, task, part), latents).astype(np.float64)


def in_parts(
    fn: Callable[[np.ndarray], Any], rows: Shaped[np.ndarray, "n ..."]
) -> Shaped[np.ndarray, "n ..."]:
    """fn of NETWORKS_AT_ONCE rows at a time, the last part filled up."""
    parts = []
    for start in range(0, len(rows), NETWORKS_AT_ONCE):
        part = rows[start : start + NETWORKS_AT_ONCE]
        filled = parallel.fill_rows(part, NETWORKS_AT_ONCE)
        parts.append(np.asarray(fn(filled))[: len(part)])
    return np.concatenate(parts)


def adapt(run: OpenedRun, sentence: str) -> Float[np.ndarray, " Z"]:
    """[Z]: e0 adapted to a question's support set, with the steps of the latent data set."""
    (latent,) = jax.jit(_descent(run))(run.space.params, task_batch(run, sentence), None)
    return np.asarray(latent)


def adapted_to_test(run: OpenedRun) -> Float[np.ndarray, "T Z"]:
    """[T, Z]: e0 adapted to the support set of each test task, as `adapt` does."""
    descend = compile_scores(run.setup, Program("adapted latents"), _descent(run))
    return descend(parallel.replicate(run.space.params), None, "test")


def _descent(run: OpenedRun) -> scoring.TaskFn:
    """(space params, B tasks, None) -> latents [B, Z]."""
    settings = run.config.latents
    rate = run.setup.choices[f"{run.latent_guide.space}_latents"]["learning_rate"]
    loop = InnerLoop(settings.num_steps, rate)
    learner = run.space.learner(pull=settings.pull)

    def descend(params: Any, tasks: TaskBatch, _: None) -> jax.Array:
        return jax.vmap(lambda task: adapt_task(learner, params, task, loop))(tasks)

    return descend


def sample(run: OpenedRun, sentences: Sequence[str], value: Any) -> Float[np.ndarray, "n K Z"]:
    """Latents of n sentences at a value of the guide's settings: [n, K, Z]. A sample starts from
    the same noise at every scale."""
    guide, questions = run.latent_guide, embed_sentences(run, sentences)
    return guide.sample(questions, value, num_samples=guide.num_samples, seed=run.setup.config.seed)


def best_value(run: OpenedRun, guide: Guide) -> Any:
    """The value of a guide's settings that is best on validation tasks."""
    return guide.settings[chosen_setting(run.setup, guide)]


def sampled_for_test(run: OpenedRun) -> Float[np.ndarray, "T K Z"]:
    """[T, K, Z]: latents of `run.latent_guide` for the test questions, see `latents_for_test`."""
    return latents_for_test(run, run.latent_guide)


def latents_for_test(run: OpenedRun, guide: Guide) -> Float[np.ndarray, "T K Z"]:
    """[T, K, Z]: a guide's latents for the test questions, at the best value of its settings."""
    return points_of(run.setup, guide, "test", best_value(run, guide))


def scale_movements(
    run: OpenedRun, sentences: Sequence[str], scales: Sequence[float]
) -> list[Movement]:
    """The mean of the samples at each guidance scale, a movement a question.

    Raises UserError for a guide without a scale.
    """
    if not run.latent_guide.scaled:
        raise UserError(
            f"{run.latent_guide.name} has no guidance scale: open the run with a method that has "
            "one, such as hnet_hyperldm"
        )
    latents = np.stack([sample(run, sentences, scale).mean(axis=1) for scale in scales], axis=1)
    pairs = zip(sentences, latents, strict=True)
    return [_movement(run, sentence, np.array(scales), path, {}) for sentence, path in pairs]


def guidance_movements(run: OpenedRun, sentences: Sequence[str], num_places: int) -> list[Movement]:
    """HyperCLIP's path from e0 at about num_places steps, with the cosine of weights and question;
    at the rate and pull that are best on validation tasks."""
    rate, pull, _ = best_value(run, hyperclip_guide(run))
    steps = steps_between(max(run.config.hyperclip.guidance.steps), num_places)
    config = changed(run.config, {"hyperclip.guidance.steps": tuple(map(int, steps[1:]))})
    questions = embed_sentences(run, sentences)
    guide_fn = compile_guidance(config, run.space.factors, run.setup.question_dim)
    model = parallel.replicate(_hyperclip(run))
    latents = guide_fn(model, questions, rate, pull, config.seed)
    start = np.broadcast_to(run.space.params["e0"], latents[:, :1].shape)
    movements = []
    paths = zip(sentences, np.concatenate([start, latents], axis=1), strict=True)
    for row, (sentence, path) in enumerate(paths):
        curves = {"cosine": cosine(run, path, take(questions, row))}
        movements.append(_movement(run, sentence, steps, path, curves))
    return movements


def _movement(
    run: OpenedRun,
    sentence: str,
    places: np.ndarray,
    path: np.ndarray,
    curves: dict[str, np.ndarray],
) -> Movement:
    goal = adapt(run, sentence)
    *along, reached = accuracy(run, sentence, np.concatenate([path, goal[None]]))
    curves = {**curves, "accuracy": np.array(along)}
    return Movement(sentence, places, path, curves, goal, float(reached))


def steps_between(last: int, count: int) -> Int[np.ndarray, " S"]:
    """0 to last in about count whole steps, both ends among them: [S] int64."""
    return np.unique(np.linspace(0, last, min(count, last + 1)).round().astype(int))


def hyperclip_guide(run: OpenedRun) -> Guide:
    """HyperCLIP in the run's space. Raises UserError where it is not finished."""
    name = f"{run.latent_guide.space}_hyperclip"
    if name not in run.guides:
        raise UserError(f"this run holds no finished {name}: run hyper-meta train --method {name}")
    return run.guides[name]


def _hyperclip(run: OpenedRun) -> dict[str, Any]:
    model = hyperclip_guide(run).model
    return hyperclip_model(**model["hyperclip"], space=model["space"])


def cosine(
    run: OpenedRun, latents: Float[np.ndarray, "n Z"], question: SentenceFeatures
) -> Float[np.ndarray, " n"]:
    """[n] in [-1, 1]: of what HyperCLIP reads in the networks of latents [n, Z], and one question,
    which guidance raises."""
    model = _hyperclip(run)
    module = hyperclip_module(run.config, run.setup.question_dim)
    read = fold_embed(run.space.factors, module, model)(jnp.asarray(latents))
    asked = standardise_sentences(model["statistics"].questions, question).pooled
    return np.asarray(normalise(read) @ normalise(asked))


def neighbours(run: OpenedRun, sentence: str, count: int) -> Neighbours:
    """The count training tasks that are nearest to a sentence by its text and by its latent."""
    known = run.setup.tables["train"].questions
    cosines = sentence_cosine(measure_sentences(known), embed_sentences(run, [sentence]), known)
    cosines = np.asarray(cosines)[0]
    samples = sample(run, [sentence], best_value(run, run.latent_guide))[0]
    std = np.asarray(moments(run.space.latents.reshape(-1, samples.shape[1]))[1])
    distances = latent_distances(samples.mean(axis=0), run.adapted, std)
    by_text, by_latent = (np.argsort(x, kind="stable")[:count] for x in (-cosines, distances))
    return Neighbours(samples, by_text, cosines[by_text], by_latent, distances[by_latent])


def latent_distances(
    latent: Float[np.ndarray, " Z"], known: Float[np.ndarray, "T Z"], std: Float[np.ndarray, " Z"]
) -> Float[np.ndarray, " T"]:
    """[T]: from latent [Z] to known [T, Z], root mean square over the dimensions, each in units of
    std [Z]."""
    return np.sqrt(np.mean(np.square((known - latent) / std), axis=1))


def interpolate(
    start: Float[np.ndarray, " Z"], stop: Float[np.ndarray, " Z"], shares: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n Z"]:
    """[n, Z]: (1 - share) start + share stop, for start, stop [Z] and shares [n]."""
    return (1 - shares[:, None]) * start + shares[:, None] * stop
