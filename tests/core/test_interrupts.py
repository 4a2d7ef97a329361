"""Signals, while something else has the main thread."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hyper_meta

# A library that does not return, and one whose callback swallows what is raised in it.
BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"
SWALLOWS = """
import ctypes, time
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(a, b):
    time.sleep(2)
    return 0
ctypes.CDLL(None).qsort((ctypes.c_int * 100)(), 100, 4, compare)
"""
START = """
import signal, sys
from hyper_meta.core import interrupts
# As Python starts, also where a shell has it ignore Ctrl-C in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts.listen()
"""
ON_TERM = "signal.signal(signal.SIGTERM, lambda *_: None)\n"


def end(script, *, number=signal.SIGINT, times=1):
    """(exit code, stderr, seconds) of a script that gets a signal once it says that it begins."""
    environment = os.environ | {"PYTHONPATH": str(Path(hyper_meta.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begins\n"
    time.sleep(0.3)
    start = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.2)
    try:
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()  # one that does not end is no load on other tests
    return process.returncode, err, time.monotonic() - start


@pytest.mark.parametrize("work", [BUSY, SWALLOWS], ids=["busy", "swallows"])
def test_a_library_that_has_the_main_thread_keeps_no_signal(work):
    code, err, seconds = end(f"{START}print('begins', flush=True)\n{work}")
    assert code == 130 and err.endswith("hyper-meta: interrupted\n")
    assert seconds < 10


def test_where_nothing_is_lost_it_ends_at_once():
    work = f"with interrupts.at_once('stopped by {{}} here'):\n    {BUSY}"
    code, err, _ = end(
        f"{START}{ON_TERM}print('begins', flush=True)\n{work}", number=signal.SIGTERM
    )
    assert (code, err) == (143, "\nhyper-meta: stopped by SIGTERM here\n")


SAVES = """
import time
with interrupts.saving():
    print('begins', flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(1.5)
        print('saved', file=sys.stderr)
    sys.exit(7)
"""


@pytest.mark.parametrize("times, expected", [(1, (7, "saved\n")), (2, (130, None))])
def test_one_signal_is_left_to_whoever_saves_and_the_second_is_not(times, expected):
    hold = "" if times == 1 else "signal.signal(signal.SIGINT, lambda *_: None)\n"
    code, err, _ = end(START + hold + SAVES, times=times)
    assert code == expected[0]
    assert err == expected[1] or err.endswith("hyper-meta: interrupted\n")


def test_what_ends_by_itself_is_not_ended_again():
    work = """
import time
print('begins', flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    interrupts.leave_alone()
    time.sleep(1.5)
    sys.exit(5)
"""
    code, err, _ = end(START + work)
    assert (code, err) == (5, "")
