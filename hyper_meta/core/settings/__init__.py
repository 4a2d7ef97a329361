"""Typed records of what a configuration file says, one for each of its sections."""

from hyper_meta.core.settings.benchmark import BenchmarkSettings
from hyper_meta.core.settings.encoder import EncoderSettings
from hyper_meta.core.settings.reading import as_dict, changed, read_settings, rules_of
from hyper_meta.core.settings.run import RunSettings

__all__ = [
    "BenchmarkSettings",
    "EncoderSettings",
    "RunSettings",
    "as_dict",
    "changed",
    "read_settings",
    "rules_of",
]
