"""Checkpoints that are complete or absent.

A checkpoint is a folder: arrays, notes.json, and checksums.json over both. The arrays of a stage
are in arrays/, written by Orbax; those of a tree that is read elsewhere, such as a guide, are in
arrays.safetensors. It is written under a temporary name and then renamed, so a process killed at
any moment leaves the previous checkpoint intact. Checksums are verified before anything is read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from hyper_meta.core.tensors import tensor_bytes
from hyper_meta.core.types import UserError

if TYPE_CHECKING:
    # Imported where it is used: what reads trees alone does not wait for it.
    import orbax.checkpoint as ocp

_NUM_KEPT = 2
_UNFINISHED = ".unfinished"
_CHECKSUMS = "checksums.json"
_STATE, _TREE, _NOTES = "arrays", "arrays.safetensors", "notes.json"


def create_folder(directory: Path) -> None:
    """Creates the folder of a stage's checkpoints.

    Raises:
      UserError: the folder cannot be created or written to.
    """
    probe = Path(directory) / f"probe{_UNFINISHED}"
    with _explained(f"cannot write checkpoints to {directory}"):
        probe.mkdir(parents=True, exist_ok=True)
        probe.rmdir()


def save(directory: Path, step: int, *, state: Any, history: list[dict]) -> None:
    """Saves a checkpoint of a stage, and then deletes all but the newest two.

    Args:
      directory: the folder of the stage's checkpoints.
      step: the number of training steps so far.
      state: pytree of arrays; PRNG keys as their uint32 data.
      history: one dict of JSON values per row.

    Raises:
      UserError: no permission, a full disk, or a checkpoint of this step exists. Older checkpoints
        are not touched.
    """
    directory = Path(directory)
    for leftover in directory.glob(f"*{_UNFINISHED}"):
        shutil.rmtree(leftover, ignore_errors=True)
    _save(_folder(directory, step), state, history, _write_state)
    for old in _steps(directory)[:-_NUM_KEPT]:
        shutil.rmtree(_folder(directory, old), ignore_errors=True)


def latest_step(directory: Path) -> int | None:
    """The step of the newest checkpoint, None without a checkpoint."""
    steps = _steps(Path(directory))
    return steps[-1] if steps else None


def restore(directory: Path, abstract_state: Any, *, step: int | None = None) -> tuple[Any, list]:
    """The state and history of a checkpoint.

    Args:
      directory: the folder of the stage's checkpoints.
      abstract_state: pytree of arrays or jax.ShapeDtypeStruct with the structure of the state.
      step: the step of the checkpoint; None for the newest.

    Returns:
      The state, with numpy leaves, and the history.

    Raises:
      UserError: no such checkpoint, a damaged one, or the state of another model.
    """
    directory = Path(directory)
    steps = _steps(directory)
    if not steps:
        raise UserError(f"no checkpoint in {directory}: run the stage that writes it first")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UserError(f"no checkpoint of step {step} in {directory}: it has steps {steps}")
    return restore_tree(_folder(directory, step), abstract_state)


def save_tree(path: Path, tree: Any, *, notes: Any) -> None:
    """Saves a pytree of arrays and JSON notes as a folder, completely or not at all.

    Args:
      path: the folder, which must not exist.
      tree: pytree of arrays.
      notes: JSON values.

    Raises:
      UserError: path exists, no permission, or a full disk.
    """
    _save(path, tree, notes, _write_tree)


def _save(path: Path, tree: Any, notes: Any, write: Callable[[Path, dict], None]) -> None:
    path = Path(path).absolute()
    if path.exists():
        raise UserError(f"{path} exists already: delete it, or save to another place")
    unfinished = path.with_name(path.name + _UNFINISHED)
    leaves = {name: np.asarray(leaf) for name, leaf in _named_leaves(tree).items()}
    with _explained(f"cannot save {path}"):
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            _check_space(unfinished, sum(leaf.nbytes for leaf in leaves.values()))
            _write(unfinished, leaves, notes, write)
            unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def restore_tree(
    path: Path,
    abstract_tree: Any,
    *,
    advice: str = "delete that folder to go on from the checkpoint before it",
) -> tuple[Any, Any]:
    """The tree and notes of a folder of save_tree, or of a checkpoint.

    Args:
      path: the folder.
      abstract_tree: pytree of arrays or jax.ShapeDtypeStruct with the saved structure.
      advice: what to do where it is damaged.

    Returns:
      The tree, with numpy leaves, and the notes.

    Raises:
      UserError: path is missing or damaged, or its names, shapes or dtypes are not those of
        abstract_tree.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}: run the stage that writes it first")
    with _explained(f"cannot read {path}"):
        if damaged := _damaged_file(path):
            raise UserError(f"{path} is damaged, its {damaged} is not as it was saved: {advice}")
        notes = json.loads((path / _NOTES).read_text())
        leaves = _read(path)
    expected = _named_leaves(abstract_tree)
    _check_matches(path, leaves, expected)
    structure = jax.tree.structure(abstract_tree)
    return jax.tree.unflatten(structure, [leaves[name] for name in expected]), notes


def _folder(directory: Path, step: int) -> Path:
    return directory / f"{step:08d}"


def _steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a folder, in ascending order."""
    if not directory.is_dir():
        return []
    with _explained(f"cannot read {directory}"):
        return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def _named_leaves(tree: Any) -> dict[str, Any]:
    """{name: leaf} of a pytree in its order, with names such as opt_state/0/mu/Dense_0/kernel."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _write(
    folder: Path, leaves: dict[str, np.ndarray], notes: Any, write: Callable[[Path, dict], None]
) -> None:
    write(folder, leaves)
    saved = _read(folder)
    for name, leaf in leaves.items():
        there = saved.get(name)
        if _describe(there) != _describe(leaf) or there.tobytes() != leaf.tobytes():
            raise OSError(errno.EIO, f"{name} is read back with other values")
    (folder / _NOTES).write_text(json.dumps(notes))
    files = [path for path in folder.rglob("*") if path.is_file()]
    checksums = {path.relative_to(folder).as_posix(): _checksum(path) for path in files}
    (folder / _CHECKSUMS).write_text(json.dumps(checksums))


def _write_state(folder: Path, leaves: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    arrays = traverse_util.unflatten_dict(leaves, sep="/")
    with _checkpointer() as checkpointer, _without_patterns(folder) as plain:
        checkpointer.save(plain / _STATE, args=ocp.args.PyTreeSave(arrays))


def _write_tree(folder: Path, leaves: dict[str, np.ndarray]) -> None:
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    (folder / _TREE).write_bytes(tensor_bytes(arrays, {}))


def _read(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder, by their names."""
    if (folder / _TREE).exists():
        return load_file(folder / _TREE)
    import orbax.checkpoint as ocp

    with _checkpointer() as checkpointer, _without_patterns(folder) as plain:
        return _named_leaves(checkpointer.restore(plain / _STATE, args=ocp.args.PyTreeRestore()))


@contextlib.contextmanager
def _without_patterns(folder: Path) -> Iterator[Path]:
    """The folder, by a path that Orbax cannot take for a pattern of paths."""
    if not set("[]\\*?{}") & set(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as links:
        link = Path(links) / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link


@contextlib.contextmanager
def _checkpointer() -> Iterator[ocp.Checkpointer]:
    """An Orbax checkpointer without log messages; its errors are raised."""
    import orbax.checkpoint as ocp

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        # Of this process alone, which sends restored values to the others.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix="alone",
        )
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            yield checkpointer
    finally:
        logger.setLevel(level)


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _damaged_file(path: Path) -> str | None:
    """The name of a file whose checksum differs from the saved one, None without such a file."""
    try:
        checksums = json.loads((path / _CHECKSUMS).read_text())
    except (FileNotFoundError, ValueError):
        return _CHECKSUMS
    listed = {Path(name).parts[0] for name in checksums} if isinstance(checksums, dict) else set()
    if _NOTES not in listed or not listed & {_STATE, _TREE}:
        return _CHECKSUMS
    for name, checksum in checksums.items():
        file = path / name
        if not file.is_file() or _checksum(file) != checksum:
            return name
    return None


def _check_matches(path: Path, saved: dict[str, np.ndarray], expected: dict[str, Any]) -> None:
    for name in sorted(saved.keys() | expected.keys()):
        there, here = (_describe(leaves.get(name)) for leaves in (saved, expected))
        if there != here:
            raise UserError(
                f"{path} holds another model, its {name} is {there} and {here} was expected: "
                "use the configuration that wrote it, or another folder"
            )


def _describe(leaf: Any) -> str:
    return "absent" if leaf is None else f"{list(leaf.shape)} {leaf.dtype}"


def _check_space(folder: Path, needed: int) -> None:
    # Orbax writes a little beside the arrays.
    if shutil.disk_usage(folder).free < 1.02 * needed + 2**20:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed")


@contextlib.contextmanager
def _explained(failure: str) -> Iterator[None]:
    """Raises errors of the file system as UserErrors that begin with the text `failure`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some disk space and run the same command again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "get permission there or choose another folder"
        else:
            advice = "choose another folder"
        raise UserError(f"{failure} ({error}): {advice}") from error
    except ValueError as error:
        # TensorStore, which Orbax writes with, raises this where the disk fills up.
        if "No space left on device" not in str(error):
            raise
        advice = "free some disk space and run the same command again"
        raise UserError(f"{failure} (No space left on device): {advice}") from error
