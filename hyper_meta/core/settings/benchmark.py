"""The settings of a benchmark, the records of configs/benchmark.py."""

from __future__ import annotations

from hyper_meta.core.settings.rules import count
from hyper_meta.core.settings.run import RunSettings, record


@record
class MoreSettings:
    tasks: int = count("how many times as many tasks as Meta-VQA has")
    answers: int = count("how many times as many answers of each task")


@record
class BenchmarkSettings(RunSettings):
    """What configs/benchmark.py adds: the size of random tasks."""

    more: MoreSettings
