"""A table of accuracies as Markdown and as a picture."""

from pathlib import Path
from typing import Any

from benchmarks.tables.accuracy import Table
from benchmarks.tables.entries import Entry, EntryResult
from condense.report import tables
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
    protocol = next(iter(results)).trained.protocol
    networks = sorted({entry.trained.network for entry in results})
    lines += [
        "Intervals are Student's t over the means of the sets (over the networks where there is "
        "one set). Every set is judged by "
        f"{', '.join(f'`{name}`' for name in networks)}, {protocol.epochs} passes, "
        "on the whole test set, once.",
        "",
        *(f"{note}\n" for note in table.notes),
    ]
    return lines[:-1] if not lines[-1] else lines


def columns(table: Table) -> list[str]:
    """The columns, in order."""
    return list(dict.fromkeys(entry.column for entry in table.entries))


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
