"""Two finished runs on the tasks that both were tested on: paired differences of their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from hyper_meta.core.configuration import CONFIG_FILE, read_stored
from hyper_meta.core.errors import UserError
from hyper_meta.core.files import read_json
from hyper_meta.eval.metrics import bootstrap_interval, verdict
from hyper_meta.eval.results import check_format, titles_of
from hyper_meta.eval.rows import find_row
from hyper_meta.eval.tables import Table, interval

NUM_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Tested:
    """A finished run on its T test tasks.

    name: its work directory.
    num_seeds: how many seeds its accuracies are the mean of.
    titles: id of a row -> its title.
    examples: sentence -> size of the query set, in the order of the tasks.
    concepts: sentence -> what it asks.
    accuracy: id of a row -> [T] float64, in percent, mean over seeds.
    """

    name: str
    num_seeds: int
    titles: dict[str, str]
    examples: dict[str, int]
    concepts: dict[str, str]
    accuracy: dict[str, Float[np.ndarray, " T"]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A row of B minus a row of A.

    ours, theirs: ids of the two rows.
    our_accuracy, their_accuracy: in percent.
    mean, low, high: of the paired difference in points, with its 95% bootstrap interval over
      concepts.
    """

    ours: str
    theirs: str
    our_accuracy: float
    their_accuracy: float
    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Differences of run B to run A on the tasks that they share.

    shared, concepts: how many tasks these are, and of how many concepts.
    resized: how many of them have query sets of another size.
    """

    a: Tested
    b: Tested
    shared: int
    concepts: int
    resized: int
    differences: tuple[Difference, ...]


def read_tested(workdir: Path) -> Tested:
    """Reads the results.json of a run. Raises UserError where it is missing or damaged, or another
    version wrote the run."""
    if (workdir / CONFIG_FILE).exists():
        read_stored(workdir)
    path = workdir / "results.json"
    if not path.exists():
        raise UserError(
            f"{workdir} holds no results.json: give the --workdir of a run that has its report "
            f"(hyper-meta report --workdir {workdir} writes it)"
        )
    saved = read_json(path)
    again = f"remove it and write it again with hyper-meta report --workdir {workdir}"
    check_format(saved, path, again)
    try:
        tasks = saved["tasks"]["test"]
        examples = {task["sentence"]: int(task["examples"]) for task in tasks}
        concepts = {task["sentence"]: str(task["concept"]) for task in tasks}
        by_seed = {
            row: np.array([task["accuracy"][row] for task in tasks], float)
            for row in tasks[0]["accuracy"]
        }
        known = titles_of(saved)
        titles = {row: known[row] for row in by_seed}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} does not hold what it should ({error!r}): {again}") from error
    shapes = {values.shape for values in by_seed.values()}
    sound = all(np.isfinite(values).all() for values in by_seed.values())
    if not sound or len(shapes) != 1 or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
        raise UserError(f"{path} does not hold one accuracy a task, row and seed: {again}")
    if len(examples) < len(tasks):
        raise UserError(f"{path} has two test tasks of one sentence, which cannot be told apart")
    accuracy = {row: values.mean(axis=1) for row, values in by_seed.items()}
    return Tested(str(workdir), next(iter(shapes))[1], titles, examples, concepts, accuracy)


def compare(
    a: Tested,
    b: Tested,
    *,
    rows: Sequence[str] | None,
    against: str | None,
    num_resamples: int,
) -> Comparison:
    """B minus A on the test tasks of the same sentence.

    rows: ids or titles of rows of B, None for all that can be compared.
    against: that of a row of A which they are compared with, None for the same row.

    Raises UserError for runs that share no task, and for rows that are not there.
    """
    pairs = _pairs(a, b, rows, against)
    shared = [sentence for sentence in b.examples if sentence in a.examples]
    if not shared:
        raise UserError(
            f"{a.name} and {b.name} share no test task ({len(a.examples)} and {len(b.examples)} "
            f"sentences): compare runs on the same data set"
        )
    ours, theirs = (_accuracy(run, shared) for run in (b, a))
    gaps = np.stack([ours[our] - theirs[their] for our, their in pairs], axis=1)
    concepts = np.array([b.concepts[sentence] for sentence in shared])
    low, high = bootstrap_interval(gaps, concepts, num_resamples=num_resamples)
    differences = tuple(
        Difference(
            our,
            their,
            float(ours[our].mean()),
            float(theirs[their].mean()),
            float(gaps[:, column].mean()),
            float(low[column]),
            float(high[column]),
        )
        for column, (our, their) in enumerate(pairs)
    )
    resized = sum(a.examples[sentence] != b.examples[sentence] for sentence in shared)
    return Comparison(a, b, len(shared), len(np.unique(concepts)), resized, differences)


def _pairs(
    a: Tested, b: Tested, rows: Sequence[str] | None, against: str | None
) -> list[tuple[str, str]]:
    """(id of B's row, id of A's row) of every comparison."""
    if against is not None:
        against = _find(against, a.titles, f"row of {a.name}")
        known = b.titles
    else:
        known = {row: title for row, title in b.titles.items() if row in a.titles}
    if not known:
        raise UserError(
            f"{a.name} and {b.name} share no row: name one of each with --rows and --against"
        )
    where = f"row of {b.name}" if against is not None else f"row of both {a.name} and {b.name}"
    chosen = [_find(name, known, where) for name in rows or known]
    return [(row, against or row) for row in chosen]


def _find(name: str, titles: Mapping[str, str], where: str) -> str:
    row = find_row(name, titles)
    if row is None:
        raise UserError(f"{name!r} is no {where}, which are: {'; '.join(titles)}")
    return row


def _accuracy(run: Tested, sentences: Sequence[str]) -> dict[str, np.ndarray]:
    place = {sentence: number for number, sentence in enumerate(run.examples)}
    places = np.array([place[sentence] for sentence in sentences])
    return {row: values[places] for row, values in run.accuracy.items()}


def comparison_table(comparison: Comparison) -> Table:
    """Each difference with both accuracies and the verdict."""
    table = [["row of B, minus row of A", "A", "B", "B minus A [95%]", "verdict"]]
    for difference in comparison.differences:
        same = difference.ours == difference.theirs
        ours = comparison.b.titles[difference.ours]
        theirs = comparison.a.titles[difference.theirs]
        figures = dataclasses.asdict(difference)
        table.append(
            [
                ours if same else f"{ours}, minus {theirs}",
                f"{difference.their_accuracy:.1f}",
                f"{difference.our_accuracy:.1f}",
                interval(figures, sign="+"),
                f"B {verdict(figures)} A",
            ]
        )
    return table


def remarks(comparison: Comparison) -> list[str]:
    """What is compared, in lines for the terminal."""
    lines = []
    for letter, run in (("A", comparison.a), ("B", comparison.b)):
        seeds = f"{run.num_seeds} seed{'s' * (run.num_seeds > 1)}"
        share = f"{comparison.shared} of its {len(run.examples)} test tasks"
        lines.append(f"{letter}: {run.name} ({seeds}; {share} are shared)")
    lines.append(f"what they share is {comparison.shared} tasks of {comparison.concepts} concepts")
    if comparison.resized:
        lines.append(
            f"{comparison.resized} shared tasks have query sets of another size: "
            "their data sets may differ"
        )
    return lines
