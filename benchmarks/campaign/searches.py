"""The campaign's architecture searches: random cells and the 720 grid, each beside the truth.

nas-set         a condensed set, made without the images that candidates are scored by
nas-cells       random cells of NAS-Bench-201, ranked by it, by random images and by early stopping
nas-grid-set    the 720 ConvNets trained on the set alone: what a ranking by a set costs
nas-reference   their truth: each trained on all real images that are not held out
nas-grid        their ranking by the three proxies, judged by that truth

A job here is a search in a folder of its own over one store, `nas.sqlite` in the results folder:
stopped, it leaves there what it had finished, and is begun again over the same store.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condense import UserError, recipe_for
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.runs.shelf import Made, Shelf
from nas.plan import change
from nas.search import SearchResult, search, train_reference
from nas.spaces import space

if TYPE_CHECKING:
    from benchmarks.campaign.workplace import Workplace

CELLS, GRID = "nasbench201", "convnet720"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchScale:
    """How much is done. The regimes are the spaces' own but for what is changed."""

    dataset: str = "cifar10"
    images: int = 45_000
    """Real training images that are not held out: for the order of the jobs."""
    ipc: int = 50
    held_out: int = 5000
    recipe: dict[str, Any] = field(
        default_factory=lambda: {"loss_scale": 100.0, "preprocess": "standard"}
    )
    """Standardised, as the real images are that it is compared with."""
    cells: int = 100
    grid: tuple[int, ...] = ()
    """Indices of the ConvNets; none for all."""
    seeds: int = 5
    """Trainings of each cell on each proxy; a ConvNet is trained once."""
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What is changed in a space's regime."""
    reference_epochs: int = 5


_SMALL = {"epochs": 1, "cells": 1, "width": 4}
SMOKE = SearchScale(
    dataset="digits",
    images=1000,
    ipc=2,
    held_out=50,
    recipe={"steps": 4, "real_batch": 8, "network": "convnet-d2-w8"},
    cells=2,
    grid=(0, 1),  # small networks, which digits are large enough for
    seeds=1,
    changes={CELLS: _SMALL, GRID: {"epochs": 1}},
    reference_epochs=1,
)


def plan(scale: SearchScale) -> Iterator[tuple[float, str, Callable[["Workplace", str], None]]]:
    """The jobs: the images each takes through a network (backward counts twice), name, work."""
    recipe = recipe_for("paper", scale.dataset, (3, 32, 32), scale.ipc).override(scale.recipe)
    images, grid = 10 * scale.ipc, len(scale.grid) or space(GRID).SIZE
    condensing = recipe.steps * 10 * (recipe.real_batch + 3 * scale.ipc)
    a_cell, a_convnet = (3 * space(name).REGIME.protocol.epochs * images for name in (CELLS, GRID))
    truth = 3 * grid * scale.reference_epochs * scale.images
    yield condensing, "nas-set", partial(make_set, scale=scale)
    yield (
        condensing + 3 * scale.cells * scale.seeds * a_cell,
        "nas-cells",
        partial(rank_cells, scale=scale),
    )
    yield (
        condensing + grid * a_convnet,
        "nas-grid-set",
        partial(rank_grid, scale=scale, judged=False),
    )
    yield truth, "nas-reference", partial(make_reference, scale=scale)
    yield truth + 3 * grid * a_convnet, "nas-grid", partial(rank_grid, scale=scale, judged=True)


def make_set(place: "Workplace", name: str, *, scale: SearchScale) -> None:
    """Condense the set, without the images that are held out."""
    record, shelf = place.record(name), Shelf(folder=place.out / f"{name}.run")
    rest = _dataset(place, scale).hold_out(scale.held_out, seed=0)
    recipe = recipe_for("paper", rest.name, rest.shape, scale.ipc).override(scale.recipe)
    source = Source(name=scale.dataset, data_dir=place.data_dir, hold_out=scale.held_out)
    with place.leg(record, "condense"):
        condensed = shelf.made(Made(source=source, ipc=scale.ipc, how=recipe), rest)
    condensed.save(_set(place), storage="float16")
    shutil.rmtree(shelf.folder)
    place.keep(
        record | {"finished": True, "ipc": scale.ipc, "recipe": recipe.to_json()},
        f"{recipe.steps} steps",
    )


def rank_cells(place: "Workplace", name: str, *, scale: SearchScale) -> None:
    """Rank random cells by the three proxies."""
    choice = {
        "space_name": CELLS,
        "proxies": _proxies(place, scale),
        "sample": scale.cells,
        "seeds": scale.seeds,
    }
    _search(place, name, scale, choice)


def rank_grid(place: "Workplace", name: str, *, scale: SearchScale, judged: bool) -> None:
    """Rank the ConvNets: by the condensed set alone, or by the three proxies beside the truth."""
    proxies = _proxies(place, scale) if judged else _proxies(place, scale)[:1]
    choice = {"space_name": GRID, "proxies": proxies, "sample": scale.grid or 0, "seeds": 1}
    _search(
        place,
        name,
        scale,
        choice | ({"reference": _needed(place, "nas-reference", "csv")} if judged else {}),
    )


def make_reference(place: "Workplace", name: str, *, scale: SearchScale) -> None:
    """Train the ConvNets on the real images: `nas-reference.csv`."""
    regime = change(space(GRID).REFERENCE_REGIME, epochs=scale.reference_epochs)
    choice = {
        "space_name": GRID,
        "sample": scale.grid or 0,
        "regime": regime,
        "held_out": scale.held_out,
    }
    result, record = _run(place, name, scale, train_reference, choice)
    shutil.copy(result.folder / "reference.csv", place.out / f"{name}.csv")
    shutil.rmtree(result.folder)
    place.keep(
        record | {"finished": True}, f"{result.done} trainings of {scale.reference_epochs} epochs"
    )


def _search(place: "Workplace", name: str, scale: SearchScale, choice: dict[str, Any]) -> None:
    """A search, and its ranking into the job's record."""
    regime = change(
        space(choice["space_name"]).REGIME, **scale.changes.get(choice["space_name"], {})
    )
    result, record = _run(
        place, name, scale, search, choice | {"regime": regime, "held_out": scale.held_out}
    )
    assert result.ranking is not None
    ranked = result.ranking.to_json() | {"notes": result.notes, "finished": True}
    rho = result.ranking.agreements and result.ranking.agreements[result.ranking.by]["spearman"]
    note = (
        f"Spearman {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}] by {result.ranking.by}"
        if rho
        else "no reference"
    )
    shutil.rmtree(result.folder)
    place.keep(record | ranked, f"{result.done} trainings, {note}")


def _run(
    place: "Workplace",
    name: str,
    scale: SearchScale,
    work: Callable[..., SearchResult],
    choice: dict[str, Any],
) -> tuple[SearchResult, dict[str, Any]]:
    """A search or a reference run over the store of all; its result and the job's record."""
    record, folder = place.record(name), place.out / f"{name}.run"
    shutil.rmtree(folder, ignore_errors=True)  # what is trained is in the store
    source = Source(name=scale.dataset, data_dir=place.data_dir)
    with place.leg(record, "train"):
        shared = {"source": source, "workers": place.workers, "store": place.out / "nas.sqlite"}
        return work(_dataset(place, scale), out=folder, **shared, **choice), record


def _dataset(place: "Workplace", scale: SearchScale) -> Dataset:
    return place.dataset(scale.dataset)


def _set(place: "Workplace") -> Path:
    return place.out / "nas-set.safetensors"


def _proxies(place: "Workplace", scale: SearchScale) -> list[str]:
    return [str(_needed(place, "nas-set", "safetensors")), f"random:{scale.ipc}", "early-stop"]


def _needed(place: "Workplace", job: str, suffix: str) -> Path:
    """What another job leaves."""
    path = place.out / f"{job}.{suffix}"
    if not path.exists():
        raise UserError(f"{path} is missing: the job {job} has to be done first")
    return path
