"""What a user chooses, checked before anything is computed: config files with their overrides.

A configuration is a ml_collections ConfigDict that a file's get_config() returns.
"""

from __future__ import annotations

import difflib
import functools
import importlib.machinery
import importlib.util
import math
import operator
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from hyper_meta.core.arguments import check_seed
from hyper_meta.core.errors import UserError
from hyper_meta.core.files import flatten, read_json

# Whole numbers are counts of at least one, except these.
MAY_BE_ZERO = frozenset({"seed", "inner_steps", "few_shot_steps", "shot_steps"})
MAY_BE_EMPTY = frozenset({"few_shot_guidance", "shots"})
# The settings that are a share, and whether it may be none.
SHARES = {
    "smallest_share": False,
    "start_time": False,
    "validation_share": False,
    "fisher_share": True,
    "posterior_variance": True,
    "drop_rate": True,
}


def load_config(file: str | None, workdir: Path, overrides: Sequence[str]) -> ConfigDict:
    """The configuration of a command.

    file: a Python file with get_config(), or None for the one that is stored in workdir; overrides:
    command-line arguments such as "--config.hyperldm.guidance_scale=2". Raises UserError for a file
    that is missing or fails, an unknown name, and a value of the wrong type or range.
    """
    config = stored_config(workdir) if file is None else execute_file(Path(file))
    for name, arguments in group_overrides(overrides).items():
        override(config, name, arguments)
    check_values(config)
    return config


def execute_file(path: Path) -> ConfigDict:
    """What get_config() of a Python file returns; it may import the files beside it."""
    if not path.is_file():
        raise UserError(f"config file {path} does not exist")
    before = set(sys.modules)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        loader = importlib.machinery.SourceFileLoader("hyper_meta_config", str(path))
        module = importlib.util.module_from_spec(
            importlib.util.spec_from_loader(loader.name, loader)
        )
        loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"config file {path} defines no get_config()")
        config = module.get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever somebody's code raises
        line = _failing_line(error, path)
        raise UserError(
            f"config file {path} failed{line}: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
        # The next config file may have neighbours of the same names.
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
                del sys.modules[name]
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise UserError(f"get_config() of {path} returns a {kind}, a ConfigDict is expected")
    return config


def _failing_line(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f" at line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f" at line {lines[-1]}" if lines else ""


def stored_config(workdir: Path) -> ConfigDict:
    """The configuration that a run left in its work directory."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"{workdir} holds no run, it has no config.json: "
            "name the configuration with --config, or the --workdir of a run"
        )
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged, it holds no configuration")
    return _from_json(content)


def _from_json(value: Any) -> Any:
    """What JSON cannot tell apart: its lists were tuples, its nulls are numbers not yet given."""
    if isinstance(value, dict):
        return ConfigDict({key: _from_json(item) for key, item in value.items()})
    if isinstance(value, list):
        return tuple(_from_json(item) for item in value)
    return placeholder(float) if value is None else value


def group_overrides(arguments: Sequence[str]) -> dict[str, list[str]]:
    """["--config.a=1", "--config.b", "2"] as {"a": ["--config.a=1"], "b": ["--config.b", "2"]}.

    Raises UserError for an argument that is none of these.
    """
    groups: dict[str, list[str]] = {}
    open_group = None  # of the override whose value may follow
    for argument in arguments:
        match = re.fullmatch(r"--?(?:no)?config\.([^=]+)(=.*)?", argument, re.DOTALL)
        if match:
            group = groups.setdefault(match[1], [])
            open_group = None if match[2] else group
        elif open_group is not None and not argument.startswith("--"):
            group, open_group = open_group, None
        else:
            raise UserError(f"unknown argument {argument}: see --help")
        group.append(argument)
    return groups


def override(config: ConfigDict, name: str, arguments: Sequence[str]) -> None:
    """Sets one value of a configuration from its command-line arguments, in its own type.

    Raises UserError for an unknown name, with the nearest one, and for a value of another type.
    """
    values = flatten(config.to_dict())
    given = " ".join(arguments)
    if any(known.startswith(f"{name}.") for known in values):
        example = next(known for known in values if known.startswith(f"{name}."))
        raise UserError(f"{given}: {name} is a group of settings, set one such as {example}")
    if name not in values:
        raise UserError(
            f"{given}: unknown setting, did you mean --config.{_nearest(name, values)}?"
        )
    *groups, key = name.split(".")
    holder = functools.reduce(operator.getitem, groups, config)
    old, expected = values[name], holder.get_type(key)
    # absl writes the whole of what a flag may change as YAML, so this one may change one setting.
    alone = ConfigDict({key: placeholder(expected) if old is None else old})
    for group in reversed(groups):
        alone = ConfigDict({group: alone})
    try:
        flag_values = flags.FlagValues()
        argv = ["hyper-meta", *arguments]
        config_flags.DEFINE_config_dict("config", alone, flag_values=flag_values, sys_argv=argv)
        flag_values(argv)
        new = functools.reduce(operator.getitem, (*groups, key), alone)
        if isinstance(old, tuple):
            new = _like(old, new, may_be_empty=key in MAY_BE_EMPTY)
        holder[key] = new
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"{given}: {_describe(expected, old)} is expected") from error


def _nearest(name: str, known: Sequence[str]) -> str:
    """The known name that is closest; rather one of the same last part."""
    last = name.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last]
    return difflib.get_close_matches(name, same or list(known), n=1, cutoff=0)[0]


def _like(old: tuple, new: tuple, *, may_be_empty: bool) -> tuple:
    """The new tuple with the element type of the old one; raises TypeError if it has another."""
    if not old or (not new and may_be_empty):
        return new
    kind = type(old[0])
    if kind is float:
        new = tuple(float(x) if type(x) is int else x for x in new)
    if kind is str and all(type(x) is str for x in new):  # "a,b" without quotes comes as one
        new = tuple(name for x in new for name in x.split(","))
    if not new or not all(type(x) is kind for x in new):
        raise TypeError
    return new


def _describe(expected: type, old: Any) -> str:
    if expected is tuple and old:
        element = type(old[0]).__name__
        return f"a tuple of {element} such as {','.join(map(str, old))}"
    name = {int: "a whole number", float: "a number", bool: "true or false"}.get(expected)
    return f"{name or expected.__name__}" + ("" if old is None else f" such as {old}")


def check_values(config: ConfigDict) -> None:
    """Raises UserError for a number out of range, or numbers that contradict each other."""
    values = flatten(config.to_dict())
    for name, value in values.items():
        for number in value if isinstance(value, tuple) else (value,):
            _check_number(name, number)
    for name, num_steps in values.items():
        prefix, _, key = name.rpartition("num_steps")
        size = values.get(f"{prefix}chunk_steps")
        if not key and size and num_steps % size:
            raise UserError(
                f"{name}={num_steps} is no multiple of {prefix}chunk_steps={size}: "
                f"the nearest is {max(1, round(num_steps / size)) * size}"
            )
    most, steps = (values.get(f"hyperldm.{k}_steps") for k in ("diffusion", "sampling"))
    if most and steps > most:
        raise UserError(
            f"hyperldm.sampling_steps={steps} is more than hyperldm.diffusion_steps={most}"
        )
    if most and steps < most and values["hyperldm.posterior_variance"]:
        raise UserError(
            "hyperldm.posterior_variance is of DDPM, which takes all "
            f"hyperldm.diffusion_steps={most}: set hyperldm.sampling_steps to that"
        )


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}={value} is no finite number")
    if isinstance(value, int) and not isinstance(value, bool):
        key = name.rpartition(".")[2]
        if value < (0 if key in MAY_BE_ZERO else 1):
            raise UserError(f"{name}={value} is too small, {int(key not in MAY_BE_ZERO)} is least")
        if key == "seed":
            check_seed(value)
    may_be_none = SHARES.get(name.rpartition(".")[2])
    if may_be_none is not None and not (0 <= value <= 1 and (value or may_be_none)):
        interval = "0 to 1" if may_be_none else "above 0 to 1"
        raise UserError(f"{name}={value} is no share, a number from {interval} is expected")
