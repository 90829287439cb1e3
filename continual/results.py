"""What a continual run measures: accuracy on the classes seen so far, its mean over steps, forgetting; as table, plot, page.

Intervals are Student's over the class orders: networks of one order share its luck. Where there is one order only, they
are over its trainings, and say nothing about another order.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from condense.files import write_bytes
from condense.report import html as report
from condense.training.score import Statistic

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One network after one step."""

    method: str
    order: int
    repeat: int
    step: int
    accuracies: tuple[float, ...]
    """On the test images of the classes of each step so far, in [0, 1]."""
    images: tuple[int, ...]
    """How many test images these are."""

    @property
    def seen(self) -> float:
        """The accuracy on all classes seen so far."""
        right = sum(
            accuracy * count for accuracy, count in zip(self.accuracies, self.images, strict=True)
        )
        return right / sum(self.images)


@dataclass
class Results:
    """The rows measured so far, by (method, order, repeat, step)."""

    methods: Sequence[str]
    steps: int
    rows: dict[tuple[str, int, int, int], Row] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """One more row."""
        self.rows[row.method, row.order, row.repeat, row.step] = row

    def at(self, method: str, step: int) -> Statistic | None:
        """The accuracy on the classes seen after a step; None before it was measured."""
        return self._collect(method, step, lambda rows: rows[step].seen)

    def final(self, method: str) -> Statistic | None:
        """The accuracy after the last step."""
        return self.at(method, self.steps - 1)

    def average(self, method: str) -> Statistic | None:
        """The mean over steps of the accuracy on the classes seen."""
        return self._collect(method, self.steps - 1, lambda rows: fmean(row.seen for row in rows))

    def forgetting(self, method: str) -> Statistic | None:
        """How much of the best accuracy on the classes of a step is lost at the end; the mean over all steps but the last.

        Chaudhry et al., "Riemannian walk for incremental learning" (ECCV 2018), section 3.
        """
        return None if self.steps == 1 else self._collect(method, self.steps - 1, _forgotten)

    def to_json(self) -> dict[str, Any]:
        """Every statistic by method."""
        told: dict[str, Any] = {}
        for method in self.methods:
            named = {
                "final": self.final(method),
                "average": self.average(method),
                "forgetting": self.forgetting(method),
            }
            steps = [self.at(method, step) for step in range(self.steps)]
            told[method] = {
                "steps": [one.to_json() if one else None for one in steps],
                **{name: one.to_json() if one else None for name, one in named.items()},
            }
        return told

    def _collect(self, method: str, last: int, of: Any) -> Statistic | None:
        """`of` the rows of steps 0 to `last` of each (order, repeat) of which all these are there."""
        orders: dict[int, list[float]] = {}
        for name, order, repeat, step in sorted(self.rows):
            keys = [(name, order, repeat, s) for s in range(last + 1)]
            if name == method and step == last and all(key in self.rows for key in keys):
                orders.setdefault(order, []).append(of([self.rows[key] for key in keys]))
        return Statistic(tuple(map(tuple, orders.values()))) if orders else None


def _forgotten(rows: Sequence[Row]) -> float:
    *before, last = rows
    losses = [
        max(row.accuracies[j] for row in before[j:]) - last.accuracies[j]
        for j in range(len(before))
    ]
    return fmean(losses)


def cells(results: Results) -> tuple[list[str], list[list[str]]]:
    """Headers and text rows of a table of steps x methods, in percent, half the 95 % interval after each mean."""
    named: dict[str, list[Statistic | None]] = {
        f"step {step + 1}": [results.at(method, step) for method in results.methods]
        for step in range(results.steps)
    }
    named["average"] = [results.average(method) for method in results.methods]
    named["forgetting"] = [results.forgetting(method) for method in results.methods]
    return ["", *results.methods], [
        [name, *(str(one or "") for one in told)] for name, told in named.items()
    ]


def live(results: Results) -> "Table":
    """The table for a terminal."""
    from rich.table import Table

    headers, rows = cells(results)
    table = Table(title="accuracy on the classes seen so far, %, with 95 % intervals")
    for header in headers:
        table.add_column(header, justify="right" if header else "left")
    for row in rows:
        table.add_row(*row)
    return table


def plot(results: Results, path: Path, title: str, classes_a_step: int) -> Path:
    """Write a PNG of accuracy by classes seen, one line a method, with 95 % intervals; returns the file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained", dpi=150)
    axes = figure.subplots()
    for number, method in enumerate(results.methods):
        told = [one for step in range(results.steps) if (one := results.at(method, step))]
        means = [100 * one.mean for one in told]
        arms = [100 * ((one.ci95[1] - one.mean) if one.ci95 else 0.0) for one in told]
        shift = (
            0.02 * classes_a_step * (number - len(results.methods) / 2)
        )  # so that intervals do not hide each other
        seen = [classes_a_step * (step + 1) + shift for step in range(len(told))]
        axes.errorbar(
            seen, means, yerr=arms, marker="o", markersize=4, capsize=3, linewidth=1.4, label=method
        )
    axes.set(xlabel="classes seen", ylabel="test accuracy on them, %", title=title)
    axes.set_xticks([classes_a_step * (step + 1) for step in range(results.steps)])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
    return path


def page(
    results: Results,
    path: Path,
    picture: Path,
    plan: Mapping[str, Any],
    sizes: Mapping[str, Mapping[str, int]],
) -> Path:
    """Write the HTML report; returns the file."""
    headers, rows = cells(results)
    explained = (
        "Accuracy on the test images of the classes seen so far, in percent, and half of its 95 % interval over class orders "
        "(over trainings, where there is one order). Average: over the steps. Forgetting: best minus last accuracy on the "
        "classes of a step, averaged over all steps but the last."
    )
    held = [
        [method, *(size[name] for name in ("images", "uint8", "float32"))]
        for method, size in sizes.items()
    ]
    return report.html_report(
        path,
        "Continual learning with condensed memories",
        report.section(
            "Accuracy",
            report.paragraph(explained),
            report.table(headers, rows),
            report.image(picture),
        ),
        report.section(
            "Memory at the end",
            report.table(["method", "images", "bytes as uint8", "bytes as float32"], held),
        ),
        report.section(
            "How",
            report.facts(
                {**plan, "plan": {**plan["plan"], "methods": ", ".join(plan["plan"]["methods"])}}
            ),
        ),
    )
