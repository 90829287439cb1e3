"""Every command and code block of the documents works, shortened where it would take long."""

import ast
import importlib
import re
import sys
import tomllib
import warnings
from itertools import dropwhile
from pathlib import Path
from typing import Any

import click
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import blocks

import cli

with warnings.catch_warnings():
    # JAXopt, which Avalanche's dependencies import, says that it is no longer maintained.
    warnings.simplefilter("ignore", DeprecationWarning)
    import avalanche.training.supervised  # noqa: F401

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUN = [
    ROOT / "README.md",
    DOCS / "faq.md",
    *sorted((DOCS / "how").glob("*.md")),
    *sorted((DOCS / "concepts").glob("*.md")),
]
"""Pages whose blocks are run here."""
INSTALLED = sorted((DOCS / "tutorial").glob("*.md"))
"""Those that run with the installed package: `make package`."""
ALL = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "extend"),
]


def names(pages: list[Path]) -> Any:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.mark.slow
@names(RUN)
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(blocks.PRELUDE, space)
    _photos(tmp_path / "photos")
    with torch.compiler.set_stance("force_eager"):  # dry runs would compile
        blocks.run(
            page,
            lambda words: cli.cli.main(words, standalone_mode=False),
            lambda code: exec(code, space),
        )


def _photos(folder: Path) -> None:
    """Eight pictures of two classes, for pages that have a folder of photos."""
    from PIL import Image

    for name, colour in (("cats", "red"), ("dogs", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (40, 30 + number), colour).save(folder / name / f"{number}.png")


SETS_A_VARIABLE = re.compile(r"[A-Z_]+=")


@names(ALL)
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    for language, text in blocks.blocks(page):
        if language != "python":
            for words in blocks.lines(text):
                understand(list(dropwhile(SETS_A_VARIABLE.match, words)))


def understand(words: list[str]) -> None:
    """Fail unless a command exists and has these options."""
    match words:
        case ["condensekit", *arguments]:
            parsed(cli.cli, arguments)
        case ["torchrun", "--nproc-per-node", _, "cli.py", *arguments]:
            parsed(cli.cli, arguments)
        case ["python", "-m", module, *arguments]:
            package = ROOT.joinpath(*module.split("."), "__main__.py").exists()
            name = f"{module}.__main__" if package else module
            parsed(importlib.import_module(name).main, arguments)
        case ["make", *targets]:
            known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert set(targets) <= set(known)
        case ["pip", "install", *what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            for extra in re.findall(r"\[(\w+)\]", " ".join(what)):
                assert extra in extras["optional-dependencies"]
        case [script, *_]:
            assert (ROOT / script).exists(), words


def parsed(command: click.Command, arguments: list[str]) -> None:
    """Parse a command line as click does, without calling anything."""
    with command.make_context(command.name, list(arguments)) as context:
        # Click has no public name for what a group has not parsed yet.
        rest = [*context._protected_args, *context.args]
        if rest and isinstance(command, click.Group):
            name, sub, left = command.resolve_command(context, rest)
            assert sub is not None, name
            parsed(sub, left)


@names(ALL)
def test_every_python_block_of_a_page_imports_what_there_is(page: Path) -> None:
    for language, text in blocks.blocks(page):
        if language == "python":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in (
                    "condense",
                    "continual",
                    "nas",
                ):
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names)


def test_every_page_is_run_somewhere_or_has_no_blocks_of_its_own() -> None:
    deep = {"continual.md", "nas.md", "tables.md", "performance.md", "results.md", "memories.md"}
    for page in sorted(DOCS.rglob("*.md")):
        if page in RUN or page in INSTALLED or page.parent.name == "extend":
            continue
        assert page.name in deep or not list(blocks.blocks(page)), page
