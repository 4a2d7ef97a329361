"""How new the networks of guides are: what seeds leave (novelty.json), read and summarised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import read_json
from hyper_meta.core.scores import Scores
from hyper_meta.data.tasks import Task
from hyper_meta.eval.metrics import mean_scores, paired_differences, summarise

FILE = "novelty.json"  # in the folder of a seed: {guide: what methods.novelty says of it}
NETWORKS = ("generated", "nearest", "noised")
COMPARED = ("generated", "noised")  # with the nearest
# What is a list by task, with what each has a list of.
LISTS = {"correct": NETWORKS, "overlap": COMPARED, "agreement": COMPARED}


def read_novelty(folder: Path, tasks: Sequence[Task], remedy: str) -> dict[str, dict[str, Any]]:
    """{guide: what methods.novelty says of it} of a seed, nothing where it has no file.

    Raises UserError for a damaged one, or one of other tasks.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    saved = read_json(path)
    sizes = [len(task.query) for task in tasks]
    try:
        for record in saved.values():
            lists = [record[name][part] for name, parts in LISTS.items() for part in parts]
            values = np.array([record["distance"], *lists, [record["between"]] * len(sizes)], float)
            if record["count"] != sizes or values.shape[1] != len(sizes):
                raise UserError(f"{path} is of other tasks than the data set holds: {remedy}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not hold what it should ({error!r}): {remedy}") from error
    return saved


def novelty_summaries(
    seeds: Sequence[Mapping[str, Any]],
    parts: Mapping[str, Bool[np.ndarray, " T"]],
    *,
    concepts: Shaped[np.ndarray, " T"],
    num_resamples: int,
) -> dict[str, dict[str, Any]]:
    """{guide: {group of test tasks: figures}}, means over tasks and seeds.

    Figures are "distance" and "between", as they are; in percent "accuracy" of each of NETWORKS,
    and "overlap" and "agreement" of COMPARED; and "minus_nearest", the paired difference of
    accuracies of the generated and the nearest network, as in `paired_differences`.

    seeds: of each what `read_novelty` returns; parts: {group: [T] bool}; concepts: [T] strings.
    """
    how = {"concepts": concepts, "num_resamples": num_resamples}
    shared = [name for name in seeds[0] if all(name in seed for seed in seeds)]
    return {
        name: {
            group: _figures([seed[name] for seed in seeds], rows, how)
            for group, rows in parts.items()
        }
        for name in shared
    }


def _figures(
    records: Sequence[dict[str, Any]], rows: np.ndarray, how: dict[str, Any]
) -> dict[str, Any]:
    def mean(name: str, part: str) -> float:
        return 100 * float(np.mean([np.array(record[name][part])[rows] for record in records]))

    scores = {
        name: mean_scores(
            [
                Scores(np.array(record["correct"][name], float), np.array(record["count"], float))
                for record in records
            ]
        )
        for name in NETWORKS
    }
    summary = summarise(scores, rows, **how)
    (gap,) = paired_differences([(scores["generated"], scores["nearest"])], rows, **how)
    return {
        "distance": float(np.mean([np.array(record["distance"])[rows] for record in records])),
        "between": float(np.mean([record["between"] for record in records])),
        "accuracy": {name: summary[name]["mean"] for name in NETWORKS},
        "overlap": {name: mean("overlap", name) for name in COMPARED},
        "agreement": {name: mean("agreement", name) for name in COMPARED},
        "minus_nearest": gap,
    }
