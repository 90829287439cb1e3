"""A shelf: the same set is made once, whoever asks, and however often its making is killed."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from condense import CondensedSet, UserError, condense, load_dataset, recipe_for
from condense.data.catalogue import Source
from condense.data.images import Dataset, Images
from condense.data.preprocess import Standardize, make_preprocess
from condense.methods.selection import select
from condense.reading import read_json
from condense.runs import shelf as module
from condense.runs.engine import Engine
from condense.runs.ranks import Ranks
from condense.runs.shelf import Made, Selection, Shelf, source_of

TINY = {"network": "convnet-d2-w8", "real_batch": 8, "steps": 6}
RECIPE = recipe_for("dm", "digits", (1, 8, 8), 1).override(TINY)
MADE = Made(source=Source(name="digits"), ipc=1, how=RECIPE)
CHOSEN = Made(source=Source(name="digits"), ipc=1, how=Selection(method="random"))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(folder=tmp_path / "sets", device="cpu", checkpoint_every=2, quiet=True)


@pytest.mark.parametrize("made", [MADE, CHOSEN])
def test_what_was_made_is_found(
    made: Made, digits: Dataset, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shelf.made(made, digits)
    for name in ("condense", "resume", "select"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("made again"))
    assert shelf.made(made).fingerprint == first.fingerprint
    assert source_of(shelf.place(made, digits)) == made.source


def test_it_is_the_set_that_is_made_without_a_shelf(digits: Dataset, shelf: Shelf) -> None:
    alone = condense(digits, ipc=1, recipe=RECIPE, seed=3, device="cpu", quiet=True)
    kept = shelf.made(dataclasses.replace(MADE, seed=3), digits)
    assert kept.fingerprint == alone.fingerprint
    transform = make_preprocess("standard", digits)
    assert (
        shelf.made(CHOSEN, digits).fingerprint
        == select("random", digits, 1, preprocess=transform, seed=0).fingerprint
    )


def test_all_sets_are_under_the_transform_of_the_shelf(digits: Dataset, shelf: Shelf) -> None:
    given = Standardize(mean=torch.tensor([0.25]), std=torch.tensor([0.5]))
    zca = dataclasses.replace(MADE, how=RECIPE.override({"preprocess": "zca"}))
    for made in (MADE, CHOSEN, zca):
        under = dataclasses.replace(shelf, preprocess=given).made(made, digits)
        assert under.preprocess.fingerprint == given.fingerprint
    assert under.provenance["recipe"]["preprocess"] == "standard"  # which it was made under


def _other(digits: Dataset, change: str) -> Dataset:
    """The digits with another name, names of classes, or one pixel changed."""
    train = digits.train
    if change == "name":
        return Dataset("mnist", train, digits.test)
    if change == "classes":
        names = tuple(f"digit {name}" for name in train.classes)
        renamed = (dataclasses.replace(part, classes=names) for part in (train, digits.test))
        return Dataset("digits", *renamed)
    pixels = train.pixels.clone()
    pixels[0, 0, 0, 0] += 1
    return Dataset("digits", Images(pixels, train.labels, train.classes), digits.test)


def test_whatever_decides_a_set_is_in_its_key(digits: Dataset, shelf: Shelf) -> None:
    given = make_preprocess("zca", digits)
    places = [
        shelf.place(MADE, digits),
        shelf.place(dataclasses.replace(MADE, ipc=2), digits),
        shelf.place(dataclasses.replace(MADE, seed=1), digits),
        shelf.place(dataclasses.replace(MADE, how=RECIPE.override({"lr": 3.0})), digits),
        shelf.place(MADE, digits, seconds=2),
        shelf.place(MADE, digits, seconds=3),
        shelf.place(CHOSEN, digits),
        shelf.place(dataclasses.replace(CHOSEN, how=Selection(method="herding")), digits),
        dataclasses.replace(shelf, preprocess=given).place(MADE, digits),
        *(shelf.place(MADE, _other(digits, change)) for change in ("name", "classes", "pixel")),
    ]
    assert len(set(places)) == len(places)
    elsewhere = dataclasses.replace(MADE, source=Source(name="digits", data_dir="moved"))
    assert shelf.place(elsewhere, load_dataset("digits")) == places[0]


ANOTHER = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, "tests/runs")
from condense.runs.engine import Engine
from test_shelf import MADE, Shelf

folder, behaviour = Path(sys.argv[1]), sys.argv[2]
step = Engine.step

def stepping(engine, number):
    if behaviour == "killed" and number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / behaviour).touch()
    while behaviour == "first" and not (folder / "go on").exists():
        time.sleep(0.01)
    return step(engine, number)

Engine.step = stepping
shelf = Shelf(folder=folder / "sets", device="cpu", checkpoint_every=2)
print(shelf.made(MADE).fingerprint)
"""


def another(folder: Path, behaviour: str) -> subprocess.Popen[str]:
    """A process that asks for `MADE`: `killed` on the way, or, if `first`, waiting for `go on`."""
    return subprocess.Popen(
        [sys.executable, "-c", ANOTHER, str(folder), behaviour],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_one_is_gone_on_with_to_the_same_set(
    digits: Dataset, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = another(tmp_path, "killed")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    steps, step = [], Engine.step

    def counted(engine: Engine, number: int) -> Any:
        steps.append(number)
        return step(engine, number)

    monkeypatch.setattr(Engine, "step", counted)
    resumed = shelf.made(MADE, digits)
    assert steps == [4, 5]  # the last checkpoint was after 4 steps
    alone = condense(digits, ipc=1, recipe=RECIPE, device="cpu", quiet=True)
    assert resumed.fingerprint == alone.fingerprint


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    first = another(tmp_path, "first")
    while not (tmp_path / "first").exists():
        assert first.poll() is None
    second = another(tmp_path, "second")
    assert second.stderr is not None
    assert "waiting for another process to make" in second.stderr.readline()
    (tmp_path / "go on").touch()
    (ours, _), (theirs, _) = (process.communicate(timeout=120) for process in (first, second))
    assert ours
    assert ours == theirs
    assert not (tmp_path / "second").exists()  # it made no step


def test_a_budget_of_seconds_becomes_steps_once(
    digits: Dataset, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def rehearse(*_: Any, **options: Any) -> Any:
        asked.append(options)
        return SimpleNamespace(step=0.5)

    monkeypatch.setattr(module, "rehearse", rehearse)
    condensed = [shelf.made(MADE, digits, seconds=1.5) for _ in range(2)]
    assert [one.provenance["steps"] for one in condensed] == [3, 3]
    assert len(asked) == 1


def test_what_a_recipe_needs_is_made_before_it_begins(digits: Dataset, shelf: Shelf) -> None:
    prepared = []

    def prepare(recipe: Any, dataset: Dataset) -> Any:
        prepared.append(dataset.name)
        return recipe.override({"steps": 2})

    preparing = dataclasses.replace(shelf, prepare=prepare)
    assert preparing.place(MADE, digits) == shelf.place(MADE, digits)
    assert [preparing.made(MADE, digits).provenance["steps"] for _ in range(2)] == [2, 2]
    assert prepared == ["digits"]
    assert read_json(shelf.place(MADE, digits) / "run.json")["job"]["recipe"]["steps"] == 2


def test_a_begun_selection_is_made_again(digits: Dataset, shelf: Shelf) -> None:
    shelf.place(CHOSEN, digits).mkdir(parents=True)
    assert isinstance(shelf.made(CHOSEN, digits), CondensedSet)


def test_where_it_cannot_work_it_says_so_in_one_line(
    digits: Dataset, tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write into"):
        dataclasses.replace(shelf, folder=tmp_path / "file").made(CHOSEN, digits)
    monkeypatch.setattr(Ranks, "join", lambda: Ranks(0, 2))
    with pytest.raises(UserError, match="several ranks cannot share"):
        shelf.made(CHOSEN, digits)
