"""The small quickstart, killed often: it must end with the same bits as without.

    python tests/kills.py --kills 50

A run is killed up to 20 times, soon after each thing that it leaves and now and then at some other
time, then comes to its end and is compared with an uninterrupted run. Code 1: one differs.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATHS = [str(ROOT), str(ROOT / "tests" / "support")]
sys.path[:0] = PATHS
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*PATHS, os.environ.get("PYTHONPATH")]))

from compiling import hurry  # noqa: E402

hurry()

import numpy as np  # noqa: E402
from killed import assert_same_bits, kill_points, run_and_kill  # noqa: E402
from small_quickstart import MARKS, command  # noqa: E402

from hyper_meta.cli.main import main as hyper_meta  # noqa: E402

OTHERS = 4  # kills of a run that come soon after its start


def run_whole(folder, workdir):
    """The small quickstart, to its end."""
    if hyper_meta(_command(folder, workdir)):
        sys.exit(f"the run in {workdir} failed")


def kill_a_run(folder, workdir, rng, num_kills):
    """The same, killed num_kills times before."""
    marks = MARKS[-max(num_kills - OTHERS, 1) :]
    points = kill_points(workdir, rng, marks=marks, others=num_kills - len(marks))
    ended, errors = run_and_kill(points, _command(folder, workdir))
    if ended != ["killed"] * num_kills:
        sys.exit(f"killed {ended.count('killed')} of {num_kills} times: {ended}\n{errors}")
    run_whole(folder, workdir)


def _command(folder, workdir):
    return command(workdir, data_dir=folder / "data", programs=folder / "programs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, done, most = np.random.default_rng(options.seed), 0, len(MARKS) + OTHERS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = folder / "whole"
        run_whole(folder, whole)
        while done < options.kills:
            number, workdir = min(most, options.kills - done), folder / f"killed_{done}"
            kill_a_run(folder, workdir, rng, number)
            assert_same_bits(workdir, whole)
            done += number
            print(f"{done} kills: all bits are those of an uninterrupted run", flush=True)


if __name__ == "__main__":
    main()
