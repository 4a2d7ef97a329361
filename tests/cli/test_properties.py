"""Whatever is given, it is understood or refused in one line: random overrides, and damaged weights
files, checkpoints, pictures and task tables. Nothing that exists is changed."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_folder import write_folder

from hyper_meta.cli.parser import one_line
from hyper_meta.core.configuration import load_settings
from hyper_meta.core.files import flatten
from hyper_meta.core.settings import RunSettings, as_dict
from hyper_meta.core.types import UserError
from hyper_meta.data.images import CorruptImage, decode
from hyper_meta.data.meta_vqa.split_files import read_tasks
from hyper_meta.data.precomputed import TASK_FILES
from hyper_meta.generation.weights_file import Weights, load_weights, save_weights
from hyper_meta.networks.registry import make_network
from hyper_meta.preparation.prepare import EncoderChoice
from hyper_meta.train import checkpoints

CONFIG = str(Path(__file__).parents[2] / "configs" / "quickstart.py")
KNOWN = sorted(flatten(as_dict(load_settings(CONFIG, Path(), []))))

# The same examples in every run; none may take 10 seconds.
COMMON = {"derandomize": True, "deadline": 10_000, "database": None}
COMMON |= {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


def assert_one_line(error):
    """The text of a refusal, as it is printed, is what a user can read."""
    text = one_line(str(error))
    assert text and text.isprintable() and "Traceback" not in text


def understood(fn, refusal=UserError):
    """What fn returns, None where it refuses in one line."""
    try:
        return fn()
    except refusal as error:
        assert_one_line(error)
        return None


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, 1, -1, 2**31, 2**32, 1e-300])
).map(str)
WORDS = st.sampled_from(
    ["", "None", "null", "true", "no", "()", "(1,", "[1]", "1,2", "0.5,", "'a'", "a,b", "{}", "=1"]
)
TEXTS = st.text(max_size=12)
VALUES = st.one_of(NUMBERS, WORDS, TEXTS, st.lists(NUMBERS, max_size=3).map(",".join))


@settings(max_examples=800, **COMMON)
@given(name=st.sampled_from(KNOWN), value=VALUES, apart=st.booleans())
def test_an_override_is_a_setting_of_its_type_and_range_or_refused(name, value, apart):
    arguments = [f"--config.{name}", value] if apart else [f"--config.{name}={value}"]
    found = understood(lambda: load_settings(CONFIG, Path(), arguments))
    if found is not None:
        assert isinstance(found, RunSettings)
        before, after = (flatten(as_dict(s)) for s in (load_settings(CONFIG, Path(), []), found))
        assert {key for key in before if before[key] != after[key]} <= {name}
        assert type(after[name]) is type(before[name]) or None in (after[name], before[name])


@settings(max_examples=200, **COMMON)
@given(name=TEXTS, value=VALUES)
def test_a_name_that_is_no_setting_is_refused(name, value):
    if name in KNOWN or "=" in name:
        return
    with pytest.raises(UserError) as refusal:
        load_settings(CONFIG, Path(), [f"--config.{name}={value}"])
    assert_one_line(refusal.value)


# What damages bytes: (place as a share, bytes to remove, bytes to put in).
DAMAGE = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=3
)


def damaged(content, changes):
    for share, removed, put in changes:
        place = int(share * len(content))
        content = content[:place] + put + content[place + removed :]
    return content


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    network, rng = make_network("adapter", 4, {"hidden_dim": 2, "blend": 0.7}), 0
    rng = np.random.default_rng(0)
    made = Weights(
        weights=rng.normal(size=network.num_weights).astype(np.float32),
        samples=rng.normal(size=(2, network.num_weights)).astype(np.float32),
        network=network,
        task="Which colour does the seven have?",
        templates={"the seven is {}": ["red", "blue"]},
        encoder=EncoderChoice("bundled", "crop", "float32"),
        encoder_fingerprint="0" * 64,
        method="hnet_hyperldm",
        guidance_scale=1.5,
        seed=7,
        expected_accuracy=0.7,
        accuracy_deviation=0.1,
    )
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, made)
    return path


@settings(max_examples=400, **COMMON)
@given(changes=DAMAGE)
def test_a_damaged_weights_file_is_finite_weights_or_refused(weights_file, changes):
    content = damaged(weights_file.read_bytes(), changes)
    path = weights_file.with_name("damaged.safetensors")
    path.write_bytes(content)
    found = understood(lambda: load_weights(path))
    if found is not None:
        assert np.isfinite(found.weights).all() and np.isfinite(found.samples).all()
    assert path.read_bytes() == content


@pytest.fixture(scope="module", params=["tree", "state"])
def checkpoint(request, tmp_path_factory):
    tree = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.ones((2, 3), np.int32)}}
    folder = tmp_path_factory.mktemp("checkpoint")
    path = folder / "00000001"
    if request.param == "tree":
        checkpoints.save_tree(path, tree, notes={"step": 1})
    else:
        checkpoints.save(folder, 1, state=tree, history=[])
    files = {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    return path, tree, files


@settings(max_examples=100, **COMMON)
@given(which=st.integers(0, 10**6), changes=DAMAGE)
def test_a_damaged_checkpoint_is_what_was_saved_or_refused(checkpoint, which, changes):
    path, tree, files = checkpoint
    file = sorted(files)[which % len(files)]
    content = damaged(files[file], changes)
    file.write_bytes(content)
    try:
        found = understood(lambda: checkpoints.restore_tree(path, tree))
        # White space in a list of checksums is none of it.
        assert found is None or content == files[file] or file.name == "checksums.json"
        if found is not None:
            np.testing.assert_array_equal(found[0]["a"], tree["a"])
            np.testing.assert_array_equal(found[0]["b"]["c"], tree["b"]["c"])
        assert file.read_bytes() == content
    finally:
        file.write_bytes(files[file])


def picture(mode, kind):
    size = {"1": (9, 5), "RGBA": (7, 6)}.get(mode, (8, 8))
    stream = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(stream, kind)
    return stream.getvalue()


PICTURES = [picture(*pair) for pair in (("L", "PNG"), ("RGBA", "PNG"), ("P", "GIF"))]
PICTURES += [picture(*pair) for pair in (("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "TIFF"))]
PICTURES += [picture(*pair) for pair in (("1", "BMP"), ("RGB", "WEBP"), ("I;16", "TIFF"))]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=500, **COMMON)
@given(content=st.sampled_from(PICTURES), changes=DAMAGE)
def test_a_damaged_picture_is_an_rgb_image_or_refused(content, changes):
    found = understood(lambda: decode("picture", damaged(content, changes)), CorruptImage)
    assert found is None or (found.mode == "RGB" and min(found.size) > 0)


@settings(max_examples=200, **COMMON)
@given(content=st.binary(max_size=60))
def test_bytes_are_seldom_a_picture(content):
    understood(lambda: decode("picture", content), CorruptImage)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("tables") / "data")


# What stands in a table of tasks in another one's place.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def replaced(value, path, new):
    """The JSON value with another at a place that numbers lead to."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return new
    keys = sorted(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(value)]
    changed = value.copy()
    changed[key] = replaced(value[key], path[1:], new)
    return changed


@settings(max_examples=500, **COMMON)
@given(
    name=st.sampled_from(TASK_FILES),
    path=st.lists(st.integers(0, 50), max_size=4),
    new=JSON,
)
def test_a_table_of_tasks_is_tasks_or_refused(folder, name, path, new):
    content = replaced(json.loads((folder / name).read_text()), path, new)
    other = folder.with_name("changed")
    other.mkdir(exist_ok=True)
    for file in TASK_FILES:
        (other / file).write_text((folder / file).read_text())
    (other / name).write_text(json.dumps(content))
    tasks = understood(lambda: read_tasks(*(other / file for file in TASK_FILES)))
    for task in [] if tasks is None else [*tasks["train"], *tasks["test"]]:
        assert len(set(task.answers)) == len(task.answers) >= 2 and "{}" in task.template
        assert task.support and task.query
        labels = [label for _, label in (*task.support, *task.query)]
        assert all(0 <= label < len(task.answers) for label in labels)


@settings(max_examples=200, **COMMON)
@given(name=st.sampled_from(TASK_FILES), changes=DAMAGE)
def test_a_damaged_table_of_tasks_is_tasks_or_refused(folder, name, changes):
    other = folder.with_name("damaged")
    other.mkdir(exist_ok=True)
    for file in TASK_FILES:
        (other / file).write_bytes((folder / file).read_bytes())
    (other / name).write_bytes(damaged((folder / name).read_bytes(), changes))
    understood(lambda: read_tasks(*(other / file for file in TASK_FILES)))
