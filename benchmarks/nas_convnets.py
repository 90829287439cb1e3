"""The registered experiment on ConvNets: does a condensed set rank them better than random images?

`benchmarks/nas/registered_convnets.md` says what is measured and what decides. The command goes on
where it was stopped, and tells nothing of the result until every training is done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import results
from benchmarks.nas import cheap
from benchmarks.nas_registered import answer, draws, shelf_of
from benchmarks.options import StudyCommand
from condense import recipe_for
from condense.command import guard
from condense.data.catalogue import Source
from condense.data.images import Dataset
from condense.report.tables import markdown
from condense.runs.shelf import Made
from condense.study.trials import reading
from nas.agreement import Estimate, agreement
from nas.plan import change, load_plan
from nas.proxies import FREE
from nas.report import AGREEMENT_HEADERS, agreement_rows, interval
from nas.results import store_path
from nas.search import SearchResult, resume, search, train_reference
from nas.spaces import space
from nas.training import SearchTask

SPACE = "convnet720"


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The numbers of the experiment.

    >>> REGISTERED.sample, REGISTERED.reference_epochs
    (48, 15)
    """

    dataset: str = "cifar10"
    resolution: int = 16
    sample: int = 48
    most_mflops: float = 20.0
    """Of an architecture, in 10^6 multiply-adds an image."""
    held_out: int = 1000
    reference_images: int = 5000
    reference_epochs: int = 15
    ceiling: int = 8
    """Architectures of which the reference has several trainings."""
    ceiling_seeds: int = 3
    ipc: int = 10
    steps: int = 160
    """Of every training on a proxy."""
    sets: int = 5
    runs: int = 3
    """Runs of early stopping."""
    families: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "condensed": {"recipe": "best", "steps": 100, "pool": 1, "pool_steps": 1564},
            "condensed-plain": {"recipe": "datadam", "steps": 200, "real_batch": 64},
        }
    )
    """The recipe of each arm of condensed sets, and its changes. The first arm decides."""


REGISTERED = Registration()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of the experiment: where things are, and nothing of what is measured."""

    data_dir: str | None = None
    """Folder with the dataset."""
    out: Path = Path("runs/registered-convnets")
    """Folder of the sets and the searches."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the experiment found when it was done."""

    ranked: SearchResult
    accuracies: NDArray[np.float64]
    """Test accuracies of the reference in [0, 1] by training and architecture, [seeds, n]."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The experiment in its folder."""

    asked: Asked
    session: dict[str, Any]
    """The workers and the minutes; each part may take so many."""
    registered: Registration = REGISTERED

    def source(self, hold_out: int = 0) -> Source:
        """Where the images are from; some training images may be missing."""
        of, folder = self.registered, self.asked.data_dir
        return Source(name=of.dataset, data_dir=folder, resolution=of.resolution, hold_out=hold_out)

    def made(self) -> list[str]:
        """The proxies of condensed sets, each made unless it is there, without held-out images."""
        of, shelf = self.registered, shelf_of(self.asked.out, self.session)
        source = self.source(of.held_out)
        dataset, named = source.load(), []
        for arm, changes in of.families.items():
            settings = {"preprocess": "standard", **changes}
            recipe = recipe_for(settings.pop("recipe"), dataset.name, dataset.shape, of.ipc)
            recipe = recipe.override(settings)
            for seed in range(of.sets):
                made = Made(source=source, ipc=of.ipc, how=recipe, seed=seed)
                shelf.made(made, dataset)
                named.append(f"{arm}={shelf.place(made, dataset)}")
        return named

    def part(self, begin: Any, dataset: Dataset, name: str, **choice: Any) -> SearchResult:
        """A search or a reference run, begun or gone on with."""
        folder = self.asked.out / name
        if (folder / "search.json").exists():
            found = resume(folder, dataset, **self.session)
        else:
            fixed = {"space_name": SPACE, "held_out": self.registered.held_out}
            fixed |= {"source": self.source(), "store": self.asked.out / "trials.sqlite"}
            found = begin(dataset, out=folder, **fixed, **choice, **self.session)
        click.echo(f"{name}: {found.done} of {found.total} trainings")
        return found

    def run(self) -> Found | None:
        """Everything; None if anything is still to be done."""
        of, dataset = self.registered, self.source().load()
        every, several = (
            cheap(dataset, count, of.most_mflops * 1e6) for count in (of.sample, of.ceiling)
        )
        changes = {"epochs": of.reference_epochs, "batch": 64, "augment": "flip_crop"}
        how: dict[str, Any] = {
            "regime": change(space(SPACE).REFERENCE_REGIME, **changes),
            "images": of.reference_images,
        }
        truth = self.part(train_reference, dataset, "reference", sample=every, **how)
        how |= {"sample": several, "seeds": of.ceiling_seeds}
        again = self.part(train_reference, dataset, "ceiling", **how)
        if truth.done < truth.total:
            return None
        random, stopped = f"random:{of.ipc}", f"early-stop:{of.steps}"
        ranked = self.part(
            search,
            dataset,
            "search",
            sample=every,
            proxies=[*draws(random, of.sets), *self.made(), *draws(stopped, of.runs)],
            regime=change(space(SPACE).REGIME, steps=of.steps, batch=25),
            by=f"{next(iter(of.families))} accuracy",
            reference=truth.folder / "reference.csv",
            seeds=1,
        )
        if any(one.done < one.total for one in (again, ranked)):
            return None
        return Found(ranked=ranked, accuracies=accuracies_of(again.folder))


def accuracies_of(folder: Path) -> NDArray[np.float64]:
    """The test accuracies of a finished reference run, by training and architecture."""
    plan = load_plan(folder)
    (proxy,) = plan.keys.proxies
    with reading(store_path(folder, plan)) as store:
        stored = store.find(plan.keys.kind)
    return np.array(
        [
            [
                stored[plan.keys.of(SearchTask(seed, index, proxy))].result["scores"]["test"]
                for index in plan.indices
            ]
            for seed in range(plan.seeds)
        ]
    )


def ceiling(accuracies: NDArray[np.float64]) -> list[Estimate]:
    """How well each training of the reference agrees with each other one: Spearman's rho.

    >>> [one.value for one in ceiling(np.array([[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]]))]
    [1.0, 1.0]
    """
    pairs = permutations(range(len(accuracies)), 2)
    return [agreement(accuracies[a], accuracies[b])["spearman"] for a, b in pairs]


def publish(registered: Registration, found: Found, name: str) -> None:
    """Write the answer, every contrast, the ceiling, and the agreement of every column."""
    ranking = found.ranked.ranking
    assert ranking is not None
    contrasts = ranking.contrasts
    first, random = next(iter(registered.families)), f"random:{registered.ipc}"
    decides = contrasts[f"{first} accuracy minus {random} accuracy"]["spearman"]
    spread = [one.value for one in ceiling(found.accuracies)]
    lines = [
        "# Does a condensed set rank ConvNets better than random images do?",
        "",
        f"**{answer(decides)}**, {interval(decides, '+')}",
        "",
        "Registered in `benchmarks/nas/registered_convnets.md`. Spearman's rho of an arm minus",
        "that of another; 95 % intervals over architectures and sets.",
        "",
        *_contrast_lines(found.ranked, registered),
        "",
        f"Two trainings of the reference agree with a rho of {np.mean(spread):.2f} on "
        f"{found.accuracies.shape[1]} architectures ({min(spread):.2f} to {max(spread):.2f} "
        f"between the pairs of {len(found.accuracies)} trainings).",
        "",
        f"## {len(ranking)} architectures",
        "",
        *(f"- {note}" for note in found.ranked.notes),
        "",
        *markdown(AGREEMENT_HEADERS, agreement_rows(ranking.shown)),
    ]
    document = {
        "answer": answer(decides),
        "ceiling": {"rho": spread, "accuracies": found.accuracies.tolist()},
        "search": {"notes": found.ranked.notes, **ranking.to_json()},
    }
    results.write(name, document, lines)
    click.echo("\n".join(lines))


def _contrast_lines(found: SearchResult, registered: Registration) -> Sequence[str]:
    assert found.ranking is not None
    contrasts, random = found.ranking.contrasts, f"random:{registered.ipc}"
    arms, rows = [*registered.families, f"early-stop:{registered.steps}"], []
    for score in ("accuracy", "summed_loss"):
        for more in ("", f" + {FREE}"):
            names = [f"{arm} {score}{more} minus {random} {score}{more}" for arm in arms]
            cells = [interval(contrasts[name]["spearman"], "+") for name in names]
            rows.append([f"{score}{more}, minus {random}", *cells])
    return markdown(["score", *arms], rows)


@click.command(cls=StudyCommand, asked=Asked, workers=None)
def main(asked: Asked, **session: Any) -> None:
    """Run the registered experiment, or go on with it; publish it when all is done."""
    # The line of progress of a search tells the agreement so far.
    found = Experiment(asked=asked, session=session | {"quiet": True}).run()
    if found is not None:
        publish(REGISTERED, found, "nas_convnets")


if __name__ == "__main__":
    guard.run(main)
