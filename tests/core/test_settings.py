"""Every setting of every config: what is accepted, what is refused, and in which words."""

import copy
import dataclasses
import functools
import json
import math
from pathlib import Path

import pytest

from hyper_meta.core.configuration import execute_file
from hyper_meta.core.settings import (
    BenchmarkSettings,
    EncoderSettings,
    RunSettings,
    as_dict,
    read_settings,
    rules_of,
)
from hyper_meta.core.settings.rules import check_value
from hyper_meta.core.settings.run import NetworkSettings
from hyper_meta.core.types import UserError
from hyper_meta.data.datasets import BUILDERS
from hyper_meta.data.own_tasks.folder import NAME as OWN_TASKS
from hyper_meta.diffusion.classifier_guidance import OPTIMIZERS
from hyper_meta.diffusion.noise import PREDICTIONS, SCHEDULES
from hyper_meta.encoders.folder import DTYPES, RESIZES
from hyper_meta.methods.registry import GUIDES
from hyper_meta.methods.spaces import FACTORS
from hyper_meta.models.denoiser import DENOISERS
from hyper_meta.preparation.prepare import PRECOMPUTED
from hyper_meta.train.stages.meta_learning import OBJECTIVES

CONFIGS = Path(__file__).parents[2] / "configs"
OTHERS = {"encoder": EncoderSettings, "benchmark": BenchmarkSettings}
FILE = {RunSettings: "own_tasks", EncoderSettings: "encoder", BenchmarkSettings: "benchmark"}
READ_LATENTS = ("conditional_tokens", "generators", "distilled", "language")
CHOICES = {
    "dataset": (*BUILDERS, OWN_TASKS, PRECOMPUTED),
    "encoder_dtype": DTYPES,
    "image_resize": RESIZES,
    "latents.base": [f"hnet_{objective}" for objective in OBJECTIVES],
    "hvae.weights.base": [f"mnet_{objective}" for objective in OBJECTIVES],
    "latents.nearest": FACTORS,
    **{f"{section}.denoiser": DENOISERS for section in ("hyperldm", "hyperldm_tokens")},
    **{f"{section}.prediction": PREDICTIONS for section in ("hyperldm", "hyperldm_tokens")},
    **{f"{section}.schedule": SCHEDULES for section in ("hyperldm", "hyperldm_tokens")},
    **{
        f"{section}.condition": ("pooled", "tokens")
        for section in (*READ_LATENTS, "film", "film_tokens", "hyperldm", "hyperldm_tokens")
    },
    "noisy_hyperclip.condition": ("pooled", "tokens"),
    **{f"{section}.objective": ("fomaml", "maml") for section in READ_LATENTS},
    "hyperclip.guidance.optimizer": OPTIMIZERS,
    "evaluate.few_shot_guides": GUIDES,
    "evaluate.control_guides": GUIDES,
}
SETTINGS = [
    (record, name)
    for record in (RunSettings, EncoderSettings, BenchmarkSettings)
    for name in rules_of(record)
    if record is not BenchmarkSettings or name.startswith("more.")
]


def values_of(record):
    return execute_file(CONFIGS / f"{FILE[record]}.py").to_dict()


def changed(record, **changes):
    """The values of a config with others at dotted names."""
    values = values_of(record)
    for name, value in changes.items():
        *groups, key = name.split(".")
        holder = values
        for group in groups:
            holder = holder[group]
        holder[key] = value
    return values


def read_with(record, name, value):
    """The value that is read for a setting."""
    settings = read_settings(changed(record, **{name: value}), record)
    return functools.reduce(getattr, name.split("."), settings)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_field_of_every_config_is_read(file):
    config = execute_file(file)
    settings = read_settings(config, OTHERS.get(file.stem, RunSettings))
    assert json.loads(json.dumps(as_dict(settings))) == json.loads(config.to_json())
    again = read_settings(json.loads(json.dumps(as_dict(settings))), type(settings))
    assert again == settings and hash(again) == hash(settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.seed = 1


def wrong_types(kind):
    """Values of other types than that of a field."""
    text = str(kind)
    if text.startswith("tuple"):
        return [3, "3", None, ({},), (True,) if "bool" not in text else (3,)]
    if "None" in text:
        return ["3", (3.0,), True]
    return {int: ["3", 1.5, None, True, (3,)], float: ["3", None, True, (0.5,)]}.get(
        kind, [3, None, ("a",)]
    )


@pytest.mark.parametrize(("record", "name"), SETTINGS, ids=lambda x: getattr(x, "__name__", x))
def test_another_type_is_refused(record, name):
    kind, _ = rules_of(record)[name]
    for value in wrong_types(kind):
        with pytest.raises(UserError, match="expected") as caught:
            read_with(record, name, value)
        assert str(caught.value).startswith(f"{name}=") and "\n" not in str(caught.value)


def bounds(kind, rule):
    """(values in range at its bounds, values out of it) of a number."""
    step = 1 if "int" in str(kind) else 1e-6
    good, bad = [], []
    if rule.above is not None:
        good, bad = [*good, rule.above + step], [*bad, rule.above, rule.above - step]
    if rule.at_least is not None:
        good, bad = [*good, rule.at_least], [*bad, rule.at_least - step]
    if rule.below is not None:
        good, bad = [*good, rule.below - step], [*bad, rule.below, rule.below + step]
    if rule.at_most is not None:
        good, bad = [*good, rule.at_most], [*bad, rule.at_most + step]
    if step != 1:
        bad += [math.nan, math.inf, -math.inf]
    return good, bad


NUMBERS = [
    (record, name)
    for record, name in SETTINGS
    if any(word in str(rules_of(record)[name][0]) for word in ("int", "float"))
]


@pytest.mark.parametrize(("record", "name"), NUMBERS, ids=lambda x: getattr(x, "__name__", x))
def test_a_range_ends_where_it_says(record, name):
    kind, rule = rules_of(record)[name]
    is_tuple = str(kind).startswith("tuple")
    good, bad = bounds(kind, rule)
    for value in good:
        given = (value,) if is_tuple else value
        assert check_value(name, given, kind, rule) == given
    for value in bad:
        with pytest.raises(UserError) as caught:
            read_with(
                record, name, (1.0 if "float" in str(kind) else 1, value) if is_tuple else value
            )
        assert str(caught.value).startswith(f"{name}={value}"), caught.value


def test_every_number_has_a_lower_bound():
    free = {"network.blend", "hyperldm.guidance_scale", "hyperldm_tokens.guidance_scale"}
    for record, name in NUMBERS:
        _, rule = rules_of(record)[name]
        assert (rule.above is None and rule.at_least is None) == (name in free), name


@pytest.mark.parametrize(("record", "name"), SETTINGS, ids=lambda x: getattr(x, "__name__", x))
def test_what_may_be_empty(record, name):
    kind, rule = rules_of(record)[name]
    empty = () if str(kind).startswith("tuple") else ""
    if kind is not str and empty == "":
        return
    if name == "encoder":  # of precomputed features alone
        values = changed(record, dataset="precomputed", encoder="")
        assert read_settings(values, record).encoder == ""
    elif rule.may_be_empty:
        assert read_with(record, name, empty) == empty
    else:
        with pytest.raises(UserError, match="is empty|one of"):
            read_with(record, name, empty)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hnet.learning_rates", (1e-3, -0.1), "hnet.learning_rates=-0.1 given, a number above 0"),
        ("mnet.inner_learning_rate", 0.0, "mnet.inner_learning_rate=0.0 given, a number above 0"),
        ("hnet.clip_norm", 0, "hnet.clip_norm=0.0 given, a number above 0 is expected"),
        ("hyperldm.ema_decay", 2.0, "ema_decay=2.0 given, a number of at least 0 and below 1 is"),
        ("hyperclip.weight_decay", -1.0, "a number of at least 0 is expected"),
        ("batching.feature_noise", -0.1, "a number of at least 0 is expected"),
        ("latents.smallest_share", 1.5, "is no share, a number from above 0 to 1 is expected"),
        ("hyperldm.drop_rate", -0.5, "is no share, a number from 0 to 1 is expected"),
        ("evaluate.guidance_scales", (0.0, 1.0), "evaluate.guidance_scales=0.0 given, a number"),
        ("hyperclip.guidance.langevin", -0.1, "a number of at least 0 is expected"),
        ("hyperclip.guidance.optimizer", "rmsprop", "'rmsprop' given, one of ['adam', 'sgd'] is"),
        ("hyperclip.guidance.steps", (3, 0), "hyperclip.guidance.steps=0 is too small, 1 is least"),
        ("hyperclip.guidance.learning_rates", (0.0,), "learning_rates=0.0 given, a number above 0"),
        ("hyperclip.guidance.pull", (-1.0,), "pull=-1.0 given, a number of at least 0 is expected"),
        ("hyperclip.guidance.steps", (), "hyperclip.guidance.steps is empty"),
        ("hyperclip.guidance.learning_rates", (), "hyperclip.guidance.learning_rates is empty"),
        ("hyperclip.guidance.pull", (), "hyperclip.guidance.pull is empty"),
        ("hnet.batch_size", 0, "hnet.batch_size=0 is too small, 1 is least"),
        ("seed", -1, "seed=-1 is too small, 0 is least"),
        ("seed", 2**32, "seed=4294967296 given, a whole number from 0 to 4294967295 is expected"),
        ("num_seeds", 2**32 + 1, "seeds from 0 to 4294967295 are expected"),
        ("hnet.latent_dim", 1.5, "hnet.latent_dim=1.5 given, a whole number is expected"),
        ("hnet.hidden_dims", 5, "hnet.hidden_dims=5 given, a tuple of int is expected"),
        ("hnet", 5, "hnet=5 given, a group of settings is expected"),
        (
            "hyperldm.num_steps",
            7,
            "hyperldm.num_steps=7 is no multiple of hyperldm.chunk_steps=250",
        ),
        ("hyperldm.sampling_steps", 1001, "is more than hyperldm.diffusion_steps=1000"),
        ("hyperldm.posterior_variance", 0.5, "set hyperldm.sampling_steps to that"),
        ("hyperldm_tokens.sampling_steps", 1001, "than hyperldm_tokens.diffusion_steps=1000"),
        ("hyperldm_tokens.posterior_variance", 0.5, "set hyperldm_tokens.sampling_steps to that"),
        ("tuned.sampling_steps", 1001, "is more than hyperldm_tokens.diffusion_steps=1000"),
        ("distilled.teacher_share", 0.0, "distilled.teacher_share=0.0 has no teacher"),
        (
            "own_tasks.template",
            "yes",
            "own_tasks.template='yes', a sentence with {} in the",
        ),
        ("encoder", "", "encoder is empty: dataset=own_tasks has images that one has to encode"),
        ("own_tasks", None, "dataset=own_tasks has settings of its own, a section own_tasks: take"),
        ("reader.width", 130, "reader.width=130 is no multiple of reader.num_heads=4"),
        ("noisy_hyperclip.ranked", (1, 17), "has 17, of noisy_hyperclip.num_samples=16 samples"),
        (
            "hyperldm.drop_rates",
            0.5,
            "unknown setting hyperldm.drop_rates, did you mean hyperldm.drop",
        ),
        (
            "hyperldm.denoiser",
            "v9",
            "hyperldm.denoiser='v9' given, one of ['v1', 'v2'] is expected",
        ),
    ],
)
def test_the_words_of_a_refusal(name, value, message):
    with pytest.raises(UserError) as caught:
        read_settings(changed(RunSettings, **{name: value}))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_size", 50, "image_size=50 is no multiple of patch_size=24"),
        ("text.heads", 3, "text.width=128 is no multiple of text.heads=3"),
        ("num_steps", 6001, "num_steps=6001 is no multiple of chunk_steps=50: the nearest is 6000"),
        ("image_std", 0.0, "image_std=0.0 given, a number above 0 is expected"),
    ],
)
def test_contradictions_of_an_encoder(name, value, message):
    with pytest.raises(UserError) as caught:
        read_settings(changed(EncoderSettings, **{name: value}), EncoderSettings)
    assert message in str(caught.value)


def test_the_last_seed_counts():
    values = changed(RunSettings, seed=2**32 - 3, num_seeds=3)
    assert read_settings(values).num_seeds == 3
    with pytest.raises(UserError, match="num_seeds=4 from seed=4294967293 ends at seed 4294967296"):
        read_settings(values | {"num_seeds": 4})


@pytest.mark.parametrize(("record", "name"), SETTINGS, ids=lambda x: getattr(x, "__name__", x))
def test_a_missing_setting_is_named(record, name):
    values = copy.deepcopy(values_of(record))
    *groups, key = name.split(".")
    holder = values
    for group in groups:
        holder = holder[group]
    del holder[key]
    with pytest.raises(UserError, match=f"the configuration lacks the settings {name}:"):
        read_settings(values, record)


def test_choices_are_those_of_the_registries():
    stated = {name: rule.choices for name, (_, rule) in rules_of(RunSettings).items()}
    stated = {name: set(choices) for name, choices in stated.items() if choices}
    assert stated == {name: set(known) for name, known in CHOICES.items()}


@pytest.mark.parametrize(("record", "name"), SETTINGS, ids=lambda x: getattr(x, "__name__", x))
def test_a_setting_is_documented_in_one_line(record, name):
    _, rule = rules_of(record)[name]
    assert rule.doc and "\n" not in rule.doc


def test_a_value_to_choose_from_stands_once_and_widths_may_repeat():
    for name in ("hnet.learning_rates", "evaluate.shots", "evaluate.guidance_scales", "methods"):
        value = read_settings(values_of(RunSettings))
        for part in name.split("."):
            value = getattr(value, part)
        with pytest.raises(UserError, match=f"{name} has the value {value[0]} twice: leave one"):
            read_settings(changed(RunSettings, **{name: (*value, value[0])}))
    read_settings(changed(RunSettings, **{"hnet.hidden_dims": (8, 8)}))


def test_a_network_may_have_settings_of_its_own():
    own = {"network.depth": 3, "network.widths": (4, 5), "network.gate": True, "network.kind": "a"}
    settings = read_settings(changed(RunSettings, **own))
    assert isinstance(settings.network, NetworkSettings)
    assert (settings.network.depth, settings.network.widths) == (3, (4, 5))
    assert settings == read_settings(json.loads(json.dumps(as_dict(settings))))
    assert settings != read_settings(changed(RunSettings, **own | {"network.depth": 4}))
    with pytest.raises(UserError, match="network.depth=nan is no finite number"):
        read_settings(changed(RunSettings, **{"network.depth": math.nan}))
    for value in ({}, ((1, 2),), ({},), (3, "a")):
        with pytest.raises(UserError, match="network.depth=.* given, .* is expected"):
            read_settings(changed(RunSettings, **{"network.depth": value}))
    with pytest.raises(UserError, match="unknown setting hnet.depth"):
        read_settings(changed(RunSettings, **{"hnet.depth": 3}))
