"""Compiled programs that are kept between processes."""

from __future__ import annotations

from pathlib import Path

import jax
from filelock import FileLock

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import reason

# Some 2,000 programs: to keep one, jax reads the notes of all that are kept.
CACHE_BYTES = 2**28
# What generate and predict compile: small programs, which are many, so in a folder of their own.
QUICK = "quick"
DEFAULT_FOLDER = "~/.cache/hyper_meta/compiled"


def keep_programs(folder: str) -> None:
    """Keeps the programs that take a second or longer to compile in a folder, unless it is "".

    Raises UserError where there can be no such folder.
    """
    if not folder:
        return
    path = Path(folder).expanduser()
    try:
        _remove_half_kept(path)
    except OSError as error:
        raise UserError(
            f"compiled programs cannot be kept in {path}: {reason(error)}. Give "
            'another folder as --config.compilation_cache, or "" to keep none'
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)


def keep_quick_programs(folder: str = DEFAULT_FOLDER) -> None:
    """Keeps every program of a process that answers at once, however short it compiles. Where there
    can be no folder, or it is "", none is kept."""
    try:
        keep_programs(str(Path(folder) / QUICK) if folder else "")
    except UserError:
        return
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _remove_half_kept(folder: Path) -> None:
    """Removes the programs of processes that were killed while they kept them.

    jax writes NAME-cache, then NAME-atime, under the lock .lockfile; where it misses the second, it
    keeps no other program and warns of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lockfile"):
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
                program.unlink()
