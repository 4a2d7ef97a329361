"""Without language (METHOD section 4): HNet and MNet, multitask, first- and second-order MAML; each
as it is after training, and adapted on the support set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyper_meta import parallel
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.learners import Learner, weights_learner
from hyper_meta.methods.few_shot import few_shot_row
from hyper_meta.methods.interface import Method, Row, Scores, Setup, compile_scores, fit
from hyper_meta.train import stages

TITLES = {"multitask": "multitask", "fomaml": "FOMAML", "maml": "MAML"}


def hnet(objective: str) -> Method:
    """HNet: the latent adapts. Leaves {"params": {"e0", "generator"}}."""
    name, title = f"hnet_{objective}", _title("HNet", objective)

    def train(setup: Setup, trained: Mapping[str, Any]) -> dict[str, Any]:
        tables = setup.tables["train"], setup.tables["validation"]
        return fit(
            setup,
            "hnet",
            name,
            lambda config: stages.hnet_stage(config, *tables, name=name, objective=objective),
        )

    def rows(setup: Setup, trained: Mapping[str, Any]) -> list[Row]:
        learner = stages.hnet_learner(setup.config, setup.embed_dim)
        return learner_rows(
            setup,
            title,
            "unconditional",
            learner,
            trained[name]["params"],
            key="hnet",
            shots=objective == "maml",
        )

    return Method(rows, train, settings=("hnet",))


def mnet(objective: str) -> Method:
    """MNet: the adapter itself adapts. Leaves {"params": {"e0": weights [P], "generator": {}}}."""
    name, title = f"mnet_{objective}", _title("MNet", objective)

    def train(setup: Setup, trained: Mapping[str, Any]) -> dict[str, Any]:
        tables = setup.tables["train"], setup.tables["validation"]
        return fit(
            setup,
            "mnet",
            name,
            lambda config: stages.mnet_stage(config, *tables, name=name, objective=objective),
        )

    def rows(setup: Setup, trained: Mapping[str, Any]) -> list[Row]:
        return learner_rows(
            setup,
            title,
            "unconditional",
            weights_learner(),
            trained[name]["params"],
            key="mnet",
            shots=objective == "maml",
        )

    return Method(rows, train, settings=("mnet",))


def _title(network: str, objective: str) -> str:
    join = ", " if objective == "multitask" else "-"
    return f"{network}{join}{TITLES[objective]}"


def learner_rows(
    setup: Setup, title: str, kind: str, learner: Learner, params: Any, *, key: str, shots: bool
) -> list[Row]:
    """A learner where it starts, and adapted on the support set."""
    return [
        start_row(setup, title, kind, learner, params, key=key),
        few_shot_row(setup, f"{title}, adapted", learner, params, key=key, shots=shots),
    ]


def start_row(
    setup: Setup, title: str, kind: str, learner: Learner, params: Any, *, key: str
) -> Row:
    """A learner where it starts: zero-shot."""
    loop = InnerLoop(0, 0.0, blend=setup.config.adapter.blend)
    method = scoring.scores_of(scoring.adapted_method(learner, loop))
    run = compile_scores(setup, ("start", key), method)
    replicated = parallel.replicate(params)

    def score(split: str, _: None, shots: int | None) -> Scores:
        return run(replicated, None, split)

    return Row(title, kind, score)
