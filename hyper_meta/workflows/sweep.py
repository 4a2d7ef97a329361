"""A sweep: every combination of a grid of settings through the pipeline, and their table.

A combination trains only what its settings touch; the rest is linked from those that are finished.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import flatten, read_json, whole_folder, write_bytes, write_json
from hyper_meta.core.settings import RunSettings, as_dict
from hyper_meta.core.settings.watching import watched
from hyper_meta.eval.results import check_format, titles_of
from hyper_meta.eval.rows import find_row
from hyper_meta.eval.tables import MISSING, Table, as_markdown, interval
from hyper_meta.methods.places import seed_dir, trained_parts
from hyper_meta.methods.reads import are_equal, take_over
from hyper_meta.methods.registry import in_order
from hyper_meta.preparation.fingerprint import FILE as DATA_FILE
from hyper_meta.preparation.fingerprint import check_data, data_fingerprint
from hyper_meta.preparation.prepare import load_data
from hyper_meta.workflows import run as pipeline
from hyper_meta.workflows.grid import Combination

RECORD = "sweep.json"  # marks the work directory of a sweep
NOTE = (
    "The choice belongs on validation, by which the table is sorted; test is shown for the record "
    "only."
)
UNITS = (
    "accuracies in percent, mean over tasks, with right answers averaged over seeds; low, high: "
    "95% bootstrap interval over concepts; chosen: by seed, on validation tasks"
)


def run_sweep(
    combinations: Sequence[Combination], workdir: Path, *, rows: Sequence[str]
) -> list[dict[str, Any]]:
    """Runs what is not finished, each in its folder of workdir, and writes sweep.json and sweep.md
    as it goes on. Returns the lines of the table, in which the combinations of former grids in the
    same workdir stay.

    rows: ids or titles; none for each combination's best language row on validation tasks. Raises
    UserError before anything runs for a setting that names nothing known and a workdir that holds
    something else; for a row that is not there, as soon as a combination is finished; and for
    whatever the pipeline refuses.
    """
    if workdir.exists() and any(workdir.iterdir()) and not (workdir / RECORD).exists():
        raise UserError(f"{workdir} is not empty and holds no sweep: choose another --workdir")
    for combination in combinations:
        pipeline.check_choices(combination.config)
    for combination in combinations:
        # Those not begun are claimed when they run: a sweep that is refused leaves nothing behind.
        if (workdir / combination.name).exists():
            pipeline.claim(combination.config, workdir / combination.name)
    finished = {
        combination.name: read_lines(combination, workdir, rows)
        for combination in combinations
        if is_finished(combination, workdir)
    }
    if len(finished) < len(combinations):
        _check_data([c for c in combinations if c.name in finished], workdir)
    earlier = _earlier(workdir, combinations)
    names = [*earlier, *(combination.name for combination in combinations)]
    finished |= {name: lines for name, lines in earlier.items() if lines}
    _write(workdir, names, finished)
    for number, combination in enumerate(combinations, 1):
        name = combination.name
        done = " (finished)" if name in finished else ""
        print(f"{number} of {len(combinations)}: {name}{done}", flush=True)
        if done:
            continue
        try:
            pipeline.run(
                combination.config,
                workdir / name,
                until="report",
                before_training=functools.partial(reuse, combination, workdir),
            )
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        finished[name] = read_lines(combination, workdir, rows)
        _write(workdir, names, finished)
    return _ranked(finished)


def _earlier(workdir: Path, combinations: Sequence[Combination]) -> dict[str, list[dict[str, Any]]]:
    """{name: lines of the table, none of one that is not finished} of the other combinations that
    were run in workdir and are still there."""
    path = workdir / RECORD
    if not path.exists():
        return {}
    record, ours = read_json(path), {combination.name for combination in combinations}
    try:
        others = [name for name in record["combinations"] if name not in ours]
        return {
            name: [line for line in record["lines"] if line["combination"] == name]
            for name in others
            if (workdir / name).exists()
        }
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not hold what it should ({error!r}): choose another --workdir"
        ) from error


def _check_data(combinations: Sequence[Combination], workdir: Path) -> None:
    """Raises UserError where one of these, which are finished, is of other data than there are."""
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []  # (settings read, what was made of them)
    for combination in combinations:
        values = flatten(as_dict(combination.config))
        made = next((made for read, made in seen if read.items() <= values.items()), None)
        if made is None:
            read: dict[str, Any] = {}
            made = data_now(watched(combination.config, read.__setitem__))
            seen.append((read, made))
        check_data(made, workdir / combination.name)


def data_now(config: RunSettings) -> dict[str, Any]:
    """The fingerprint of the data that a configuration names."""
    return data_fingerprint(config, load_data(config))


def is_finished(combination: Combination, workdir: Path) -> bool:
    """Whether the report of all seeds of a combination is there."""
    path = workdir / combination.name / "results.json"
    if not path.exists():
        return False
    results = read_json(path)
    seeds = [folder.name for folder in _seed_dirs(combination, workdir)]
    return isinstance(results, dict) and results.get("seeds") == seeds


def _seed_dirs(combination: Combination, workdir: Path) -> list[Path]:
    first, folder = combination.config.seed, workdir / combination.name
    return [seed_dir(folder, first + n) for n in range(combination.config.num_seeds)]


def reuse(combination: Combination, workdir: Path) -> None:
    """Links into the folder of a combination, which is claimed, what the finished seeds of others
    have trained on the same data with equal settings, method by method. What has begun there goes
    on as it is."""
    config, folder = combination.config, workdir / combination.name
    data = read_json(folder / DATA_FILE)
    others = [path.parent for path in sorted(workdir.glob(f"*/{DATA_FILE}"))]
    same_data = [
        other for other in others if other != folder and read_json(other / DATA_FILE) == data
    ]
    values = flatten(json.loads(json.dumps(as_dict(config))))
    for number in range(config.num_seeds):
        target = seed_dir(folder, config.seed + number)
        settings = values | {"seed": config.seed + number}
        # The scores are written last: with them, every method of the seed is whole.
        sources = [other / target.name for other in same_data]
        whole = [source for source in sources if (source / "scores.json").exists()]
        for name in in_order(config.methods, config):
            needed = in_order((name,), config)
            source = next((path for path in whole if are_equal(path, needed, settings)), None)
            if source is not None:
                take_over(source, target, name)
                for part in trained_parts(source, name):
                    _link(part, target / part.name)


def _link(source: Path, target: Path) -> None:
    """Makes target a copy of the folder source, all at once, unless it is there. Its files are
    those of source where the file system can: none is ever written to, only replaced."""
    if not target.exists():
        with whole_folder(target, failure=f"cannot copy {source} to {target}") as partial:
            shutil.copytree(source, partial, copy_function=_link_file, dirs_exist_ok=True)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copy2(source, target)


def read_lines(
    combination: Combination, workdir: Path, rows: Sequence[str]
) -> list[dict[str, Any]]:
    """A finished combination in the table, a line for each row, as JSON values: see UNITS.

    rows: as those of `run`. Raises UserError for a row that is not there, or damaged results.
    """
    path = workdir / combination.name / "results.json"
    results = read_json(path)
    again = "remove it, and the same command writes it again"
    check_format(results, path, again)
    try:
        records = {row["id"]: row for row in results["rows"]}
        best = results["best"].get("language")
        names = rows or ([] if best is None else [best])
        found = _find_rows(names, titles_of(results), combination)
        return [_line(combination, results, records[row]) for row in found]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not hold what it should ({error!r}): {again}") from error


def _find_rows(
    names: Sequence[str], titles: Mapping[str, str], combination: Combination
) -> list[str]:
    """The ids of the rows that are named by id or title."""
    listed = "; ".join(titles)
    if not names:
        raise UserError(
            f"no method of {combination.name} answers from the sentence alone: name a --row, one "
            f"of: {listed}"
        )
    found = []
    for name in names:
        row = find_row(name, titles)
        if row is None:
            raise UserError(f"{name!r} is no row of {combination.name}, which are: {listed}")
        found.append(row)
    return found


def _line(
    combination: Combination, results: dict[str, Any], record: dict[str, Any]
) -> dict[str, Any]:
    validation, test = (
        results["summaries"][split][record["id"]]["all"]["all"] for split in ("validation", "test")
    )
    return {
        "combination": combination.name,
        "settings": combination.settings,
        "row": record["id"],
        "title": record["title"],
        "validation": validation["mean"],
        "test": {bound: test[bound] for bound in ("mean", "low", "high")},
        "varies": record["varies"],
        "chosen": record["chosen"],
    }


def _ranked(finished: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    lines = [line for part in finished.values() for line in part]
    return sorted(lines, key=lambda line: -line["validation"])


def _write(
    workdir: Path, names: Sequence[str], finished: Mapping[str, list[dict[str, Any]]]
) -> None:
    """Writes sweep.json and sweep.md of the combinations of these names that are finished."""
    lines = _ranked(finished)
    record = {"units": UNITS, "note": NOTE, "combinations": list(names), "lines": lines}
    write_json(workdir / RECORD, record)
    progress = f"{len(finished)} of {len(names)} combinations are finished."
    sections = ["# Sweep", progress, as_markdown(sweep_table(lines)), NOTE]
    write_bytes(workdir / "sweep.md", ("\n\n".join(sections) + "\n").encode())


def sweep_table(lines: Sequence[dict[str, Any]]) -> Table:
    """The lines of `run` as a table."""
    table = [["combination", "row", "validation", "test [95%]", "chosen setting"]]
    for line in lines:
        validation, test = f"{line['validation']:.1f}", interval(line["test"])
        table.append([line["combination"], line["title"], validation, test, _chosen(line)])
    return table


def _chosen(line: dict[str, Any]) -> str:
    """The setting that the seeds chose, or that of each."""
    by_seed = line["chosen"]
    different = {*by_seed.values()}
    if different == {""}:
        return MISSING
    if len(different) == 1:
        return f"{line['varies']} {different.pop()}"
    told = ", ".join(f"{setting} ({seed})" for seed, setting in by_seed.items())
    return f"{line['varies']} {told}"
