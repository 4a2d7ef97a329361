"""`hyper-meta methods`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from hyper_meta.cli.parser import Command, Work, refuse_others

HELP = """\
examples:
  hyper-meta methods | less

  name methods in the config, or train one with what it needs:
  hyper-meta run --config configs/quickstart.py --workdir runs/two \\
      --config.methods=references,language_hyperldm_tokens
  hyper-meta train --config configs/quickstart.py --workdir runs/film --method film

Methods that a listed method depends on are trained automatically.
"""


class _Setting:
    """Stands for a configuration: a setting read from it is known by its name."""

    def __init__(self, name: str = "config") -> None:
        self._name = name

    def __getattr__(self, key: str) -> _Setting:
        return _Setting(f"{self._name}.{key}")

    def __iter__(self) -> Iterator[_Setting]:
        yield self

    def __str__(self) -> str:
        return f"the method of {self._name}"


def describe(methods: dict[str, Any]) -> str:
    """Two lines for each method of the registry: what it is, and which methods it needs."""
    lines, width = [], max(map(len, methods))
    for name, method in methods.items():
        needs = ", ".join(str(need) for need in method.needs(_Setting()))
        lines.append(f"{name:{width}}  {method.summary}")
        lines.append(f"{'':{width}}  needs {needs or 'no other method'}")
    return "\n".join(lines)


def _check(arguments: argparse.Namespace, others: list[str]) -> Work:
    refuse_others(arguments, others)
    return _print_methods


def _print_methods() -> None:
    from hyper_meta.methods.registry import METHODS

    print(describe(METHODS))


COMMAND = Command(
    "methods",
    "list every method, what it is and what it needs",
    HELP,
    lambda parser: None,
    _check,
    computes=False,
    shows_progress=False,
)
