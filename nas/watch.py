"""The progress of a search on stderr: a live table on a terminal, otherwise plain lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from condense.progress import progress, until
from condense.report.tables import terminal
from nas.agreement import agreement
from nas.ranking import Ranking
from nas.spaces import space

if TYPE_CHECKING:
    from rich.table import Table

_TABLE_EVERY = 2.0
"""Seconds between two looks at the ranking for the table."""
_LINE_EVERY = 10.0
"""Seconds between two looks at the ranking for plain lines."""
_RESAMPLES = 200
"""Bootstrap resamples of the interval that is shown: enough for a glance."""
_HEADERS = (
    "proxy",
    "architectures",
    "trainings",
    "best so far",
    "score",
    "Spearman with the truth",
)


@contextmanager
def watched(
    title: str, total: int, done: int, look: Callable[[], Ranking], *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Show the progress of a search; yields the function to call with the number of trainings done.

    `done` of the `total` trainings are already finished at the start. `look` returns the ranking so
    far. With `quiet` nothing is shown.

    >>> import numpy as np
    >>> scores = {"random accuracy": np.array([0.9])}
    >>> ranking = Ranking("nasbench201", (5,), scores, {}, {}, by="random accuracy")
    >>> with watched("nasbench201", total=4, done=0, look=lambda: ranking, quiet=True) as report:
    ...     report(1)
    """
    if quiet:
        yield lambda done: None
    elif sys.stderr.isatty():
        with _live(title, total, done, look) as report:
            yield report
    else:
        with progress(title, total, done) as line:
            notes = _Notes(look)
            yield lambda done: line(done, notes.text(done == total))


class _Notes:
    """A line about the ranking, which is looked at only now and then."""

    def __init__(self, look: Callable[[], Ranking]) -> None:
        self._look, self._looked, self._text = look, float("-inf"), ""

    def text(self, last: bool) -> str:
        """The line; at the `last` training it is up to date."""
        if last or time.monotonic() - self._looked > _LINE_EVERY:
            self._looked = time.monotonic()
            ranking = self._look()
            best = " ".join(_best(ranking, ranking.by))
            parts = (best and f"best {best}", _agreement(ranking, ranking.by))
            self._text = "; ".join(filter(None, parts))
        return self._text


@contextmanager
def _live(
    title: str, total: int, done: int, look: Callable[[], Ranking]
) -> Iterator[Callable[[int], None]]:
    """A table that is drawn again every few seconds."""
    from rich.console import Console
    from rich.live import Live

    began, start, looked = time.monotonic(), done, float("-inf")

    def render(done: int) -> "Table":
        left = (time.monotonic() - began) / max(1, done - start) * (total - done)
        return _table(f"{title}: {done} of {total} trainings, {until(left, 'left')}", look())

    with Live(render(done), console=Console(stderr=True), auto_refresh=False) as live:

        def report(done: int) -> None:
            nonlocal looked
            if done == total or time.monotonic() - looked >= _TABLE_EVERY:
                looked = time.monotonic()
                live.update(render(done), refresh=True)

        yield report


def _table(title: str, ranking: Ranking) -> "Table":
    """One row for each proxy: its trainings, and what its score says."""
    rows, score = [], ranking.by.partition(" + ")[0].rpartition(" ")[2]
    for proxy, trainings in ranking.trainings.items():
        column = f"{proxy} {score}"
        column = column if column in ranking.columns else ranking.by
        best, value = _best(ranking, column) or ("", "")
        agreement = _agreement(ranking, column).removeprefix("Spearman ") or "no reference yet"
        rows.append([proxy, str(len(ranking)), f"{trainings.sum():.0f}", best, value, agreement])
    return terminal(title, _HEADERS, rows)


def _best(ranking: Ranking, column: str) -> tuple[str, str] | tuple[()]:
    """The index and name of the best architecture by a column, and its score.

    Empty as long as there is no score.
    """
    scores = ranking.columns[column].tolist() if len(ranking) else []
    scored = [(value, -at) for at, value in enumerate(scores) if value == value]
    if not scored:
        return ()
    value, at = max(scored)
    best = space(ranking.space).architecture(ranking.indices[-at])
    return f"{best.index} {best.name}", f"({column} {value:.4g})"


def _agreement(ranking: Ranking, column: str) -> str:
    """The agreement of a column with the truth; empty without one, or with few candidates."""
    if ranking.truth is None or len(ranking) < 4:
        return ""
    spearman = agreement(ranking.column(column), ranking.truth, resamples=_RESAMPLES)["spearman"]
    return f"Spearman {spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}]"
