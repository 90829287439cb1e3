"""Several reports side by side in one file, below what tells the runs apart."""

from collections.abc import Sequence
from pathlib import Path

from condense.report.blocks import Block, Heat, Report, Section, Table, scores
from condense.report.page import render
from condense.writing import write_text


def write_comparison(path: Path, reports: Sequence[Report]) -> Path:
    """Write reports side by side as one HTML file; returns the file.

    >>> both = [Report("One", (), {"run": "a"}), Report("Two", (), {"run": "b"})]
    >>> "2 runs" in write_comparison(Path("both.html"), both).read_text()
    True
    """
    sections = [Section("The runs", *_overview(reports))]
    write_text(path, render(reports, f"{len(reports)} runs", sections))
    return path


def _overview(reports: Sequence[Report]) -> list[Block]:
    """A table of the runs, and their accuracies in one chart and in one map."""
    headers = list(dict.fromkeys(name for report in reports for name in report.summary))
    table = Table(headers, [[one.summary.get(name) for name in headers] for one in reports])
    names = [str(one.summary.get("run", one.title)) for one in reports]
    results = {
        f"{name}, {trained}": score
        for name, report in zip(names, reports, strict=True)
        for trained, score in report.scores.items()
    }
    if not results:
        return [table]
    trained = list(dict.fromkeys(one for report in reports for one in report.scores))
    means = [
        [100 * report.scores[one].mean if one in report.scores else None for one in trained]
        for report in reports
    ]
    return [table, scores(results), Heat("Mean accuracy of each run, %", names, trained, means)]
