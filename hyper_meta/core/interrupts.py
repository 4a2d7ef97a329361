"""Signals, heard at any moment.

Python's own handlers wait until a library's function returns, which may compile for half a minute,
and an exception that one raises in a library's callback is lost. Here a thread hears of each signal
at once, and ends the process where the main thread does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

ENDING = (signal.SIGINT, signal.SIGTERM)
GRACE = 1.0  # seconds in which the main thread may end by itself


@dataclasses.dataclass(eq=False)
class _Plan:
    """What becomes of a signal. line: said where the process is ended, with {} for the signal;
    grace: seconds before that; spared: how many signals are left to whoever handles them."""

    line: str = "interrupted"
    grace: float = GRACE
    spared: int = 0


_plans = [_Plan()]
_heard: list[int] = []


def listen() -> None:
    """Starts to hear the signals of this process that have a handler in Python."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read,), name="signals", daemon=True).start()


def heard() -> list[int]:
    """The signals that came while `listen` heard them, and were left to nobody."""
    return list(_heard)


def leave_alone() -> None:
    """From now on the process ends by itself."""
    _plans.append(_Plan(spared=sys.maxsize))


@contextlib.contextmanager
def at_once(line: str) -> Iterator[None]:
    """Within, nothing is lost where the process ends: a signal ends it with a line, {} the name of
    the signal."""
    with _planned(_Plan(line, grace=0.0)):
        yield


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Within, one signal is left to a handler that saves first."""
    with _planned(_Plan(spared=1)):
        yield


@contextlib.contextmanager
def _planned(plan: _Plan) -> Iterator[None]:
    _plans.append(plan)
    try:
        yield
    finally:
        _plans.remove(plan)


def _watch(pipe: int) -> None:
    while True:
        number, plan = os.read(pipe, 1)[0], _plans[-1]
        if number not in ENDING:
            continue
        if plan.spared:
            plan.spared -= 1
            continue
        _heard.append(number)
        time.sleep(plan.grace)
        if not _plans[-1].spared:
            line = plan.line.format(signal.Signals(number).name)
            os.write(sys.__stderr__.fileno(), f"\nhyper-meta: {line}\n".encode())
            os._exit(128 + number)
