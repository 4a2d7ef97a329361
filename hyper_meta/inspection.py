"""What the notebook shows of a finished run: its latent space, what moves in it, its networks.

Latents [n, Z], questions [n, D] and weights [n, P] are float32 numpy arrays, all of HNet's space. A
plane is what pictures.principal_plane gives.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from ml_collections import ConfigDict

from hyper_meta import parallel
from hyper_meta.configuration import check_task, stored_config
from hyper_meta.data.tasks import Batches, BatchShape, Task, gather
from hyper_meta.diffusion.hyperldm import moments, question_cosine
from hyper_meta.encoders.folder import Encoder, encode_texts, load_encoder, tokenize
from hyper_meta.eval.pictures import BLUE, GREEN, GREY, INK, ORANGE, PALETTE
from hyper_meta.losses import correct_sum, normalise
from hyper_meta.meta import scoring
from hyper_meta.meta.hyperclip import fold_embed, standardise_questions
from hyper_meta.meta.inner_loop import InnerLoop, adapt_task
from hyper_meta.methods.hyperclip import guided_latents, latent_scores
from hyper_meta.methods.hyperldm import chosen_scale, question_sampler, sampled_latents
from hyper_meta.methods.interface import Setup, choose, compile_scores, remember
from hyper_meta.methods.registry import METHODS, in_order
from hyper_meta.methods.spaces import Space
from hyper_meta.models.adapter import split_weights
from hyper_meta.pipeline import (
    PRECOMPUTED,
    encoder_path,
    load_data,
    seed_dir,
    use_compilation_cache,
)
from hyper_meta.train import checkpoints
from hyper_meta.train.hyperclip import compile_guidance, hyperclip_model, hyperclip_module
from hyper_meta.types import TaskBatch, UserError

HYPERCLIP, HYPERLDM = "hnet_hyperclip", "hnet_hyperldm"
LAYERS = ("W1", "b1", "W2", "b2")
STATISTICS = ("mean", "deviation", "norm")
NETWORKS_AT_ONCE = 32  # so many are in memory
DOTS_PER_INCH = 110
ADAPTED, GENERATED = "adapted to a training task", "generated for a test task"
GOAL = "adapted to the question's labelled images"
OUTLINED = {"edgecolor": "black"}

Plane = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, its first seed.

    trained: {method: what it left}, of HyperLDM, HyperCLIP and all that they need; encoder: of the
    data set, None where the features came without one.
    """

    config: ConfigDict
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
    config = stored_config(workdir)
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
    encoder = load_encoder(encoder_path(config.encoder)) if has_encoder else None
    return Run(config, setup, trained, encoder)


def _is_finished(config: ConfigDict, folder: Path, name: str) -> bool:
    """Whether methods.interface has only to restore a method: its array, or a stage at its end for
    each learning rate."""
    if name == "hnet":
        return (folder / "hnet_latents").is_dir()
    settings = config[METHODS[name].settings[0]]
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


def embed_sentence(run: Run, sentence: str) -> np.ndarray:
    """[D]: of the data set's question, or of any other sentence by its encoder.

    Raises UserError for another sentence in a run of precomputed features.
    """
    try:
        split, row = find_task(run, sentence)
    except UserError as error:
        if run.encoder is None:
            raise UserError(f"the features came without an encoder, and {error}") from error
        check_task(sentence)
        return np.asarray(encode_texts(run.encoder, tokenize(run.encoder, [sentence])))[0]
    return np.asarray(run.setup.tables[split].question_features[row])


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
        method = scoring.latent_method(run.space.generate, blend=run.config.adapter.blend)

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
    loop = InnerLoop(settings.num_steps, settings.learning_rate, blend=run.config.adapter.blend)
    learner = run.space.learner(pull=settings.pull)

    def descend(params: Any, tasks: TaskBatch, _: None) -> jax.Array:
        return jax.vmap(lambda task: adapt_task(learner, params, task, loop))(tasks)

    return descend


def sample(run: Run, sentences: Sequence[str], scale: float) -> np.ndarray:
    """HyperLDM's latents of n sentences: [n, K, Z]. A sample starts from the same noise at every
    scale."""
    questions = np.stack([embed_sentence(run, sentence) for sentence in sentences])
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
    return latents[list(latents)[_settings(run).index(best_guidance(run))]]


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
    config = run.config.copy_and_resolve_references()
    config.hyperclip.guidance.steps = tuple(map(int, steps[1:]))
    questions = np.stack([embed_sentence(run, sentence) for sentence in sentences])
    guide_fn = compile_guidance(config, run.space.factors, run.setup.embed_dim)
    model = parallel.replicate(_hyperclip(run))
    latents = guide_fn(model, questions, rate, pull, config.seed)
    start = np.broadcast_to(run.space.params["e0"], latents[:, :1].shape)
    movements = []
    for sentence, question, path in zip(
        sentences, questions, np.concatenate([start, latents], axis=1), strict=True
    ):
        curves = {"cosine": cosine(run, path, question)}
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


def best_guidance(run: Run) -> tuple[float, float, int]:
    """HyperCLIP's (rate, pull, steps) that are best on validation tasks."""
    latents = guided_latents(run.setup, HYPERCLIP, run.space, run.trained[HYPERCLIP])("validation")
    score = latent_scores(run.setup, "hnet", run.space)
    best = choose(
        lambda name: score(latents[name][:, None], "validation"), {name: name for name in latents}
    )
    return _settings(run)[list(latents).index(best)]


def _settings(run: Run) -> list[tuple[float, float, int]]:
    """(rate, pull, steps) in the order in which guided latents are named."""
    given = run.config.hyperclip.guidance
    return list(itertools.product(given.learning_rates, given.pull, given.steps))


def _hyperclip(run: Run) -> dict[str, Any]:
    left = run.trained[HYPERCLIP]
    return hyperclip_model(left["params"], left["statistics"], run.space.params)


def cosine(run: Run, latents: np.ndarray, question: np.ndarray) -> np.ndarray:
    """[n] in [-1, 1]: of what HyperCLIP reads in the networks of latents [n, Z], and question [D],
    which guidance raises."""
    model = _hyperclip(run)
    module = hyperclip_module(run.config, run.setup.embed_dim)
    read = fold_embed(run.space.factors, module, model)(jnp.asarray(latents))
    asked = standardise_questions(model["statistics"], question)
    return np.asarray(normalise(read) @ normalise(asked))


def neighbours(run: Run, sentence: str, count: int) -> Neighbours:
    """The count training tasks that are nearest to a sentence by its text and by its latent."""
    known = run.setup.tables["train"].question_features
    asked = embed_sentence(run, sentence)[None]
    cosines = np.asarray(question_cosine(asked, known, moments(known)))[0]
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
    """`layer_statistics` [n, 4, 3] of the networks of latents [n, Z]."""
    generate = jax.jit(run.space.generate)

    def measured(part: np.ndarray) -> np.ndarray:
        weights = np.asarray(generate(run.space.params["generator"], part))
        return layer_statistics(weights, run.setup.embed_dim)

    return in_parts(measured, latents)


def layer_statistics(weights: np.ndarray, embed_dim: int) -> np.ndarray:
    """Mean, deviation and norm (STATISTICS) of each of LAYERS of adapters [n, P]: [n, 4, 3]."""
    flat = [np.asarray(w).reshape(len(weights), -1) for w in split_weights(weights, embed_dim)]
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


def project(plane: Plane, latents: np.ndarray) -> np.ndarray:
    """[..., Z] to the coordinates [..., 2] in a plane."""
    origin, axes, _ = plane
    return (latents - origin) @ axes.T


def draw_families(
    plane: Plane,
    adapted: np.ndarray,
    adapted_families: Sequence[str],
    generated: np.ndarray,
    generated_families: Sequence[str],
) -> Figure:
    """A small map for each family, its latents before those of all others.

    adapted: [T_train, Z]; generated: [T_test, Z]; families: one name for each row.
    """
    names = sorted({*adapted_families, *generated_families})
    columns = min(len(names), 6)
    rows = -(-len(names) // columns)
    figure = _figure(max(2 * columns, 5), 2 * rows + 0.7)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    everyone = project(plane, np.concatenate([adapted, generated]))
    for number, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        colour = PALETTE[number % len(PALETTE)]
        _scatter(axes, everyone, s=4, color="0.88")
        for latents, kinds, look in (
            (adapted, adapted_families, {"s": 16, "alpha": 0.75, "label": ADAPTED}),
            (generated, generated_families, {"s": 42, "edgecolor": "black", "label": GENERATED}),
        ):
            _scatter(axes, project(plane, latents[np.array(kinds) == name]), color=colour, **look)
        axes.set_title(name, fontsize=9)
        axes.set(xticks=[], yticks=[])
    _legend(figure, grid.flat[0])
    return figure


def draw_movements(
    plane: Plane,
    adapted: np.ndarray,
    movements: Sequence[Movement],
    *,
    places: str,
    chosen: float,
) -> Figure:
    """Latents that move over a map of the adapted ones [T, Z], and the curves along the way.

    places: what the movements' places are; chosen: the one that is best on validation tasks.
    """
    figure = _figure(12, 6)
    curves = list(movements[0].curves)
    panels = figure.subplot_mosaic([["map", name] for name in curves], width_ratios=(1.3, 1))
    _draw_map(panels["map"], plane, adapted)
    for name in curves:
        _clean(panels[name])
        panels[name].set(xlabel=places, ylabel=name)
        panels[name].xaxis.set_major_locator(MaxNLocator(integer=True))
    for movement, colour in zip(movements, itertools.cycle(PALETTE), strict=False):
        _draw_path(panels["map"], plane, movement, colour)
        for name in curves:
            line = movement.places, movement.curves[name]
            panels[name].plot(*line, color=colour, marker=".", linewidth=1.6)
        goal = {"color": colour, "linestyle": ":", "linewidth": 1.4}
        panels["accuracy"].axhline(movement.goal_accuracy, **goal)
    for name in curves:
        panels[name].axvline(chosen, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
    # Of what is in every colour.
    style = {"color": GREY, "linewidth": 1.4}
    panels["map"].scatter([], [], color=GREY, marker="X", s=90, label=GOAL, **OUTLINED)
    panels["map"].plot([], [], linestyle=":", label=f"{GOAL}: its accuracy", **style)
    panels["map"].plot([], [], linestyle="--", label="best on validation tasks", **style)
    _legend(figure, panels["map"])
    return figure


def _draw_path(axes: Axes, plane: Plane, movement: Movement, colour: str) -> None:
    x, y = project(plane, movement.latents).T
    axes.plot(x, y, color=colour, marker=".", linewidth=1.6, label=_words(movement.sentence))
    first, last = (f"{movement.places[end]:g}" for end in (0, -1))
    for end, text in ((0, first), (-1, last)):
        axes.annotate(text, (x[end], y[end]), xytext=(4, 4), textcoords="offset points", size=9)
    _scatter(axes, project(plane, movement.goal[None]), color=colour, marker="X", s=90, **OUTLINED)


def draw_neighbours(plane: Plane, adapted: np.ndarray, found: Neighbours) -> Figure:
    """A sentence's samples and their mean over a map of the adapted latents [T, Z], the nearest
    training tasks marked."""
    figure = _figure(8, 5.5)
    axes = figure.subplots()
    _draw_map(axes, plane, adapted)
    nearest = {
        "nearest by text": (found.by_text, {"marker": "s", "edgecolor": BLUE, "s": 90}),
        "nearest by latent": (found.by_latent, {"marker": "o", "edgecolor": ORANGE, "s": 170}),
    }
    for label, (rows, look) in nearest.items():
        points = project(plane, adapted[rows])
        axes.scatter(*points.T, facecolor="none", linewidth=1.8, label=label, zorder=3, **look)
    _scatter(axes, project(plane, found.samples), color=GREEN, s=30, label="samples")
    mean = project(plane, found.samples.mean(axis=0, keepdims=True))
    _scatter(axes, mean, color=GREEN, marker="*", s=260, label="their mean", **OUTLINED)
    _legend(figure, axes)
    return figure


def draw_interpolation(
    shares: np.ndarray, accuracies: Mapping[str, np.ndarray], start: Mapping[str, float]
) -> Figure:
    """Accuracy on two tasks over shares [n] of the way from the first latent to the second.

    accuracies: sentence -> [n]; start: sentence -> accuracy of the network of e0.
    """
    figure = _figure(8, 4.2)
    axes = figure.subplots()
    for (sentence, values), colour in zip(accuracies.items(), (BLUE, ORANGE), strict=True):
        axes.plot(shares, values, color=colour, marker=".", label=_words(sentence))
        axes.axhline(start[sentence], color=colour, linestyle=":", linewidth=1.4)
    axes.plot([], [], color=GREY, linestyle=":", label="the network of e0, on each")
    axes.set(xlabel="share of the way from the first latent to the second", ylabel="accuracy")
    _clean(axes)
    _legend(figure, axes)
    return figure


def draw_statistics(statistics: Mapping[str, np.ndarray]) -> Figure:
    """Boxes of STATISTICS of each layer, kind by kind; statistics: kind -> [n, 4, 3]."""
    figure = _figure(12, 3.9)
    grid = figure.subplots(1, len(STATISTICS))
    width, colours = 0.8 / len(statistics), _kind_colours(statistics)
    for column, (axes, name) in enumerate(zip(grid, STATISTICS, strict=True)):
        for number, (kind, values) in enumerate(statistics.items()):
            axes.boxplot(
                values[:, :, column],
                positions=np.arange(len(LAYERS)) + (number + 0.5) * width - 0.4,
                widths=0.85 * width,
                patch_artist=True,
                boxprops={"facecolor": colours[kind]},
                medianprops={"color": INK},
                flierprops={"markersize": 2, "markeredgecolor": GREY},
                label=kind,
            )
        axes.set_xticks(range(len(LAYERS)), LAYERS)
        axes.set_title(name, fontsize=11)
        _clean(axes)
    norms = grid[STATISTICS.index("norm")]
    norms.set_yscale("log")
    norms.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    norms.yaxis.set_major_formatter("{x:g}")
    norms.yaxis.set_minor_formatter("")
    _legend(figure, grid[0])
    return figure


def draw_distances(distances: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of distances between networks, one above the other; distances: kind -> [n]."""
    figure = _figure(8, 1.15 * len(distances) + 0.8)
    grid = figure.subplots(len(distances), 1, sharex=True, squeeze=False)[:, 0]
    largest = max(values.max() for values in distances.values())
    edges = np.linspace(0, 1.02 * largest, 60)
    colours = _kind_colours(distances)
    for axes, (kind, values) in zip(grid, distances.items(), strict=True):
        axes.hist(values, edges, color=colours[kind])
        axes.axvline(np.median(values), color=INK, linewidth=1.2)
        axes.set_title(f"{kind}: median {np.median(values):.3g}", fontsize=9, loc="left")
        axes.set_yticks([])
        _clean(axes)
    grid[-1].set_xlabel("distance of the weights to the nearest adapted network")
    return figure


def _kind_colours(kinds: Iterable[str]) -> dict[str, str]:
    """Greys for adapted networks, which others are measured against."""
    greys, colours = itertools.cycle(("0.75", "0.6", "0.45")), itertools.cycle(PALETTE)
    return {kind: next(greys if kind.startswith("adapted") else colours) for kind in kinds}


def _draw_map(axes: Axes, plane: Plane, adapted: np.ndarray) -> None:
    share = plane[2]
    _scatter(axes, project(plane, adapted), color="0.8", s=14, label=ADAPTED)
    axes.set_xlabel(f"first principal component ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({share[1]:.0%})")
    _clean(axes)


def _scatter(axes: Axes, points: np.ndarray, **look: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], **{"linewidth": 0.7, "zorder": 3, **look})


def _figure(width: float, height: float) -> Figure:
    """Without pyplot, as in eval.pictures; a notebook shows what a cell ends with."""
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _words(sentence: str) -> str:
    """A sentence for a legend, its dollar signs no mathematics."""
    return textwrap.shorten(sentence, 60, placeholder=" ...").replace("$", r"\$")


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.93", linewidth=0.8)
    axes.set_axisbelow(True)
