"""Programs that see several CPU devices."""

import contextlib
import os
import subprocess
import sys

import numpy as np


def run_on_eight_devices(script, *arguments):
    """Runs a test file as a script that sees eight devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def ends_on_eight_devices(script, folder):
    """The arrays that a test file writes as a script that sees eight devices, by name."""
    run_on_eight_devices(script, folder / "ends.npz")
    with np.load(folder / "ends.npz") as ends:
        assert ends["num_devices"] == 8
        yield ends
