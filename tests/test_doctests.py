"""The examples in docstrings run, and all that is public has one."""

import ast
import doctest
import importlib
import importlib.util
import pkgutil
from pathlib import Path

import pytest

PACKAGES = ("condense", "continual", "nas")


def modules(package: str) -> list[str]:
    """The names of a package and of all modules in it."""
    path = importlib.import_module(package).__path__
    return [package, *(module.name for module in pkgutil.walk_packages(path, f"{package}."))]


MODULES = [module for package in PACKAGES for module in modules(package)]


# Avalanche's dependencies import JAXopt, which announces its retirement.
@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained:DeprecationWarning")
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_run(name: str, tmp_path: Path, monkeypatch) -> None:
    module = pytest.importorskip(name, reason="needs Avalanche or Ray")
    monkeypatch.chdir(tmp_path)  # examples may write files
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, optionflags=options).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_and_class_has_an_example(name: str) -> None:
    source = importlib.util.find_spec(name).origin
    public = [
        node
        for node in ast.parse(Path(source).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not any(
            "cls=" in ast.unparse(call) for call in node.decorator_list
        )  # their help has them
    ]
    assert not [node.name for node in public if ">>>" not in (ast.get_docstring(node) or "")]
