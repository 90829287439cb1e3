"""The report of a search: each proxy's scores against the truth, and one HTML page."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condense.report import html as report
from condense.report.figures import literal, panels, save_figure
from nas.agreement import Agreement, Estimate
from nas.ranking import YARDSTICK, Ranking
from nas.spaces import space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROWS = 20
"""Architectures that the page lists."""
_SHOWN = {
    "spearman": "Spearman",
    "spearman_top20": "top 20 %",
    "spearman_top10": "top 10 %",
    "kendall": "Kendall",
}
"""The measures that the tables show, with their headers."""
DIFFERENCE_HEADERS = ("score", *_SHOWN.values())
"""The headers of `difference_rows`."""
AGREEMENT_HEADERS = ("score", *_SHOWN.values(), "top-1, %")
"""The headers of `agreement_rows`."""


def scatter(path: Path, ranking: Ranking, proxy: str) -> Path:
    """Write a PNG of a proxy's scores, and of the number of parameters, against the truth.

    The ranking must have a truth. Better scores are on the right. Returns `path`.

    >>> from tempfile import TemporaryDirectory
    >>> columns = {"random accuracy": np.array([0.2, 0.4, 0.3])}
    >>> ranking = Ranking(
    ...     space="nasbench201", indices=(5, 7, 9),
    ...     columns=columns | {"parameters": np.array([1e5, 3e5, 2e5])},
    ...     diverged={"random": np.zeros(3)}, trainings={"random": np.ones(3)},
    ...     by="random accuracy", truth=np.array([0.8, 0.9, 0.7]),
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     scatter(Path(folder, "random.png"), ranking, "random").exists()
    True
    """
    assert ranking.truth is not None
    columns = [f"{proxy} {score}" for score in ranking.scores] + [YARDSTICK]
    figure, panes = panels(3.1 * len(columns), 3.2, columns=len(columns), sharey=True)
    for axes, column in zip(panes.flat, columns, strict=True):
        finite = np.isfinite(ranking.columns[column])
        values = np.abs(ranking.columns[column][finite])  # losses are negated in the ranking
        axes.scatter(
            values, 100 * ranking.truth[finite], s=12, color="#5b7fb8", alpha=0.8, linewidths=0
        )
        axes.set_title(f"Spearman {interval(ranking.agreements[column]['spearman'])}", fontsize=9)
        _draw_axis(axes, column.removeprefix(f"{proxy} ").replace("_", " "), values)
    figure.axes[0].set_ylabel("true test accuracy, %")
    figure.suptitle(literal(f"trained on {proxy}"), fontsize=10)
    return save_figure(figure, path)


def _draw_axis(axes: "Axes", label: str, values: np.ndarray) -> None:
    """The horizontal axis of a score: reversed for a loss, logarithmic over a wide range."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set_xlabel(f"{label} (reversed)" if label.endswith("loss") else label)
    if label.endswith("loss"):
        axes.invert_xaxis()
    if len(values) and values.max() > 4 * values.min() > 0 and label != "accuracy":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())


def interval(estimate: Estimate, sign: str = "") -> str:
    """A value with its 95 % interval; with the `sign` "+", it is shown as a difference.

    >>> interval(Estimate(0.5, 0.25, 0.75))
    '0.50 [0.25, 0.75]'
    >>> interval(Estimate(0.5, -0.25, 0.75), "+")
    '+0.50 [-0.25, +0.75]'
    """
    if not isfinite(estimate.value):
        return "too few"
    if not isfinite(estimate.low):
        return f"{estimate.value:{sign}.2f}"
    return f"{estimate.value:{sign}.2f} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"


def agreement_rows(agreements: dict[str, Agreement]) -> list[list[str]]:
    """The rows of a table of agreements, by `AGREEMENT_HEADERS`.

    A row has the name of the score, its correlations with their 95 % intervals, and the truth of
    the architecture that it ranks best, in percent.

    >>> from nas.agreement import agreement
    >>> rows = agreement_rows({"random accuracy": agreement([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4])})
    >>> rows[0][:2], rows[0][-1]
    (['random accuracy', '1.00 [1.00, 1.00]'], '40.00')
    """
    return [
        [name, *(interval(a[m]) for m in _SHOWN), f"{100 * a['top1'].value:.2f}"]
        for name, a in agreements.items()
    ]


def difference_rows(differences: dict[str, Agreement]) -> list[list[str]]:
    """The rows of a table of differences between agreements, by `DIFFERENCE_HEADERS`.

    >>> from nas.agreement import difference
    >>> scores, truth = [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]
    >>> difference_rows({"a minus a": difference(scores, scores, truth)})[0][:2]
    ['a minus a', '+0.00 [+0.00, +0.00]']
    """
    return [[name, *(interval(a[m], "+") for m in _SHOWN)] for name, a in differences.items()]


def write_report(
    folder: Path, ranking: Ranking, notes: Sequence[str], facts: dict[str, Any]
) -> Path:
    """Write `report.html` into `folder`, and with a truth also a `scatter-*.png` for each proxy.

    `notes` are shown first, `facts` last. Returns the path of the page.

    >>> from tempfile import TemporaryDirectory
    >>> scores = {"random accuracy": np.array([0.2, 0.4])}
    >>> ranking = Ranking("nasbench201", (5, 7), scores, {}, {}, by="random accuracy")
    >>> with TemporaryDirectory() as folder:
    ...     write_report(Path(folder), ranking, ["no reference"], {"seeds": 3}).name
    'report.html'
    """
    sections = []
    if notes:
        sections.append(report.section("To know", *map(report.paragraph, notes)))
    if ranking.agreements:
        sections += _agreement_sections(folder, ranking)
    sections.append(report.section("The best", _best_table(ranking)))
    sections.append(report.section("How", report.facts(facts)))
    return report.html_report(
        folder / "report.html",
        f"{len(ranking)} architectures of {space(ranking.space).NAME}",
        *sections,
    )


def _agreement_sections(folder: Path, ranking: Ranking) -> list[report.Html]:
    """What the truth says about the scores: agreements, pictures and differences."""
    explanation = (
        f"Agreement of each score with the true test accuracy of {len(ranking)} architectures, "
        "with bootstrap 95 % intervals. Ties share their mean rank; trainings that diverged rank "
        "last. A proxy is of no use if it does not beat the scores that cost nothing."
    )
    files = {proxy: f"scatter-{proxy.replace(':', '-')}.png" for proxy in ranking.trainings}
    pictures = [
        report.image(scatter(folder / file, ranking, proxy), proxy) for proxy, file in files.items()
    ]
    sections = [
        report.section(
            "How far the rankings can be trusted",
            report.paragraph(explanation),
            report.table(AGREEMENT_HEADERS, agreement_rows(ranking.shown)),
            *pictures,
        )
    ]
    caption = "An interval that excludes 0 means a real difference."
    for title, differences in (
        (f"Compared with {YARDSTICK}", ranking.gains),
        ("Proxy against proxy, and what a proxy adds", ranking.contrasts),
    ):
        rows = difference_rows(differences)
        sections.append(report.section(title, report.table(DIFFERENCE_HEADERS, rows, caption)))
    return sections


def _best_table(ranking: Ranking) -> report.Html:
    """The table of the architectures that are ranked best."""
    rows = ranking.rows()[:_ROWS]
    shown = ("rank", "index", ranking.by, YARDSTICK, "truth", "arch")
    names = [name for name in dict.fromkeys(shown) if name in rows[0]]
    return report.table(
        names,
        [["diverged" if row[name] is None else row[name] for name in names] for row in rows],
        f"ranked by {ranking.by}; losses are negated",
    )
