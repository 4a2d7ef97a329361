"""The pipeline: data and features, every method of the config trained, evaluation, report.

Every step leaves its result in the work directory and is only restored when it is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from hyper_meta.core import parallel, processes
from hyper_meta.core.compilation import keep_programs
from hyper_meta.core.configuration import CONFIG_FILE, read_stored, write_settings
from hyper_meta.core.errors import UserError
from hyper_meta.core.files import flatten
from hyper_meta.core.locks import HOLDER, LOCK, held
from hyper_meta.core.progress import LOG, logged
from hyper_meta.core.settings import RunSettings, as_dict
from hyper_meta.core.settings.watching import watched
from hyper_meta.data.table import DataSet
from hyper_meta.eval.report import write_report
from hyper_meta.methods.guide_store import FOLDER as GUIDES_FOLDER
from hyper_meta.methods.guides import guide_of
from hyper_meta.methods.interface import Setup
from hyper_meta.methods.places import seed_dir
from hyper_meta.methods.reads import FOLDER as READS
from hyper_meta.methods.reads import Reads, note, was_read, while_training
from hyper_meta.methods.registry import GUIDES, METHODS, in_order
from hyper_meta.methods.trained import Trained
from hyper_meta.networks.registry import check_network
from hyper_meta.preparation.fingerprint import claim_data, data_fingerprint
from hyper_meta.preparation.prepare import PRECOMPUTED, images_of, load_data
from hyper_meta.workflows.evaluate import evaluate, is_evaluated

STEPS = ("train", "evaluate", "report")
# What may differ between the config of a work directory and that of a command on it: always; and
# before anything was scored, where no training read it.
FREE_KEYS = ("data_dir", "num_seeds", "compilation_cache", "evaluate.num_resamples")
UNSCORED_KEYS = ("methods", "evaluate.")


def run(
    config: RunSettings,
    workdir: Path,
    *,
    until: str,
    method: str | None = None,
    before_training: Callable[[], None] = lambda: None,
) -> list[str]:
    """Runs the pipeline up to and including a step of STEPS, going on where it was left, and
    returns the names of the methods.

    method: trains this one and what it needs, None for all of config.methods; before_training:
    called in process 0 once the work directory is claimed. Raises UserError for a setting that
    names nothing known, a work directory of another config or of other data, and whatever the
    methods raise.
    """
    check_choices(config)
    names = in_order(config.methods if method is None else (method,), config)
    check_methods(names, config)
    keep_programs(config.compilation_cache)
    processes.from_main(lambda: check_claim(config, workdir))
    with contextlib.ExitStack() as stack:
        processes.from_main(lambda: stack.enter_context(held(workdir)))
        data = processes.main_first(lambda: load_data(config))
        # Not before the data are there: a mistake in them leaves the work directory free.
        processes.from_main(lambda: claim(config, workdir))
        processes.from_main(lambda: claim_data(data_fingerprint(config, data), workdir))
        processes.from_main(lambda: stack.enter_context(logged(workdir)))
        LOG.info("%s, %d devices: %s", until, parallel.num_devices(), ", ".join(names))
        processes.from_main(before_training)
        for seed in range(config.seed, config.seed + config.num_seeds):
            seeded = dataclasses.replace(config, seed=seed)
            run_seed(seeded, seed_dir(workdir, seed), data, names, evaluates=until != "train")
            # The compiled programs of a seed are of no use to the next.
            jax.clear_caches()
        if until == "report":
            processes.from_main(lambda: _report(config, workdir, data))
        LOG.info("%s is done", until)
    return names


def _report(config: RunSettings, workdir: Path, data: DataSet) -> None:
    write_report(
        workdir,
        [seed_dir(workdir, config.seed + number) for number in range(config.num_seeds)],
        data.tasks,
        images=None if config.dataset == PRECOMPUTED else lambda ids: images_of(config, ids),
        num_resamples=config.evaluate.num_resamples,
    )


def run_seed(
    config: RunSettings, folder: Path, data: DataSet, names: list[str], *, evaluates: bool
) -> None:
    """Trains the named methods of one seed in this order and, if asked, evaluates them."""
    if evaluates and processes.from_main(lambda: is_evaluated(config, folder, names)):
        return
    reads = Reads(folder)
    watching = watched(config, functools.partial(note, reads))
    setup = Setup(watching, folder, data.tasks, data.tables, encode=data.encode, reads=reads)
    trained = Trained()
    for name in names:
        with while_training(reads, name):
            trained.left[name] = METHODS[name].train(setup, trained)
        parallel.free_programs()
    if evaluates:
        rows = [row for name in names for row in METHODS[name].rows(setup, trained)]
        guides = [guide_of(setup, trained, name, GUIDES[name]) for name in names if name in GUIDES]
        evaluate(setup, rows, trained, guides, data.source)


def check_choices(config: RunSettings) -> None:
    """Raises UserError for a method or a network that is not in its registry, and for settings
    that make no network."""
    check_methods(in_order(config.methods, config), config)
    check_network(config.network)


def check_methods(names: Iterable[str], config: RunSettings) -> None:
    """Raises UserError for a method that a run of this configuration cannot have."""
    for name in names:
        METHODS[name].check(config)


def check_claim(config: Any, workdir: Path) -> None:
    """Raises UserError for a work directory that holds something else, or what was trained with
    other settings, naming what differs."""
    if (workdir / GUIDES_FOLDER).exists():
        raise UserError(
            f"{workdir} holds a model that was exported, no run: choose another --workdir"
        )
    if not (workdir / CONFIG_FILE).exists():
        if workdir.exists() and {path.name for path in workdir.iterdir()} - {LOCK, HOLDER}:
            raise UserError(f"{workdir} is not empty and holds no run: choose another --workdir")
        return
    for key, (theirs, mine) in _differences(config, workdir).items():
        if _may_change(key, workdir):
            continue
        told = "choose another --workdir or the same configuration"
        if key.startswith(UNSCORED_KEYS) and _is_scored(workdir):
            told = f"to score anew, remove scores.json and rows in {workdir}/seed_*; or {told}"
        raise UserError(
            f"{workdir} holds a run with {key}={theirs}, this command has {key}={mine}: {told}"
        )


def _differences(config: Any, workdir: Path) -> dict[str, tuple[Any, Any]]:
    """{dotted name: (value of the work directory, of a config)} of what differs, as JSON has it."""
    mine, theirs = flatten(json.loads(json.dumps(as_dict(config)))), flatten(read_stored(workdir))
    values = {key: (theirs.get(key), mine.get(key)) for key in sorted(mine.keys() | theirs.keys())}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def _may_change(key: str, workdir: Path) -> bool:
    if key in FREE_KEYS or not _holds_results(workdir):
        return True
    if not key.startswith(UNSCORED_KEYS) or _is_scored(workdir):
        return False
    return not any(was_read(folder.parent, key) for folder in workdir.glob(f"*/{READS}"))


def _is_scored(workdir: Path) -> bool:
    return any(workdir.glob("*/scores.json")) or any(workdir.glob("*/rows/*"))


def claim(config: Any, workdir: Path) -> None:
    """Makes a work directory that of these settings, a record. Raises as `check_claim` does."""
    check_claim(config, workdir)
    if (workdir / CONFIG_FILE).exists() and set(_differences(config, workdir)) - set(FREE_KEYS):
        for folder in workdir.glob(f"*/{GUIDES_FOLDER}"):  # with settings that were chosen before
            shutil.rmtree(folder)
    if not _holds_results(workdir):
        # Of trainings that had other settings and came to nothing.
        for folder in workdir.glob(f"*/{READS}"):
            shutil.rmtree(folder)
    write_settings(config, workdir)


def _holds_results(workdir: Path) -> bool:
    """Whether anything was trained or scored there, if only in part."""
    files = (path for path in workdir.glob("*/**/*") if path.is_file())
    return any(path.parent.name != READS for path in files)
