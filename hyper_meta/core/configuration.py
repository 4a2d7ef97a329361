"""What a user chooses, checked before anything is computed: config files with their overrides.

A configuration is a ml_collections ConfigDict that a file's get_config() returns.
"""

from __future__ import annotations

import difflib
import functools
import importlib.machinery
import importlib.util
import operator
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import check_exists, flatten, read_json, write_json
from hyper_meta.core.settings import EncoderSettings, RunSettings, as_dict, read_settings, rules_of

# Of config.json, with the names that settings have: another one is of another version's run.
FORMAT = 6
CONFIG_FILE = "config.json"
# How a setting that is true or false may be given, in upper or lower case.
TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
FALSE = frozenset({"false", "f", "no", "n", "off", "0"})
Settings = TypeVar("Settings")


def load_settings(
    file: str | None,
    workdir: Path,
    overrides: Sequence[str],
    record: type[Settings] = RunSettings,
) -> Settings:
    """The settings of a command, in the record of its kind.

    file: a Python file with get_config(), or None for the one that is stored in workdir; overrides:
    command-line arguments such as "--config.hyperldm.guidance_scale=2". Where a setting is given
    several times, the last value holds. Raises UserError for a file that is missing or fails, or is
    of another kind, an unknown name, and a value of the wrong type or range.
    """
    if file is None and not (workdir / CONFIG_FILE).is_file():
        raise UserError(
            f"{workdir} holds no run, it has no {CONFIG_FILE}: name the configuration with "
            "--config, or the --workdir of a run"
        )
    config = stored_config(workdir) if file is None else execute_file(Path(file))
    apply_overrides(config, split_overrides(overrides))
    return typed(config, record)


def typed(config: ConfigDict, record: type[Settings]) -> Settings:
    """The record of a configuration. Raises UserError for one of another kind, and as
    `read_settings` does."""
    if record is EncoderSettings and "vocab_size" not in config:
        raise UserError(
            "this configuration is not of an encoder: take one such as configs/encoder.py"
        )
    if record is not EncoderSettings and "methods" not in config:
        raise UserError(
            "this configuration names no methods: take one such as configs/quickstart.py"
        )
    return read_settings(config, record)


def execute_file(path: Path) -> ConfigDict:
    """What get_config() of a Python file returns; it may import the files beside it."""
    check_exists(path, "config file")
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
    return _from_json(read_stored(workdir))


def stored_settings(workdir: Path) -> RunSettings:
    """The settings of the run that a work directory holds."""
    return typed(stored_config(workdir), RunSettings)


def read_stored(workdir: Path) -> dict[str, Any]:
    """The content of a work directory's config.json without its format.

    Raises UserError where there is none, it is damaged, or another version of this package wrote
    it.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"{workdir} holds no run, it has no {CONFIG_FILE}: name the folder of a run, or of a "
            "model that was exported"
        )
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged, it holds no configuration")
    found = content.pop("format", None)
    if found != FORMAT:
        raise UserError(
            f"{workdir} holds a run of another version of hyper-meta (config.json has "
            f"{'no format' if found is None else f'format {found}'}, {FORMAT} is expected): "
            "use that version, or choose another --workdir"
        )
    return content


def write_settings(settings: Any, workdir: Path) -> None:
    """Writes the settings of a run as the config.json of its work directory."""
    write_json(workdir / CONFIG_FILE, {"format": FORMAT, **as_dict(settings)})


def _from_json(value: Any) -> Any:
    """What JSON cannot tell apart: its lists were tuples, its nulls are numbers not yet given."""
    if isinstance(value, dict):
        return ConfigDict({key: _from_json(item) for key, item in value.items()})
    if isinstance(value, list):
        return tuple(_from_json(item) for item in value)
    return placeholder(float) if value is None else value


def split_overrides(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """["--config.a=1", "--config.b", "2"] as [("a", ["--config.a=1"]), ("b", ["--config.b", "2"])].

    Raises UserError for an argument that is none of these.
    """
    groups: list[tuple[str, list[str]]] = []
    takes_value = False  # whether the value of the last one may follow
    for argument in arguments:
        match = re.fullmatch(r"--?(?:no)?config\.([^=]+)(=.*)?", argument, re.DOTALL)
        if match:
            groups.append((match[1], [argument]))
            takes_value = match[2] is None
        elif takes_value and not argument.startswith("--"):
            groups[-1][1].append(argument)
            takes_value = False
        else:
            raise UserError(f"unknown argument {argument}: see --help")
    return groups


def apply_overrides(config: ConfigDict, overrides: Iterable[tuple[str, Sequence[str]]]) -> None:
    """`override` for each (name, arguments) in turn."""
    for name, arguments in overrides:
        override(config, name, arguments)


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
    try:
        if expected is bool:
            holder[key] = _boolean(arguments)
        elif arguments[0].lstrip("-").startswith("noconfig."):
            raise ValueError
        else:
            new = _parse(groups, key, arguments, placeholder(expected) if old is None else old)
            holder[key] = _like(old, new, name) if isinstance(old, tuple) else new
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(f"{given}: {_describe(expected, old)} is expected") from error


def _parse(groups: Sequence[str], key: str, arguments: Sequence[str], old: Any) -> Any:
    """The value of the arguments of one setting, in the type of its old one."""
    if isinstance(old, tuple) and arguments[-1].lstrip("-") in (
        "",
        f"config.{'.'.join((*groups, key))}=",
    ):
        return ()
    # absl writes the whole of what a flag may change as YAML, so this one may change one setting.
    alone = ConfigDict({key: old})
    for group in reversed(groups):
        alone = ConfigDict({group: alone})
    flag_values = flags.FlagValues()
    argv = ["hyper-meta", *arguments]
    config_flags.DEFINE_config_dict("config", alone, flag_values=flag_values, sys_argv=argv)
    flag_values(argv)
    return functools.reduce(operator.getitem, (*groups, key), alone)


def _boolean(arguments: Sequence[str]) -> bool:
    """ "--config.x" and "--config.x yes" are True, "--noconfig.x" and "--config.x=off" are False.

    Raises ValueError for other words, and for a word after --noconfig.x.
    """
    first, *words = arguments
    if "=" in first:
        words = [first.partition("=")[2]]
    if first.lstrip("-").startswith("noconfig."):
        if words:
            raise ValueError
        return False
    word = words[0].strip().lower() if words else "true"
    if word not in TRUE | FALSE:
        raise ValueError
    return word in TRUE


def _nearest(name: str, known: Sequence[str]) -> str:
    """The known name that is closest; rather one of the same last part."""
    last = name.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last]
    return difflib.get_close_matches(name, same or list(known), n=1, cutoff=0)[0]


def _like(old: tuple, new: tuple, name: str) -> tuple:
    """The new tuple with the element type of the old one. Raises TypeError if it has another, or
    is empty where the setting of this name may not be."""
    known = rules_of(RunSettings).get(name)
    if not old or (not new and known and known[1].may_be_empty):
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
    has_example = old is not None and expected is not bool
    return f"{name or expected.__name__}" + (f" such as {old}" if has_example else "")
