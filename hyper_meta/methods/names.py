"""The names of registry.METHODS, without importing it: a mistaken name is answered at once."""

from collections.abc import Iterable

from hyper_meta.core.errors import UserError

NAMES = (
    "references",
    "mnet_multitask",
    "mnet_fomaml",
    "mnet_maml",
    "hnet_multitask",
    "hnet_fomaml",
    "hnet_maml",
    "conditional",
    "conditional_maml",
    "film",
    "conditional_tokens",
    "film_tokens",
    "generators",
    "distilled",
    "hnet_language",
    "hnet",
    "language",
    "mnet_weights",
    "hvae",
    "ridge",
    "language_ridge",
    "hnet_hyperclip",
    "hvae_hyperclip",
    "language_hyperclip",
    "hnet_hyperldm",
    "hvae_hyperldm",
    "hnet_hyperldm_tokens",
    "language_hyperldm_tokens",
    "language_tuned",
    "hnet_noisy_hyperclip",
    "language_noisy_hyperclip",
    "hnet_ranked",
    "language_ranked",
    "nearest_latent",
    "nearest_weights",
    "questions",
)


def check_names(names: Iterable[str]) -> None:
    """Raises UserError for a name that is none of NAMES."""
    for name in names:
        if name not in NAMES:
            raise UserError(f"method {name!r} given, one of {list(NAMES)} is expected")
