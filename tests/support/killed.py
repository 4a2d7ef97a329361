"""Runs `hyper-meta ARGUMENTS` once for each [file, seconds], and kills it so long after that file
appears, or, where it is there already, after the start.

A script: children need to import nothing, and only a process that has not computed may fork.
"""

import json
import os
import signal
import sys
import time

# Imported for the children.
import hyper_meta.workflows.run  # noqa: F401
from hyper_meta.cli.main import main


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
    points, arguments = json.loads(sys.argv[1]), sys.argv[2:]
    for path, seconds in points:
        child = os.fork()
        if child == 0:
            _run(arguments)
        print(_kill(child, path, seconds), flush=True)
