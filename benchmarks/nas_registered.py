"""The registered experiment: does a condensed set rank cells better than random images do?

`benchmarks/nas/registered.md` says what is measured and what decides. The command goes on where it
was stopped. It tells nothing of the result until every training is done.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks import results
from benchmarks.options import StudyCommand
from condense import recipe_for
from condense.command import guard
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.report.tables import markdown
from condense.runs.shelf import Made, Shelf
from nas.agreement import Estimate
from nas.plan import change
from nas.proxies import FREE
from nas.report import AGREEMENT_HEADERS, agreement_rows, interval
from nas.search import SearchResult, resume, search
from nas.spaces import space

SPACE = "nasbench201"
SAMPLES = {"uniform": "", "top20": "top20:"}
"""How the cells of each sample are drawn, by its name."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The numbers of the experiment.

    >>> REGISTERED.cells, REGISTERED.decides
    (100, 10)
    """

    dataset: str = "cifar10"
    resolution: int = 16
    cells: int = 100
    draw: int = 16
    """The seed that draws the cells."""
    sizes: tuple[int, ...] = (10,)
    """Images per class."""
    decides: int = 10
    """The size whose contrast decides."""
    steps: int = 80
    """Of every training."""
    sets: int = 5
    runs: int = 1
    """Runs of early stopping."""
    recipe: dict[str, Any] = field(
        default_factory=lambda: {
            "steps": 100,
            "preprocess": "standard",
            "pool": 1,
            "pool_steps": 1564,
        }
    )
    families: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "condensed": {},
            "condensed-batch": {"network": "convnet-d3-w128-batch-relu-avg"},
        }
    )
    """What is changed in the recipe, by arm. The first one decides."""
    changes: dict[str, Any] = field(default_factory=dict)
    """What is changed in the regime of the space beside the steps."""


REGISTERED = Registration()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of the experiment: where things are, and nothing of what is measured."""

    reference: str
    """Table of NAS-Bench-201's accuracies."""
    data_dir: str | None = None
    """Folder with the dataset."""
    out: Path = Path("runs/registered")
    """Folder of the sets and the searches."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The experiment in its folder."""

    asked: Asked
    session: dict[str, Any]
    """The workers and the minutes."""
    registered: Registration = REGISTERED
    began: float = field(default_factory=time.monotonic)

    @property
    def minutes(self) -> float | None:
        """What is left of the time limit; at least a moment."""
        limit = self.session["minutes"]
        return limit and max(limit - (time.monotonic() - self.began) / 60, 1e-3)

    def made(self, source: Source, dataset: Dataset) -> dict[tuple[str, int], list[Path]] | None:
        """The folders of the sets by arm and size; None if time ran out before all were made."""
        registered, sets = self.registered, dict[tuple[str, int], list[Path]]()
        shelf = shelf_of(self.asked.out, self.session)
        for arm, changes in registered.families.items():
            for ipc in registered.sizes:
                recipe = recipe_for("best", dataset.name, dataset.shape, ipc)
                recipe = recipe.override({**registered.recipe, **changes})
                for seed in range(registered.sets):
                    made = Made(source=source, ipc=ipc, how=recipe, seed=seed)
                    if self.minutes == 1e-3:
                        return None
                    shelf.made(made, dataset)
                    sets.setdefault((arm, ipc), []).append(shelf.place(made, dataset))
        return sets

    def search(
        self, source: Source, dataset: Dataset, sample: str, size: int, proxies: list[str]
    ) -> SearchResult:
        """The search of a sample of cells with proxies of a size, begun or gone on with."""
        folder = self.asked.out / f"{sample}-{size}"
        session = {**self.session, "minutes": self.minutes}
        if (folder / "search.json").exists():
            return resume(folder, dataset, **session)
        registered = self.registered
        changes = {"steps": registered.steps, **registered.changes}
        return search(
            dataset,
            space_name=SPACE,
            out=folder,
            proxies=proxies,
            sample=f"{SAMPLES[sample]}{registered.cells}",
            seed=registered.draw,
            seeds=1,
            regime=change(space(SPACE).REGIME, **changes),
            by=f"{next(iter(registered.families))} summed_loss + {FREE}",
            held_out=0,
            reference=self.asked.reference,
            source=source,
            store=self.asked.out / "trials.sqlite",
            **session,
        )

    def run(self) -> dict[tuple[str, int], SearchResult] | None:
        """Every search by its sample and size; None if anything is still to be done."""
        registered = self.registered
        source = Source(
            name=registered.dataset,
            data_dir=self.asked.data_dir,
            resolution=registered.resolution,
        )
        dataset = source.load()
        sets = self.made(source, dataset)
        if sets is None:
            click.echo("the condensed sets are not all made: start again to go on")
            return None
        found = {}
        for sample in SAMPLES:
            for size in registered.sizes:
                proxies = draws(f"random:{size}", registered.sets)
                for arm in registered.families:
                    proxies += [f"{arm}={path}" for path in sets[arm, size]]
                proxies += draws(f"early-stop:{registered.steps}", registered.runs)
                one = self.search(source, dataset, sample, size, proxies)
                click.echo(f"{sample}, {size} a class: {one.done} of {one.total} trainings")
                found[sample, size] = one
        return found if all(one.done == one.total for one in found.values()) else None


def shelf_of(out: Path, session: dict[str, Any]) -> Shelf:
    """The shelf of the sets of an experiment, in its folder.

    >>> from condense.study.workers import Workers
    >>> shelf_of(Path("runs/registered"), {"workers": Workers(device="cpu")}).device
    'cpu'
    """
    return Shelf(folder=out / "sets", pools=out / "pools", device=session["workers"].device)


def draws(name: str, count: int) -> list[str]:
    """The first draws of a proxy of real images.

    >>> draws("random:10", 2)
    ['random:10@0', 'random:10@1']
    """
    return [f"{name}@{draw}" for draw in range(count)]


def answer(contrast: Estimate) -> str:
    """What the contrast of a sample says, by the rule that is registered.

    >>> answer(Estimate(0.1, 0.02, 0.2)), answer(Estimate(0.1, -0.02, 0.2))
    ('yes', 'not shown')
    """
    if contrast.low > 0:
        return "yes"
    return "no" if contrast.high < 0 else "not shown"


def contrast_of(found: SearchResult, arm: str, other: str) -> Estimate:
    """How much better an arm's average with what is free agrees than that of another arm.

    `other` may be `free`: what is free, alone.
    """
    assert found.ranking is not None
    theirs = other if other == FREE else _averaged(other)
    return found.ranking.contrasts[f"{_averaged(arm)} minus {theirs}"]["spearman"]


def _averaged(arm: str) -> str:
    return f"{arm} summed_loss + {FREE}"


def publish(
    registered: Registration, found: dict[tuple[str, int], SearchResult], name: str
) -> None:
    """Write the answers, every contrast, and the agreement of every column."""
    arms = [*registered.families, f"early-stop:{registered.steps}"]
    first = arms[0]
    lines = ["# Does a condensed set rank cells better than random images do?", ""]
    answers = {}
    for sample in SAMPLES:
        decides = registered.decides
        contrast = contrast_of(found[sample, decides], first, f"random:{decides}")
        answers[sample] = answer(contrast)
        lines.append(f"- {sample}: **{answers[sample]}**, {interval(contrast, '+')}")
    lines += [
        "",
        "Registered in `benchmarks/nas/registered.md`. Spearman's rho of an arm's summed loss",
        f"averaged with `{FREE}`, minus the same of random images, and minus `{FREE}` alone; 95 %",
        "intervals.",
        "",
    ]
    rows = []
    for (sample, size), one in found.items():
        compared = [f"random:{size}", *arms]
        for other in (compared[0], FREE):
            row = [contrast_of(one, arm, other) if arm != other else None for arm in compared]
            cells = [interval(contrast, "+") if contrast else "" for contrast in row]
            rows.append([sample, size, f"minus {other}", *cells])
    lines += markdown(["cells", "images a class", "", "random", *arms], rows)
    for (sample, size), one in found.items():
        assert one.ranking is not None
        title = f"{len(one.ranking)} cells ({sample}), {size} images a class"
        lines += ["", f"## {title}", "", *(f"- {note}" for note in one.notes), ""]
        lines += markdown(AGREEMENT_HEADERS, agreement_rows(one.ranking.shown))
    document: dict[str, Any] = {"answers": answers}
    document["searches"] = {
        f"{sample} {size}": {"notes": one.notes, **(one.ranking.to_json() if one.ranking else {})}
        for (sample, size), one in found.items()
    }
    results.write(name, document, lines)
    click.echo("\n".join(lines))


@click.command(cls=StudyCommand, asked=Asked, workers=None)
def main(asked: Asked, **session: Any) -> None:
    """Run the registered experiment, or go on with it; publish it when all is done."""
    # The line of progress of a search tells the agreement so far.
    experiment = Experiment(asked=asked, session=session | {"quiet": True})
    found = experiment.run()
    if found is not None:
        publish(REGISTERED, found, "nas_registered")


if __name__ == "__main__":
    guard.run(main)
