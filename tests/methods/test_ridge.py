import re
from pathlib import Path

import numpy as np
import pytest

from hyper_meta.core.types import SentenceFeatures
from hyper_meta.methods import ridge
from hyper_meta.methods.ridge import fit_ridge, predict_latents
from hyper_meta.models.sentences import measure_sentences, standardise_sentences


@pytest.fixture
def problem():
    """(questions [T, D], latents [T, Z]): a linear map with an offset, and noise."""
    rng = np.random.default_rng(0)
    questions, linear = rng.normal(size=(12, 5)) + 2, rng.normal(size=(5, 3))
    return questions, questions @ linear - 7 + 0.1 * rng.normal(size=(12, 3))


@pytest.mark.parametrize("penalty", [0.01, 1.0, 10.0])
def test_it_is_least_squares_with_rows_for_the_penalty(penalty, problem):
    """min mean |x W + b - z|^2 + penalty |W|^2: T rows, and one for each unit of W."""
    questions, latents = problem
    num, dim = questions.shape
    rows = np.block(
        [[questions, np.ones((num, 1))], [np.sqrt(penalty * num) * np.eye(dim), np.zeros((dim, 1))]]
    )
    targets = np.concatenate([latents, np.zeros((dim, latents.shape[1]))])
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(fit_ridge(questions, latents, penalty), expected, atol=1e-10)


def test_a_large_penalty_leaves_the_mean(problem):
    questions, latents = problem
    fitted = fit_ridge(questions, latents, 1e9)
    np.testing.assert_allclose(fitted[:-1], 0, atol=1e-6)
    np.testing.assert_allclose(fitted[-1], latents.mean(axis=0), rtol=1e-6)


def test_a_constant_dimension_of_the_questions_changes_nothing(problem):
    """Meta-VQA's question embeddings have two of them: standardised as they are, they are NaN."""
    questions, latents = (array.astype(np.float32) for array in problem)
    asked = questions[:4] + 0.5
    constant = np.full((len(questions), 1), 3, np.float32)

    def predicted(known, asked):
        measured = measure_sentences(known)
        inputs, others = (standardise_sentences(measured, part).pooled for part in (known, asked))
        return predict_latents(fit_ridge(np.asarray(inputs), latents, 0.1), np.asarray(others))

    with_it = predicted(
        SentenceFeatures(np.append(questions, constant, axis=1)),
        SentenceFeatures(np.append(asked, constant[:4], axis=1)),
    )
    assert with_it.dtype == np.float32
    without = predicted(SentenceFeatures(questions), SentenceFeatures(asked))
    np.testing.assert_allclose(with_it, without, rtol=1e-5)


def test_the_worked_example_of_the_docs_is_this_file():
    folder = Path(ridge.__file__).parent
    page = (folder.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    text = page.partition("## Adding a method")[2].partition("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert example in (folder / "ridge.py").read_text(encoding="utf-8")
    (line,) = re.findall(r"`(\"ridge\": .*?)`", text)
    assert line in (folder / "registry.py").read_text(encoding="utf-8")
