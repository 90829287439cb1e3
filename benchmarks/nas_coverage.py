"""How often the intervals of `nas.agreement` hold the true value, by simulation.

cells  samples of a table of accuracies, ranked by one of its columns: the truth is known for all
sets   normal scores of two arms, each with several sets: the truth follows from a large sample

Each writes for every measure its mean, and the share of intervals that hold the true value, which
promise 95 %. For `top1` and `regret` the true value is the mean over the samples.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from benchmarks import results
from benchmarks.options import Benchmark
from condense.command import guard
from condense.report.tables import markdown
from nas import agreement as measures
from nas.agreement import MEASURES, Agreement, agreement, difference
from nas.columns import Column, Floats, Measured, column_of
from nas.reference import load


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What both simulations take."""

    sample: tuple[int, ...] = (60, 100, 200)
    """Architectures of a sample; may be repeated."""
    samples: int = 300
    """Samples."""
    resamples: int = 400
    """Bootstrap resamples of each."""


@dataclass(frozen=True, kw_only=True)
class AskedCells(Asked):
    """What `cells` takes."""

    reference: str
    """Table of accuracies."""
    truth: str = "cifar10_test"
    """Its column of true values."""
    score: str = "params_M"
    """Its column of scores."""


@dataclass(frozen=True, kw_only=True)
class AskedSets(Asked):
    """What `sets` takes."""

    sets: int = 5
    """Sets of an arm."""
    spread: float = 0.3
    """How much the weight of the truth differs from set to set, where its mean is 1."""
    noise: float = 1.0
    """Standard deviation of what differs from architecture to architecture and set to set."""


Coverage = dict[str, tuple[float, float]]
"""By measure: its mean, and the share of intervals that hold the true value."""


def coverage(found: list[Agreement], true: dict[str, float]) -> Coverage:
    """By measure: its mean, and the share of intervals; without those of too few architectures."""
    shares = {}
    for name, value in true.items():
        estimates = [one[name] for one in found]
        if all(np.isnan(one.value) for one in estimates):
            continue
        held = [one.low <= value <= one.high for one in estimates]
        shares[name] = float(np.mean([one.value for one in estimates])), float(np.mean(held))
    return shares


def simulate_sets(
    asked: AskedSets, size: int, *, large: int = 200, over_sets: bool = True
) -> Coverage:
    """The coverage for one arm, and for the difference of two arms whose sets are alike.

    Samples have `size` architectures. The true value is the mean of `large` large samples. Without
    `over_sets`, the intervals are those of a bootstrap over the architectures alone.
    """
    draws = np.random.default_rng(0)

    def sampled(n: int) -> tuple[Floats, list[Column]]:
        truth, common = draws.normal(size=(2, n))
        columns = []
        for arm in ("first", "second"):
            weights = 1 + asked.spread * draws.normal(size=(asked.sets, 1))
            noise = asked.noise * draws.normal(size=(asked.sets, n))
            columns.append(Column((Measured(weights * truth + common + noise, arm),)))
        if not over_sets:
            columns = [column_of(column.values()) for column in columns]
        return truth, columns

    true = [agreement(column, truth, resamples=2)["spearman"].value
             for truth, (column, _) in (sampled(1000) for _ in range(large))]  # fmt: skip
    alone, paired = [], []
    for number in range(asked.samples):
        truth, (first, second) = sampled(size)
        how: dict[str, Any] = {"seed": number, "resamples": asked.resamples}
        alone.append(agreement(first, truth, **how))
        paired.append(difference(first, second, truth, **how))
    one = coverage(alone, {"spearman": float(np.mean(true))})["spearman"]
    two = coverage(paired, {"spearman": 0.0})["spearman"]
    return {"spearman": one, "difference of spearman": two}


@click.group()
def main() -> None:
    """Simulate how often the intervals of rank agreement hold the true value."""


@main.command(cls=Benchmark, asked=AskedCells)
def cells(asked: AskedCells) -> None:
    """Samples of a table of accuracies."""
    table = load(asked.reference, "nasbench201")
    known = [i for i in table.known(asked.truth) if not np.isnan(table.columns[asked.score][i])]
    truth, score = table.values(asked.truth, known) / 100, table.values(asked.score, known)
    _write(
        "cells", asked, {size: simulate_cells(asked, truth, score, size) for size in asked.sample}
    )


def simulate_cells(asked: AskedCells, truth: Floats, score: Floats, size: int) -> Coverage:
    """The coverage of samples of `size` of these architectures."""
    draws, found = np.random.default_rng(0), []
    withheld = set(measures.WITHOUT_INTERVAL)
    measures.WITHOUT_INTERVAL.clear()  # what is withheld is simulated too
    try:
        for number in range(asked.samples):
            drawn = draws.choice(len(truth), size, replace=False)
            how: dict[str, Any] = {"seed": number, "resamples": asked.resamples}
            found.append(agreement(score[drawn], truth[drawn], **how))
    finally:
        measures.WITHOUT_INTERVAL.update(withheld)
    whole = agreement(score, truth, resamples=1)
    true = {name: whole[name].value for name in MEASURES}
    for name in ("top1", "regret"):
        true[name] = float(np.mean([one[name].value for one in found]))
    return coverage(found, true)


@main.command(cls=Benchmark, asked=AskedSets)
def sets(asked: AskedSets) -> None:
    """Scores on several sets, whose truth is known."""
    _write("sets", asked, {size: simulate_sets(asked, size) for size in asked.sample})


def _write(name: str, asked: Asked, found: dict[int, Coverage]) -> None:
    """Keep what was found, by the size of a sample."""
    rows = [
        [measure, size, f"{mean:+.3f}", f"{100 * held:.1f}"]
        for size, shares in found.items()
        for measure, (mean, held) in shares.items()
    ]
    headers = ["measure", "architectures", "mean", "intervals that hold the truth, %"]
    title = (
        f"95 % intervals of {asked.samples} samples each, with {asked.resamples} bootstrap "
        "resamples:"
    )
    settings = dataclasses.asdict(asked)
    settings.pop("reference", None)  # a file of this machine
    document = {"asked": settings, "coverage": found}
    results.write(f"nas_coverage_{name}", document, [title, "", *markdown(headers, rows)])


if __name__ == "__main__":
    guard.run(main)
