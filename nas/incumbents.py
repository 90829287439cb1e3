"""What a search within a budget found, as files and as a page.

incumbents.csv/.json  the best architecture of each strategy after each number of trainings
report.html           its regret and accuracy against the trainings, and how it was measured
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from condense.errors import UserError
from condense.progress import duration
from condense.reading import read_json
from condense.report import charts
from condense.report.blocks import (
    Block,
    Chart,
    Command,
    Details,
    Facts,
    Report,
    Section,
    Table,
    Text,
)
from condense.report.page import write
from condense.words import counted
from condense.writing import write_json, write_text
from nas.report import DRAWN
from nas.spaces import space

_FILE = "incumbents.json"
_MEANING = (
    "After every training, a strategy holds one architecture for the best by its score: the "
    "incumbent. Its regret is how many points of test accuracy the best architecture of the "
    "reference is ahead of it. All strategies begin with the same random architectures; `free` "
    "trains none."
)
_ONCE = "Each strategy was run once. Another seed ends elsewhere, so small gaps mean nothing."
_BLIND = (
    "There is no reference for this dataset, so nothing here says how good these architectures "
    "are. `condensekit nas reference` trains one; pass it with --reference."
)


@dataclass(frozen=True)
class Incumbent:
    """The best architecture of a strategy at a cost.

    >>> Incumbent("random", 10, 5, 0.02).cost
    10
    """

    strategy: str
    cost: int
    """Trainings so far on each arm of proxies."""
    index: int
    regret: float | None
    """In [0, 1]; None without a reference."""


@dataclass(frozen=True)
class Exploration:
    """What strategies found within a budget.

    >>> Exploration(Path("run"), "nasbench201", 10, [Incumbent("random", 10, 5, None)]).ended
    {'random': Incumbent(strategy='random', cost=10, index=5, regret=None)}
    """

    folder: Path
    space: str
    budget: int
    incumbents: list[Incumbent]
    unfinished: list[str] = field(default_factory=list)
    """The strategies that the time limit did not leave to their end."""
    best: float | None = None
    """The highest test accuracy that the reference knows, in [0, 1]; None without a reference."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: `command`, `environment`, `settings`, and how many `trainings` took how
    many `seconds`."""

    @property
    def ended(self) -> dict[str, Incumbent]:
        """The last incumbent of each strategy."""
        return {one.strategy: one for one in self.incumbents}

    def at(self, strategy: str, cost: int) -> Incumbent | None:
        """The incumbent of a strategy once it has spent `cost`; None before its first."""
        found = [one for one in self.incumbents if one.strategy == strategy and one.cost <= cost]
        return found[-1] if found else None

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of plain values for each incumbent."""
        named = space(self.space).architecture
        return [
            {**dataclasses.asdict(one), "arch": named(one.index).name} for one in self.incumbents
        ]

    def save(self) -> None:
        """Write `incumbents.csv`, `incumbents.json` and `report.html` into the folder."""
        rows, text = self.rows(), io.StringIO()
        names = ["strategy", "cost", "index", "regret", "arch"]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / "incumbents.csv", text.getvalue())
        document = {"space": self.space, "budget": self.budget, "unfinished": self.unfinished}
        document |= {"best": self.best, "incumbents": rows, "made": dict(self.made)}
        write_json(self.folder / _FILE, document)
        write(self.folder / "report.html", report_of(self.folder))


def report_of(folder: Path) -> Report:
    """What is told of the search within a budget in `folder`, by its `incumbents.json`.

    Raises `UserError` if nothing is found yet, and for a damaged file.

    >>> report_of(Path("nowhere"))
    Traceback (most recent call last):
    condense.errors.UserError: nowhere has no incumbents yet: the same `nas search` goes on
    """
    path = folder / _FILE
    if not path.exists():
        raise UserError(f"{folder} has no incumbents yet: the same `nas search` goes on")
    document = read_json(path)
    try:
        return _report(document, folder)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path} is not of this version of condensekit: the same `nas search` writes it again"
        ) from None


def _report(document: Mapping[str, Any], folder: Path) -> Report:
    rows, best, budget = document["incumbents"], document["best"], document["budget"]
    made, unfinished = document["made"], document["unfinished"]
    changes, ended = _changes(rows), {row["strategy"]: row for row in rows}
    notes = [f"{name} is not at its end: the same command goes on." for name in unfinished]
    notes += [] if best is not None else [_BLIND]
    sections = [Section("To know", *map(Text, notes))] if notes else []
    if best is not None:
        sections.append(Section("Regret by trainings", *_charts(changes, best, budget)))
    drawn = [Text(DRAWN)] if document["space"] == "nasbench201" else []
    last, every = (_table(of, best) for of in (list(ended.values()), changes))
    trainings = counted(made["trainings"], "training")
    took = f"{duration(made['seconds'])} for {trainings}, one after the other"
    return Report(
        title=f"{document['space']} searched within {counted(budget, 'training')}",
        sections=[
            *sections,
            Section("What each strategy ended with", *drawn, last),
            Section("Every incumbent", Text("A row for each time that it changed."), every),
            Section(
                "How it was measured",
                Command(made["command"]),
                Facts({"the trainings took": took, **made["environment"]}),
                Details("All settings", [Facts(made["settings"])]),
            ),
        ],
        summary={"run": folder.name, "space": document["space"], "trainings": budget}
        | {f"{name}: regret, points": _points(row["regret"]) for name, row in ended.items()},
    )


def _changes(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows in which the incumbent of a strategy is a new one, and the last of each strategy."""
    found = []
    for _, of_strategy in groupby(rows, key=lambda row: row["strategy"]):
        one = [*of_strategy]
        found += [
            row
            for at, row in enumerate(one)
            if at in (0, len(one) - 1) or row["index"] != one[at - 1]["index"]
        ]
    return found


def _charts(rows: Sequence[Mapping[str, Any]], best: float, budget: int) -> list[Block]:
    """Regret and true accuracy by trainings; what trains nothing is a line across."""
    points = []
    for row in rows:
        regret = _points(row["regret"])
        shown = {"strategy": row["strategy"], "regret, points": regret, "arch": row["arch"]}
        shown["test accuracy, %"] = 100 * (best - row["regret"])
        costs = (row["cost"], budget) if row["cost"] == 0 else (row["cost"],)
        points += [{"trainings": cost, **shown} for cost in costs]
    by = ("trainings", "strategy", ("arch",))
    regret_chart = charts.stairs(points, "regret, points", *by, level=0)
    accuracy = charts.stairs(points, "test accuracy, %", *by, level=100 * best)
    return [
        Text(_MEANING),
        Chart("Regret: lower is better", regret_chart),
        Chart("Accuracy of the incumbent; dashed, the best of the reference", accuracy),
        Text(_ONCE),
    ]


def _table(rows: Sequence[Mapping[str, Any]], best: float | None) -> Table:
    headers = ["strategy", "trainings", "index", "arch"]
    cells = [[row["strategy"], row["cost"], row["index"], row["arch"]] for row in rows]
    if best is not None:
        headers[2:2] = ["regret, points", "test accuracy, %"]
        for row, line in zip(rows, cells, strict=True):
            accuracy = 100 * (best - row["regret"])
            line[2:2] = [f"{_points(row['regret']):.2f}", f"{accuracy:.2f}"]
    return Table(headers, cells)


def _points(regret: float | None) -> float | None:
    return None if regret is None else 100 * regret
