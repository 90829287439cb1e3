"""The results of a continual run: accuracies and forgetting, as a table, a plot and a report.

The 95 % intervals are Student's, over the means of the class orders, because networks of one order
share how hard it is. If there is only one order, the intervals are over its networks, and say
nothing about other orders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from condense.report import html as report
from condense.report.figures import literal, panel, save_figure
from condense.report.tables import terminal
from condense.training.score import Statistic

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One network after one step.

    >>> Row("random", order=0, repeat=0, step=1, accuracies=(0.75, 0.5), images=(10, 30)).seen
    0.5625
    """

    method: str
    order: int
    repeat: int
    step: int
    accuracies: tuple[float, ...]
    """On the test images of the classes of each step so far, in [0, 1]."""
    images: tuple[int, ...]
    """The number of these test images, by step."""

    @property
    def seen(self) -> float:
        """The accuracy on the test images of all classes seen so far."""
        right = sum(
            accuracy * count for accuracy, count in zip(self.accuracies, self.images, strict=True)
        )
        return right / sum(self.images)


@dataclass
class Results:
    """The rows that are measured, and their statistics.

    >>> results = Results(("random",), steps=2, total=4)
    >>> results.add(Row("random", 0, 0, 0, (1.0,), (10,)))
    >>> results.add(Row("random", 0, 0, 1, (0.75, 0.5), (10, 30)))
    >>> results.final("random").mean, results.average("random").mean
    (0.5625, 0.78125)
    >>> results.forgetting("random").mean, results.left
    (0.25, 2)
    """

    methods: Sequence[str]
    steps: int
    rows: dict[tuple[str, int, int, int], Row] = field(default_factory=dict)
    """By (method, order, repeat, step)."""
    total: int | None = None
    """The number of rows when the run is finished, if known."""

    @property
    def left(self) -> int:
        """The number of rows that are still to be measured."""
        return 0 if self.total is None else self.total - len(self.rows)

    def add(self, *rows: Row) -> None:
        """Add rows. One that is there already is replaced."""
        for row in rows:
            self.rows[row.method, row.order, row.repeat, row.step] = row

    def at(self, method: str, step: int) -> Statistic | None:
        """The accuracy on the classes seen after a step; None if nothing is measured yet."""
        return self._collect(method, step, lambda rows: rows[step].seen)

    def final(self, method: str) -> Statistic | None:
        """The accuracy after the last step."""
        return self.at(method, self.steps - 1)

    def average(self, method: str) -> Statistic | None:
        """The mean over the steps of the accuracy on the classes seen."""
        return self._collect(method, self.steps - 1, lambda rows: fmean(row.seen for row in rows))

    def forgetting(self, method: str) -> Statistic | None:
        """How much of the best accuracy on the classes of a step is lost at the end.

        This is the mean over all steps but the last (Chaudhry et al., "Riemannian walk for
        incremental learning", ECCV 2018, section 3). None for a single step.
        """
        return None if self.steps == 1 else self._collect(method, self.steps - 1, _forgotten)

    def to_json(self) -> dict[str, Any]:
        """Every statistic, by method."""
        document: dict[str, Any] = {}
        for method in self.methods:
            steps = [self.at(method, step) for step in range(self.steps)]
            document[method] = {"steps": [one.to_json() if one else None for one in steps]}
            for name in ("final", "average", "forgetting"):
                one = getattr(self, name)(method)
                document[method][name] = one.to_json() if one else None
        return document

    def _collect(self, method: str, last: int, of: Any) -> Statistic | None:
        """The statistic of what `of` makes of the rows 0 to `last` of each complete network."""
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
    """The headers and the rows of a table of steps and methods, as text.

    Each cell is a mean in percent and half of its 95 % interval.

    >>> results = Results(("random",), steps=1)
    >>> results.add(Row("random", 0, 0, 0, (0.5,), (10,)), Row("random", 1, 0, 0, (0.6,), (10,)))
    >>> headers, rows = cells(results)
    >>> headers
    ['', 'random']
    >>> rows[0][0], rows[0][1][:4]
    ('step 1', '55.0')
    """
    named: dict[str, list[Statistic | None]] = {
        f"step {step + 1}": [results.at(method, step) for method in results.methods]
        for step in range(results.steps)
    }
    named["average"] = [results.average(method) for method in results.methods]
    named["forgetting"] = [results.forgetting(method) for method in results.methods]
    return ["", *results.methods], [
        [name, *(str(one or "") for one in statistics)] for name, statistics in named.items()
    ]


def live(results: Results) -> "Table":
    """The table for a terminal.

    >>> live(Results(("random", "herding"), steps=2)).row_count
    4
    """
    title = "accuracy on the classes seen so far, %, with 95 % intervals"
    return terminal(title, *cells(results), numbers=True)


def plot(results: Results, path: Path, title: str, classes_a_step: int) -> Path:
    """Write a PNG of accuracy by classes seen, with a line for each method; returns `path`.

    >>> from tempfile import TemporaryDirectory
    >>> results = Results(("random",), steps=1)
    >>> results.add(Row("random", 0, 0, 0, (0.5,), (10,)))
    >>> with TemporaryDirectory() as folder:
    ...     plot(results, Path(folder, "accuracy.png"), "digits", classes_a_step=10).name
    'accuracy.png'
    """
    figure, axes = panel(6.4, 4.2)
    for number, method in enumerate(results.methods):
        steps = [one for step in range(results.steps) if (one := results.at(method, step))]
        means = [100 * one.mean for one in steps]
        arms = [100 * ((one.ci95[1] - one.mean) if one.ci95 else 0.0) for one in steps]
        # The lines are moved apart a little so that intervals do not hide each other.
        shift = 0.02 * classes_a_step * (number - len(results.methods) / 2)
        seen = [classes_a_step * (step + 1) + shift for step in range(len(steps))]
        axes.errorbar(
            seen,
            means,
            yerr=arms,
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.4,
            label=literal(method),
        )
    axes.set(xlabel="classes seen", ylabel="test accuracy on them, %", title=literal(title))
    axes.set_xticks([classes_a_step * (step + 1) for step in range(results.steps)])
    axes.legend(frameon=False)
    return save_figure(figure, path)


def page(
    results: Results,
    path: Path,
    picture: Path,
    plan: Mapping[str, Any],
    sizes: Mapping[str, Mapping[str, int]],
) -> Path:
    """Write the HTML report; returns `path`.

    `picture` is the file of `plot`, `plan` the content of plan.json. `sizes` has for each method
    the number of `images` of its memory, and their bytes as `uint8` and as `float32`.

    >>> from tempfile import TemporaryDirectory
    >>> results, plan = Results(("random",), steps=1), {"plan": {"methods": ["random"]}}
    >>> sizes = {"random": {"images": 20, "uint8": 1280, "float32": 5120}}
    >>> with TemporaryDirectory() as folder:
    ...     picture = plot(results, Path(folder, "accuracy.png"), "digits", classes_a_step=10)
    ...     page(results, Path(folder, "report.html"), picture, plan, sizes).name
    'report.html'
    """
    headers, rows = cells(results)
    explained = (
        "Accuracy on the test images of the classes seen so far, in percent, and half of its 95 % "
        "interval over class orders (over trainings, where there is one order). Average: over the "
        "steps. Forgetting: best minus last accuracy on the classes of a step, averaged over all "
        "steps but the last."
    )
    if results.left:
        explained += f" {results.left} of {results.total} networks are still to be tested."
    table, image = report.table(headers, rows), report.image(picture)
    sizes_of = ["method", "images", "bytes as uint8", "bytes as float32"]
    held = [
        [method, size["images"], size["uint8"], size["float32"]] for method, size in sizes.items()
    ]
    settings = {**plan["plan"], "methods": ", ".join(plan["plan"]["methods"])}
    return report.html_report(
        path,
        "Continual learning with condensed memories",
        report.section("Accuracy", report.paragraph(explained), table, image),
        report.section("Memory at the end", report.table(sizes_of, held)),
        report.section("How", report.facts({**plan, "plan": settings})),
    )
