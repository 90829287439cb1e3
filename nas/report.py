"""What a search has found, to look at: each proxy's scores against the truth, and one HTML page."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condense.progress import progress
from condense.report import html as report
from condense.report.figures import save_figure
from nas.agreement import Agreement, Estimate, agreement
from nas.ranking import YARDSTICK, Ranking
from nas.spaces import space
from nas.training import SCORES

if TYPE_CHECKING:
    pass

_ROWS = 20
_SHOWN = {
    "spearman": "Spearman",
    "spearman_top20": "top 20 %",
    "spearman_top10": "top 10 %",
    "kendall": "Kendall",
}


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
        axes.scatter(
            values, 100 * ranking.truth[finite], s=12, color="#5b7fb8", alpha=0.8, linewidths=0
        )
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


def interval(estimate: Estimate, sign: str = "") -> str:
    """A value with its 95 % interval; with `sign` "+" as a difference."""
    if not isfinite(estimate.value):
        return "too few"
    return f"{estimate.value:{sign}.2f} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"


def agreement_rows(agreements: dict[str, Agreement]) -> list[list[str]]:
    """For each column: name, correlations with their 95 % intervals, and the truth of the best-ranked in percent."""
    return [
        [name, *(interval(a[m]) for m in _SHOWN), f"{100 * a['top1'].value:.2f}"]
        for name, a in agreements.items()
    ]


def difference_rows(differences: dict[str, Agreement]) -> list[list[str]]:
    """For each difference: name, differences of the correlations with their 95 % intervals."""
    return [[name, *(interval(a[m], "+") for m in _SHOWN)] for name, a in differences.items()]


DIFFERENCE_HEADERS = ("score", *_SHOWN.values())
AGREEMENT_HEADERS = ("score", *_SHOWN.values(), "top-1, %")


def write_report(
    folder: Path, ranking: Ranking, notes: Sequence[str], facts: dict[str, Any]
) -> Path:
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
            report.image(
                scatter(folder / f"scatter-{proxy.replace(':', '-')}.png", ranking, proxy), proxy
            )
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
    names = [
        name
        for name in best_rows[0]
        if name in ("rank", "index", "arch", "truth", ranking.by, YARDSTICK)
    ]
    best = report.table(
        names,
        [[_number(row[name]) for name in names] for row in best_rows],
        f"ranked by {ranking.by}; losses are negated",
    )
    sections.append(report.section("The best", best))
    sections.append(report.section("How", report.facts(facts)))
    return report.html_report(
        folder / "report.html", f"{len(ranking)} architectures of {ranking.space}", *sections
    )


def _number(value: Any) -> Any:
    return "diverged" if value is None else value


# ---- while it runs: a live table on a terminal, plain lines elsewhere, on stderr

_EVERY = 2.0
"""Seconds between looks at the ranking."""
_RESAMPLES = 200  # enough for an interval to glance at


@contextmanager
def watched(
    title: str, total: int, done: int, look: Callable[[], Ranking], *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Yields the function to tell how many trainings are done; `look` gives the ranking as it stands."""
    if quiet:
        yield lambda done: None
    elif sys.stderr.isatty():
        with _table(title, total, done, look) as told:
            yield told
    else:
        with progress(title, total, done) as tell:
            lines = _Now_and_then(look)
            yield lambda done: tell(done, lines.text(done == total))


class _Now_and_then:
    """What a ranking says in a line, looked at no more often than is worth it."""

    def __init__(self, look: Callable[[], Ranking]) -> None:
        self._look, self._at, self._text = look, -10.0, ""

    def text(self, last: bool) -> str:
        if last or time.monotonic() - self._at > 10:
            self._at = time.monotonic()
            ranking = self._look()
            best = " ".join(_best(ranking, ranking.by))
            self._text = "; ".join(
                part for part in (best and f"best {best}", _agreement(ranking, ranking.by)) if part
            )
        return self._text


@contextmanager
def _table(
    title: str, total: int, done: int, look: Callable[[], Ranking]
) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    began, start, looked = time.monotonic(), done, -_EVERY

    def render(done: int) -> Table:
        ranking = look()
        left = (time.monotonic() - began) / max(1, done - start) * (total - done)
        table = Table(
            title=f"{title}: {done} of {total} trainings, {left:.0f} s left", title_justify="left"
        )
        for header in (
            "proxy",
            "architectures",
            "trainings",
            "best so far",
            "score",
            "Spearman with the truth",
        ):
            table.add_column(header)
        score = ranking.by.rpartition(" ")[2]
        for proxy, trainings in ranking.trainings.items():
            column = f"{proxy} {score}"
            column = column if column in ranking.columns else ranking.by
            best, value = _best(ranking, column) or ("", "")
            row = (proxy, str(len(ranking)), f"{trainings.sum():.0f}", best, value)
            table.add_row(
                *row, _agreement(ranking, column).removeprefix("Spearman ") or "no reference yet"
            )
        return table

    with Live(render(done), console=Console(stderr=True), auto_refresh=False) as live:

        def tell(done: int) -> None:
            nonlocal looked
            if done == total or time.monotonic() - looked >= _EVERY:
                looked = time.monotonic()
                live.update(render(done), refresh=True)

        yield tell


def _best(ranking: Ranking, column: str) -> tuple[str, str] | tuple[()]:
    """The best-ranked architecture by a column, its index first, and its score; nothing before the first."""
    if not len(ranking):
        return ()
    scores = [
        (value, -at) for at, value in enumerate(ranking.columns[column].tolist()) if value == value
    ]
    if not scores:
        return ()
    value, at = max(scores)
    best = space(ranking.space).architecture(ranking.indices[-at])
    return f"{best.index} {best.name}", f"({column} {value:.4g})"


def _agreement(ranking: Ranking, column: str) -> str:
    if ranking.truth is None or len(ranking) < 4:
        return ""
    found = agreement(ranking.columns[column], ranking.truth, resamples=_RESAMPLES)["spearman"]
    return f"Spearman {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
