"""Without language (method.md section 4): HNet and MNet, multitask, first- and second-order MAML;
each as it is after training, and adapted on the support set."""

from __future__ import annotations

import functools

from hyper_meta.meta.learners import weights_learner
from hyper_meta.methods.interface import Method
from hyper_meta.methods.learnt import LearntMethod, learnt
from hyper_meta.train.stages import meta_learning as stages

TITLES = {"multitask": ", multitask", "fomaml": "-FOMAML", "maml": "-MAML"}
TRAINING = {"multitask": "multitask", "fomaml": "with first-order MAML", "maml": "with MAML"}


def hnet(objective: str) -> Method:
    """HNet: the latent adapts; its parameters are {"e0", "generator"}."""
    method = LearntMethod(
        name=f"hnet_{objective}",
        title=f"HNet{TITLES[objective]}",
        kind="unconditional",
        section="hnet",
        stage=functools.partial(stages.learner_stage, "hnet", objective=objective),
        learner=lambda setup: stages.hnet_learner(setup.config, setup.network),
        shots=objective == "maml",
        summary=f"no language: the latent of a generator, trained {TRAINING[objective]}",
    )
    return learnt(method)


def mnet(objective: str) -> Method:
    """MNet: the weights themselves adapt; its parameters are {"e0": [P], "generator": {}}."""
    method = LearntMethod(
        name=f"mnet_{objective}",
        title=f"MNet{TITLES[objective]}",
        kind="unconditional",
        section="mnet",
        stage=functools.partial(stages.learner_stage, "mnet", objective=objective),
        learner=lambda setup: weights_learner(setup.network),
        shots=objective == "maml",
        summary=f"no language: the weights themselves, trained {TRAINING[objective]}",
    )
    return learnt(method)
