"""The examples that the page on use in a program names run."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from condense import condense, load_dataset, recipe_for

DOCS = Path(__file__).parents[2] / "docs"
TINY = {"steps": 2, "real_batch": 4, "network": "convnet-d1-w8"}


def example(name: str) -> ModuleType:
    """The module of an example."""
    found = importlib.util.spec_from_file_location(name, DOCS / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "digits"
    recipe = recipe_for("dm", "digits", (1, 8, 8), 5).override(TINY)
    condense(load_dataset("digits"), ipc=5, recipe=recipe, out=folder, device="cpu", quiet=True)
    return folder


@pytest.mark.filterwarnings("ignore")  # timm and Lightning warn of what this machine could do
def test_a_set_trains_a_timm_network_in_lightning(run: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("timm")
    assert example("lightning_timm").main(str(run), epochs=25) > 0.2


def test_a_set_trains_a_network_in_a_plain_loop(run: Path) -> None:
    assert example("plain_loop").main(str(run), epochs=100) > 0.5
