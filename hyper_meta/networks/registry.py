"""Networks by name: those of this package, those that a program registers, and those of installed
packages.

A weights file names its network and holds no code. A name that is not built in is found where a
program has called `register`, or where an installed package declares it:

    [project.entry-points."hyper_meta.networks"]
    my_network = "my_package.networks:my_network"
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from hyper_meta.core.types import UserError
from hyper_meta.networks.adapter import adapter
from hyper_meta.networks.base import BaseNetwork
from hyper_meta.networks.from_flax import two_layers
from hyper_meta.networks.low_rank import low_rank

ENTRY_POINTS = "hyper_meta.networks"
# name -> (embed_dim, settings that it names as keyword arguments) -> BaseNetwork
NETWORKS: dict[str, Callable[..., BaseNetwork]] = {
    "adapter": adapter,
    "low_rank": low_rank,
    "two_layers": two_layers,
}


def register(name: str, make: Callable[..., BaseNetwork]) -> None:
    """Makes a network known by name to configurations and weights files.

    make: (embed_dim, keyword arguments) -> BaseNetwork; the arguments are named like settings of
    config.network, "blend" among them. Raises UserError for a name that is taken.
    """
    if NETWORKS.get(name, make) is not make:
        raise UserError(f"a network {name!r} is registered already: choose another name")
    NETWORKS[name] = make


def make_network(name: str, embed_dim: int, settings: Mapping[str, Any]) -> BaseNetwork:
    """The network of that name for features of width D = embed_dim.

    settings: of a weights file. Raises UserError for an unknown name or a setting that is missing.
    """
    make = _find(name)
    wanted = _arguments(make)
    if missing := [argument for argument in wanted if argument not in settings]:
        raise UserError(f"network {name!r} has no setting {missing[0]!r}: it is needed")
    return make(embed_dim, **{argument: settings[argument] for argument in wanted})


def configured_network(settings: Any, embed_dim: int) -> BaseNetwork:
    """The network that config.network describes, for features of width D = embed_dim."""
    make = _find(settings.name)
    return _make(make, embed_dim, tuple((key, getattr(settings, key)) for key in _arguments(make)))


@functools.lru_cache
def _make(
    make: Callable[..., BaseNetwork], embed_dim: int, settings: tuple[tuple[str, Any], ...]
) -> BaseNetwork:
    return make(embed_dim, **dict(settings))


def check_name(name: str) -> None:
    """Raises UserError for a name that is neither registered nor declared by a package."""
    _find(name)


def _arguments(make: Callable[..., BaseNetwork]) -> list[str]:
    """The settings that a network is made with."""
    parameters = inspect.signature(make).parameters.values()
    return [argument.name for argument in parameters if argument.kind is argument.KEYWORD_ONLY]


def _find(name: str) -> Callable[..., BaseNetwork]:
    if name not in NETWORKS:
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            register(name, entry.load())
    if name not in NETWORKS:
        raise UserError(
            f"network {name!r} given, one of {sorted(NETWORKS)} is expected: register others with "
            f"hyper_meta.networks.registry.register, or by an entry point {ENTRY_POINTS!r} of an "
            "installed package"
        )
    return NETWORKS[name]
