"""From the question to the weights in one step (method.md section 4): the conditional hypernetwork,
multitask and HNet-MAML, and FiLM."""

from __future__ import annotations

import functools

from hyper_meta.methods.interface import Method
from hyper_meta.methods.learnt import learnt
from hyper_meta.train.stages import meta_learning as stages


def hypernetwork(objective: str) -> Method:
    """The question is the generator's input; with MAML all its weights adapt."""
    maml = objective == "maml"
    training = "with MAML" if maml else "multitask"
    return learnt(
        "conditional_maml" if maml else "conditional",
        "conditional HNet-MAML" if maml else "conditional hypernetwork",
        "language",
        "conditional",
        stage=functools.partial(stages.conditional_stage, objective=objective),
        learner=lambda setup: stages.conditional_learner(setup.config, setup.tables["train"]),
        shots=False,
        summary=f"hypernetwork from the question to the weights, trained {training}",
        maps_question_directly=True,
    )


FILM = learnt(
    "film",
    "FiLM",
    "language",
    "film",
    stage=stages.film_stage,
    learner=lambda setup: stages.film_learner(setup.config, setup.tables["train"]),
    shots=False,
    summary="FiLM: one network, modulated by the question",
)
