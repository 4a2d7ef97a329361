"""What a folder of tasks holds, everything that is wrong with it, and what to expect of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from hyper_meta.core.errors import UserError
from hyper_meta.core.progress import progress_bar
from hyper_meta.core.settings.run import OwnTasksSettings
from hyper_meta.data.images import CorruptImage, decode
from hyper_meta.data.own_tasks.folder import by_kind, read_folder, read_images
from hyper_meta.data.own_tasks.table import Finding
from hyper_meta.data.tasks import Task

# Those of configs/own_tasks.py, where no configuration is named.
DEFAULTS = OwnTasksSettings(
    test_share=0.15, query_share=0.3, template="the answer is {}", seed=0, shuffle=True
)
VALIDATION_SHARE = 0.15
CORRUPT = "images that cannot be read (--config.skip_corrupt_images=True leaves them out)"
SHOWN = 5  # findings of a kind
WIDTH = 40  # of the longest bar
UNSEEN = (
    "It has seen no photographs either. Give --config.encoder a CLIP of the Hub; or let a sentence "
    "encoder read the questions: --config.question_encoder=sentence-transformers/all-MiniLM-L6-v2"
)
# Accuracy on the test tasks of Digits-VQA, in percent, by the number of training tasks and by the
# examples of each of 324 (python examples/learning_curve.py; docs/results.md).
BY_TASKS = {20: 44.8, 40: 47.1, 80: 51.3, 160: 56.1, 324: 70.7}
BY_EXAMPLES = {12: 52.4, 25: 56.5, 50: 62.0, 100: 66.4, 200: 69.5}
BINS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)


def check_folder(
    folder: Path, settings: OwnTasksSettings, *, validation_share: float, shows_all: bool = False
) -> tuple[list[str], int]:
    """(lines to print, number of mistakes to be mended before a run). Reads every image.

    shows_all: every finding, not the first few of a kind. Raises UserError where the folder has no
    table that can be read.
    """
    read = read_folder(folder, settings, validation_share=validation_share)
    corrupt, hashes = _read_all(folder, read.images)
    mistakes = [*read.mistakes, *corrupt]
    everyone = [task for part in read.tasks.values() for task in part]
    lines = [f"{folder}: {len(read.images):,} images"]
    remarks = [*read.remarks, *_twins(everyone, hashes), *_unused(folder, set(read.images))]
    lines += list(_sizes(read.tasks)) if read.tasks else []
    for title, findings in (("to mend", mistakes), ("to know", remarks)):
        if findings:
            lines += ["", f"{title}:", *_listed(findings, read.unit, shows_all=shows_all)]
    if read.tasks:
        lines += list(_words([task.sentence for task in everyone]))
        lines += ["", *_expected(read.tasks["train"])]
    return lines, len(mistakes)


def _read_all(folder: Path, images: Sequence[str]) -> tuple[list[Finding], dict[str, str]]:
    """(images that cannot be decoded, {image: hash of its file}), read by as many threads as there
    are cores."""

    def read(image: str) -> tuple[str, str]:
        try:
            for name, content in read_images(folder, [image]):
                decode(name, content)
                return "", hashlib.sha256(content).hexdigest()
        except (CorruptImage, UserError) as error:
            return str(error), ""
        return "", ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = progress_bar(pool.map(read, images), total=len(images), desc="images", unit="image")
        found = dict(zip(images, bar, strict=True))
    findings = [Finding(CORRUPT, None, text) for text, _ in found.values() if text]
    return findings, {image: digest for image, (_, digest) in found.items() if digest}


def _twins(tasks: Iterable[Task], hashes: dict[str, str]) -> Iterator[Finding]:
    """Pictures that are in a task under two names."""
    for task in tasks:
        first: dict[str, tuple[str, int]] = {}
        for image, answer in (*task.support, *task.query):
            other, known = first.setdefault(hashes.get(image, image), (image, answer))
            if other != image:
                told = "" if known == answer else ", with two answers"
                text = f"{other} and {image} of {task.sentence!r}{told}"
                yield Finding("pictures under two names in a task", None, text)


def _unused(folder: Path, used: set[str]) -> Iterator[Finding]:
    """How many pictures no row names."""
    known = Image.registered_extensions()
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in known)
    names = (path.relative_to(folder).as_posix() for path in paths)
    others = sorted(name for name in names if name not in used)
    if others:
        yield Finding("pictures that no row names", None, f"{len(others):,}, such as {others[0]}")


def _sizes(tasks: dict[str, list[Task]]) -> Iterator[str]:
    """A table of the splits, and a histogram of the sizes of tasks."""
    yield f"  {'':12}{'tasks':>7}{'concepts':>10}{'examples a task':>20}{'answers a task':>18}"
    for split, part in tasks.items():
        examples = [len(task.support) + len(task.query) for task in part]
        answers = [len(task.answers) for task in part]
        concepts = {task.concept or task.sentence for task in part}
        spread = (f"{min(s)} / {np.median(s):.0f} / {max(s)}" for s in (examples, answers))
        cells = f"{len(part):7,}{len(concepts):10,}" + "{:>20}{:>18}".format(*spread)
        yield f"  {split:12}{cells}"
    yield f"  {'':29}{'(fewest / median / most)':>38}"
    everyone = [task for part in tasks.values() for task in part]
    sizes = [len(task.support) + len(task.query) for task in everyone]
    counts, _ = np.histogram(sizes, [*BINS, np.inf])
    yield "tasks by their number of examples:"
    for row in range(np.flatnonzero(counts)[0], np.flatnonzero(counts)[-1] + 1):
        last = f"-{BINS[row + 1] - 1}" if row + 1 < len(BINS) else " and more"
        bar = "#" * -(-WIDTH * int(counts[row]) // int(counts.max()))
        yield f"  {f'{BINS[row]}{last}':>14} {counts[row]:5,} {bar}"


def _listed(findings: Sequence[Finding], unit: str, *, shows_all: bool) -> Iterator[str]:
    for kind, found in by_kind(findings).items():
        alone = len(found) == 1 and found[0].line is None
        yield f"  {kind}" + ("" if alone else f" ({len(found):,})")
        for finding in found if shows_all else found[:SHOWN]:
            where = f"{unit} {finding.line}: " if finding.line else ""
            yield f"    {where}{finding.text}"
        if len(found) > SHOWN and not shows_all:
            yield f"    and {len(found) - SHOWN:,} more (--all)"


def _words(sentences: Sequence[str]) -> Iterator[str]:
    """Words that the text tower of the bundled encoder has hardly seen, if there are any."""
    text = " ".join(sentences).lower()
    words = sorted(set(re.findall(r"[^\W\d_]+", text)))
    known = _bundled_words()
    unseen = [word for word in words if word not in known]
    if unseen:
        shown = ", ".join(unseen[:8]) + (", ..." if len(unseen) > 8 else "")
        yield ""
        yield (
            f"words that the bundled encoder's training hardly had: {len(unseen)} of {len(words)} "
            f"({shown}). {UNSEEN}"
        )


def _expected(training: Sequence[Task]) -> Iterator[str]:
    """What so many tasks of that size gave elsewhere."""
    size = float(np.median([len(task.support) + len(task.query) for task in training]))
    yield f"to expect of {len(training)} training tasks with {size:.0f} examples (median):"
    yield "  on Digits-VQA, new questions were answered right from the sentence alone in"
    for measured, number, what in (
        (BY_TASKS, len(training), "training tasks of 262 examples (median)"),
        (BY_EXAMPLES, size, "examples of each of 324 training tasks"),
    ):
        nearest = min(measured, key=lambda known: abs(np.log(known / number)))
        fewer = ", fewer were not tried" if number < nearest == min(measured) else ""
        yield f"  {measured[nearest]}% with {nearest} {what}{fewer}"
    yield (
        "  (most common answer 37%, one network for all tasks 50%, all 324 tasks whole 71%). More "
        "questions, and each in several wordings, help most."
    )


def _bundled_words() -> set[str]:
    """What its tokenizer keeps whole: frequent words of its training."""
    from hyper_meta.encoders.folder import bundled_encoder_path  # transformers takes long

    content = json.loads((bundled_encoder_path() / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = content["model"]["vocab"]
    return {token.removesuffix("</w>") for token in tokens if token.endswith("</w>")}
