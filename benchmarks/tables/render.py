"""A table of accuracies as Markdown and as a picture."""

from pathlib import Path

from benchmarks.tables.accuracy import Table
from benchmarks.tables.entries import Entry, EntryResult
from condense.report.figures import save_figure


def markdown(table: Table, results: dict[Entry, EntryResult]) -> list[str]:
    """A block of rows for each column of the table, each measured figure beside the paper's."""
    lines = [f"# {table.title}", ""]
    for column in columns(table):
        lines += [
            f"## {column}",
            "",
            "| | test accuracy, % | 95 % interval | sets x networks | paper |",
            "|---|---|---|---|---|",
            *(
                _row(entry, result, table)
                for entry, result in results.items()
                if entry.column == column
            ),
            "",
        ]
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


def _row(entry: Entry, result: EntryResult, table: Table) -> str:
    paper = table.published.get((entry.row, entry.column), "")
    if result.failed:
        return f"| {entry.row} | {result.failed} | | | {paper} |"
    if not result.score:
        return f"| {entry.row} | not yet | | | {paper} |"
    low, high = (f"{100 * end:.1f}" for end in result.score.ci95)
    interval = f"{low} to {high}" if len(result.score.accuracies) > 1 else "none: one network"
    of = f"{result.score.sets} x {entry.trained.repeats}" + (
        f" ({result.missing} sets to come)" if result.missing else ""
    )
    return f"| {entry.row} | {100 * result.score.mean:.1f} | {interval} | {of} | {paper} |"


def draw(path: Path, table: Table, results: dict[Entry, EntryResult]) -> None:
    """A panel for each column: our means with intervals are dots, the paper's diamonds."""
    from matplotlib.figure import Figure

    names, rows = columns(table), list(dict.fromkeys(entry.row for entry in table.entries))
    figure = Figure(
        figsize=(3.2 + 2.6 * len(names), 1.2 + 0.26 * len(rows)), layout="constrained", dpi=150
    )
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for name, axes in zip(names, panels, strict=True):
        for entry, result in results.items():
            if entry.column != name:
                continue
            place = rows.index(entry.row)
            if result.score:
                mean, (low, high) = result.score.mean, result.score.ci95
                arms = (
                    [[100 * (mean - low)], [100 * (high - mean)]]
                    if len(result.score.accuracies) > 1
                    else None
                )
                axes.errorbar(
                    [100 * mean],
                    [place],
                    xerr=arms,
                    fmt="o",
                    color="#5b7fb8",
                    ecolor="#333333",
                    capsize=3,
                    markersize=5,
                )
            if paper := table.published.get((entry.row, name)):
                axes.plot(
                    [float(paper.split()[0])],
                    [place],
                    "D",
                    markerfacecolor="none",
                    color="#c9803a",
                    markersize=5,
                )
        axes.set(title=name, xlabel="test accuracy, %")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)  # the first row on top, rows without figures too
    measured = panels[0].plot([], [], "o", color="#5b7fb8", label="here, 95 % interval")[0]
    printed = panels[0].plot(
        [], [], "D", markerfacecolor="none", color="#c9803a", label="the paper, at its full length"
    )[0]
    figure.legend(handles=[measured, printed], loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path)
