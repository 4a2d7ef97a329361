"""A folder in which data are prepared belongs to one process at a time; others wait."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hyper_meta.core.locks import in_turn

HOLD = """
import sys, time
from pathlib import Path
from hyper_meta.core.locks import in_turn
with in_turn(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_waits_and_says_for_whom(tmp_path, capfd):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        entered = threading.Event()

        def enter():
            with in_turn(tmp_path):
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.3)
        other.stdin.close()
        waiting.join(60)
    assert entered.is_set()
    said = capfd.readouterr().err
    assert f"process {other.pid} of " in said and "prepares data in" in said
    assert said.count("\n") == 1


def test_it_is_free_however_the_first_one_ended(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with in_turn(tmp_path):
            raise ZeroDivisionError
    with in_turn(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a read-only place, which root has in /proc")
def test_where_nothing_can_be_written_nobody_waits():
    with in_turn(Path("/proc/1/none")):
        pass
