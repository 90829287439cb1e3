"""What searches within a budget find: regret against trainings, on a published table.

Each strategy of `nas search` runs with each seed, over one store, by the score that the space
recommends; the table of accuracies only tells the regret. Beside them stands what random search by
full trainings is expected to find after as many, computed from the table. A killed command goes on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import results
from benchmarks.options import StudyCommand
from condense import Score
from condense.command import guard
from condense.data.catalogue import Source
from condense.report.tables import markdown, percent
from nas.columns import Floats
from nas.explore import Exploration, explore
from nas.reference import load

SPACE = "nasbench201"
CLOSE = 0.005
"""The regret below which a cell counts as close to the best: half a point."""
HEADERS = ["strategy", "trainings", "regret, points", "95 % interval", "within 0.5 points"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of the searches."""

    reference: str
    """Table of NAS-Bench-201's accuracies."""
    data_dir: str | None = None
    """Folder with the dataset."""
    dataset: str = "cifar10"
    """Name of the dataset."""
    strategy: tuple[str, ...] = ("random", "evolution", "halving", "optuna", "free")
    """A strategy; may be repeated."""
    budget: int = 200
    """Trainings that a strategy may make."""
    at: tuple[int, ...] = (50, 100, 200)
    """After how many trainings the table tells the regret; may be repeated."""
    seeds: int = 5
    """Searches of each strategy."""
    out: Path = Path("runs/searches")
    """Folder of the searches."""


def expected(truth: Floats, cost: int) -> tuple[float, float]:
    """What the best of `cost` random architectures is expected to lack, and how often it is close.

    Drawn with replacement: the best is the k-th best of n with probability
    ((n - k + 1) / n)^cost - ((n - k) / n)^cost.

    >>> expected(np.array([0.5, 0.9]), 1)
    (0.2, 0.5)
    """
    regrets = np.sort(truth.max() - truth)
    below = (1 - np.arange(len(regrets) + 1) / len(regrets)) ** cost
    chances = below[:-1] - below[1:]
    return float(chances @ regrets), float(chances[regrets <= CLOSE].sum())


def table(asked: Asked, found: list[Exploration], truth: Floats) -> list[list[Any]]:
    """A row for each strategy and number of trainings, and those of random full trainings."""
    rows: list[list[Any]] = []
    for name in asked.strategy:
        for cost in [0] if name == "free" else asked.at:
            ended = [one.at(name, cost) for one in found]
            regrets = tuple(one.regret for one in ended if one and one.regret is not None)
            if not regrets:  # halving names none before its first round has ended
                rows.append([name, cost, "", "", "none named yet"])
                continue
            score = Score(regrets)
            close = f"{sum(regret <= CLOSE for regret in regrets)} of {len(regrets)}"
            interval = percent([max(score.ci95[0], 0.0), score.ci95[1]])
            rows.append([name, cost, percent([score.mean]), interval, close])
    for cost in asked.at:
        regret, close_share = expected(truth, cost)
        share = f"expected {close_share:.0%}"
        rows.append(["random, trained in full", cost, percent([regret]), "", share])
    return rows


@click.command(cls=StudyCommand, asked=Asked, workers=None)
def main(asked: Asked, **session: Any) -> None:
    """Search NAS-Bench-201 by each strategy with each seed, and tell what it finds."""
    source = Source(name=asked.dataset, data_dir=asked.data_dir, resolution=16)
    dataset, column = source.load(), f"{asked.dataset}_test"
    asked.out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(asked.seeds):
        one = explore(
            dataset,
            space_name=SPACE,
            out=asked.out / f"seed{seed}",
            budget=asked.budget,
            strategies=asked.strategy,
            seed=seed,
            reference=asked.reference,
            source=source,
            store=asked.out / "trials.sqlite",
            **session,
        )
        if one.unfinished:
            click.echo("not all searches are at their end: the same command goes on")
            return
        found.append(one)
    reference = load(asked.reference, SPACE)
    truth = reference.truth(asked.dataset, reference.known(column))
    rows = table(asked, found, truth)
    document = {
        "rows": [dict(zip(HEADERS, row, strict=True)) for row in rows],
        "searches": [one.rows() for one in found],
    }
    results.write("nas_searches", document, markdown(HEADERS, rows))
    click.echo("\n".join(markdown(HEADERS, rows)))


if __name__ == "__main__":
    guard.run(main)
