"""Two finished runs on the tasks that both were tested on: paired differences of their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import read_json
from hyper_meta.eval.metrics import bootstrap_interval, verdict
from hyper_meta.eval.tables import Table, interval

NUM_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Tested:
    """A finished run on its T test tasks.

    name: its work directory; num_seeds; examples: sentence -> size of the query set, in the order
    of the tasks; accuracy: row -> [T] float64, in percent, mean over seeds.
    """

    name: str
    num_seeds: int
    examples: dict[str, int]
    accuracy: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A row of B minus a row of A, in points: ours, theirs: titles and their accuracies in percent;
    mean, low, high: of the paired difference, with its 95% bootstrap interval over tasks."""

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

    resized: how many of them have query sets of another size.
    """

    a: Tested
    b: Tested
    shared: int
    resized: int
    differences: tuple[Difference, ...]


def read_tested(workdir: Path) -> Tested:
    """Reads the results.json of a run. Raises UserError where it is missing or damaged."""
    path = workdir / "results.json"
    if not path.exists():
        raise UserError(
            f"{workdir} holds no results.json: give the --workdir of a run that has its report "
            f"(hyper-meta report --workdir {workdir} writes it)"
        )
    saved = read_json(path)
    again = f"remove it and write it again with hyper-meta report --workdir {workdir}"
    try:
        tasks = saved["tasks"]["test"]
        examples = {task["sentence"]: int(task["examples"]) for task in tasks}
        by_seed = {
            title: np.array([task["accuracy"][title] for task in tasks], float)
            for title in tasks[0]["accuracy"]
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} does not hold what it should ({error!r}): {again}") from error
    shapes = {values.shape for values in by_seed.values()}
    sound = all(np.isfinite(values).all() for values in by_seed.values())
    if not sound or len(shapes) != 1 or len(next(iter(shapes))) != 2 or 0 in next(iter(shapes)):
        raise UserError(f"{path} does not hold one accuracy a task, row and seed: {again}")
    if len(examples) < len(tasks):
        raise UserError(f"{path} has two test tasks of one sentence, which cannot be told apart")
    accuracy = {title: values.mean(axis=1) for title, values in by_seed.items()}
    return Tested(str(workdir), next(iter(shapes))[1], examples, accuracy)


def compare(
    a: Tested,
    b: Tested,
    *,
    rows: Sequence[str] | None,
    against: str | None,
    num_resamples: int,
) -> Comparison:
    """B minus A on the test tasks of the same sentence.

    rows: titles of B, None for all that can be compared; against: the title of A that they are
    compared with, None for the same one. Raises UserError for runs that share no task, and for
    rows that are not there.
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
    low, high = bootstrap_interval(gaps, num_resamples=num_resamples)
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
    return Comparison(a, b, len(shared), resized, differences)


def _pairs(
    a: Tested, b: Tested, rows: Sequence[str] | None, against: str | None
) -> list[tuple[str, str]]:
    """(title of B, title of A) of every comparison."""
    if against is not None:
        _check_title(against, a.accuracy, f"row of {a.name}")
        known = list(b.accuracy)
    else:
        known = [title for title in b.accuracy if title in a.accuracy]
    if not known:
        raise UserError(
            f"{a.name} and {b.name} share no row: name one of each with --rows and --against"
        )
    where = f"row of {b.name}" if against is not None else f"row of both {a.name} and {b.name}"
    for title in rows or ():
        _check_title(title, known, where)
    return [(title, against or title) for title in rows or known]


def _check_title(title: str, known: Sequence[str], what: str) -> None:
    if title not in known:
        raise UserError(f"{title!r} is no {what}, which are: {'; '.join(known)}")


def _accuracy(run: Tested, sentences: Sequence[str]) -> dict[str, np.ndarray]:
    place = {sentence: row for row, sentence in enumerate(run.examples)}
    rows = np.array([place[sentence] for sentence in sentences])
    return {title: values[rows] for title, values in run.accuracy.items()}


def comparison_table(comparison: Comparison) -> Table:
    """Each difference with both accuracies and the verdict."""
    table = [["row of B, minus row of A", "A", "B", "B minus A [95%]", "verdict"]]
    for difference in comparison.differences:
        same = difference.ours == difference.theirs
        figures = dataclasses.asdict(difference)
        table.append(
            [
                difference.ours if same else f"{difference.ours}, minus {difference.theirs}",
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
    if comparison.resized:
        lines.append(
            f"{comparison.resized} shared tasks have query sets of another size: "
            "their data sets may differ"
        )
    return lines
