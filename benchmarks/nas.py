"""How far architectures can be ranked by training them on a proxy set, beside what costs nothing.

cells  random cells of NAS-Bench-201, judged by the benchmark's own test accuracies
grid   ConvNets of the 720 grid, judged by a reference that is trained here
size   how the correlation grows with the real images, and where it crosses the parameters'

Each keeps its state in a folder below `--out`: started again it goes on, and a result with
trainings missing says so. The trainings are in one store, `trials.sqlite`: what one study has
trained another does not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from benchmarks import results
from benchmarks.nas_figures import agreement_lines, by_pass, crossings, draw, pass_lines
from benchmarks.options import StudyCommand
from condense.command import guard
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.reading import read_json
from condense.report.tables import markdown
from nas.agreement import Estimate, agreement, difference
from nas.columns import rank_average
from nas.plan import change
from nas.ranking import FREE_PARTS
from nas.report import interval
from nas.sampling import drawn
from nas.search import SearchResult, resume, search, train_reference
from nas.spaces import convnet720 as convnet_space
from nas.spaces import space
from nas.training import Regime


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every study takes."""

    dataset: str = "cifar10"
    """Name of the dataset."""
    data_dir: str | None = None
    """Folder with it."""
    resolution: int | None = None
    """Side of the images in pixels; smaller is cheaper."""
    set: tuple[str, ...] = ()
    """A condensed set, or any other proxy; may be given again."""
    ipc: int = 10
    """Random real images per class beside it."""
    held_out: int = 1000
    """Training images to score by."""
    out: Path = Path("runs/nas")
    """Folder of the searches."""
    name: str | None = None
    """Name of the result files; `nas_` and the study unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class AskedGrid(Asked):
    """What is asked of `grid`."""

    sample: int = 48
    """Number of architectures."""
    most_mflops: float = 40.0
    """Leave out architectures that cost more, in 10^6 multiply-adds."""
    images: int = 5000
    """Real training images of the reference; 0 for all."""
    reference_epochs: int = 8
    """Passes of each training of the reference."""
    seeds: int = 1
    """Trainings of each architecture on each proxy."""
    epochs: int = 60
    """Passes of each of these."""


@dataclass(frozen=True, kw_only=True)
class AskedCells(Asked):
    """What is asked of `cells`."""

    reference: str
    """Table of NAS-Bench-201's accuracies."""
    sample: int = 60
    """Number of cells."""
    draw: int = 0
    """Another number draws other cells."""
    seeds: int = 5
    """Trainings of each cell on each proxy."""
    epochs: int = 20
    """Passes of each of these."""
    cells: int = 1
    """Cells a stage; the benchmark has 5."""
    width: int = 16
    """Channels of the first stage; the benchmark has 16."""

    @property
    def regime(self) -> Regime:
        """How cells are trained."""
        changes = {"epochs": self.epochs, "cells": self.cells, "width": self.width}
        return change(space("nasbench201").REGIME, **changes)

    @property
    def scale(self) -> dict[str, Any]:
        """What the title of the result says of it."""
        return {key: getattr(self, key) for key in ("cells", "width", "epochs", "seeds")}

    @property
    def choice(self) -> dict[str, Any]:
        """The arguments of the search, but for the proxies."""
        choice = {"space_name": "nasbench201", "sample": self.sample, "seed": self.draw}
        return {**choice, "seeds": self.seeds, "regime": self.regime, "reference": self.reference}


@dataclass(frozen=True, kw_only=True)
class AskedSize(AskedCells):
    """What is asked of `size`."""

    sizes: str = "10,50,100"
    """Real images per class."""
    sample: int = 40
    """Number of cells."""
    seeds: int = 1
    """Trainings of each cell on each proxy."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study: its name, what is asked of it, and how its searches are worked on."""

    name: str
    asked: Asked
    session: dict[str, Any]
    """The workers and the minutes."""

    @cached_property
    def source(self) -> Source:
        """Where the dataset is from."""
        asked = self.asked
        return Source(name=asked.dataset, data_dir=asked.data_dir, resolution=asked.resolution)

    @cached_property
    def dataset(self) -> Dataset:
        """What is searched on."""
        return self.source.load()

    def proxies(self, regime: Regime) -> list[str]:
        """Random images, the sets, and early stopping after as many steps as random images take."""
        images = self.asked.ipc * len(self.dataset.classes)
        steps = regime.protocol.epochs * math.ceil(images / regime.protocol.batch)
        return [f"random:{self.asked.ipc}", *self.asked.set, f"early-stop:{steps}"]

    def run(
        self, begin: Callable[..., SearchResult], choice: dict[str, Any], folder: str = ""
    ) -> SearchResult:
        """What is in the folder, gone on with; or begun with these choices."""
        place = self.asked.out / (folder or self.asked.name or self.name)
        if (place / "search.json").exists():
            return resume(place, self.dataset, **self.session)
        store, held_out = self.asked.out / "trials.sqlite", self.asked.held_out
        fixed = {"source": self.source, "store": store, "held_out": held_out}
        return begin(self.dataset, out=place, **fixed, **choice, **self.session)

    def publish(
        self,
        result: SearchResult,
        scale: dict[str, Any],
        more: Sequence[str] = (),
        passes: dict[str, list[Estimate]] | None = None,
    ) -> None:
        """Write the study's table, numbers and plots; for `size` with `more` lines and `passes`.

        Nothing is written where there is nothing to correlate yet.
        """
        ranking, name = result.ranking, self.asked.name or f"nas_{self.name}"
        if ranking is None or not ranking.agreements:
            click.echo(f"{result.done} of {result.total} trainings: nothing to correlate yet")
            return
        told = scale | {"held-out images": self.asked.held_out}
        conditions = ", ".join(f"{key} {value}" for key, value in told.items())
        pixels = f" at {self.asked.resolution} px" if self.asked.resolution else ""
        lines = [
            f"# {len(ranking)} architectures of {ranking.space} on {self.asked.dataset}{pixels}: "
            f"{conditions}",
            "",
            *(f"- {note}" for note in result.notes),
            *more,
            "",
            *agreement_lines(ranking),
        ]
        document = {"scale": scale, "done": result.done, "total": result.total}
        document |= {"notes": result.notes, **ranking.to_json()}
        if passes:
            kept = {proxy: [one.to_json() for one in rhos] for proxy, rhos in passes.items()}
            document["passes"] = kept
        results.write(name, document, lines)
        draw(results.FOLDER, name, ranking, passes)
        click.echo("\n".join(lines))


@click.group()
def main() -> None:
    """Measure how far a proxy set ranks architectures."""


@main.command(cls=StudyCommand, asked=AskedCells, workers=None)
def cells(asked: AskedCells, **session: Any) -> None:
    """Random cells of NAS-Bench-201, ranked by random, condensed and early-stopped trainings."""
    study = Study(name="cells", asked=asked, session=session)
    result = study.run(search, asked.choice | {"proxies": study.proxies(asked.regime)})
    study.publish(result, asked.scale)


@main.command(cls=StudyCommand, asked=AskedGrid, workers=None)
def grid(asked: AskedGrid, **session: Any) -> None:
    """Stratified ConvNets, ranked by a reference that is trained first, and then by proxies.

    Both by the 720 grid's regime, but in smaller batches (few images would give few steps), and the
    reference with flips and crops in place of DSA, under which nothing fits in so few epochs.
    """
    study = Study(name="grid", asked=asked, session=session)
    indices = cheap(study.dataset, asked.sample, asked.most_mflops * 1e6)
    shared: dict[str, Any] = {"space_name": "convnet720", "sample": indices}
    changes = {"epochs": asked.reference_epochs, "batch": 64, "augment": "flip_crop"}
    regime = change(space("convnet720").REFERENCE_REGIME, **changes)
    choice = {**shared, "regime": regime, "images": asked.images or None}
    truth = study.run(train_reference, choice, "grid-reference")
    if truth.done < truth.total:
        left = f"{truth.done} of {truth.total} trainings"
        click.echo(f"the reference has {left}: start again to go on")
        return
    regime = change(space("convnet720").REGIME, epochs=asked.epochs, batch=25)
    reference = {"reference": truth.folder / "reference.csv", "proxies": study.proxies(regime)}
    choice = {**shared, **reference, "seeds": asked.seeds, "regime": regime}
    scale = {
        "reference": f"{asked.images or 'all'} images, {asked.reference_epochs} epochs",
        "epochs": asked.epochs,
        "seeds": asked.seeds,
        "at most": f"{asked.most_mflops:g} M multiply-adds",
    }
    study.publish(study.run(search, choice), scale)


@main.command(cls=StudyCommand, asked=AskedSize, workers=None)
def size(asked: AskedSize, **session: Any) -> None:
    """The correlation against the number of real images; beside it sets and parameters."""
    study = Study(name="size", asked=asked, session=session)
    counts = [int(count) for count in asked.sizes.split(",")]
    proxies = [*(f"random:{count}" for count in counts), *asked.set]
    result = study.run(search, asked.choice | {"proxies": proxies})
    ranking = result.ranking
    if ranking is None or not ranking.agreements:
        study.publish(result, {})
        return
    passes = by_pass(result.folder, ranking)
    more = [*crossings(ranking, counts), "", *pass_lines(passes)]
    study.publish(result, asked.scale, more, passes)


@main.command()
def halves() -> None:
    """Average the kept summed losses half and half with what is free: computed, not trained."""
    found, shown = [], []
    for name in ("size", "size_seeds", "cells_16px", "size_deeper", "cells", "cells_again", "grid"):
        document = read_json(results.FOLDER / f"nas_{name}.json")
        ranked = document["architectures"]
        table = {key: [row[key] for row in ranked] for key in document["agreement"]}
        free = rank_average(*(table[part] for part in FREE_PARTS))
        truth = [row["truth"] for row in ranked]
        for column in (key for key in table if key.endswith(" summed_loss")):
            both = rank_average(table[column], free)
            rho = agreement(both, truth)["spearman"]
            gain = difference(both, free, truth)["spearman"]
            proxy = column.removesuffix(" summed_loss")
            shown.append([f"nas_{name}", proxy, interval(rho), interval(gain, "+")])
            told = {"rho": rho.to_json(), "minus free": gain.to_json()}
            found.append({"result": f"nas_{name}", "proxy": proxy, **told})
    title = "Spearman's rho of the summed loss and what is free, half and half; 95 % intervals:"
    lines = markdown(["result", "proxy", "rho", "minus free"], shown)
    results.write("nas_halves", {"halves": found}, [title, "", *lines])


def cheap(dataset: Dataset, count: int, most: float) -> list[int]:
    """The first ConvNets of the stratified order of at most `most` multiply-adds an image.

    >>> digits = Source(name="digits", resolution=16).load()
    >>> set(cheap(digits, 2, most=1e6)) <= set(cheap(digits, 9, most=1e6))
    True
    """
    affordable = [
        index
        for index in range(convnet_space.SIZE)
        if convnet_space.architecture(index).flops(dataset.shape, len(dataset.classes)) <= most
    ]
    return list(drawn(convnet_space, count, 0, affordable))


if __name__ == "__main__":
    guard.run(main)
