"""How the package hangs together, read from its source."""

import ast
from pathlib import Path

import pytest

import hyper_meta

ROOT = Path(hyper_meta.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Lowest first; members of one layer do not import each other. Above them are the modules that join
# them (pipeline, generate, cli, ...), which lie in the package itself and may.
LAYERS = [
    {"types"},
    {"processes"},
    {"files", "losses", "parallel"},
    {"data", "encoders", "models"},
    {"diffusion", "meta"},
    {"eval", "train"},
    {"methods"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
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
def test_imports_point_one_way(path):
    mine = path.relative_to(ROOT).with_suffix("").parts[0]
    level = LEVEL.get(mine, len(LAYERS))
    for name in _imports(path):
        if name.split(".")[0] != "hyper_meta":
            continue
        other = name.split(".")[1]
        below = LEVEL.get(other, len(LAYERS)) < level
        beside = other == mine or level == LEVEL.get(other, level) == len(LAYERS)
        assert below or beside, f"{_name(path)} imports {name}"


def test_every_layer_is_there():
    present = {path.relative_to(ROOT).with_suffix("").parts[0] for path in FILES}
    assert set(LEVEL) <= present
    folders = {path.name for path in ROOT.iterdir() if list(path.glob("**/*.py"))}
    assert folders <= set(LEVEL), "give a new folder its place in LAYERS"


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
        if path == ROOT / "parallel.py":
            continue
        used = {node.attr for node in _nodes(path, ast.Attribute)}
        used |= {name.rsplit(".", 1)[-1] for name in _imports(path)}
        assert not used & {"pmap", "shard_map", "local_devices"}, _name(path)


def test_no_module_is_named_after_nothing():
    """STYLE rule 2."""
    assert not {path.stem for path in FILES} & {"utils", "util", "helpers", "common", "misc"}
