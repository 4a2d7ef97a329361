"""What the package imports is what requirements.txt asks for."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Packages that are not imported here, and what needs them.
NOT_IMPORTED = {"array-record": "tensorflow-datasets", "importlib-resources": "tensorflow-datasets"}


def _normalise(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported():
    """The top-level modules that files of the package import anywhere in them."""
    names = set()
    for path in (ROOT / "hyper_meta").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"hyper_meta"}


# Packages that are imported where they are used, and the extra that asks for each.
EXTRAS = {"datasets": "datasets", "onnx": "onnx", "sentencepiece": "siglip"}


def _required():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = [re.match(r"[\w.-]+", line) for line in lines if not line.startswith("#")]
    return {_normalise(name.group()) for name in names if name}


def test_direct_dependencies_are_declared_and_no_others():
    distributions = metadata.packages_distributions()
    imported = {_normalise(distributions[name][0]) for name in _imported()}
    assert (imported - EXTRAS.keys()) | set(NOT_IMPORTED) == _required()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert imported >= EXTRAS.keys()
    assert extras["optional-dependencies"].keys() >= set(EXTRAS.values())
    assert imported.isdisjoint(NOT_IMPORTED)
