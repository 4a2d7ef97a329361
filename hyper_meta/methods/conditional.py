"""From the question to the weights in one step (METHOD section 4): the conditional hypernetwork,
multitask and HNet-MAML, and FiLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyper_meta.methods.interface import Method, Row, Setup, fit
from hyper_meta.methods.unconditional import learner_rows, start_row
from hyper_meta.train import stages


def hypernetwork(objective: str) -> Method:
    """The question is the generator's input; with MAML all its weights adapt."""
    name = "conditional" if objective == "multitask" else f"conditional_{objective}"
    title = {
        "multitask": "conditional hypernetwork",
        "maml": "conditional HNet-MAML",
        "fomaml": "conditional HNet-FOMAML",
    }[objective]

    def train(setup: Setup, trained: Mapping[str, Any]) -> dict[str, Any]:
        tables = setup.tables["train"], setup.tables["validation"]
        return fit(
            setup,
            "conditional",
            name,
            lambda config: stages.conditional_stage(
                config, *tables, name=name, objective=objective
            ),
        )

    def rows(setup: Setup, trained: Mapping[str, Any]) -> list[Row]:
        learner = stages.conditional_learner(setup.tables["train"])
        return learner_rows(
            setup,
            title,
            "language",
            learner,
            trained[name]["params"],
            key="conditional",
            shots=objective == "maml",
        )

    return Method(rows, train, settings=("conditional",))


def _train_film(setup: Setup, trained: Mapping[str, Any]) -> dict[str, Any]:
    tables = setup.tables["train"], setup.tables["validation"]
    return fit(
        setup, "film", "film", lambda config: stages.film_stage(config, *tables, name="film")
    )


def _film_rows(setup: Setup, trained: Mapping[str, Any]) -> list[Row]:
    learner = stages.film_learner(setup.config, setup.tables["train"])
    return [start_row(setup, "FiLM", "language", learner, trained["film"]["params"], key="film")]


FILM = Method(_film_rows, _train_film, settings=("film",))
