"""The results of a continual run: accuracies, forgetting and transfer, as numbers and tables.

The 95 % intervals are Student's, over the means of the class orders, because networks of one order
share how hard it is. If there is only one order, or the memory is the same in all orders, they are
over trainings, and say nothing about other orders. Below three values there is no interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from condense.report.tables import terminal
from condense.training.score import Statistic
from condense.words import counted

if TYPE_CHECKING:
    from rich.table import Table


SUMMARIES = {"average": "average", "forgetting": "forgetting", "bwt": "BWT", "fwt": "FWT"}
"""The statistics of a whole stream, which are methods of `Results`, and their names in tables."""


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
    ahead: float | None = None
    """The accuracy on the classes of the next step, minus that of the untrained network.

    None after the last step, and where it was not measured."""

    @property
    def seen(self) -> float:
        """The accuracy on the test images of all classes seen so far."""
        right = sum(
            accuracy * count for accuracy, count in zip(self.accuracies, self.images, strict=True)
        )
        return right / sum(self.images)


@dataclass(frozen=True)
class Measure(Statistic):
    """A statistic with an interval that is possible, and withheld below three values.

    >>> Measure(((0.5,), (0.6,))).ci95
    >>> str(Measure(((0.98,), (0.99,), (0.91,)))).split()
    ['96.0', '(85.2', 'to', '100.0)']
    >>> Measure(((0.5, 0.5), (0.6, 0.6), (0.7, 0.7)), pooled=True).over
    '6 trainings'
    """

    least: float = 0.0
    """The least possible value; the largest is 1."""
    pooled: bool = False
    """Whether orders make no difference, so that all values are trainings of one kind."""

    @property
    def over(self) -> str:
        """What the interval is over."""
        if self.pooled or len(self.values) == 1:
            return counted(sum(map(len, self.values)), "training")
        return counted(len(self.values), "order")

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The 95 % interval, within what is possible; None below three values."""
        whole = self._whole
        if whole is None:
            return None
        return max(self.least, whole[0]), min(1.0, whole[1])

    @property
    def _whole(self) -> tuple[float, float] | None:
        """The interval by Student's t alone."""
        values = self.values
        if self.pooled:
            values = (tuple(one for repeats in values for one in repeats),)
        count = len(values) if len(values) > 1 else len(values[0])
        return Statistic(values).ci95 if count > 2 else None

    def __str__(self) -> str:
        if self.ci95 == self._whole:
            return super().__str__()
        low, high = (f"{100 * end:.1f}" for end in self.ci95 or ())
        return f"{100 * self.mean:.1f}\u00a0({low}\u00a0to\u00a0{high})"


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
    same_at_end: set[str] = field(default_factory=set)
    """The methods whose last networks were trained on one memory, whatever the order."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the results has to know about this run."""

    @property
    def left(self) -> int:
        """The number of rows that are still to be measured."""
        return 0 if self.total is None else self.total - len(self.rows)

    def add(self, *rows: Row) -> None:
        """Add rows. One that is there already is replaced."""
        for row in rows:
            self.rows[row.method, row.order, row.repeat, row.step] = row

    def at(self, method: str, step: int) -> Measure | None:
        """The accuracy on the classes seen after a step; None if nothing is measured yet."""
        pooled = step == self.steps - 1 and method in self.same_at_end
        return self._collect(method, step, lambda rows: rows[step].seen, pooled=pooled)

    def final(self, method: str) -> Measure | None:
        """The accuracy after the last step."""
        return self.at(method, self.steps - 1)

    def average(self, method: str) -> Measure | None:
        """The mean over the steps of the accuracy on the classes seen."""
        return self._collect(method, self.steps - 1, lambda rows: fmean(row.seen for row in rows))

    def forgetting(self, method: str) -> Measure | None:
        """How much of the best accuracy on the classes of a step is lost at the end.

        This is the mean over all steps but the last (Chaudhry et al., "Riemannian walk for
        incremental learning", ECCV 2018, section 3). None for a single step.
        """
        if self.steps == 1:
            return None
        return self._collect(method, self.steps - 1, _forgotten, least=-1.0)

    def bwt(self, method: str) -> Measure | None:
        """Backward transfer: last accuracy on the classes of a step minus that right after it.

        This is the mean over all steps but the last (Lopez-Paz and Ranzato, "Gradient episodic
        memory for continual learning", NeurIPS 2017, section 2). None for a single step.
        """
        if self.steps == 1:
            return None
        return self._collect(method, self.steps - 1, _transferred, least=-1.0)

    def fwt(self, method: str) -> Measure | None:
        """Forward transfer: accuracy on classes just before their step minus the untrained one.

        This is the mean over all steps but the first, by the same authors. None for a single step,
        and for results that an older version has measured.
        """
        before = [row for row in self.rows.values() if row.step < self.steps - 1]
        if self.steps == 1 or any(row.ahead is None for row in before if row.method == method):
            return None
        return self._collect(
            method, self.steps - 1, lambda rows: fmean(row.ahead for row in rows[:-1]), least=-1.0
        )

    def difference(self, ours: str, theirs: str) -> Measure | None:
        """The final accuracy of a method minus that of another, order by order; in [-1, 1].

        None if no order is complete. What an order or its networks make easier for both methods is
        not in it.
        """
        finals = [self._by_order(method) for method in (ours, theirs)]
        both = sorted(finals[0].keys() & finals[1].keys())
        points = tuple((fmean(finals[0][one]) - fmean(finals[1][one]),) for one in both)
        return Measure(points, least=-1.0) if points else None

    def to_json(self) -> dict[str, Any]:
        """Every statistic, by method."""
        document: dict[str, Any] = {}
        for method in self.methods:
            steps = [self.at(method, step) for step in range(self.steps)]
            document[method] = {"steps": [one.to_json() if one else None for one in steps]}
            for name in ("final", *SUMMARIES):
                one = getattr(self, name)(method)
                document[method][name] = one.to_json() if one else None
        return document

    def _collect(self, method: str, last: int, of: Any, **how: Any) -> Measure | None:
        """The measure of what `of` makes of the rows 0 to `last` of each complete network."""
        orders = self._orders(method, last, of)
        return Measure(tuple(map(tuple, orders.values())), **how) if orders else None

    def _by_order(self, method: str) -> dict[int, list[float]]:
        """The final accuracies of the networks of each order."""
        return self._orders(method, self.steps - 1, lambda rows: rows[-1].seen)

    def _orders(self, method: str, last: int, of: Any) -> dict[int, list[float]]:
        orders: dict[int, list[float]] = {}
        for name, order, repeat, step in sorted(self.rows):
            keys = [(name, order, repeat, s) for s in range(last + 1)]
            if name == method and step == last and all(key in self.rows for key in keys):
                orders.setdefault(order, []).append(of([self.rows[key] for key in keys]))
        return orders


def _forgotten(rows: Sequence[Row]) -> float:
    *before, last = rows
    losses = [
        max(row.accuracies[j] for row in before[j:]) - last.accuracies[j]
        for j in range(len(before))
    ]
    return fmean(losses)


def _transferred(rows: Sequence[Row]) -> float:
    *before, last = rows
    return fmean(
        after - row.accuracies[-1] for row, after in zip(before, last.accuracies, strict=False)
    )


def cells(results: Results) -> tuple[list[str], list[list[str]]]:
    """The headers and the rows of a table of steps and methods, as text.

    Each cell is a mean in percent and half of its 95 % interval, if there is one.

    >>> results = Results(("random",), steps=1)
    >>> results.add(Row("random", 0, 0, 0, (0.5,), (10,)), Row("random", 1, 0, 0, (0.6,), (10,)))
    >>> cells(results)
    (['', 'random'], [['step 1', '55.0'], ['average', '55.0'], ['forgetting', ''], ...])
    """
    named: dict[str, list[Measure | None]] = {
        f"step {step + 1}": [results.at(method, step) for method in results.methods]
        for step in range(results.steps)
    }
    for summary, name in SUMMARIES.items():
        named[name] = [getattr(results, summary)(method) for method in results.methods]
    return ["", *results.methods], [
        [name, *(str(one or "") for one in statistics)] for name, statistics in named.items()
    ]


def differences(results: Results) -> tuple[list[str], list[list[str]]]:
    """The headers and the rows of a table of the paired differences of final accuracies.

    >>> results = Results(("theirs", "ours"), steps=1)
    >>> results.add(Row("theirs", 0, 0, 0, (0.5,), (10,)), Row("ours", 0, 0, 0, (0.75,), (10,)))
    >>> differences(results)[1]
    [['ours', 'theirs', '25.0', '+25.0']]
    """
    rows = []
    for theirs, ours in combinations(results.methods, 2):
        one = results.difference(ours, theirs)
        if one:
            of_orders = ", ".join(f"{100 * point:+.1f}" for (point,) in one.values)
            rows.append([ours, theirs, str(one), of_orders])
    return ["final accuracy of", "minus that of", "points", "by order"], rows


def explained(results: Results) -> list[str]:
    """What the intervals of these results are over, and the notes, as sentences.

    >>> results = Results(("random",), steps=1, same_at_end={"random"})
    >>> results.add(*(Row("random", n, 0, 0, (0.5 + n / 10,), (10,)) for n in range(3)))
    >>> explained(results)[1]
    'After the last step the memory of random is the same in all orders: the interval is over 3 ...'
    """
    lines = [
        "Intervals are 95 %, by Student's t over class orders (over trainings, where there is one "
        "order), within 0 and 100 %; none is given for fewer than three values."
    ]
    for method in results.methods:
        final = results.final(method)
        if final and final.pooled:
            lines.append(
                f"After the last step the memory of {method} is the same in all orders: the "
                f"interval is over {final.over}, and says nothing about another memory."
            )
    return lines + results.notes


def live(results: Results) -> "Table":
    """The table for a terminal.

    >>> live(Results(("random", "herding"), steps=2)).row_count
    6
    """
    title = "accuracy on the classes seen so far, %, with 95 % intervals"
    return terminal(title, *cells(results), numbers=True)
