"""Networks by name: those of this package, those that a program registers, and those of installed
packages.

A weights file names its network and holds no code. A name that is not built in is found where a
program has called `register`, or where an installed package declares it:

    [project.entry-points."hyper_meta.networks"]
    my_network = "my_package.networks:my_network"
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Container, Mapping
from importlib.metadata import entry_points
from typing import Any

from hyper_meta.core.settings.run import NetworkSettings
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
    config.network, "blend" among them. Raises UserError for a name that is taken. A file that is
    executed again, as configuration files are, registers its networks again.
    """
    if name in NETWORKS and not _is_again(NETWORKS[name], make):
        raise UserError(f"a network {name!r} is registered already: choose another name")
    NETWORKS[name] = make


def _is_again(known: Any, make: Any) -> bool:
    """Whether it is the same function, or the same lines of the same file."""
    if known is make:
        return True
    first, second = (getattr(function, "__code__", None) for function in (known, make))
    if first is None or first != second or known.__closure__ or make.__closure__:
        return False
    return first.co_filename == second.co_filename


def make_network(name: str, embed_dim: int, settings: Mapping[str, Any]) -> BaseNetwork:
    """The network of that name for features of width D = embed_dim.

    settings: of a weights file. Raises UserError for an unknown name, a setting that is missing,
    and whatever the network's function raises.
    """
    wanted = _wanted(name, settings)
    return _make(_find(name), name, embed_dim, tuple((key, settings[key]) for key in wanted))


def configured_network(settings: Any, embed_dim: int) -> BaseNetwork:
    """The network that config.network describes, for features of width D = embed_dim.

    Raises UserError as `make_network` does.
    """
    wanted = _wanted(settings.name, _names(settings))
    values = tuple((key, getattr(settings, key)) for key in wanted)
    return _make(_find(settings.name), settings.name, embed_dim, values)


@functools.lru_cache
def _make(
    make: Callable[..., BaseNetwork],
    name: str,
    embed_dim: int,
    settings: tuple[tuple[str, Any], ...],
) -> BaseNetwork:
    """The network, with the name and the settings by which it is made again."""
    try:
        network = make(embed_dim, **dict(settings))
        described = dict(network.settings) | dict(settings)
        if "blend" not in described:
            raise UserError(f"network {name!r} has no setting 'blend': it is needed")
        return dataclasses.replace(network, name=name, settings=described)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's code raises
        told = ", ".join(f"{key}={value!r}" for key, value in settings)
        raise UserError(
            f"network {name!r} cannot be made with {told or 'no settings'}: "
            f"{type(error).__name__}: {error}"
        ) from error


def check_network(settings: Any) -> None:
    """Raises UserError for what config.network cannot mean: a name that is neither registered nor
    declared by a package, a setting that this network lacks, and one that no network has."""
    _wanted(settings.name, _names(settings))
    others = set(_names(settings)) - {field.name for field in dataclasses.fields(NetworkSettings)}
    if not others:
        return
    for entry in entry_points(group=ENTRY_POINTS):
        _find(entry.name)
    known = {argument for make in NETWORKS.values() for argument in _arguments(make)}
    for name in sorted(others - known):
        (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise UserError(
            f"the configuration has a setting network.{name} that no network has, "
            f"did you mean network.{nearest}?"
        )


def _names(settings: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)]


def _wanted(name: str, given: Container[str]) -> list[str]:
    """The settings that a network is made with. Raises UserError where one is not given."""
    wanted = _arguments(_find(name))
    if missing := [argument for argument in wanted if argument not in given]:
        raise UserError(
            f"network {name!r} has no setting {missing[0]!r}: {', '.join(wanted)} are needed"
        )
    return wanted


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
