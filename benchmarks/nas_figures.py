"""What the studies of `benchmarks.nas` show: their figures, and the lines beside the tables."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condense.report.figures import literal, panel, panels, save_figure
from condense.report.tables import markdown
from condense.study.trials import Trials
from nas.agreement import Estimate, agreement
from nas.free import BASELINES
from nas.plan import load_plan
from nas.proxies import FREE
from nas.ranking import FREE_PARTS, YARDSTICK, Ranking
from nas.report import (
    AGREEMENT_HEADERS,
    DIFFERENCE_HEADERS,
    agreement_rows,
    difference_rows,
    interval,
)
from nas.training import SCORES, SearchTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EARLIER_FREE = " + ".join(FREE_PARTS)
"""What `free` is called in kept results of before. Averages with it weighed each part alike."""


def agreement_lines(ranking: Ranking) -> list[str]:
    """The tables of a ranking's agreements and of their differences."""
    title = "Rank correlation with the true test accuracy, [bootstrap 95 % interval]; "
    lines = [f"{title}tops are by the truth.", ""]
    lines += markdown(AGREEMENT_HEADERS, agreement_rows(ranking.shown))
    for title, differences in (
        (
            f"Spearman's rho minus that of `{YARDSTICK}`, on the same resamples: an interval "
            "without 0 is a real difference.",
            ranking.gains,
        ),
        (
            f"The same between arms, and of averages with an arm minus `{FREE}` without.",
            ranking.contrasts,
        ),
    ):
        lines += ["", title, "", *markdown(DIFFERENCE_HEADERS, difference_rows(differences))]
    return lines


def arms(estimates: list[Estimate]) -> list[list[float]]:
    """How far the intervals reach below and above their values, as `errorbar` asks for it."""
    return [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]


def draw(
    folder: Path, name: str, ranking: Ranking, passes: dict[str, list[Estimate]] | None = None
) -> None:
    """Draw all figures of a study into `folder`; with `passes`, also the curve against them."""
    forest(folder / f"{name}.png", ranking)
    for proxy in ranking.trainings:
        scatter(folder / f"{name}_{proxy.replace(':', '-')}.png", ranking, proxy)
    if passes:
        curve(folder / f"{name}_curve.png", ranking, passes)


def forest(path: Path, ranking: Ranking) -> None:
    """Spearman's rho of what costs nothing, of each proxy's scores, and of averages of both."""
    free = FREE if FREE in ranking.columns else _EARLIER_FREE
    groups = {"free": [*(name for name in BASELINES if name in ranking.columns), free]}
    for proxy in ranking.trainings:
        alone = [f"{proxy} {score}" for score in ranking.scores]
        groups[proxy] = alone + [f"{column} + {free}" for column in alone]
    figure, axes = panel(7.2, 0.8 + 0.22 * sum(map(len, groups.values())))
    labels: list[str] = []
    ticks: list[float] = []
    for number, (group, columns) in enumerate(groups.items()):
        rhos = [ranking.agreements[column]["spearman"] for column in columns]
        # A gap between groups.
        rows = [len(labels) + 0.6 * number + row for row in range(len(columns))]
        ticks += rows
        style: dict[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2}
        style["color"] = "#555555" if group == "free" else f"C{number - 1}"
        axes.errorbar([e.value for e in rhos], rows, xerr=arms(rhos), **style)
        labels += [column.replace(_EARLIER_FREE, FREE) for column in columns]
    for column, dashes in ((YARDSTICK, "--"), (free, ":")):
        rho = ranking.agreements[column]["spearman"].value
        axes.axvline(rho, color="#555555", linestyle=dashes, linewidth=1)
    axes.set_yticks(ticks, [label.replace("_", " ") for label in labels], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.set_xlabel(f"Spearman's rho over {len(ranking)} architectures, 95 % intervals")
    save_figure(figure, path)


def crossings(ranking: Ranking, sizes: list[int]) -> list[str]:
    """For each score, the fewest real images that agree as well as the parameter count."""
    bar, lines = ranking.agreements[YARDSTICK]["spearman"].value, []
    for score in ranking.scores:
        above = [
            size
            for size in sizes
            if ranking.agreements[f"random:{size} {score}"]["spearman"].value >= bar
        ]
        where = f"from {above[0]}" if above else f"nowhere up to {sizes[-1]}"
        where += " real images per class on" if above else " real images per class"
        lines.append(
            f"- `{score}` reaches the parameter count's {bar:.2f} {where} "
            "(estimates; see the intervals)"
        )
    return lines


def by_pass(folder: Path, ranking: Ranking) -> dict[str, list[Estimate]]:
    """By proxy: Spearman's rho of the training losses summed over the first 1, 2, ... passes."""
    assert ranking.truth is not None
    plan, of_proxies = load_plan(folder), {}
    with Trials(str(plan.store)) as store:
        curves = {
            trial.key: trial.result["curve"].get("loss", [])
            for trial in store.find(plan.keys.kind).values()
        }
    for proxy in ranking.trainings:
        runs = [
            [
                curves[plan.keys.of(SearchTask(seed, i, one))]
                for one, seeds in plan.runs(proxy).items()
                for seed in seeds
            ]
            for i in ranking.indices
        ]
        longest = max(len(curve) for one in runs for curve in one)
        table = [
            [curve + [math.inf] * (longest - len(curve)) for curve in one] for one in runs
        ]  # diverged ones end early
        losses = np.cumsum(
            np.nan_to_num(np.mean(table, axis=1), nan=math.inf, posinf=math.inf), axis=1
        )
        of_proxies[proxy] = [agreement(-column, ranking.truth)["spearman"] for column in losses.T]
    return of_proxies


def pass_lines(passes: dict[str, list[Estimate]]) -> list[str]:
    chosen = [n for n in (1, 2, 5, 10, 15, 20) if n <= max(map(len, passes.values()))]
    rows = [
        [name, *(interval(rhos[n - 1]) if n <= len(rhos) else "" for n in chosen)]
        for name, rhos in passes.items()
    ]
    title = "Spearman's rho of the training losses summed over the first passes"
    headers = ["proxy", *(f"{n} passes" for n in chosen)]
    return [f"{title} of the same trainings.", "", *markdown(headers, rows)]


def curve(path: Path, ranking: Ranking, passes: dict[str, list[Estimate]]) -> None:
    """Spearman's rho against the images per class (sets are stars), and against the passes."""
    figure, both = panels(9.6, 4, columns=2, sharey=True)
    left, right = both[0]
    _draw_sizes(left, ranking)
    for number, (proxy, rhos) in enumerate(passes.items()):
        epochs, colour = range(1, len(rhos) + 1), f"C{number + len(SCORES)}"
        low, high = [e.low for e in rhos], [e.high for e in rhos]
        right.plot(epochs, [e.value for e in rhos], color=colour, label=proxy)
        right.fill_between(epochs, low, high, color=colour, alpha=0.08, linewidth=0)
    right.set_xlabel("passes over which the training loss is summed")
    right.set_xticks([1, *range(5, max(map(len, passes.values())) + 1, 5)])
    yardstick = ranking.agreements[YARDSTICK]["spearman"].value
    for axes in (left, right):
        axes.axhline(yardstick, color="#333333", linestyle="--", label=YARDSTICK)
        # Above: curves go anywhere.
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8)
    save_figure(figure, path)


def _draw_sizes(axes: Any, ranking: Ranking) -> None:
    real = "random:"
    condensed = [proxy for proxy in ranking.trainings if not proxy.startswith(real)]
    sizes = [int(name.removeprefix(real)) for name in ranking.trainings if name.startswith(real)]
    for number, score in enumerate(ranking.scores):
        rhos = [ranking.agreements[f"{real}{size} {score}"]["spearman"] for size in sizes]
        places = [size * (0.96 + 0.04 * number) for size in sizes]  # side by side
        style: dict[str, Any] = {"color": f"C{number}", "marker": "o", "capsize": 3}
        label = score.replace("_", " ")
        axes.errorbar(places, [e.value for e in rhos], yerr=arms(rhos), label=label, **style)
        for proxy in condensed:
            value = ranking.agreements[f"{proxy} {score}"]["spearman"].value
            axes.plot([0.88 * sizes[0]], [value], color=f"C{number}", marker="*", markersize=11)
    axes.set(
        xscale="log",
        xlabel="real images per class (stars: condensed sets)",
        ylabel="Spearman's rho, 95 % intervals",
    )
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()


def scatter(path: Path, ranking: Ranking, proxy: str) -> Path:
    """Write a PNG of a proxy's scores, and of the number of parameters, against the truth.

    The ranking must have a truth. Better scores are on the right. Returns `path`.
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
