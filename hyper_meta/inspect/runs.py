"""What the notebook shows of a finished run: its latent space, what moves in it, its networks.

Latents [n, Z] and weights [n, P] are float32 numpy arrays, all of HNet's space.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.arguments import check_task
from hyper_meta.core.configuration import stored_settings
from hyper_meta.core.losses import correct_sum, normalise
from hyper_meta.core.settings import RunSettings, changed
from hyper_meta.core.types import SentenceFeatures, TaskBatch, UserError
from hyper_meta.data.batching import Batches, BatchShape
from hyper_meta.data.table import gather
from hyper_meta.data.tasks import Task
from hyper_meta.diffusion.classifier_guidance import fold_embed
from hyper_meta.encoders.folder import Encoder, encode_questions, tokenize
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop, adapt_task
from hyper_meta.methods.hyperclip import guided_latents
from hyper_meta.methods.hyperldm import chosen_scale, question_sampler, sampled_latents
from hyper_meta.methods.interface import Setup, choices, choose, compile_scores, remember, seed_dir
from hyper_meta.methods.registry import METHODS, in_order
from hyper_meta.methods.spaces import Space, latent_scores
from hyper_meta.models.sentences import (
    measure_sentences,
    sentence_cosine,
    stack_sentences,
    standardise_sentences,
    take,
)
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.preparation.prepare import PRECOMPUTED, chosen_encoder, load_data, open_encoder
from hyper_meta.train import checkpoints
from hyper_meta.train.stages.hyperclip import (
    Setting,
    compile_guidance,
    hyperclip_model,
    hyperclip_module,
)
from hyper_meta.workflows.run import use_compilation_cache

HYPERCLIP, HYPERLDM = "hnet_hyperclip", "hnet_hyperldm"
STATISTICS = ("mean", "deviation", "norm")
NETWORKS_AT_ONCE = 32  # so many are in memory


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, its first seed.

    trained: {method: what it left}, of HyperLDM, HyperCLIP and all that they need; encoder: of the
    data set, None where the features came without one.
    """

    config: RunSettings
    setup: Setup
    trained: Mapping[str, Any]
    encoder: Encoder | None

    @property
    def space(self) -> Space:
        """HNet's latent space."""
        return self.trained["hnet"]

    @property
    def adapted(self) -> np.ndarray:
        """[T, Z]: the latents adapted to the training tasks, the mean of each task's repeats."""
        return self.space.latents.mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Movement:
    """How one question's latent moves at S places, guidance scales or steps.

    places: [S]; latents: [S, Z]; curves: {what is measured: [S]}, "accuracy" in [0, 1] among them;
    goal: [Z], the latent adapted to the support set; goal_accuracy: of its network.
    """

    sentence: str
    places: np.ndarray
    latents: np.ndarray
    curves: dict[str, np.ndarray]
    goal: np.ndarray
    goal_accuracy: float


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The training tasks nearest to a sentence, nearest first.

    samples: [K, Z], generated for it; by_text, by_latent: [n] rows of the training tasks; cosines:
    [n], of the standardised questions; distances: [n], of the tasks' adapted latents to the mean
    sample, root mean square over the dimensions, each in its own deviations.
    """

    samples: np.ndarray
    by_text: np.ndarray
    cosines: np.ndarray
    by_latent: np.ndarray
    distances: np.ndarray


def open_run(workdir: str | os.PathLike) -> Run:
    """Restores what a run left in its work directory; nothing is trained.

    Raises UserError where there is no run, or a method of it is not finished.
    """
    workdir = Path(workdir)
    config = stored_settings(workdir)
    folder = seed_dir(workdir, config.seed)
    names = in_order((HYPERCLIP, HYPERLDM), config)
    for name in names:
        if not _is_finished(config, folder, name):
            raise UserError(
                f"{workdir} holds no finished {name}: "
                f"run hyper-meta train --method {name} --workdir {workdir} first"
            )
    use_compilation_cache(config)
    data = load_data(config)
    setup = Setup(config, folder, data.tasks, data.tables)
    trained: dict[str, Any] = {}
    for name in names:
        trained[name] = METHODS[name].train(setup, trained)
    has_encoder = config.dataset != PRECOMPUTED
    encoder = open_encoder(chosen_encoder(config)) if has_encoder else None
    return Run(config, setup, trained, encoder)


def _is_finished(config: RunSettings, folder: Path, name: str) -> bool:
    """Whether methods.interface has only to restore a method: its array, or a stage at its end for
    each learning rate."""
    if name == "hnet":
        return (folder / "hnet_latents").is_dir()
    section = {HYPERCLIP: "hyperclip", HYPERLDM: "hyperldm"}.get(name) or name.partition("_")[0]
    settings = getattr(config, section)
    rates = settings.learning_rates
    stages = [name] if len(rates) == 1 else [f"{name}_rate_{rate:g}" for rate in rates]
    return all(checkpoints.latest_step(folder / stage) == settings.num_steps for stage in stages)


def find_task(run: Run, sentence: str) -> tuple[str, int]:
    """(split, row) of the task that asks a sentence, whatever its case and spaces.

    Raises UserError where none does, with the question that is spelled most like it.
    """
    check_task(sentence)
    asked, known = _spelling(sentence), {}
    for split, tasks in run.setup.tasks.items():
        for row, task in enumerate(tasks):
            known.setdefault(_spelling(task.sentence), (split, row, task.sentence))
    if asked not in known:
        (closest,) = difflib.get_close_matches(asked, known, n=1, cutoff=0)
        raise UserError(
            f"{sentence!r} is no question of the data set: "
            f"ask one of them, such as {known[closest][2]!r}"
        )
    return known[asked][:2]


def _spelling(sentence: str) -> str:
    return " ".join(sentence.split()).casefold()


def embed_sentences(run: Run, sentences: Sequence[str]) -> SentenceFeatures:
    """The features of n sentences, leading axis n."""
    return stack_sentences([embed_sentence(run, sentence) for sentence in sentences])


def embed_sentence(run: Run, sentence: str) -> SentenceFeatures:
    """The features of the data set's question, or of any other sentence by its encoder.

    Raises UserError for another sentence in a run of precomputed features.
    """
    try:
        split, row = find_task(run, sentence)
    except UserError as error:
        if run.encoder is None:
            raise UserError(f"the features came without an encoder, and {error}") from error
        check_task(sentence)
        with_tokens = run.setup.tables["train"].questions.tokens is not None
        token_ids = tokenize(run.encoder, [sentence])
        features = encode_questions(run.encoder, token_ids, with_tokens=with_tokens)
        return take(jax.device_get(features), 0)
    return take(run.setup.tables[split].questions, row)


def example_questions(run: Run, count: int) -> list[str]:
    """The test question with the most query images of each of count families, or of all there are;
    the families evenly apart in alphabetical order."""
    tasks = sorted(run.setup.tasks["test"], key=lambda task: (task.family, -len(task.query)))
    first = [next(group) for _, group in itertools.groupby(tasks, key=lambda task: task.family)]
    rows = np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int)
    return [first[row].sentence for row in rows]


def families(tasks: Sequence[Task]) -> list[str]:
    """The family of each task."""
    return [task.family for task in tasks]


def _task_batch(run: Run, sentence: str) -> TaskBatch:
    """The task that asks a sentence as a batch of one, unpadded."""
    split, row = find_task(run, sentence)
    table = run.setup.tables[split]
    sizes = (table.support_size[row], table.query_size[row], table.answer_count[row])
    batch = Batches(np.zeros(1, int), np.array([row]), np.ones(1, bool), np.zeros(1, int))
    return gather(table, batch, BatchShape(*map(int, sizes)))


def accuracy(run: Run, sentence: str, latents: np.ndarray) -> np.ndarray:
    """[n] float64 in [0, 1]: accuracy of the networks of latents on a question's query set."""

    def make() -> Callable:
        method = scoring.latent_method(run.space.network, run.space.generate)

        def score(params: Any, task: TaskBatch, latents: jax.Array) -> jax.Array:
            (logits,) = method(params, task, latents[None])
            query = jax.tree.map(lambda leaf: leaf[0], task.query)
            right, total = jax.vmap(correct_sum, (0, None, None))(logits, query.label, query.mask)
            return right / total

        return jax.jit(score)

    score = remember(run.setup, "accuracy of latents", make)
    task = _task_batch(run, sentence)
    return in_parts(lambda part: score(run.space.params, task, part), latents).astype(np.float64)


def in_parts(fn: Callable[[np.ndarray], Any], rows: np.ndarray) -> np.ndarray:
    """fn of [n, ...], NETWORKS_AT_ONCE rows at once, the last part filled up: [n, ...] numpy."""
    parts = []
    for start in range(0, len(rows), NETWORKS_AT_ONCE):
        part = rows[start : start + NETWORKS_AT_ONCE]
        filled = np.concatenate([part, part[:1].repeat(NETWORKS_AT_ONCE - len(part), axis=0)])
        parts.append(np.asarray(fn(filled))[: len(part)])
    return np.concatenate(parts)


def adapt(run: Run, sentence: str) -> np.ndarray:
    """[Z]: e0 adapted to a question's support set, with the steps of the latent data set."""
    (latent,) = jax.jit(_descent(run))(run.space.params, _task_batch(run, sentence), None)
    return np.asarray(latent)


def adapted_to_test(run: Run) -> np.ndarray:
    """[T, Z]: e0 adapted to the support set of each test task, as `adapt` does."""
    descend = compile_scores(run.setup, "adapted latents", _descent(run))
    return descend(parallel.replicate(run.space.params), None, "test")


def _descent(run: Run) -> scoring.TaskFn:
    """(space params, B tasks, None) -> latents [B, Z]."""
    settings = run.config.latents
    rate = choices(run.setup)["hnet_latents"]["learning_rate"]
    loop = InnerLoop(settings.num_steps, rate)
    learner = run.space.learner(pull=settings.pull)

    def descend(params: Any, tasks: TaskBatch, _: None) -> jax.Array:
        return jax.vmap(lambda task: adapt_task(learner, params, task, loop))(tasks)

    return descend


def sample(run: Run, sentences: Sequence[str], scale: float) -> np.ndarray:
    """HyperLDM's latents of n sentences: [n, K, Z]. A sample starts from the same noise at every
    scale."""
    questions = embed_sentences(run, sentences)
    return question_sampler(run.setup, "hnet", run.space, run.trained[HYPERLDM])(questions, scale)


def best_scale(run: Run) -> float:
    """The guidance scale that is best on validation tasks."""
    return chosen_scale(run.setup, "hnet", run.space, run.trained[HYPERLDM])


def sampled_for_test(run: Run) -> np.ndarray:
    """[T, K, Z]: HyperLDM's samples for the test questions, at the best scale."""
    latents = sampled_latents(run.setup, "hnet", run.space, run.trained[HYPERLDM])
    return latents("test", best_scale(run))


def guided_for_test(run: Run) -> np.ndarray:
    """[T, Z]: what HyperCLIP guides e0 to for the test questions, as `best_guidance` says."""
    latents = guided_latents(run.setup, HYPERCLIP, run.space, run.trained[HYPERCLIP])("test")
    return latents[best_guidance(run)]


def scale_movements(run: Run, sentences: Sequence[str], scales: Sequence[float]) -> list[Movement]:
    """The mean of HyperLDM's samples at each guidance scale, a movement a question."""
    latents = np.stack([sample(run, sentences, scale).mean(axis=1) for scale in scales], axis=1)
    pairs = zip(sentences, latents, strict=True)
    return [_movement(run, sentence, np.array(scales), path, {}) for sentence, path in pairs]


def guidance_movements(run: Run, sentences: Sequence[str], num_places: int) -> list[Movement]:
    """HyperCLIP's path from e0 at about num_places steps, with the cosine of weights and question;
    at the rate and pull that are best on validation tasks."""
    rate, pull, _ = best_guidance(run)
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
    run: Run,
    sentence: str,
    places: np.ndarray,
    path: np.ndarray,
    curves: dict[str, np.ndarray],
) -> Movement:
    goal = adapt(run, sentence)
    *along, reached = accuracy(run, sentence, np.concatenate([path, goal[None]]))
    curves = {**curves, "accuracy": np.array(along)}
    return Movement(sentence, places, path, curves, goal, float(reached))


def steps_between(last: int, count: int) -> np.ndarray:
    """0 to last in about count whole steps, both ends among them: [S] int64."""
    return np.unique(np.linspace(0, last, min(count, last + 1)).round().astype(int))


def best_guidance(run: Run) -> Setting:
    """HyperCLIP's (rate, pull, steps) that are best on validation tasks."""
    latents = guided_latents(run.setup, HYPERCLIP, run.space, run.trained[HYPERCLIP])("validation")
    score = latent_scores(run.setup, "hnet", run.space)
    return choose(
        lambda setting: score(latents[setting][:, None], "validation"),
        {setting: setting for setting in latents},
    )


def _hyperclip(run: Run) -> dict[str, Any]:
    left = run.trained[HYPERCLIP]
    return hyperclip_model(left["params"], left["statistics"], run.space.params)


def cosine(run: Run, latents: np.ndarray, question: SentenceFeatures) -> np.ndarray:
    """[n] in [-1, 1]: of what HyperCLIP reads in the networks of latents [n, Z], and one question,
    which guidance raises."""
    model = _hyperclip(run)
    module = hyperclip_module(run.config, run.setup.question_dim)
    read = fold_embed(run.space.factors, module, model)(jnp.asarray(latents))
    asked = standardise_sentences(model["statistics"].questions, question).pooled
    return np.asarray(normalise(read) @ normalise(asked))


def neighbours(run: Run, sentence: str, count: int) -> Neighbours:
    """The count training tasks that are nearest to a sentence by its text and by its latent."""
    known = run.setup.tables["train"].questions
    cosines = sentence_cosine(measure_sentences(known), embed_sentences(run, [sentence]), known)
    cosines = np.asarray(cosines)[0]
    samples = sample(run, [sentence], best_scale(run))[0]
    std = np.asarray(run.trained[HYPERLDM]["statistics"].latent_std)
    distances = latent_distances(samples.mean(axis=0), run.adapted, std)
    by_text, by_latent = (np.argsort(x, kind="stable")[:count] for x in (-cosines, distances))
    return Neighbours(samples, by_text, cosines[by_text], by_latent, distances[by_latent])


def latent_distances(latent: np.ndarray, known: np.ndarray, std: np.ndarray) -> np.ndarray:
    """[T]: from latent [Z] to known [T, Z], root mean square over the dimensions, each in units of
    std [Z]."""
    return np.sqrt(np.mean(np.square((known - latent) / std), axis=1))


def interpolate(start: np.ndarray, stop: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[n, Z]: (1 - share) start + share stop, for start, stop [Z] and shares [n]."""
    return (1 - shares[:, None]) * start + shares[:, None] * stop


def network_statistics(run: Run, latents: np.ndarray) -> np.ndarray:
    """`layer_statistics` [n, layers, 3] of the networks of latents [n, Z]."""
    generate = jax.jit(run.space.generate)

    def measured(part: np.ndarray) -> np.ndarray:
        weights = np.asarray(generate(run.space.params["generator"], part))
        return layer_statistics(run.space.network, weights)

    return in_parts(measured, latents)


def layer_statistics(network: BaseNetwork, weights: np.ndarray) -> np.ndarray:
    """Mean, deviation and norm (STATISTICS) of each layer of networks [n, P]: [n, layers, 3]."""
    parts = network.split(weights).values()
    flat = [np.asarray(part).reshape(len(weights), -1) for part in parts]
    columns = [(w.mean(1), w.std(1), np.linalg.norm(w, axis=1)) for w in flat]
    return np.array(columns).transpose(2, 0, 1)


def network_coordinates(space: Space, latents: np.ndarray) -> np.ndarray:
    """[n, W] float64, as far apart as the weights [n, P] of latents [n, Z] are.

    Weights are hidden @ kernel + bias, so their distance is ||(h - h') L|| with L L^T = kernel
    kernel^T; W is the width of the generator's last hidden layer, far below P.
    """
    generator = space.params["generator"]
    kernel = np.asarray(space.factors.head(generator)[0], np.float64)
    values, vectors = np.linalg.eigh(kernel @ kernel.T)
    hidden = np.asarray(space.factors.hidden(generator, latents), np.float64)
    return hidden @ (vectors * np.sqrt(np.maximum(values, 0)))


def nearest_distances(points: np.ndarray, known: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """[n]: from each of points [n, X] to the nearest of the known [m, X] that is allowed to it,
    [n, m] bool, at least one; Euclidean."""
    squared = np.sum(points**2, 1)[:, None] + np.sum(known**2, 1) - 2 * points @ known.T
    return np.sqrt(np.maximum(np.where(allowed, squared, np.inf).min(axis=1), 0))


def adapted_distances(run: Run, latents: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Distances of networks to the nearest one adapted to a training task, each [n].

    latents: kind -> [n, Z]. First come the adapted networks themselves: to those of other tasks,
    and, where there are repeats, to other repeats of the same task.
    """
    num_tasks, repeats, latent_dim = run.space.latents.shape
    known = network_coordinates(run.space, run.space.latents.reshape(-1, latent_dim))
    task = np.arange(num_tasks).repeat(repeats)
    same = task[:, None] == task
    found = {}
    if repeats > 1:
        again = same & ~np.eye(len(task), dtype=bool)
        found["adapted, to the same task again"] = nearest_distances(known, known, again)
    found["adapted, to another task"] = nearest_distances(known, known, ~same)
    for kind, rows in latents.items():
        points = network_coordinates(run.space, rows)
        every = np.ones((len(points), len(known)), bool)
        found[kind] = nearest_distances(points, known, every)
    return found
