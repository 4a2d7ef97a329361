import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from hyper_meta.core.types import UserError
from hyper_meta.train import checkpoints
from hyper_meta.train.state import create_state


def _state(seed=0, *, width=4):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(3, width)).astype(np.float32)
    # What a rounding or a cast would lose: a signed zero, a denormal, infinity, a nan's payload.
    weights[0, :4] = np.array([2**31, 1, 0x7F800000, 0x7FC01234], np.uint32).view(np.float32)
    statistics = {
        "key": np.asarray(jax.random.key_data(jax.random.key(seed))),
        "half": np.arange(5).astype(jnp.bfloat16),
        "flags": [np.array([True, False]), (np.int8(-3), None, {})],
    }
    params = {"Dense_0": {"kernel": weights, "bias": np.zeros(width, np.float32)}}
    mask = {"Dense_0": {"kernel": True, "bias": False}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adamw(1e-3), mask))
    state = create_state(None, params, tx=tx, ema_decay=0.9, statistics=statistics)
    return jax.tree.map(np.asarray, state)


def _assert_same(a, b):
    a, b = (jax.tree_util.tree_leaves_with_path(tree) for tree in (a, b))
    for (path_a, x), (path_b, y) in zip(a, b, strict=True):
        assert path_a == path_b
        assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())


def _save(directory, *steps):
    for step in steps:
        checkpoints.save(directory, step, state=_state(step), history=[{"step": step}])


def _listing(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_state_comes_back_bit_for_bit_and_nothing_is_printed(tmp_path, capfd):
    state, history = _state(), [{"step": 5, "loss": 0.1}, {"step": 10, "loss": 1 / 3}]
    checkpoints.save(tmp_path, 10, state=state, history=history)
    restored, restored_history = checkpoints.restore(tmp_path, state)
    _assert_same(restored, state)
    assert restored_history == history
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a[b]c", "back\\slash", "st*r?", "{x,y}", "ü ~ #%"])
def test_a_path_may_have_any_character(name, tmp_path):
    """Orbax takes some for a pattern of paths."""
    state, directory = _state(), tmp_path / name / "stage"
    checkpoints.save(directory, 1, state=state, history=[])
    _assert_same(checkpoints.restore(directory, state)[0], state)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_cannot_be_read_back_is_not_called_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_read", lambda folder: {"a": np.ones(3)})
    with pytest.raises(UserError, match="a is read back with other values"):
        checkpoints.save_tree(tmp_path / "tree", {"a": np.zeros(3)}, notes={})
    with pytest.raises(UserError, match="a is read back with other values"):
        checkpoints.save(tmp_path, 1, state={"a": np.zeros(3)}, history=[])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("listed", ["{}", "[]", "arrays alone"])
def test_a_checkpoint_without_its_checksums_does_not_pass(listed, tmp_path):
    _save(tmp_path, 1)
    path = tmp_path / "00000001" / "checksums.json"
    if listed == "arrays alone":
        known = json.loads(path.read_text())
        listed = json.dumps({name: known[name] for name in known if name != "notes.json"})
    path.write_text(listed)
    with pytest.raises(UserError, match="is damaged, its checksums.json is not as it was saved"):
        checkpoints.restore(tmp_path, _state())


def test_the_newest_two_are_kept(tmp_path):
    assert checkpoints.latest_step(tmp_path / "none") is None
    unfinished = tmp_path / "00000008.unfinished"
    unfinished.mkdir()
    _save(tmp_path, 9, 10, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000010", "00000100"]
    assert checkpoints.latest_step(tmp_path) == 100
    for step in (10, 100):
        state, history = checkpoints.restore(tmp_path, _state(), step=step)
        _assert_same(state, _state(step))
        assert history == [{"step": step}]


def test_a_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in .*: run the stage"):
        checkpoints.restore(tmp_path, _state())
    _save(tmp_path, 3)
    with pytest.raises(UserError, match=r"no checkpoint of step 4 in .* it has steps \[3\]"):
        checkpoints.restore(tmp_path, _state(), step=4)
    with pytest.raises(UserError, match="no checkpoint at .*elsewhere"):
        checkpoints.restore_tree(tmp_path / "elsewhere", _state())
    with pytest.raises(UserError, match="exists already"):
        _save(tmp_path, 3)


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": _truncate,
    "flipped": _flip,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_refused_and_deletes_nothing(tmp_path, damage):
    good = tmp_path / "good"
    _save(good, 1, 2)
    files = [path.relative_to(good) for path in (good / "00000002").rglob("*") if path.is_file()]
    assert len(files) >= 6
    for file in files:
        if (good / file).stat().st_size == 0:
            continue
        bad = tmp_path / "bad"
        shutil.copytree(good, bad)
        DAMAGES[damage](bad / file)
        before = _listing(bad)
        with pytest.raises(UserError, match="00000002 is damaged, its .*: delete that folder"):
            checkpoints.restore(bad, _state())
        assert _listing(bad) == before
        shutil.rmtree(bad / "00000002")
        _assert_same(checkpoints.restore(bad, _state())[0], _state(1))
        shutil.rmtree(bad)


def test_another_state_is_refused(tmp_path):
    _save(tmp_path, 1)
    state = _state()
    with pytest.raises(UserError, match=r"Dense_0/bias is \[4\] float32 and \[5\] float32 was"):
        checkpoints.restore(tmp_path, _state(width=5))
    with pytest.raises(UserError, match=r"ema_params/\S+ is \[4\] float32 and absent was"):
        checkpoints.restore(tmp_path, state.replace(ema_params=None))
    with pytest.raises(UserError, match=r"statistics/more is absent and \[2\] float64 was"):
        more = {**state.statistics, "more": np.zeros(2)}
        checkpoints.restore(tmp_path, state.replace(statistics=more))
    with pytest.raises(UserError, match=r"step is \[\] int32 and \[\] int16 was expected"):
        checkpoints.restore(tmp_path, state.replace(step=np.int16(1)))


@pytest.fixture
def locked():
    """A folder that this process may read and not write, with a checkpoint in it."""
    directory = Path(tempfile.mkdtemp())
    _save(directory / "run", 1)
    (directory / "run").chmod(0o555)
    directory.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield directory
    if root:
        os.seteuid(0)
    directory.chmod(0o755)
    (directory / "run").chmod(0o755)
    shutil.rmtree(directory)


def test_no_permission_is_an_error(locked):
    before = _listing(locked)
    for directory in (locked / "run", locked / "new"):
        for write in (checkpoints.create_folder, lambda directory: _save(directory, 2)):
            with pytest.raises(UserError, match="Permission denied.*: get permission there or"):
                write(directory)
    assert _listing(locked) == before
    _assert_same(checkpoints.restore(locked / "run", _state())[0], _state(1))


def test_a_folder_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints to .*: choose another folder"):
        checkpoints.create_folder(tmp_path / "file" / "run")


Usage = namedtuple("Usage", "total used free")


def test_too_little_space_is_noticed_before_writing(tmp_path, monkeypatch):
    _save(tmp_path, 1)
    before = _listing(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100, 90, 10))
    with pytest.raises(UserError, match="cannot save .*00000002.*: free some disk space"):
        _save(tmp_path, 2)
    assert _listing(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(small_disk, monkeypatch):
    _save(small_disk, 1)
    before = _listing(small_disk)
    # As if another process took the space after it was looked at.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**40))
    big = {"w": np.random.default_rng(0).normal(size=2**20)}
    with pytest.raises(UserError, match="No space left on device.*: free some disk space"):
        checkpoints.save(small_disk, 2, state=big, history=[])
    assert _listing(small_disk) == before
    assert checkpoints.latest_step(small_disk) == 1
    _save(small_disk, 2)
    _assert_same(checkpoints.restore(small_disk, _state())[0], _state(2))


def test_trees_other_than_states_are_saved_with_notes(tmp_path):
    tree = {"latents": np.arange(6.0).reshape(2, 3).T, "ids": [np.arange(2), np.float32(3)]}
    checkpoints.save_tree(tmp_path / "made" / "here", tree, notes={"split": "train"})
    restored, notes = checkpoints.restore_tree(tmp_path / "made" / "here", tree)
    _assert_same(restored, tree)
    assert notes == {"split": "train"}
    # As the library reads them; and those that Orbax wrote are read as well.
    read = load_file(tmp_path / "made" / "here" / "arrays.safetensors")
    assert {*read} == {"latents", "ids/0", "ids/1"}
    np.testing.assert_array_equal(read["latents"], tree["latents"])
    checkpoints.save(tmp_path / "stage", 3, state=tree, history=[])
    _assert_same(checkpoints.restore_tree(tmp_path / "stage" / "00000003", tree)[0], tree)


def test_a_tree_is_read_without_orbax(tmp_path):
    """Which takes long to import."""
    checkpoints.save_tree(tmp_path / "tree", {"a": np.zeros(3)}, notes={})
    script = (
        "import sys, numpy as np, pathlib\n"
        "from hyper_meta.train import checkpoints\n"
        "checkpoints.restore_tree(pathlib.Path(sys.argv[1]), {'a': np.zeros(3)})\n"
        "assert not any(name.startswith('orbax') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "tree"], check=True)
