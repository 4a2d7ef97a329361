"""The card of a model: what it is, what it was trained on, how good it is, what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from hyper_meta.core.files import read_json
from hyper_meta.core.settings import RunSettings
from hyper_meta.encoders.hub import licence_of
from hyper_meta.eval.markdown import NOTES
from hyper_meta.eval.results import ALL, titles_of
from hyper_meta.eval.tables import as_markdown, interval, main_table
from hyper_meta.methods.registry import METHODS

if TYPE_CHECKING:
    from hyper_meta.generation.model import Model

RESULTS = "results.json"  # of a run that has a report


def model_card(model: Model, stored: RunSettings) -> str:
    """In Markdown, as the Hugging Face Hub shows it. stored: the settings as the saved model has
    them, whose encoders of the Hub are named with their revisions."""
    sections = [
        "---\nlibrary_name: hyper_meta\ntags: [hypernetwork, meta-learning, zero-shot]\n---",
        f"# From a sentence to a classifier: {model.guide.name} on {model.config.dataset}",
        "This model turns a question about pictures into the weights of a network that answers it, "
        "without a labelled example. It was trained with "
        "[hyper_meta](https://arxiv.org/abs/2210.08942), by the method "
        f"`{model.guide.name}`: {METHODS[model.guide.name].summary}.",
        "## Use",
        _use(model),
        "## What it is made of",
        _made_of(model, stored),
        "## How good it is",
        *_results(model),
        "## What it cannot do",
        _limits(model),
    ]
    return "\n\n".join(sections) + "\n"


def _use(model: Model) -> str:
    sentence = next(iter(model.templates))
    answers = next(iter(model.answers.values()))[:3]
    return f"""\
```python
from hyper_meta import generate, load_model, predict

weights = generate(load_model("."), {sentence!r})  # this folder, or OWNER/NAME on the Hub
print(weights.expected_accuracy, weights.warnings)
predict(weights, ["picture.png"], answers={answers!r})
```"""


def _made_of(model: Model, stored: RunSettings) -> str:
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(model.guide.model))
    config = model.config
    encoder = f"Image encoder {_named(config.encoder, stored.encoder)}"
    if config.encoder == "bundled":
        encoder = "The small image encoder that comes with hyper_meta"
    questions = "the same encoder"
    if config.question_encoder:
        questions = _named(config.question_encoder, stored.question_encoder)
    return "\n".join(
        f"* {line}"
        for line in (
            f"{len(model.templates):,} training sentences of the data set "
            f"`{model.config.dataset}`, seed {model.config.seed}",
            f"{size:,} parameters, which generate networks of {model.guide.network.num_weights:,} "
            f"weights (`{model.config.network.name}`)",
            f"{encoder} (fingerprint `{model.encoder.fingerprint[:12]}`); questions are read by "
            f"{questions}",
            "All settings are in `config.json`; arrays are safetensors with checksums, and nothing "
            "here is code.",
        )
    )


def _named(encoder: str, stored: str) -> str:
    """By its name, or by the folder of the model that it comes in, since nobody knows where it was;
    and its licence."""
    known = licence_of(encoder)
    place = f"in `{stored}/`" if Path(encoder).exists() else f"`{stored}`"
    return f"{place}, {f'licence {known}' if known else 'whose own licence holds'}"


def _results(model: Model) -> list[str]:
    expected = (
        f"On validation tasks its networks are right in {model.trust.mean:.0%}; what is to be "
        "expected of a new sentence is said when it is generated."
    )
    path = model.place / RESULTS
    if not path.exists():
        return [expected]
    results = read_json(path)
    row = model.guide.name
    groups = results["summaries"]["test"][row][ALL]
    shares = ", ".join(
        f"{interval(figures)} on {figures['tasks']} tasks ({name})"
        for name, figures in groups.items()
    )
    named = (
        f"Its accuracy on the test tasks of its run, in percent with 95% intervals: {shares}. "
        f"It is the row *{titles_of(results)[row]}* among all methods of the run:"
    )
    return [expected, named, as_markdown(main_table(results, "test")), NOTES]


def _limits(model: Model) -> str:
    return "\n".join(
        f"* {line}"
        for line in (
            "It knows pictures and words like those it was trained on. A sentence with unknown "
            "words is warned of.",
            "Known words in a combination that no training sentence asks for are understood worse "
            "than the expected accuracy says: that is learnt on known combinations.",
            "Probabilities are not calibrated.",
        )
    )
