"""What a search has found, to look at: each proxy's scores against the truth, and one HTML page."""

import io
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condense import report
from condense.files import write_bytes
from nas.proxy import SCORES
from nas.rank import Agreement, Estimate
from nas.ranking import YARDSTICK, Ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 20
_SHOWN = {"spearman": "Spearman", "spearman_top20": "top 20 %", "spearman_top10": "top 10 %", "kendall": "Kendall"}


def scatter(path: Path, ranking: Ranking, proxy: str) -> Path:
    """Write a PNG of a proxy's three scores, and of the parameter count, against the truth; better to the right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    assert ranking.truth is not None
    columns = [f"{proxy} {score}" for score in SCORES] + [YARDSTICK]
    figure = Figure(figsize=(3.1 * len(columns), 3.2), layout="constrained", dpi=150)
    for axes, column in zip(figure.subplots(1, len(columns), sharey=True), columns, strict=True):
        label = column.removeprefix(f"{proxy} ").replace("_", " ")
        finite = np.isfinite(ranking.columns[column])
        values = np.abs(ranking.columns[column][finite])  # losses are negated there
        axes.scatter(values, 100 * ranking.truth[finite], s=12, color="#5b7fb8", alpha=0.8, linewidths=0)
        axes.set_title(f"Spearman {interval(ranking.agreements[column]['spearman'])}", fontsize=9)
        axes.set_xlabel(f"{label} (reversed)" if label.endswith("loss") else label)
        if label.endswith("loss"):
            axes.invert_xaxis()
        if len(values) and values.max() > 4 * values.min() > 0 and label != "accuracy":
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("true test accuracy, %")
    figure.suptitle(f"trained on {proxy}", fontsize=10)
    return save_figure(figure, path)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a matplotlib figure as a PNG; returns the file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
    return path


def interval(estimate: Estimate, sign: str = "") -> str:
    """A value with its 95 % interval; with `sign` "+" as a difference."""
    if not isfinite(estimate.value):
        return "too few"
    return f"{estimate.value:{sign}.2f} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"


def agreement_rows(agreements: dict[str, Agreement]) -> list[list[str]]:
    """For each column: name, correlations with their 95 % intervals, and the truth of the best-ranked in percent."""
    return [[name, *(interval(a[m]) for m in _SHOWN), f"{100 * a['top1'].value:.2f}"] for name, a in agreements.items()]


def difference_rows(differences: dict[str, Agreement]) -> list[list[str]]:
    """For each difference: name, differences of the correlations with their 95 % intervals."""
    return [[name, *(interval(a[m], "+") for m in _SHOWN)] for name, a in differences.items()]


DIFFERENCE_HEADERS = ("score", *_SHOWN.values())
AGREEMENT_HEADERS = ("score", *_SHOWN.values(), "top-1, %")


def write_report(folder: Path, ranking: Ranking, notes: Sequence[str], facts: dict[str, Any]) -> Path:
    """Write `report.html`, and a `scatter-*.png` for each proxy where there is a truth; returns the page."""
    sections = []
    if notes:
        sections.append(report.section("To know", *map(report.paragraph, notes)))
    if ranking.agreements:
        told = (
            f"Agreement of each score with the true test accuracy of {len(ranking)} architectures, bootstrap 95 % intervals. "
            "Ties share their mean rank; what diverged ranks last. A proxy that does not beat what costs nothing is of no use."
        )
        pictures = [
            report.image(scatter(folder / f"scatter-{proxy.replace(':', '-')}.png", ranking, proxy), proxy)
            for proxy in ranking.trainings
        ]
        sections.append(
            report.section(
                "How far the rankings can be trusted",
                report.paragraph(told),
                report.table(AGREEMENT_HEADERS, agreement_rows(ranking.agreements)),
                *pictures,
            )
        )
        caption = "An interval that excludes 0 means a real difference."
        for title, differences in (
            (f"Compared with {YARDSTICK}", ranking.gains),
            ("Proxy against proxy, and what a proxy adds", ranking.contrasts),
        ):
            rows = difference_rows(differences)
            sections.append(report.section(title, report.table(DIFFERENCE_HEADERS, rows, caption)))
    best_rows = ranking.rows()[:_ROWS]
    names = [name for name in best_rows[0] if name in ("rank", "index", "arch", "truth", ranking.by, YARDSTICK)]
    best = report.table(
        names, [[_number(row[name]) for name in names] for row in best_rows], f"ranked by {ranking.by}; losses are negated"
    )
    sections.append(report.section("The best", best))
    sections.append(report.section("How", report.facts(facts)))
    return report.html_report(folder / "report.html", f"{len(ranking)} architectures of {ranking.space}", *sections)


def _number(value: Any) -> Any:
    return "diverged" if value is None else value
