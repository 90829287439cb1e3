"""What a continual run shows: a live table, a plot of accuracy by classes seen, a page with all."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condense.progress import progress
from condense.report import html
from condense.report.figures import literal, panel, save_figure
from continual.results import Results, cells, differences, explained, live


def plot(results: Results, path: Path, title: str, classes: int | Sequence[int]) -> Path:
    """Write a PNG of accuracy by classes seen, with a line for each method; returns `path`.

    `classes` is the number of classes of each step, or the number seen after each of the steps.

    >>> from tempfile import TemporaryDirectory
    >>> results = Results(("random",), steps=1)
    >>> results.add(Row("random", 0, 0, 0, (0.5,), (10,)))
    >>> with TemporaryDirectory() as folder:
    ...     plot(results, Path(folder, "accuracy.png"), "digits", classes=10).name
    'accuracy.png'
    """
    figure, axes = panel(6.4, 4.2)
    if isinstance(classes, int):
        classes = [classes * (step + 1) for step in range(results.steps)]
    for number, method in enumerate(results.methods):
        steps = [one for step in range(results.steps) if (one := results.at(method, step))]
        means = [100 * one.mean for one in steps]
        ends = [one.ci95 or (one.mean, one.mean) for one in steps]
        arms = [
            [100 * (one.mean - low) for one, (low, _) in zip(steps, ends, strict=True)],
            [100 * (high - one.mean) for one, (_, high) in zip(steps, ends, strict=True)],
        ]
        # The lines are moved apart a little so that intervals do not hide each other.
        shift = 0.02 * classes[-1] / results.steps * (number - len(results.methods) / 2)
        seen = [count + shift for count in classes[: len(steps)]]
        axes.errorbar(
            seen,
            means,
            yerr=arms,
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.4,
            label=literal(method),
        )
    axes.set(xlabel="classes seen", ylabel="test accuracy on them, %", title=literal(title))
    axes.set_xticks(classes)
    axes.legend(frameon=False)
    return save_figure(figure, path)


def page(
    results: Results,
    path: Path,
    picture: Path,
    plan: Mapping[str, Any],
    sizes: Mapping[str, Mapping[str, Any]],
) -> Path:
    """Write the HTML report; returns `path`.

    `picture` is the file of `plot`, `plan` the content of plan.json. `sizes` has for each method
    the number of `images` of its memory, their `bytes` as they are stored, and the `seconds` of
    their making.

    >>> from tempfile import TemporaryDirectory
    >>> results, plan = Results(("random",), steps=1), {"plan": {"methods": ["random"]}}
    >>> sizes = {"random": {"images": 20, "bytes": 1280, "seconds": 0.1}}
    >>> with TemporaryDirectory() as folder:
    ...     picture = plot(results, Path(folder, "accuracy.png"), "digits", classes=10)
    ...     page(results, Path(folder, "report.html"), picture, plan, sizes).name
    'report.html'
    """
    meaning = (
        "Accuracy on the test images of the classes seen so far, in percent, and half of its 95 % "
        "interval. Average: over the steps. Forgetting: best minus last accuracy on the classes of "
        "a step, averaged over all steps but the last. BWT: last accuracy minus that right after "
        "the step. FWT: accuracy just before a step on its classes, minus that of the untrained "
        "network."
    )
    if results.left:
        meaning += f" {results.left} of {results.total} networks are still to be tested."
    table, image = html.table(*cells(results)), html.image(picture)
    notes = [html.paragraph(line) for line in explained(results)]
    paired = "What an order makes easier for both methods is not in these differences."
    cost = (
        "The memory after the last step, as it is stored, and how long it took to make: for each "
        "class order, or once for all. Where that is empty, nothing was made or nobody knows."
    )
    settings = {**plan["plan"], "methods": ", ".join(plan["plan"]["methods"])}
    return html.html_report(
        path,
        "Continual learning with condensed memories",
        html.section("Accuracy", html.paragraph(meaning), *notes, table, image),
        html.section("Differences", html.paragraph(paired), html.table(*differences(results))),
        html.section(
            "What a memory costs", html.paragraph(cost), html.table(*costs(results, sizes))
        ),
        html.section("How", html.facts({**plan, "plan": settings})),
    )


def costs(
    results: Results, sizes: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """The headers and the rows of a table of final accuracy against what the memories cost.

    >>> results = Results(("random",), steps=1)
    >>> results.add(Row("random", 0, 0, 0, (0.5,), (10,)))
    >>> costs(results, {"random": {"images": 20, "bytes": 1280, "seconds": 0.123}})[1]
    [['random', '20', '1,280', '0.12', '50.0']]
    """
    rows = []
    for method, size in sizes.items():
        seconds = "" if size["seconds"] is None else f"{size['seconds']:.3g}"
        final = str(results.final(method) or "")
        rows.append([method, f"{size['images']:,}", f"{size['bytes']:,}", seconds, final])
    return ["method", "images", "bytes", "seconds to make", "final accuracy, %"], rows


@contextlib.contextmanager
def board(results: Results, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show how far a run is, until it is left; yields the function that refreshes what is shown.

    This is a live table on a terminal, a line now and then elsewhere, and nothing with `quiet`.

    >>> with board(Results(("random",), steps=1), quiet=True) as refresh:
    ...     refresh("random step 1: 50.0%")
    """
    if not quiet and sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(live(results), console=Console(stderr=True)) as shown:
            yield lambda note: shown.update(live(results))
    else:
        total, done = results.total or 0, len(results.rows)
        with progress("continual", total, done, quiet=quiet) as line:
            yield lambda note: line(len(results.rows), note)
