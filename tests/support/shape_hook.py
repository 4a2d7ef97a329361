"""An import hook that gives the functions of hyper_meta the checks of shape_checks.

jaxtyping has a hook as well. It wraps every function, also where there is nothing to check, and
while it imports a module, other packages that the module imports are compiled anew: together a
seventh of the time of the tests. Here a function without arrays stays as it is.
"""

import ast
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType


def install(package: str) -> None:
    """To be called before the package is imported."""
    sys.meta_path.insert(0, _Finder(package))


class _Finder(MetaPathFinder):
    def __init__(self, package: str):
        self.package = package

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        if fullname.split(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """The decorated module; only one with arrays is compiled for it, and nothing is cached."""
        source = self.get_data(self.path)
        if b"jaxtyping" not in source and b"hyper_meta.core.types" not in source:
            return super().get_code(fullname)
        tree = ast.parse(source, self.path)
        for node in tree.body:
            _decorate(node)
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


def _decorate(node: ast.stmt) -> None:
    """Functions get their check below other decorators, which hide annotations, classes above."""
    if isinstance(node, ast.FunctionDef):
        node.decorator_list.append(_decorator("checked", node))
    if isinstance(node, ast.ClassDef):
        node.decorator_list.insert(0, _decorator("checked_record", node))
        for part in node.body:
            _decorate(part)


def _decorator(name: str, node: ast.stmt) -> ast.expr:
    expression = ast.parse(f"__import__('shape_checks').{name}", mode="eval").body
    for part in ast.walk(expression):
        ast.copy_location(part, node)
    return expression
