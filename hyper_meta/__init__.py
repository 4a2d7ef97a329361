"""From a sentence to the weights of a classifier.

    from hyper_meta import generate, load_model, predict

    model = load_model("runs/quickstart")
    weights = generate(model, "Colour of the top left digit?", num_samples=8)
    predict(weights, ["scene.png"], answers=["red", "green", "blue"])

This is the public API. A name is imported when it is first used, so that `import hyper_meta` itself
imports neither jax nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyper_meta.core.errors import UserError
    from hyper_meta.data.tasks import Task
    from hyper_meta.generation.generate import generate
    from hyper_meta.generation.model import load_model
    from hyper_meta.generation.predict import predict
    from hyper_meta.generation.weights_file import load_weights, save_weights

__version__: str

__all__ = [
    "Task",
    "UserError",
    "__version__",
    "generate",
    "load_model",
    "load_weights",
    "predict",
    "save_weights",
]

# The module that each name comes from.
_MODULES = {
    "Task": "data.tasks",
    "UserError": "core.errors",
    "generate": "generation.generate",
    "load_model": "generation.model",
    "load_weights": "generation.weights_file",
    "predict": "generation.predict",
    "save_weights": "generation.weights_file",
}


def __getattr__(name: str) -> Any:
    """The public name, imported (PEP 562). Raises AttributeError for a name that is not public."""
    if name == "__version__":
        value: Any = _installed_version()
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _installed_version() -> str:
    """The version of the installed package; 0+unknown for source that is not installed."""
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "0+unknown"
