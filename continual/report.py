"""What a continual run shows while it runs, and a plot of accuracy by classes seen."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from condense.progress import progress
from condense.report.figures import literal, panel, save_figure
from continual.results import Results, live


def plot(results: Results, path: Path, title: str, classes: int | Sequence[int]) -> Path:
    """Write a PNG of accuracy by classes seen, with a line for each method; returns `path`.

    `classes` is the number of classes of each step, or the number seen after each of the steps.

    >>> from tempfile import TemporaryDirectory
    >>> from continual.results import Row
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
