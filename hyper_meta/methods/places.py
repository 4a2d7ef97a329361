"""Where the results of a seed and of each method lie in a work directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def seed_dir(workdir: Path, seed: int) -> Path:
    """Where the results of one seed are kept."""
    return workdir / f"seed_{seed}"


def stage_dir(folder: Path, name: str, rate: float, rates: Sequence[float]) -> Path:
    """Where the checkpoints of a method's stage are kept, in the folder of a seed: one place for
    each learning rate where there are several."""
    return folder / (name if len(rates) == 1 else f"{name}_rate_{rate:g}")


def trained_parts(folder: Path, name: str) -> list[Path]:
    """What the training of a method left in the folder of a seed: checkpoints and arrays. Its
    curve, which is written whenever it is restored, is none of them."""
    patterns = (name, f"{name}_rate_*", f"{name}_latents")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]
