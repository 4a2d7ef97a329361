"""A finished run, opened to look at: what it left, its tasks, and features of sentences."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from hyper_meta.core.arguments import check_task
from hyper_meta.core.compilation import keep_programs
from hyper_meta.core.configuration import stored_settings
from hyper_meta.core.settings import RunSettings
from hyper_meta.core.types import SentenceFeatures, TaskBatch, UserError
from hyper_meta.data.batching import Batches, BatchShape
from hyper_meta.data.table import gather
from hyper_meta.data.tasks import Task
from hyper_meta.encoders.questions import (
    QuestionEncoder,
    check_length,
    read_questions,
    tokenize_questions,
)
from hyper_meta.methods.guide_store import INDEX, choose_guide
from hyper_meta.methods.guides import Guide, guide_of
from hyper_meta.methods.interface import NotFinished, Setup
from hyper_meta.methods.places import seed_dir
from hyper_meta.methods.reads import reads_path
from hyper_meta.methods.registry import GUIDES, METHODS, in_order
from hyper_meta.methods.trained import Space, Trained
from hyper_meta.models.sentences import stack_sentences, take
from hyper_meta.preparation.fingerprint import check_data, data_fingerprint
from hyper_meta.preparation.prepare import chosen_encoder, load_data, open_encoder
from hyper_meta.preparation.question_encoder import open_question_encoder

# Whose latents are shown where the chosen guide has none: the first of these that a run has.
FALLBACKS = ("language_hyperldm_tokens", "hnet_hyperldm", "hvae_hyperldm", "hnet_language")


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """A finished run, its first seed.

    trained: what the methods left, of the guides and all that they need.
    encoder: of questions, None where the features came without one.
    guides: {method: guide} of those that are finished.
    method: the guide that is looked at.
    """

    config: RunSettings
    setup: Setup
    trained: Trained
    encoder: QuestionEncoder | None
    guides: Mapping[str, Guide]
    method: str

    @property
    def guide(self) -> Guide:
        """The guide that is looked at."""
        return self.guides[self.method]

    @property
    def latent_guide(self) -> Guide:
        """The same, or another where its points are no latents."""
        guide = self.guide
        return guide if guide.space is not None else self.guides[_fallback(self.setup.config)]

    @property
    def space(self) -> Space:
        """The latent space of `latent_guide`."""
        return self.trained.space(self.latent_guide.space)

    @property
    def adapted(self) -> Float[np.ndarray, "T Z"]:
        """[T, Z]: the latents adapted to the training tasks, the mean of each task's repeats."""
        return self.space.latents.mean(axis=1)


def open_run(workdir: str | os.PathLike, method: str | None = None) -> OpenedRun:
    """Restores what a run left in its work directory; nothing is trained.

    method: the guide to look at, None for the one that was best on validation tasks. Raises
    UserError where there is no run, no such guide in it, or what a guide needs is not finished.
    """
    workdir = Path(workdir)
    config = stored_settings(workdir)
    folder = seed_dir(workdir, config.seed)
    if (folder / INDEX).is_file():
        method = choose_guide(folder, method)
    elif method is None:
        method = _fallback(config)
    if method not in GUIDES:
        raise UserError(f"method {method!r} given, one of {sorted(GUIDES)} is expected")
    needed = dict.fromkeys((method, _fallback(config)))
    keep_programs(config.compilation_cache)
    data = load_data(config)
    check_data(data_fingerprint(config, data), workdir)
    setup = Setup(config, folder, data.tasks, data.tables, restores_only=True)
    trained = Trained()
    begun = [name for name in GUIDES if reads_path(folder, name).exists()]
    for name in in_order((*needed, *begun), config):
        try:
            if all(need in trained.left for need in METHODS[name].needs(config)):
                trained.left[name] = METHODS[name].train(setup, trained)
        except NotFinished as error:
            if name in in_order(needed, config):
                raise UserError(
                    f"{workdir} holds no finished {name}: "
                    f"run hyper-meta train --method {name} --workdir {workdir} first"
                ) from error
    guides = {
        name: guide_of(setup, trained, name, maker)
        for name, maker in GUIDES.items()
        if all(need in trained.left for need in in_order((name,), config))
    }
    encoder = open_question_encoder(config)
    if encoder is None and config.encoder:
        encoder = open_encoder(chosen_encoder(config))
    return OpenedRun(config, setup, trained, encoder, guides, method)


def _fallback(config: RunSettings) -> str:
    """The one of FALLBACKS that a run has, the last where it has none."""
    listed = in_order(config.methods, config)
    return next((name for name in FALLBACKS if name in listed), FALLBACKS[-1])


def find_task(run: OpenedRun, sentence: str) -> tuple[str, int]:
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


def embed_sentences(run: OpenedRun, sentences: Sequence[str]) -> SentenceFeatures:
    """The features of n sentences, leading axis n."""
    return stack_sentences([embed_sentence(run, sentence) for sentence in sentences])


def embed_sentence(run: OpenedRun, sentence: str) -> SentenceFeatures:
    """The features of the data set's question, or of any other sentence by its encoder.

    Raises UserError for another sentence in a run of precomputed features, and for one that is
    longer than its encoder reads.
    """
    try:
        split, row = find_task(run, sentence)
    except UserError as error:
        if run.encoder is None:
            raise UserError(f"the features came without an encoder, and {error}") from error
        check_task(sentence)
        with_tokens = run.setup.tables["train"].questions.tokens is not None
        check_length(run.encoder, sentence)
        token_ids = tokenize_questions(run.encoder, [sentence])
        features = read_questions(run.encoder, token_ids, with_tokens=with_tokens)
        return take(jax.device_get(features), 0)
    return take(run.setup.tables[split].questions, row)


def example_questions(run: OpenedRun, count: int) -> list[str]:
    """The test question with the most query images of each of count families, or of all there are;
    the families evenly apart in alphabetical order."""
    tasks = sorted(run.setup.tasks["test"], key=lambda task: (task.family, -len(task.query)))
    first = [next(group) for _, group in itertools.groupby(tasks, key=lambda task: task.family)]
    rows = np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int)
    return [first[row].sentence for row in rows]


def task_families(tasks: Sequence[Task]) -> list[str]:
    """The family of each task."""
    return [task.family for task in tasks]


def task_batch(run: OpenedRun, sentence: str) -> TaskBatch:
    """The task that asks a sentence as a batch of one, unpadded."""
    split, row = find_task(run, sentence)
    table = run.setup.tables[split]
    sizes = (table.support_size[row], table.query_size[row], table.answer_count[row])
    batch = Batches(np.zeros(1, int), np.array([row]), np.ones(1, bool), np.zeros(1, int))
    return gather(table, batch, BatchShape(*map(int, sizes)))
