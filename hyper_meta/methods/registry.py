"""Every method by name, in the order of the table and of names.NAMES."""

from __future__ import annotations

from collections.abc import Iterable

from hyper_meta.core.settings import RunSettings
from hyper_meta.methods import (
    conditional,
    controls,
    hyperclip,
    hyperldm,
    language,
    noisy_hyperclip,
    references,
    ridge,
    spaces,
    unconditional,
)
from hyper_meta.methods.interface import Method
from hyper_meta.methods.names import check_names

METHODS: dict[str, Method] = {
    "references": references.METHOD,
    "mnet_multitask": unconditional.mnet("multitask"),
    "mnet_fomaml": unconditional.mnet("fomaml"),
    "mnet_maml": unconditional.mnet("maml"),
    "hnet_multitask": unconditional.hnet("multitask"),
    "hnet_fomaml": unconditional.hnet("fomaml"),
    "hnet_maml": unconditional.hnet("maml"),
    "conditional": conditional.hypernetwork("multitask"),
    "conditional_maml": conditional.hypernetwork("maml"),
    "film": conditional.FILM,
    "conditional_tokens": language.CONDITIONAL,
    "film_tokens": conditional.FILM_TOKENS,
    "generators": language.GENERATORS,
    "distilled": language.DISTILLED,
    "hnet_language": language.HNET,
    "hnet": spaces.HNET,
    "language": spaces.LANGUAGE,
    "mnet_weights": spaces.MNET_WEIGHTS,
    "hvae": spaces.HVAE,
    "ridge": ridge.regressed("hnet"),
    "language_ridge": ridge.regressed("language"),
    "hnet_hyperclip": hyperclip.guided("hnet"),
    "hvae_hyperclip": hyperclip.guided("hvae"),
    "language_hyperclip": hyperclip.guided("language"),
    "hnet_hyperldm": hyperldm.diffused("hnet"),
    "hvae_hyperldm": hyperldm.diffused("hvae"),
    "hnet_hyperldm_tokens": hyperldm.diffused("hnet", "hyperldm_tokens"),
    "language_hyperldm_tokens": hyperldm.diffused("language", "hyperldm_tokens"),
    "language_tuned": hyperldm.tuned("language", "hyperldm_tokens"),
    "hnet_noisy_hyperclip": noisy_hyperclip.guided_inside("hnet", "hyperldm"),
    "language_noisy_hyperclip": noisy_hyperclip.guided_inside("language", "hyperldm_tokens"),
    "hnet_ranked": noisy_hyperclip.ranked("hnet", "hyperldm"),
    "language_ranked": noisy_hyperclip.ranked("language", "hyperldm_tokens"),
    "nearest_latent": controls.LATENTS,
    "nearest_weights": controls.WEIGHTS,
}
GUIDES = {name: method.guide for name, method in METHODS.items() if method.guide is not None}
METHODS["questions"] = controls.wrong_questions(GUIDES)


def in_order(names: Iterable[str], config: RunSettings) -> list[str]:
    """The named methods and all that they need, each after what it needs, else as in METHODS.

    Raises UserError for a name that is none of METHODS.
    """
    names = list(names)
    check_names(names)
    wanted: set[str] = set()

    def add(name: str) -> None:
        if name not in wanted:
            wanted.add(name)
            for need in METHODS[name].needs(config):
                add(need)

    for name in names:
        add(name)
    return [name for name in METHODS if name in wanted]
