"""A table of accuracies as Markdown, as a page and as a picture."""

from pathlib import Path
from typing import Any

from benchmarks.tables.accuracy import Table
from benchmarks.tables.entries import Entry, EntryResult
from condense.report import blocks, charts, tables
from condense.report.blocks import ACCURACY, Chart, Section, Text, measured_point, published_point
from condense.report.figures import panels, save_figure

HEADERS = ("", "test accuracy, %", "95 % interval", "sets x networks", "paper")
_MEASURED: dict[str, Any] = {"fmt": "o", "color": "#5b7fb8", "ecolor": "#333333"}
_MEASURED |= {"capsize": 3, "markersize": 5}
_PRINTED: dict[str, Any] = {"marker": "D", "linestyle": "none", "markerfacecolor": "none"}
_PRINTED |= {"color": "#c9803a", "markersize": 5}


def markdown(table: Table, results: dict[Entry, EntryResult]) -> list[str]:
    """A block of rows for each column of the table, each measured figure beside the paper's."""
    lines = [f"# {table.title}", ""]
    for column in columns(table):
        rows = [_row(entry, of, table) for entry, of in results.items() if entry.column == column]
        lines += [f"## {column}", "", *tables.markdown(HEADERS, rows), ""]
    lines += [_meaning(results), "", *(f"{note}\n" for note in table.notes)]
    return lines[:-1] if not lines[-1] else lines


def sections(table: Table, results: dict[Entry, EntryResult]) -> list[Section]:
    """A section for each column: our means and the paper's by method, and the same as a table."""
    of_columns = []
    for column in columns(table):
        found = {entry: of for entry, of in results.items() if entry.column == column}
        points = [measured_point(entry.row, of.score) for entry, of in found.items() if of.score]
        for entry in found:
            if paper := table.published.get((entry.row, column)):
                mean, *deviation = map(float, paper.split(" \u00b1 "))
                points.append(published_point(entry.row, mean, *deviation or [0.0]))
        rows = [_row(entry, of, table) for entry, of in found.items()]
        chart = Chart("Test accuracy", charts.intervals(points, ACCURACY))
        drawn = [chart] if points else []
        of_columns.append(Section(column, *drawn, blocks.Table(HEADERS, rows)))
    return [*of_columns, Section("To know", *map(Text, (_meaning(results), *table.notes)))]


def columns(table: Table) -> list[str]:
    """The columns, in order."""
    return list(dict.fromkeys(entry.column for entry in table.entries))


def _meaning(results: dict[Entry, EntryResult]) -> str:
    """What the intervals are, and how sets are judged."""
    protocol = next(iter(results)).trained.protocol
    networks = sorted({entry.trained.network for entry in results})
    return (
        "Intervals are Student's t over the means of the sets (over the networks where there is "
        "one set). Every set is judged by "
        f"{', '.join(f'`{name}`' for name in networks)}, {protocol.epochs} passes, "
        "on the whole test set, once."
    )


def _row(entry: Entry, result: EntryResult, table: Table) -> list[str]:
    paper = table.published.get((entry.row, entry.column), "")
    if result.failed or not result.score:
        return [entry.row, result.failed or "not yet", "", "", paper]
    score, to_come = result.score, f" ({result.missing} sets to come)" if result.missing else ""
    interval = tables.percent(score.ci95, 1) if len(score.accuracies) > 1 else "none: one network"
    of = f"{score.sets} x {entry.trained.repeats}{to_come}"
    return [entry.row, tables.percent([score.mean], 1), interval, of, paper]


def draw(path: Path, table: Table, results: dict[Entry, EntryResult]) -> None:
    """A panel for each column: our means with intervals are dots, the paper's diamonds."""
    names, rows = columns(table), list(dict.fromkeys(entry.row for entry in table.entries))
    width, height = 3.2 + 2.6 * len(names), 1.2 + 0.26 * len(rows)
    figure, (all_,) = panels(width, height, columns=len(names), sharey=True)
    for name, axes in zip(names, all_, strict=True):
        axes.set(title=name, xlabel="test accuracy, %")
    for entry, result in results.items():
        axes, place = all_[names.index(entry.column)], rows.index(entry.row)
        if score := result.score:
            ends = [[100 * abs(end - score.mean)] for end in score.ci95]
            arms = ends if len(score.accuracies) > 1 else None
            axes.errorbar([100 * score.mean], [place], xerr=arms, **_MEASURED)
        if paper := table.published.get((entry.row, entry.column)):
            axes.plot([float(paper.split()[0])], [place], **_PRINTED)
    first = all_[0]
    first.set_yticks(range(len(rows)), rows)
    first.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top, rows without figures too
    measured = first.plot([], [], "o", color="#5b7fb8", label="here, 95 % interval")[0]
    printed = first.plot([], [], label="the paper, at its full length", **_PRINTED)[0]
    figure.legend(handles=[measured, printed], loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path)
