"""Overrides of every kind in every spelling, and what a work directory keeps of a configuration."""

import json
from pathlib import Path

import pytest

from hyper_meta.core.configuration import (
    FALSE,
    FORMAT,
    TRUE,
    load_settings,
    split_overrides,
    stored_settings,
    write_settings,
)
from hyper_meta.core.errors import UserError

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.py")


def load(*arguments):
    return load_settings(QUICKSTART, Path("w"), arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.NAME"], True),
        (["--noconfig.NAME"], False),
        (["-config.NAME"], True),
        (["-noconfig.NAME"], False),
        *((["--config.NAME=" + word], True) for word in sorted(TRUE)),
        *((["--config.NAME=" + word], False) for word in sorted(FALSE)),
        *((["--config.NAME", word], True) for word in sorted(TRUE)),
        *((["--config.NAME", word], False) for word in sorted(FALSE)),
        (["--config.NAME", "False"], False),
        (["--config.NAME=TRUE"], True),
        (["--config.NAME", "--config.seed=1"], True),
        (["--config.NAME=1", "--noconfig.NAME"], False),
        (["--noconfig.NAME", "--config.NAME"], True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("name", ["skip_corrupt_images", "conditional.standardise"])
def test_a_boolean_is_understood(name, arguments, expected):
    settings = load(*(argument.replace("NAME", name) for argument in arguments))
    for part in name.split("."):
        settings = getattr(settings, part)
    assert settings is expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config.NAME=maybe"],
        ["--config.NAME", "maybe"],
        ["--config.NAME="],
        ["--config.NAME", "2"],
        ["--config.NAME", "None"],
        ["--noconfig.NAME=true"],
        ["--noconfig.NAME", "false"],
        ["--config.NAME=1", "--config.NAME=2"],
        ["--config.NAME=2", "--config.NAME=1"],
    ],
    ids=" ".join,
)
def test_a_boolean_is_refused(arguments):
    arguments = [argument.replace("NAME", "skip_corrupt_images") for argument in arguments]
    with pytest.raises(UserError, match="skip_corrupt_images.*: true or false is expected$"):
        load(*arguments)


@pytest.mark.parametrize(
    "name", ["seed", "hnet.clip_norm", "dataset", "hnet.hidden_dims", "hyperldm.guidance_scale"]
)
def test_no_is_for_what_is_true_or_false(name):
    with pytest.raises(UserError, match=f"--noconfig.{name}: .* is expected"):
        load(f"--noconfig.{name}")


@pytest.mark.parametrize(
    ("name", "first", "second", "expected"),
    [
        ("seed", "1", "2", 2),
        ("hnet.clip_norm", "3", "0.5", 0.5),
        ("data_dir", "a", "b", "b"),
        ("hnet.hidden_dims", "1,2", "3", (3,)),
        ("evaluate.few_shot_rates", "1,2", "0.5,1.5", (0.5, 1.5)),
        ("methods", "references", "ridge,film", ("ridge", "film")),
        ("hyperldm.guidance_scale", "1", "2", 2.0),
        ("skip_corrupt_images", "yes", "no", False),
    ],
)
def test_the_last_value_holds(name, first, second, expected):
    """Of every type, with another setting between or not, whichever way it is given."""
    settings = load(
        f"--config.{name}={first}", "--config.latents.pull=1", f"--config.{name}={second}"
    )
    again = load(f"--config.{name}", first, f"--config.{name}", second, "--config.latents.pull=1")
    assert settings == again
    for part in name.split("."):
        settings = getattr(settings, part)
    assert settings == expected and type(settings) is type(expected)


def test_a_first_value_is_checked_though_the_last_holds():
    with pytest.raises(UserError, match="--config.seed=many: a whole number"):
        load("--config.seed=many", "--config.seed=1")


def test_split_overrides():
    arguments = ["--config.a=1", "--config.b", "2", "--noconfig.c", "--config.a", "-3"]
    assert split_overrides(arguments) == [
        ("a", ["--config.a=1"]),
        ("b", ["--config.b", "2"]),
        ("c", ["--noconfig.c"]),
        ("a", ["--config.a", "-3"]),
    ]
    for wrong in (["2"], ["--config.a=1", "2"], ["--config.a", "1", "2"], ["--seed=1"]):
        with pytest.raises(UserError, match="unknown argument"):
            split_overrides(wrong)


def test_a_negative_number_may_follow():
    assert load("--config.hyperldm.guidance_scale", "-1").hyperldm.guidance_scale == -1.0


def test_settings_are_stored_with_their_format(tmp_path):
    settings = load("--config.hyperldm.guidance_scale=2", "--config.seed=3")
    write_settings(settings, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format"] == FORMAT
    assert stored_settings(tmp_path) == settings
    more = load_settings(None, tmp_path, ["--config.hyperldm.few_shot_guidance=1"])
    assert more.hyperldm.few_shot_guidance == (1.0,)


@pytest.mark.parametrize("found", [None, 1, FORMAT - 1, FORMAT + 1, str(FORMAT)])
def test_another_versions_run_is_refused(found, tmp_path):
    write_settings(load(), tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["format"]
    content |= {} if found is None else {"format": found}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="holds a run of another version of hyper-meta") as caught:
        stored_settings(tmp_path)
    assert f"{FORMAT} is expected" in str(caught.value) and "\n" not in str(caught.value)
