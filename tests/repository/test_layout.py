"""How the package hangs together, read from its source."""

import ast
from pathlib import Path

import pytest

import hyper_meta

ROOT = Path(hyper_meta.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Lowest first; folders of one floor do not import each other.
FLOORS = [
    {"core"},
    {"networks", "encoders", "models", "data"},
    {"diffusion", "meta"},
    {"preparation", "train", "eval"},
    {"methods"},
    {"generation", "workflows"},
    {"inspect"},
    {"cli"},
]
# What may lie in the root: the public API, and `python -m hyper_meta`.
ROOT_FILES = ["__init__.py", "__main__.py"]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
MOST_LINES = {"module": 350, "function": 50}
NEVER = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "tensorflow", "torch"}


def _name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _nodes(path, *kinds):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def _imports(path):
    """Every module that a file imports, wherever in it, with what it takes from it."""
    names = []
    for node in _nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{path} has a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_point_down(path):
    mine = path.relative_to(ROOT).parts[0]
    for name in _imports(path):
        if name.split(".")[0] != "hyper_meta" or mine in ROOT_FILES:
            continue
        if name == "hyper_meta":  # the public API, which is above all but the command line
            assert mine == "cli", f"{_name(path)} imports the public API"
            continue
        other = name.split(".")[1]
        assert other == mine or LEVEL[other] < LEVEL[mine], f"{_name(path)} imports {name}"


def test_every_folder_has_a_floor_and_no_other_module_lies_in_the_root():
    folders = {path.name for path in ROOT.iterdir() if list(path.glob("**/*.py"))}
    assert folders == set(LEVEL)
    assert sorted(path.name for path in ROOT.glob("*.py")) == ROOT_FILES


def test_nothing_is_unpickled_and_neither_tensorflow_nor_torch_is_needed():
    for path in FILES:
        roots = {name.split(".")[0] for name in _imports(path)}
        assert not roots & NEVER, f"{_name(path)} imports {roots & NEVER}"
        for call in _nodes(path, ast.Call):
            for keyword in call.keywords:
                if keyword.arg == "allow_pickle":
                    allowed = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                    assert allowed, f"{_name(path)}:{call.lineno} allows pickle"


def test_only_parallel_maps_over_devices():
    for path in FILES:
        if path == ROOT / "core" / "parallel.py":
            continue
        used = {node.attr for node in _nodes(path, ast.Attribute)}
        used |= {name.rsplit(".", 1)[-1] for name in _imports(path)}
        assert not used & {"pmap", "shard_map", "local_devices"}, _name(path)


def test_no_module_is_named_after_nothing():
    assert not {path.stem for path in FILES} & {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_modules_and_functions_are_short(path):
    """Docstrings count."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES["module"]
    for node in _nodes(path, ast.FunctionDef):
        lines = node.end_lineno - node.lineno + 1
        assert lines <= MOST_LINES["function"], f"{node.name} has {lines} lines"


def test_no_two_files_of_tests_share_a_name():
    files = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert len(files) > 100 and len(set(files)) == len(files)
