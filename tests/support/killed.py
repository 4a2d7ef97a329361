"""Runs that are killed, again and again, and what they leave compared with an uninterrupted one.

As a script: runs `hyper-meta ARGUMENTS` once for each [file, seconds] and kills it so long after
that file appears, or, where it is there already, after the start. Its children import nothing: they
are forked from this process. Only a process that has not computed may fork.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
from small_quickstart import MARKS, STAGES


def kill_points(workdir, rng, *, marks=MARKS, others=0):
    """[file, seconds] of each kill: soon after each mark, and in between soon after the start."""
    points = [[str(workdir / mark), rng.uniform(0, 0.5)] for mark in marks]
    for place in reversed(range(1, others + 1)):
        start = [str(workdir), rng.uniform(0, 5)]
        points.insert(round(place * len(marks) / (others + 1)), start)
    return points


def run_and_kill(points, command):
    """How the command ended at each of the points, "killed" or an exit code, and its errors."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(points), *command], capture_output=True, text=True
    )
    return done.stdout.split(), done.stderr


def assert_same_bits(workdir, other):
    """Scores, curves and figures of two finished runs are the same."""
    for name in ("scores.json", *(f"curves/{stage}.json" for stage in STAGES)):
        assert_same_file(workdir / "seed_0", other / "seed_0", name)
    left, right = (np.load(run / "seed_0" / "shown.npz") for run in (workdir, other))
    assert left.files == right.files
    for name in left.files:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def assert_same_file(folder, other, name):
    """A file of two folders has the same text."""
    assert (folder / name).read_text() == (other / name).read_text(), name


def _run(arguments):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(main(arguments))


def _kill(child, path, seconds):
    """How it ended: "killed", or its exit code where it came to its end before."""
    while not os.path.exists(path):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    from hyper_meta.cli.main import hide_torch, main

    # Imported for the children.
    hide_torch()
    import hyper_meta.workflows.run  # noqa: F401

    places, given = json.loads(sys.argv[1]), sys.argv[2:]
    for path, seconds in places:
        child = os.fork()
        if child == 0:
            _run(given)
        print(_kill(child, path, seconds), flush=True)
