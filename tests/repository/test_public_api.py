"""`import hyper_meta`: which names it offers, and that none is imported before it is used."""

import ast
import importlib
import inspect
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import hyper_meta

ROOT = Path(hyper_meta.__file__).parent


def in_new_process(code: str, *, folder: Path) -> str:
    """What the code prints in a process that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_no_library(tmp_path):
    code = """
import sys
before = set(sys.modules)
import hyper_meta
dir(hyper_meta), hyper_meta.__version__, hyper_meta.UserError
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(roots - set(sys.stdlib_module_names)))
"""
    assert in_new_process(code, folder=tmp_path) == "hyper_meta"


def test_a_name_is_imported_when_it_is_used(tmp_path):
    code = """
import sys, hyper_meta
assert "generate" not in vars(hyper_meta) and "jax" not in sys.modules
from hyper_meta import generate
assert hyper_meta.generate is generate is vars(hyper_meta)["generate"] and "jax" in sys.modules
from hyper_meta import *
print(generate.__module__, __version__ == hyper_meta.__version__)
"""
    module = hyper_meta.generate.__module__
    assert in_new_process(code, folder=tmp_path) == f"{module} True"


def test_libraries_make_no_remarks_where_there_is_no_pytorch(tmp_path):
    code = """
import io, sys
sys.modules["torch"], sys.stderr = None, io.StringIO()
from hyper_meta import *
print(repr(sys.stderr.getvalue()))
"""
    assert in_new_process(code, folder=tmp_path) == "''"


@pytest.mark.parametrize("name", sorted(set(hyper_meta.__all__) - {"__version__"}))
def test_every_public_name_is_documented_where_it_comes_from(name):
    value = getattr(hyper_meta, name)
    assert value is getattr(importlib.import_module(value.__module__), name)
    assert value.__module__.startswith("hyper_meta.") and inspect.getdoc(value)
    assert name in dir(hyper_meta)


def test_type_checkers_see_the_same_names():
    """Those of `if TYPE_CHECKING` come from the modules that __getattr__ imports."""
    seen = {
        alias.name: node.module.removeprefix("hyper_meta.")
        for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("hyper_meta.")
        for alias in node.names
    }
    assert seen == hyper_meta._MODULES
    assert {*seen, "__version__"} == set(hyper_meta.__all__)


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="'hyper_meta' has no attribute 'genarate'"):
        hyper_meta.genarate  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'genarate'"):
        from hyper_meta import genarate  # noqa: F401


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    assert hyper_meta.__version__ == metadata.version("hyper_meta") == project["version"]


def test_the_version_of_source_that_is_not_installed(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert hyper_meta._installed_version() == "0+unknown"
