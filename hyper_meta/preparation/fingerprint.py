"""What a run is made of besides its settings: one fingerprint of data and encoder, kept in the work
directory, so that a later command on other data is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import read_json, write_json
from hyper_meta.core.settings import RunSettings
from hyper_meta.data.table import DataSet

FILE = "data.json"
# What each part of a fingerprint is called in a message.
PARTS = {
    "dataset": "data set",
    "encoder": "encoder",
    "question_encoder": "encoder of questions",
    "validation_share": "share of validation tasks",
    "tasks": "tasks or images",
    "question_tokens": "choice of token states of questions",
}


def data_fingerprint(config: RunSettings, data: DataSet) -> dict[str, Any]:
    """A JSON value for each of PARTS.

    dataset, encoder, question_encoder: hashes of the files, that of an encoder with its resizing
        and dtype, or its layer, prefix and dtype, or "precomputed". tasks: hash of the tasks by
        split with their images, of which corrupt ones may be skipped. question_tokens: whether
        questions have token states.
    """
    tasks = hashlib.sha256()
    for split in sorted(data.tasks):
        for task in data.tasks[split]:
            content = [split, task.sentence, task.answers, task.prompts(), task.support, task.query]
            tasks.update(json.dumps(content, ensure_ascii=False).encode() + b"\n")
    return {
        "dataset": data.source["dataset"],
        "encoder": data.source["encoder"],
        "question_encoder": data.source["question_encoder"],
        "validation_share": config.validation_share,
        "tasks": tasks.hexdigest(),
        "question_tokens": data.tables["train"].questions.tokens is not None,
    }


def claim_data(fingerprint: dict[str, Any], workdir: Path) -> None:
    """Keeps the fingerprint in a work directory, or checks that it is the one there.

    Raises UserError for another one, naming what differs.
    """
    if (workdir / FILE).exists():
        check_data(fingerprint, workdir)
    else:
        write_json(workdir / FILE, fingerprint)


def check_data(fingerprint: dict[str, Any], workdir: Path) -> None:
    """Raises UserError where the run in a work directory is of other data, naming what differs."""
    theirs = read_json(workdir / FILE)
    if not isinstance(theirs, dict) or set(theirs) != set(PARTS):
        raise UserError(f"{workdir / FILE} is damaged: choose another --workdir")
    for part, words in PARTS.items():
        if theirs[part] != fingerprint[part]:
            was, now = (_short(value[part]) for value in (theirs, fingerprint))
            raise UserError(
                f"{workdir} holds a run with another {words} ({part} {was}, now {now}): give the "
                "data and the encoder that it was made with, or choose another --workdir"
            )


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
