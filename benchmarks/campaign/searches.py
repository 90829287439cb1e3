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
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.campaign.workplace import Planned, Workplace
from condense import UserError, recipe_for
from condense.data.catalogue import Source
from condense.runs.shelf import Made, Shelf
from nas.plan import change
from nas.search import SearchResult, search, train_reference
from nas.spaces import space

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

    def plan(self) -> Planned:
        """The jobs: the images each takes through a network (backward counts twice), name, work."""
        recipe = recipe_for("paper", self.dataset, (3, 32, 32), self.ipc).override(self.recipe)
        images, grid = 10 * self.ipc, len(self.grid) or space(GRID).SIZE
        set_ = recipe.steps * 10 * (recipe.real_batch + 3 * self.ipc)
        cell, convnet = (3 * space(of).REGIME.protocol.epochs * images for of in (CELLS, GRID))
        truth = 3 * grid * self.reference_epochs * self.images
        yield set_, "nas-set", self.make_set
        yield set_ + 3 * self.cells * self.seeds * cell, "nas-cells", self.rank_cells
        yield set_ + grid * convnet, "nas-grid-set", partial(self.rank_grid, judged=False)
        yield truth, "nas-reference", self.make_reference
        yield truth + 3 * grid * convnet, "nas-grid", partial(self.rank_grid, judged=True)

    def make_set(self, place: Workplace, name: str) -> None:
        """Condense the set, without the images that are held out."""
        record, shelf = place.record(name), Shelf(folder=place.out / f"{name}.run")
        rest = place.dataset(self.dataset).hold_out(self.held_out, seed=0)
        recipe = recipe_for("paper", rest.name, rest.shape, self.ipc).override(self.recipe)
        source = Source(name=self.dataset, data_dir=place.data_dir, hold_out=self.held_out)
        with place.leg(record, "condense"):
            condensed = shelf.made(Made(source=source, ipc=self.ipc, how=recipe), rest)
        condensed.save(place.out / "nas-set.safetensors", storage="float16")
        shutil.rmtree(shelf.folder)
        record |= {"finished": True, "ipc": self.ipc, "recipe": recipe.to_json()}
        place.keep(record, f"{recipe.steps} steps")

    def rank_cells(self, place: Workplace, name: str) -> None:
        """Rank random cells by the three proxies."""
        choice = {"space_name": CELLS, "proxies": self._proxies(place), "sample": self.cells}
        self._search(place, name, choice | {"seeds": self.seeds})

    def rank_grid(self, place: Workplace, name: str, *, judged: bool) -> None:
        """Rank the ConvNets: by the set alone, or by the three proxies beside the truth."""
        choice: dict[str, Any] = {"space_name": GRID, "sample": self.grid or 0, "seeds": 1}
        proxies = self._proxies(place)
        if judged:
            choice |= {"reference": _needed(place, "nas-reference", "csv")}
        self._search(place, name, choice | {"proxies": proxies if judged else proxies[:1]})

    def make_reference(self, place: Workplace, name: str) -> None:
        """Train the ConvNets on the real images: `nas-reference.csv`."""
        regime = change(space(GRID).REFERENCE_REGIME, epochs=self.reference_epochs)
        choice = {"space_name": GRID, "sample": self.grid or 0, "regime": regime}
        result, record = self._run(place, name, train_reference, choice)
        shutil.copy(result.folder / "reference.csv", place.out / f"{name}.csv")
        shutil.rmtree(result.folder)
        done = f"{result.done} trainings of {self.reference_epochs} epochs"
        place.keep(record | {"finished": True}, done)

    def _search(self, place: Workplace, name: str, choice: dict[str, Any]) -> None:
        """A search, and its ranking into the job's record."""
        of = choice["space_name"]
        regime = change(space(of).REGIME, **self.changes.get(of, {}))
        result, record = self._run(place, name, search, choice | {"regime": regime})
        ranking, note = result.ranking, "no reference"
        assert ranking is not None
        if ranking.agreements:
            rho = ranking.agreements[ranking.by]["spearman"]
            note = f"Spearman {rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}] by {ranking.by}"
        shutil.rmtree(result.folder)
        ranked = ranking.to_json() | {"notes": result.notes, "finished": True}
        place.keep(record | ranked, f"{result.done} trainings, {note}")

    def _run(
        self,
        place: Workplace,
        name: str,
        work: Callable[..., SearchResult],
        choice: dict[str, Any],
    ) -> tuple[SearchResult, dict[str, Any]]:
        """A search or a reference run over the store of all; its result and the job's record."""
        record, folder = place.record(name), place.out / f"{name}.run"
        shutil.rmtree(folder, ignore_errors=True)  # what is trained is in the store
        source = Source(name=self.dataset, data_dir=place.data_dir)
        shared = {"source": source, "workers": place.workers, "store": place.out / "nas.sqlite"}
        shared |= {"held_out": self.held_out, "out": folder}
        with place.leg(record, "train"):
            return work(place.dataset(self.dataset), **shared, **choice), record

    def _proxies(self, place: Workplace) -> list[str]:
        made = _needed(place, "nas-set", "safetensors")
        return [str(made), f"random:{self.ipc}", "early-stop"]


def _needed(place: Workplace, job: str, suffix: str) -> Path:
    """What another job leaves."""
    path = place.out / f"{job}.{suffix}"
    if not path.exists():
        raise UserError(f"{path} is missing: the job {job} has to be done first")
    return path


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
