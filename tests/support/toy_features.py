"""The features of a made-up data set, given as one list of sentences with those of each."""

import numpy as np

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.data.features import Features


def split_features(tasks, *, image_ids, image_features, sentences, sentence_features) -> Features:
    """Features in which a sentence is a question, a prompt or both, as the tasks use it."""
    row = {sentence: number for number, sentence in enumerate(sentences)}
    asked = {task.sentence for task in tasks}
    answers = {prompt for task in tasks for prompt in task.prompts()}
    questions, prompts = (
        tuple(sentence for sentence in row if sentence in used) for used in (asked, answers)
    )
    question_rows, prompt_rows = ([row[text] for text in part] for part in (questions, prompts))
    return Features(
        image_ids=tuple(image_ids),
        image_features=image_features,
        questions=questions,
        question_features=SentenceFeatures(sentence_features[question_rows]),
        prompts=prompts,
        prompt_features=sentence_features[prompt_rows],
    )


def random_tokens(seed, count, *, length=4, width=3):
    """(tokens [count, length, width], mask): random states, of 1 to length tokens each."""
    rng = np.random.default_rng(seed)
    mask = np.arange(length) < rng.integers(1, length + 1, size=count)[:, None]
    return rng.normal(size=(count, length, width)).astype(np.float32), mask
