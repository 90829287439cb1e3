"""No call of the library changes what belongs to the whole process.

A program that seeds its generators, filters its warnings or sets its environment finds them as they
were. What other packages do when they are first imported is theirs, so they are imported before.
"""

import importlib
import os
import pkgutil
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import condense as library
import continual
import nas
from condense import Protocol, condense, evaluate, load_dataset, recipe_for, resume
from condense.data.augment import make_augment
from condense.data.catalogue import Source, verify
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.methods import METHODS
from condense.methods.recipes import RECIPES
from condense.methods.selection import SELECTIONS, select
from condense.networks.build import build
from condense.networks.zoo import ZOO
from condense.report.pictures import grid
from condense.runs.shelf import Made, Selection, Shelf
from condense.sets.condensed import CondensedSet
from condense.sets.exchange import EXPORTERS, export_set, import_set
from condense.study.workers import Workers
from condense.training.experts import Training, train_experts
from nas.regime import Regime
from nas.search import search, train_reference

OTHERS = ("kornia", "matplotlib.figure", "rich.live", "rich.progress", "scipy.stats")
OTHERS += ("sklearn.datasets", "tensorboard", "torch.utils.tensorboard")
SMALL = {"network": "convnet-d1-w8", "real_batch": 8, "steps": 2}
LOOPS = {"outer_loops": 2, "inner_loops": 1}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """All modules, ours and those that ours import when they are used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in OTHERS:
            importlib.import_module(name)
        for package in (library, nas, continual):
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                importlib.import_module(module.name)


def state() -> dict[str, Any]:
    """What belongs to the whole process."""
    name, keys, *place = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy": (name, keys.tolist(), *place),
        "torch": torch.get_rng_state().tolist(),
        "warnings": list(warnings.filters),
        "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "folder": os.getcwd(),
        "path": list(sys.path),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "type": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "precision": torch.get_float32_matmul_precision(),
        "printing": np.get_printoptions(),
        "numbers": np.geterr(),
        "pixels": Image.MAX_IMAGE_PIXELS,
    }


@pytest.fixture
def untouched() -> Iterator[None]:
    """The test fails if it changes anything in `state`; no generator has its usual state."""
    random.seed(123)
    np.random.seed(123)
    torch.manual_seed(123)
    before = state()
    yield
    after = state()
    assert [what for what in before if before[what] != after[what]] == []


pytestmark = pytest.mark.usefixtures("untouched")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def made(digits: Dataset) -> CondensedSet:
    preprocess = make_preprocess("standard", digits)
    return select("random", digits, 2, preprocess=preprocess, seed=0)


def test_a_change_is_seen() -> None:
    """Each part of the state is compared: this changes some of it, and puts it back."""
    before = state()
    changes: dict[str, Callable[[], Any]] = {
        "random": random.random,
        "numpy": np.random.rand,
        "torch": lambda: torch.rand(1),
        "warnings": lambda: warnings.simplefilter("ignore"),
        "environment": lambda: os.environ.update(CONDENSEKIT_TEST="1"),
    }
    with warnings.catch_warnings():
        for what, change in changes.items():
            change()
            assert state()[what] != before[what]
    del os.environ["CONDENSEKIT_TEST"]
    random.setstate(before["random"])
    np.random.seed(123)
    torch.manual_seed(123)


def changed(recipe: Any, **more: Any) -> Any:
    known = {field for field in ("outer_loops", "inner_loops") if hasattr(recipe.method, field)}
    return recipe.override({**SMALL, **{field: LOOPS[field] for field in known}, **more})


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"mtt"}))
def test_condensing_by_every_method(name: str, digits: Dataset) -> None:
    recipe = recipe_for("dm", "digits", digits.shape, 1, method=name)
    if name in RECIPES:
        recipe = recipe_for(name, "digits", digits.shape, 1)
    condense(digits, ipc=1, recipe=changed(recipe), device="cpu", quiet=True)


def test_condensing_by_experts(digits: Dataset, tmp_path: Path) -> None:
    training = Training(network="convnet-d1-w8", preprocess="standard", passes=2)
    train_experts(digits, training, 1, tmp_path / "experts", device="cpu", quiet=True)
    settings = {"experts": str(tmp_path / "experts"), "max_start": 1, "preprocess": "standard"}
    recipe = recipe_for("mtt", "digits", digits.shape, 1)
    condense(digits, ipc=1, recipe=changed(recipe, **settings), device="cpu", quiet=True)


def test_a_run_in_a_folder_and_its_end(digits: Dataset, tmp_path: Path) -> None:
    recipe = changed(recipe_for("best", "digits", digits.shape, 1), pool=1, pool_steps=2)
    how = {"device": "cpu", "quiet": True, "checkpoint_every": 1}
    condense(digits, ipc=1, recipe=recipe, out=tmp_path / "run", **how)
    (tmp_path / "run" / "set.safetensors").unlink()
    resume(tmp_path / "run", quiet=True)


def test_the_shelf(digits: Dataset, tmp_path: Path) -> None:
    shelf = Shelf(folder=tmp_path, device="cpu", quiet=True)
    how = Selection(method="herding", network="convnet-d1-w8", feature_epochs=1)
    shelf.made(Made(source=Source(name="digits"), ipc=1, how=how), digits)


@pytest.mark.parametrize("augment", ["none", "dsa", "idc", "autoaugment", "randaugment"])
def test_evaluating(augment: str, digits: Dataset, made: CondensedSet, tmp_path: Path) -> None:
    protocol = Protocol(epochs=1, augment=augment)
    networks = ["convnet-d1-w8", "mlp"]
    evaluate(
        made, digits, networks, 1, protocol, device="cpu", store=tmp_path / "evaluations.sqlite"
    )


def test_evaluating_by_worker_processes(digits: Dataset, made: CondensedSet) -> None:
    workers = Workers(workers=1, device="cpu")
    evaluate(made, digits, "mlp", 1, Protocol(epochs=1), workers=workers)


@pytest.mark.parametrize("method", SELECTIONS)
def test_selecting(method: str, digits: Dataset) -> None:
    preprocess = make_preprocess("standard", digits)
    how = {"network": "convnet-d1-w8", "feature_epochs": 2, "device": "cpu"}
    select(method, digits, 1, preprocess=preprocess, seed=0, **how)


def test_loading(digits: Dataset, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (9, 9)).save(tmp_path / name / f"{number}.png")
    np.savez(
        tmp_path / "a.npz",
        train_images=digits.train.pixels[:, 0], train_labels=digits.train.labels,
        test_images=digits.test.pixels[:, 0], test_labels=digits.test.labels,
    )  # fmt: skip
    for name in (f"folder:{tmp_path}", str(tmp_path / "a.npz"), "digits"):
        verify(name, tmp_path)
    load_dataset("digits", resolution=9).hold_out(50, seed=0)
    for kind in ("standard", "zca"):
        make_preprocess(kind, load_dataset("digits"))


# DD-Ranking takes colour images alone, and digits are grey.
@pytest.mark.parametrize("form", [form for form in EXPORTERS if form != "ddranking"])
def test_sets_and_their_exchange(form: str, made: CondensedSet, tmp_path: Path) -> None:
    path = export_set(made, tmp_path / f"a.{form}", form)
    import_set(path, made.classes, made.preprocess)
    CondensedSet.load(made.save(tmp_path / "b.safetensors", storage="float16")).merge(made)
    grid(made, tmp_path / "grid.png")


def test_building_networks() -> None:
    for name in ("convnet", *ZOO):
        build(name, (3, 32, 32), 10)
    make_augment("dsa").training(torch.zeros(2, 3, 8, 8), 0, 0)


def test_streams(digits: Dataset, tmp_path: Path) -> None:
    few = {"orders": 1, "repeats": 1, "epochs": 1, "network": "convnet-d1-w8", "device": "cpu"}
    plan = continual.Plan(steps=2, methods=("random",), ipc=1, **few)
    continual.run(digits, plan, tmp_path / "scratch", quiet=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Avalanche's
def test_replay(digits: Dataset, tmp_path: Path) -> None:
    few = {"orders": 1, "repeats": 1, "epochs": 1, "network": "convnet-d1-w8", "device": "cpu"}
    replay = {"mode": "replay", "strategy": "er-ace", "batch": 64}
    plan = continual.Plan(steps=2, methods=("random",), ipc=1, **replay, **few)
    continual.run(digits, plan, tmp_path / "replay", quiet=True)


def test_searching(digits: Dataset, tmp_path: Path) -> None:
    regime = Regime(protocol=Protocol(epochs=1))
    how = {"space_name": "convnet720", "sample": [0, 1], "regime": regime, "held_out": 100}
    how |= {"workers": Workers(workers=0, device="cpu"), "quiet": True}
    search(digits, out=tmp_path / "search", proxies=["random:1"], seeds=1, **how)
    train_reference(digits, out=tmp_path / "reference", images=50, **how)
