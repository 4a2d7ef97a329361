"""How long `hyper-meta` takes to answer: help, mistakes, and `import hyper_meta`.

A script, not a test: times depend on the machine and on what else it does.

  python tests/startup.py
  python tests/startup.py --python OTHER/.venv/bin/python --commands hyper_meta.cli:main

What is imported, and for how long: python -X importtime -m hyper_meta --help
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUICKSTART = str(Path(__file__).resolve().parents[1] / "configs" / "quickstart.py")
RUN = ("run", "--workdir", "new", "--config")
ANSWERS = {
    "help": ["--help"],
    "help of a command": ["run", "--help"],
    "unknown command": ["ruin"],
    "unknown option": ["generate", "--wordkir", "new"],
    "no such config": [*RUN, "none.py"],
    "override of another type": [*RUN, QUICKSTART, "--config.seed=one"],
    "override out of range": [*RUN, QUICKSTART, "--config.seed=-1"],
    "unknown data set": [*RUN, QUICKSTART, "--config.dataset=none"],
    "unknown method": ["train", *RUN[1:], QUICKSTART, "--method", "none"],
    "generate without a run": ["generate", "--workdir", "none", "--out", "o", "--task", "Which?"],
    "compare without a run": ["compare", "none", "none"],
}


def measure(command: list[str], repeats: int) -> tuple[float, float]:
    """Median seconds on the clock and of processors, in an empty folder."""
    walls, cpus = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            before, start = _children(), time.perf_counter()
            subprocess.run(command, capture_output=True, cwd=folder)
            walls.append(time.perf_counter() - start)
            cpus.append(_children() - before)
    return statistics.median(walls), statistics.median(cpus)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--commands", default="hyper_meta.cli.main:main", metavar="MODULE:NAME")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    module, _, name = arguments.commands.partition(":")
    code = f"import sys; from {module} import {name}; sys.exit({name}())"
    imported = {"python alone": ["pass"], "import hyper_meta": ["import hyper_meta"]}
    cases = imported | {case: [code, *argv] for case, argv in ANSWERS.items()}
    print(f"{'':26}{'clock':>8}{'CPU':>8}   seconds, median of {arguments.repeats}")
    for case, argv in cases.items():
        wall, cpu = measure([arguments.python, "-c", *argv], arguments.repeats)
        print(f"{case:26}{wall:8.2f}{cpu:8.2f}", flush=True)
    print(f"processors {os.cpu_count()}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
