"""How fast every stage is on this machine, at the sizes of Meta-VQA: `hyper-meta benchmark`.

Work is measured warm, compilation apart, and set beside the matrix products that it must do and the
speed of one large matrix product here.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyper_meta.core import parallel
from hyper_meta.core.errors import UserError
from hyper_meta.core.files import write_json
from hyper_meta.core.progress import progress_bar
from hyper_meta.core.settings import BenchmarkSettings
from hyper_meta.eval.tables import as_text
from hyper_meta.workflows.benchmark_tables import load_tables
from hyper_meta.workflows.benchmark_works import Work, works
from hyper_meta.workflows.flops import Products, count_products

COMPILED = "/jax/core/compile/backend_compile_duration"
WARM_RUNS, ENOUGH_SECONDS = 3, 20.0
HEADING = "work,a second,GFLOP/s,of peak,GB/s,peak GiB,programs,compiling".split(",")
PEAK_RUNS = 5  # the first compiles
PEAK_SIZE = {"cpu": 2048}  # of the square matrices whose product is the machine's peak


def benchmark(config: BenchmarkSettings, only: list[str], out: Path | None) -> None:
    """Measures every work whose name holds one of only (all, where it is empty), prints a table and
    writes the figures to out, after each. Raises UserError where no work is meant."""
    makers = works(config)
    names = [name for name in makers if not only or any(part in name for part in only)]
    if not names:
        raise UserError(f"--only {' '.join(only)}: expected parts of {', '.join(makers)}")
    jax.config.update("jax_enable_compilation_cache", False)
    described = machine()
    tables, source = load_tables(config)
    rows: dict[str, Any] = {}
    for name in (bar := progress_bar(names, desc="benchmark", unit="work")):
        bar.set_postfix_str(name)
        rows[name] = measure_work(makers[name](tables), described["peak_flops_per_second"])
        jax.clear_caches()
        if out is not None:
            write_json(out, {"machine": described, "data": source, "work": rows})
    print(as_text(_table(rows)))
    print("\n" + ", ".join(f"{key} {value}" for key, value in described.items()))
    print(f"peak: {described['peak_flops_per_second'] / 1e9:.1f} GFLOP/s; data: {source}")


def machine() -> dict[str, Any]:
    """The machine in words and figures, with the FLOP/s of a large float32 matrix product on all
    its devices."""
    device = parallel.device()
    return {
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "processor": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "peak_flops_per_second": _peak(PEAK_SIZE.get(device.platform, 8192)),
    }


def _peak(size: int) -> float:
    squares = np.ones((jax.local_device_count(), size, size), np.float32)
    product = parallel.compile_map(lambda _, __, x: jnp.einsum("bij,bjk->bik", x, x)[:, :1, :1])
    fastest = min(_seconds(lambda: product(None, None, squares)) for _ in range(PEAK_RUNS))
    return 2.0 * squares.size * size / fastest


def measure_work(work: Work, peak: float) -> dict[str, Any]:
    """The figures of a work: see the table's headings; peak in FLOP/s."""
    compilations: list[float] = []

    def note(event: str, seconds: float, **_: Any) -> None:
        if event == COMPILED:
            compilations.append(seconds)

    calls: list[Products] = []
    jax.monitoring.register_event_duration_secs_listener(note)
    _reset_peak_memory()
    with parallel.observed(lambda *call: calls.append(_count(*call))):
        work.run()
    first, compiling = len(compilations), sum(compilations)
    times: list[float] = []
    while len(times) < WARM_RUNS and sum(times) < ENOUGH_SECONDS:
        times.append(_seconds(work.run))
    jax.monitoring.unregister_event_duration_listener(note)
    memory = _peak_memory()
    seconds, flops = statistics.median(times), sum(call.flops for call in calls)
    return {
        "unit": work.unit,
        "per_second": work.amount / seconds,
        "seconds": seconds,
        "runs": len(times),
        "flops": flops,
        "share_of_peak": flops / seconds / peak,
        "bytes": sum(call.bytes for call in calls),
        "peak_memory_bytes": memory,
        "compilations": first,
        "compilations_when_warm": len(compilations) - first,
        "compile_seconds": compiling,
    }


def _seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _count(fn: Callable, in_axes: Any, args: tuple) -> Products:
    """The matrix products of a call on all devices."""
    mapped = jax.vmap(fn, in_axes=in_axes, axis_name=parallel.AXIS)
    shared = args[2] if len(args) == 5 else None  # of a chunk of steps: the shape of each batch
    branches = None
    if isinstance(shared, np.ndarray):
        branches = np.bincount(shared) / len(shared)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    return count_products(mapped, *shapes, branches=branches)


def _reset_peak_memory() -> None:
    # Linux forgets the peak of a process where 5 is written here.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> int:
    """Of the first device where it keeps count, else of this process."""
    counted = parallel.device().memory_stats()
    if counted:
        return counted["peak_bytes_in_use"]
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _table(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    lines: list[list[str]] = [[*HEADING]]
    for name, row in rows.items():
        figures = [
            f"{row['per_second']:,.4g} {row['unit']}",
            f"{row['flops'] / row['seconds'] / 1e9:.1f}",
            f"{100 * row['share_of_peak']:.0f}%",
            f"{row['bytes'] / row['seconds'] / 1e9:.1f}",
            f"{row['peak_memory_bytes'] / 2**30:.1f}",
            f"{row['compilations']} + {row['compilations_when_warm']}",
            f"{row['compile_seconds']:.1f} s",
        ]
        lines.append([name, *figures])
    return lines
